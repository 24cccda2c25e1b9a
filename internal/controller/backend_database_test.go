package controller

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// A database that answers but accepts no writes is not ready, and its runs say why. Nobody has to
// end connections by hand afterwards.
func TestBackend_P6_ReadOnly(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	w := newWorldAt(t, server.URL())
	w.start()
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	execute(t, w.URL, `ALTER DATABASE postgres SET default_transaction_read_only = on`)
	execute(t, w.URL, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'`)
	r := newTestRun("late")
	w.create(r)
	message := w.awaitBackend(b, v1alpha1.ReasonReadOnly)
	if !strings.Contains(message, "answers but accepts no writes") || !strings.Contains(message, "default_transaction_read_only is on") {
		t.Errorf("message is %q", message)
	}
	if !meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionReconciling) {
		t.Errorf("conditions are %+v", b.Status.Conditions)
	}
	w.awaitState(r, v1alpha1.RunPending, v1alpha1.ReasonBackendNotReady)
	w.awaitRun(r, func(r *v1alpha1.WorkflowRun) error { // the connections that broke may be the first reason
		if !strings.Contains(r.Status.Message, "(ReadOnly)") {
			return fmt.Errorf("the run says %q", r.Status.Message)
		}
		return nil
	})
	execute(t, w.URL, `SET transaction_read_only = off; ALTER DATABASE postgres RESET default_transaction_read_only`)
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	w.awaitRun(r, hasRow)
}

// Behind a transaction pooler all works, but not by notification, and the Backend says so.
func TestBackend_P7_SaysThatAPoolerHearsNoWakeUps(t *testing.T) {
	w := newWorld(t)
	w.URL = testpg.StartPooler(t, w.URL, testpg.TransactionMode, 10)
	w.start()
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionWakeUps)
	if c == nil || c.Status != "False" || c.Reason != v1alpha1.ReasonPolling || !strings.Contains(c.Message, "session mode") {
		t.Errorf("conditions are %+v", b.Status.Conditions)
	}
	r := newTestRun("pooled")
	w.create(r)
	w.awaitRun(r, hasRow)
}

func hasRow(r *v1alpha1.WorkflowRun) error {
	if r.Status.RunID == "" {
		return fmt.Errorf("run %s has no row: %s", r.Name, r.Status.Message)
	}
	return nil
}
