package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestBackend_ConnectsAndMigrates(t *testing.T) {
	w := newWorld(t)
	w.start()
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	if b.Status.NamespaceID != w.Namespace || b.Status.ServerVersion == "" || b.Status.ObservedGeneration != b.Generation {
		t.Errorf("status is %+v", b.Status)
	}
	if len(b.Status.Conditions) != 3 || !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionWakeUps) {
		t.Errorf("a ready Backend has only Ready, WakeUps and Encrypted: %+v", b.Status.Conditions)
	}
}

// edit changes a part of a database URL.
func edit(t *testing.T, raw string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}

func TestBackend_SaysHowToFixIt(t *testing.T) {
	w := newWorld(t)
	w.start()
	execute(t, w.URL, `CREATE ROLE `+role(w)+` LOGIN PASSWORD 'p'; REVOKE ALL ON SCHEMA public FROM PUBLIC`)
	t.Cleanup(func() { execute(t, w.URL, `DROP OWNED BY `+role(w)+`; DROP ROLE `+role(w)) })
	tests := map[string]struct {
		url     string
		change  func(*v1alpha1.Backend)
		reason  string
		stalled bool
		message []string
	}{
		"no secret": {
			change:  func(b *v1alpha1.Backend) { b.Spec.Postgres.URLSecretRef.Name = "absent" },
			reason:  v1alpha1.ReasonSecretNotFound,
			message: []string{`Secret "absent" does not exist: create it with the database URL under the key "uri"`},
		},
		"no name": {
			change:  func(b *v1alpha1.Backend) { b.Spec.Postgres.URLSecretRef.Name = "../other/secrets/db" },
			reason:  v1alpha1.ReasonSecretNotFound,
			message: []string{`no Secret can have the name "../other/secrets/db": correct it in spec.postgres`},
		},
		"no key": {
			url:     w.URL,
			change:  func(b *v1alpha1.Backend) { b.Spec.Postgres.URLSecretRef.Key = "url" },
			reason:  v1alpha1.ReasonSecretNotFound,
			message: []string{`has no key "url" (it has uri)`},
		},
		"not a url": {
			url:     "postgres://u:hunter2@host:port/db",
			reason:  v1alpha1.ReasonInvalidURL,
			stalled: true,
			message: []string{`does not hold a Postgres URL such as postgres://user:password@host:5432/database`},
		},
		"wrong password": {
			url:     edit(t, w.URL, func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "hunter2") }),
			reason:  v1alpha1.ReasonAuthenticationFailed,
			stalled: true,
			message: []string{`Postgres refused the user or password of the URL in Secret`},
		},
		"no database": {
			url:     edit(t, w.URL, func(u *url.URL) { u.Path = "/absent" }),
			reason:  v1alpha1.ReasonDatabaseMissing,
			stalled: true,
			message: []string{`the server has no database of the name in the URL`},
		},
		"down": {
			url:     edit(t, w.URL, func(u *url.URL) { u.Host = "127.0.0.1:1" }),
			reason:  v1alpha1.ReasonUnreachable,
			message: []string{`the database does not answer at the address in the URL`},
		},
		"no rights": {
			url:     edit(t, w.URL, func(u *url.URL) { u.User = url.UserPassword(role(w), "p") }),
			reason:  v1alpha1.ReasonInsufficientPrivilege,
			stalled: true,
			message: []string{`the database user lacks a right to migrate; grant it CREATE on the database`},
		},
		"not migrated": {
			url:     w.URL,
			change:  func(b *v1alpha1.Backend) { b.Spec.Migrate, b.Spec.Schema = new(false), "fresh" },
			reason:  v1alpha1.ReasonSchemaMissing,
			stalled: true,
			message: []string{`the schema "fresh" is missing or outdated and spec.migrate is false; set it to true, or migrate by hand`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			name = strings.ReplaceAll(name, " ", "-")
			b := newBackend()
			b.Name, b.Spec.Postgres.URLSecretRef.Name = name, name
			if test.url != "" {
				w.secret(name, test.url)
			}
			if test.change != nil {
				test.change(b)
			}
			w.create(b)
			got := w.awaitBackend(b, test.reason)
			for _, want := range test.message {
				if !strings.Contains(got, want) {
					t.Errorf("message is %q, want %q", got, want)
				}
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("the message gives the password away: %s", got)
			}
			if stalled := meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionStalled); stalled != test.stalled {
				t.Errorf("Stalled is %t", stalled)
			}
			if reconciling := meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionReconciling); reconciling == test.stalled {
				t.Errorf("Reconciling is %t", reconciling)
			}
		})
	}
}

func role(w *world) string { return "poor_" + strings.ReplaceAll(w.Namespace, "-", "_") }

func TestBackend_SchemaOfANewerRelease(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	m.halt()
	execute(t, w.URL, `INSERT INTO openworkflow.operator_migrations (version) VALUES (9999)`)
	w.start()
	message := w.awaitBackend(b, v1alpha1.ReasonSchemaTooNew)
	if !strings.Contains(message, `the tables in the schema "openworkflow" were written by a newer release; upgrade this manager`) {
		t.Errorf("message is %q", message)
	}
}

// TestBackend_P7_AMessageFitsWhateverASecretHolds: the API server takes 32 KiB for each.
func TestBackend_P7_AMessageFitsWhateverASecretHolds(t *testing.T) {
	w := newWorld(t)
	w.start()
	keys := map[string][]byte{}
	for i := range 400 {
		keys[fmt.Sprintf("%03d-%s", i, strings.Repeat("k", 240))] = nil
	}
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Data: keys})
	b := newBackend()
	w.create(b)
	message := w.awaitBackend(b, v1alpha1.ReasonSecretNotFound)
	if !strings.Contains(message, "and 395 more): add the database URL under that key") {
		t.Errorf("message is %q", message)
	}
}

func TestBackend_NoticesACorrectedSecret(t *testing.T) {
	w := newWorld(t)
	w.start()
	secret := w.secret("db", edit(t, w.URL, func(u *url.URL) { u.Host = "127.0.0.1:1" }))
	b := newBackend()
	w.create(b)
	w.awaitBackend(b, v1alpha1.ReasonUnreachable)
	secret.StringData = map[string]string{"uri": w.URL}
	if err := w.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	w.awaitBackend(b, v1alpha1.ReasonConnected)
}

func TestPostgres_StopsUnderLoadAndComesBack(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	w := newWorldAt(t, server.URL())
	var tries atomic.Int64 // to prepare the database, of which the migration is the first step
	m := w.start(func(o *managerOptions) {
		o.Open = func(ctx context.Context, so storeOptions) (backend.Store, error) {
			inner, err := backend.OpenStore(ctx, so)
			return &watchedStore{Store: inner, onMigrate: func() { tries.Add(1) }}, err
		}
	})
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)

	const runs = 60
	made := make([]*v1alpha1.WorkflowRun, runs)
	for i := range made {
		if i == runs/3 {
			server.Stop()
		}
		made[i] = newTestRun(fmt.Sprintf("order-%d", i))
		w.create(made[i])
	}
	w.awaitBackend(b, v1alpha1.ReasonUnreachable)
	if err := w.Delete(t.Context(), made[0]); err != nil { // while nothing can be canceled
		t.Fatal(err)
	}
	const more = 5
	lines, tried, began := m.logs.lines(), tries.Load(), time.Now()
	eventually(t, func() error {
		if n := tries.Load() - tried; n < more {
			return fmt.Errorf("the manager has tried %d times to reach the database, want %d", n, more)
		}
		return nil
	})
	if pause := time.Since(began) / more; pause < 100*time.Millisecond {
		t.Errorf("the manager tries every %v", pause)
	}
	if n := m.logs.lines() - lines; n > more {
		t.Errorf("%d log lines in %d tries:\n%s", n, more, m.logs)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}

	w.awaitBackend(b, v1alpha1.ReasonConnected)
	for _, run := range made[1:] {
		w.awaitRun(run, func(r *v1alpha1.WorkflowRun) error {
			if r.Status.RunID != string(r.UID) || r.Status.Revision == nil || r.Status.ObservedGeneration != r.Generation {
				return fmt.Errorf("status of %s is %+v", r.Name, r.Status)
			}
			return nil
		})
	}
	s := w.store()
	eventually(t, func() error {
		if n := len(openRuns(t, s)); n != runs-1 {
			return fmt.Errorf("%d open runs, want %d", n, runs-1)
		}
		return nil
	})
	if n := m.logs.lines(); n > 40 {
		t.Errorf("%d log lines in all:\n%s", n, m.logs)
	}
}

func TestManager_CancelsWhatWasDeletedWhileItWasDown(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	b := w.backend()
	kept, deleted, replaced := newTestRun("kept"), newTestRun("deleted"), newTestRun("replaced")
	w.create(kept, deleted, replaced)
	for _, run := range []*v1alpha1.WorkflowRun{kept, deleted, replaced} {
		w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	}
	m.halt()
	for _, o := range []*v1alpha1.WorkflowRun{deleted, replaced} {
		if err := w.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	again := newTestRun("replaced")
	w.create(again)
	if err := w.Delete(t.Context(), b); err != nil { // as when the namespace was deleted and applied again
		t.Fatal(err)
	}
	b = newBackend()
	w.create(b)

	// A Backend is ready, and its pools may start, only after the orphans are canceled. Rows that say of
	// themselves what no object is called, which anybody may write, neither end that nor are canceled.
	s := w.store()
	hostile := map[string]string{
		"!1": `"namespace": "x"`, "!2": `"namespace": "x", "name": "../../../../../api/v1/namespaces"`,
		"!3": `"namespace": "../x", "name": "order"`, "!4": `"namespace": "x", "name": "order", "generation": "1"`,
	}
	for id, names := range hostile {
		object := fmt.Sprintf(`{"kubernetes": {"cluster": "test-cluster", "uid": %q, %s}}`, id, names)
		if _, err := s.CreateRuns(t.Context(), []store.NewRun{{ID: id, WorkflowName: "other", Context: json.RawMessage(object)}}); err != nil {
			t.Fatal(err)
		}
	}
	wasOpen := false
	open := func(ctx context.Context, o storeOptions) (backend.Store, error) {
		inner, err := backend.OpenStore(ctx, o)
		return &watchedStore{Store: inner, onVersion: func() { wasOpen = w.row(s, deleted.UID).Status == "pending" }}, err
	}
	w.start(func(o *managerOptions) { o.Open = open; o.Intervals.Orphan = time.Hour })
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	if !wasOpen {
		t.Error("the run was not open when the manager connected")
	}
	for run, want := range map[*v1alpha1.WorkflowRun]string{kept: "pending", deleted: "canceled", replaced: "canceled"} {
		if row := w.row(s, run.UID); string(row.Status) != want {
			t.Errorf("run of %s is %s, want %s", run.Name, row.Status, want)
		}
	}
	for id := range hostile {
		if row := w.row(s, types.UID(id)); row.Status != openworkflow.RunPending {
			t.Errorf("row %s is %s", id, row.Status)
		}
	}
	w.awaitState(again, v1alpha1.RunPending, v1alpha1.ReasonPending)
}
