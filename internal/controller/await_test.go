package controller

import (
	"context"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

// eventually calls check until it returns no error, for up to a minute.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	eventuallyWithin(t, time.Minute, check)
}

func eventuallyWithin(t *testing.T, d time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", d, err)
		}
		<-ticker.C
	}
}

// awaitRowsSoon is awaitRows for what takes a fraction of a second, and with workers that are taken
// more than half a minute.
func awaitRowsSoon(t *testing.T, w *world, s *store.Store, runs ...*v1alpha1.WorkflowRun) {
	t.Helper()
	awaitRowsWithin(t, 25*time.Second, w, s, runs...)
}

// awaitRows waits until the runs have rows.
func awaitRows(t *testing.T, w *world, s *store.Store, runs ...*v1alpha1.WorkflowRun) {
	t.Helper()
	awaitRowsWithin(t, time.Minute, w, s, runs...)
}

func awaitRowsWithin(t *testing.T, d time.Duration, w *world, s *store.Store, runs ...*v1alpha1.WorkflowRun) {
	t.Helper()
	eventuallyWithin(t, d, func() error {
		for _, run := range runs {
			if w.row(s, run.UID) == nil {
				return fmt.Errorf("%s has no row", run.Name)
			}
		}
		return nil
	})
}

// awaitRun waits until check accepts a run's object.
func (w *world) awaitRun(run *v1alpha1.WorkflowRun, check func(*v1alpha1.WorkflowRun) error) {
	w.t.Helper()
	eventually(w.t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(run), run); err != nil {
			return err
		}
		return check(run)
	})
}

// awaitState waits for a state, the reason of the Ready condition, and the object's
// generation: a sweep or a worker may write a state before the manager has written which
// spec it observed. ReasonPending stands for ReasonNoWorker too.
func (w *world) awaitState(run *v1alpha1.WorkflowRun, state v1alpha1.RunState, reason string) {
	w.t.Helper()
	w.awaitRun(run, func(run *v1alpha1.WorkflowRun) error {
		if got := conditionReason(run.Status.Conditions); run.Status.State != state || got != reason && got != whilePending(reason) {
			return fmt.Errorf("run %s is %q (%s: %s), want %q (%s)", run.Name, run.Status.State, got, run.Status.Message, state, reason)
		}
		if observed := run.Status.ObservedGeneration; observed != run.Generation {
			return fmt.Errorf("run %s shows generation %d, want %d", run.Name, observed, run.Generation)
		}
		return nil
	})
}

// whilePending returns the other reason that a run has which no worker serves, as in most tests: it
// is ReasonPending until the run has been due for fleet.Patience, and ReasonNoWorker after that,
// which on a slow machine is the first that is shown.
func whilePending(reason string) string {
	if reason == v1alpha1.ReasonPending {
		return v1alpha1.ReasonNoWorker
	}
	return reason
}

// awaitReady waits for the reason of an object's Ready condition and returns its message.
func (w *world) awaitReady(o client.Object, conditions func() []metav1.Condition, reason string) string {
	w.t.Helper()
	message := ""
	eventually(w.t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		c := meta.FindStatusCondition(conditions(), v1alpha1.ConditionReady)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("%T %s: Ready is %+v, want reason %s", o, o.GetName(), c, reason)
		}
		message = c.Message
		return nil
	})
	return message
}

func (w *world) awaitBackend(b *v1alpha1.Backend, reason string) string {
	w.t.Helper()
	return w.awaitReady(b, func() []metav1.Condition { return b.Status.Conditions }, reason)
}

func (w *world) awaitPool(p *v1alpha1.WorkerPool, reason string) string {
	w.t.Helper()
	return w.awaitReady(p, func() []metav1.Condition { return p.Status.Conditions }, reason)
}
