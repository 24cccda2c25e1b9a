package controller

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
)

// TestBackend_P9_AMistypedURLTellsNoPassword: a typing error puts the password anywhere in the
// URL. It shows in no condition, event or log line, whatever part it was taken for.
func TestBackend_P9_AMistypedURLTellsNoPassword(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	const password = "hunter2hunter2"
	at := edit(t, w.URL, func(u *url.URL) { u.User = nil })
	at = strings.TrimPrefix(at, "postgres://")
	for name, mistyped := range map[string]string{
		"question-mark": "postgres://postgres?" + password + "@" + at,
		"encoded":       "postgres://postgres%3F" + password + "@" + at,
		"slash":         "postgres://postgres/" + password + "@" + at,
		"database":      "postgres://" + at + "&dbname=" + password,
		"user":          "postgres://" + password + ":postgres@" + at,
		"parameter":     "postgres://postgres@" + at + "&" + password + "=1",
		"host":          "postgres://postgres:x@" + password + "/db",
		"option":        "postgres://postgres@" + at + "&options=-c%20" + password + "%3D1",
		"keywords":      "host=127.0.0.1 port=1 user=" + password + " dbname=x",
		"no-url":        password,
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.secret(name, mistyped)
			b := newBackend()
			b.Name, b.Spec.Postgres.URLSecretRef.Name = name, name
			w.create(b)
			eventually(t, func() error {
				if reason := conditionReason(fetch(w, b).Status.Conditions); reason == v1alpha1.ReasonNotObserved {
					return errors.New("not observed")
				}
				return nil
			})
			status, err := json.Marshal(b.Status)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(status), password) {
				t.Errorf("the status tells the password: %s", status)
			}
		})
	}
	m.halt() // all events are written
	var events corev1.EventList
	if err := w.List(t.Context(), &events, client.InNamespace(w.Namespace)); err != nil {
		t.Fatal(err)
	}
	for i := range events.Items {
		if strings.Contains(events.Items[i].Message, password) {
			t.Errorf("an event tells the password: %s", events.Items[i].Message)
		}
	}
	if strings.Contains(m.logs.String(), password) {
		t.Errorf("the log tells the password:\n%s", m.logs)
	}
}

// TestBackend_P9_TellsNoAddress: whoever may create a Backend does not learn from its conditions
// what the manager reaches: a closed port and a missing name read the same.
func TestBackend_P9_TellsNoAddress(t *testing.T) {
	w := newWorld(t)
	w.start()
	messages := map[string]string{}
	for name, host := range map[string]string{"closed": "127.0.0.1:1", "no-name": "database.invalid"} {
		w.secret(name, "postgres://postgres:x@"+host+"/x")
		b := newBackend()
		b.Name, b.Spec.Postgres.URLSecretRef.Name = name, name
		w.create(b)
		messages[name] = strings.ReplaceAll(w.awaitBackend(b, v1alpha1.ReasonUnreachable), name, "")
		if strings.Contains(messages[name], host) {
			t.Errorf("message is %q", messages[name])
		}
	}
	if messages["closed"] != messages["no-name"] {
		t.Errorf("the messages differ: %q", messages)
	}
}

func TestBackend_P9_AnAddressOfTheManagersHostIsDenied(t *testing.T) {
	w := newWorld(t)
	w.start(func(o *managerOptions) { o.Open = backend.DialRule{}.Open })
	b := w.backend() // on loopback
	w.awaitBackend(b, v1alpha1.ReasonAddressDenied)
}

func TestBackend_P9_AnUnencryptedServerFailsWhereTLSIsAskedFor(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.secret("db", strings.Replace(w.URL, "sslmode=disable", "sslmode=require", 1))
	b := newBackend()
	w.create(b)
	w.awaitBackend(b, v1alpha1.ReasonTLSFailed)
}

// TestBackend_P9_NamespaceIDIsImmutable: with another one, runs in flight would be missing.
func TestBackend_P9_NamespaceIDIsImmutable(t *testing.T) {
	w := newWorld(t)
	named := newBackend()
	named.Name, named.Spec.NamespaceID = "named", "shop"
	own := newBackend()
	own.Name = "own"
	w.create(named, own)
	for b, change := range map[*v1alpha1.Backend]string{named: "other", own: "default"} {
		for _, id := range []string{change, ""} {
			after := b.DeepCopy()
			after.Spec.NamespaceID = id
			err := w.Patch(t.Context(), after, client.MergeFrom(b))
			if changed := id != b.Spec.NamespaceID; changed != (err != nil) || changed && !strings.Contains(err.Error(), "namespaceID is immutable") {
				t.Errorf("%s: namespaceID from %q to %q: %v", b.Name, b.Spec.NamespaceID, id, err)
			}
		}
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	const text = "failed to connect to `user=name?s3cret database=db`: dial tcp 10.0.0.9:5432: refused"
	got := redact(text, "postgres://name?s3cret@host/db")
	if strings.Contains(got, "s3cret") || !strings.Contains(got, "dial tcp 10.0.0.9:5432: refused") {
		t.Errorf("redacted text is %q", got)
	}
	if got := redact("for a b%c and a b", "postgres://u:a%20b@h/d"); strings.Contains(got, "a b") {
		t.Errorf("a decoded part stays: %q", got)
	}
}
