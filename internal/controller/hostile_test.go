package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

// tenant creates a Backend of this name whose Secret of the same name holds the URL.
func (w *world) tenant(name, url string) *v1alpha1.Backend {
	w.t.Helper()
	w.secret(name, url)
	b := newBackend()
	b.Name, b.Spec.Postgres.URLSecretRef.Name = name, name
	w.create(b)
	return b
}

func TestBackend_P9_AURLCannotStopTheManager(t *testing.T) {
	w := newWorld(t)
	w.start()
	for name, parameter := range map[string]string{
		"panics": "pool_health_check_period=0s", "grabs": "pool_min_conns=1000", "reads": "sslrootcert=/etc/passwd", "sets": "options=-c%20role=x",
	} {
		b := w.tenant(name, w.URL+"&"+parameter)
		message := w.awaitBackend(b, v1alpha1.ReasonInvalidURL)
		if key, _, _ := strings.Cut(parameter, "="); !strings.Contains(message, fmt.Sprintf("parameter %q", key)) || strings.Contains(message, w.URL) {
			t.Errorf("message is %q", message)
		}
	}
	honest := w.tenant("honest", w.URL)
	w.awaitBackend(honest, v1alpha1.ReasonConnected)
}

// panickingStore panics in the sweep that lists live workers.
type panickingStore struct{ backend.Store }

func (panickingStore) Workers(context.Context, time.Duration) ([]store.Worker, error) {
	var rows []store.Worker
	return rows[:1], nil
}

func TestBackend_P9_APanicMakesOnlyItsBackendUnready(t *testing.T) {
	w := newWorld(t)
	m := w.start(func(o *managerOptions) {
		o.Open = func(ctx context.Context, so storeOptions) (backend.Store, error) {
			s, err := backend.OpenStore(ctx, so)
			if err == nil && so.Schema == "hostile" {
				return panickingStore{s}, nil
			}
			return s, err
		}
	})
	w.secret("db", w.URL)
	hostile, honest := newBackend(), newBackend()
	hostile.Name, hostile.Spec.Schema = "hostile", "hostile"
	w.create(hostile, honest)
	message := w.awaitBackend(hostile, v1alpha1.ReasonInternalError)
	if !strings.Contains(message, "whose log has the stack") {
		t.Errorf("message is %q", message)
	}
	if !strings.Contains(m.logs.String(), "hostile_test.go") {
		t.Error("the log has no stack")
	}
	w.awaitBackend(honest, v1alpha1.ReasonConnected)
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
}
