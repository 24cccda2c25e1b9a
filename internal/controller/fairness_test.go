package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// newTenants returns the worlds of two tenants, and starts a manager that watches both.
func newTenants(t *testing.T) (first, second *world) {
	t.Helper()
	first = newWorld(t)
	second = newWorldAt(t, testpg.New(t))
	first.start(func(o *managerOptions) { o.others = []string{second.Namespace} })
	return first, second
}

// hold executes a statement in a transaction that stays open until release is called.
func hold(t *testing.T, url, sql string, args ...any) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(context.Background(), sql, args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return func() { _ = tx.Rollback(context.Background()) }
}

// awaitBackendWithin is awaitBackend for what takes longer.
func awaitBackendWithin(t *testing.T, w *world, d time.Duration, key types.NamespacedName, reason string) {
	t.Helper()
	eventuallyWithin(t, d, func() error {
		var b v1alpha1.Backend
		if err := w.Get(context.Background(), key, &b); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady); c == nil || c.Reason != reason {
			return fmt.Errorf("condition Ready is %+v, want reason %s", c, reason)
		}
		return nil
	})
}

func TestWorkflowRun_P9_ABlockedDatabaseDelaysNoOtherNamespace(t *testing.T) {
	blocked, honest := newTenants(t)
	b := blocked.backend()
	blocked.awaitBackend(b, v1alpha1.ReasonConnected)
	honest.awaitBackend(honest.backend(), v1alpha1.ReasonConnected)
	rows, others := honest.store(), blocked.store()
	key := client.ObjectKeyFromObject(b)

	release := hold(t, blocked.URL, `LOCK TABLE openworkflow.workflow_runs IN ACCESS EXCLUSIVE MODE`)
	var waiting []*v1alpha1.WorkflowRun
	for n := range 200 {
		run := newTestRun(fmt.Sprintf("blocked-%d", n))
		blocked.create(run)
		waiting = append(waiting, run)
	}
	for n := range 5 {
		run := newTestRun(fmt.Sprintf("honest-%d", n))
		honest.create(run)
		awaitRowsSoon(t, honest, rows, run)
	}
	awaitBackendWithin(t, blocked, time.Minute, key, v1alpha1.ReasonSlow)
	last := waiting[len(waiting)-1]
	blocked.awaitState(last, v1alpha1.RunPending, v1alpha1.ReasonBackendNotReady)
	if !strings.Contains(last.Status.Message, "Slow") || !strings.Contains(last.Status.Message, "pg_locks") {
		t.Errorf("the message of a run is %q", last.Status.Message)
	}
	run := newTestRun("honest")
	honest.create(run)
	awaitRowsSoon(t, honest, rows, run)

	release()
	awaitBackendWithin(t, blocked, time.Minute, key, v1alpha1.ReasonConnected)
	awaitRows(t, blocked, others, waiting...)
}

// correct writes another URL into a Secret.
func (w *world) correct(secret, url string) {
	w.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret, Namespace: w.Namespace}}
	modify(w, s, func(s *corev1.Secret) { s.StringData = map[string]string{"uri": url} })
}

// migrationLock is the advisory lock that a migration takes.
const migrationLock = 0x6f776d6967726174

func TestBackend_P9_MigrationsThatWaitDelayNoCheck(t *testing.T) {
	blocked, honest := newTenants(t)
	hold(t, blocked.URL, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock))
	blocked.secret("db", blocked.URL)
	var waiting []*v1alpha1.Backend
	for n := range 9 {
		b := newBackend()
		b.Name, b.Spec.Schema = fmt.Sprintf("waits-%d", n), fmt.Sprintf("schema_%d", n)
		blocked.create(b)
		waiting = append(waiting, b)
	}
	for _, b := range waiting {
		message := blocked.awaitBackend(b, v1alpha1.ReasonMigrating)
		if !strings.Contains(message, b.Spec.Schema) {
			t.Errorf("the message is %q", message)
		}
	}
	honest.awaitBackend(honest.backend(), v1alpha1.ReasonConnected)
	run := newTestRun("order")
	honest.create(run)
	awaitRowsSoon(t, honest, honest.store(), run)

	// Four migrations of the namespace wait, but this database has the schema already.
	corrected := blocked.tenant("corrected", "postgres://nobody@127.0.0.1:1/none")
	blocked.awaitBackend(corrected, v1alpha1.ReasonUnreachable)
	blocked.correct("corrected", honest.URL)
	blocked.awaitBackend(corrected, v1alpha1.ReasonConnected)

	blocked.correct("db", honest.URL) // that of the Backends whose checks are under way
	for _, b := range waiting {       // one migration after the other
		awaitBackendWithin(t, blocked, 3*time.Minute, client.ObjectKeyFromObject(b), v1alpha1.ReasonConnected)
	}
}

func TestWorkflowRun_P9_AHeldKeyDelaysNoOtherRun(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	s := w.store()
	withKey := func(key string) *v1alpha1.WorkflowRun {
		return newTestRun("key-"+key, func(r *run) { r.Spec.IdempotencyKey = key })
	}
	release := hold(t, w.URL, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`,
		openworkflow.IdempotencyScope(w.Namespace, "checkout", "held"))
	held := withKey("held")
	w.create(held)
	var others []*v1alpha1.WorkflowRun
	for n := range 10 {
		plain, keyed := newTestRun(fmt.Sprintf("plain-%d", n)), withKey(fmt.Sprint(n))
		w.create(plain, keyed)
		others = append(others, plain, keyed)
	}
	awaitRowsSoon(t, w, s, others...)
	w.awaitState(held, v1alpha1.RunPending, v1alpha1.ReasonKeyLocked)
	if w.row(s, held.UID) != nil {
		t.Error("the run has a row while somebody holds its key")
	}
	release()
	awaitRows(t, w, s, held)
}
