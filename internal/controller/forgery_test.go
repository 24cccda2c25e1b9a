package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/reporter"
	"github.com/openworkflow-operator/operator/internal/store"
)

// The tests below forge as a user whom no policy stops.

// awaitCorrected waits until a run shows this state after this many corrections.
func (w *world) awaitCorrected(run *v1alpha1.WorkflowRun, state v1alpha1.RunState, corrections int64) {
	w.t.Helper()
	w.awaitRun(run, func(r *v1alpha1.WorkflowRun) error {
		if r.Status.State != state || ptr.Deref(r.Status.Corrections, 0) != corrections {
			return fmt.Errorf("%s is %s after %d corrections, want %s after %d", r.Name, r.Status.State, ptr.Deref(r.Status.Corrections, 0), state, corrections)
		}
		return nil
	})
}

// TestRun_P4_AForgedStatusIsCorrected: whatever a worker's token can do to a status, the object
// agrees with the row within seconds.
func TestRun_P4_AForgedStatusIsCorrected(t *testing.T) {
	w := newManagedWorld(t)
	ended := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	completed := []map[string]any{
		{"type": "Ready", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": ended},
		{"type": "Complete", "status": "True", "reason": "Completed", "message": "", "lastTransitionTime": ended},
	}
	const largest = 1<<51 - 1 // revision
	for name, forged := range map[string]map[string]any{
		"an end":                  {"state": "Completed", "output": "forged", "finishedAt": ended, "conditions": completed},
		"an end of the last kind": {"state": "Failed", "revision": largest, "error": map[string]any{"message": "forged"}},
		"the largest revision":    {"revision": largest},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			run := w.pendingRun("order", func(r *run) {
				r.Name, r.GenerateName = "", "order-"
				r.Spec.WorkflowName, r.Spec.TTLSecondsAfterFinished = "nobody-serves", new(int32(0))
			})
			if err := patchStatus(w, run, forged); err != nil {
				t.Fatal(err)
			}
			w.awaitCorrected(run, v1alpha1.RunPending, 1)
			if run.Status.Output != nil || run.Status.Error != nil || *run.Status.Revision != 0 {
				t.Errorf("status is %+v", run.Status)
			}
			w.awaitEvent(run.Name, v1alpha1.ReasonStatusCorrected)
			modify(w, run, func(r *v1alpha1.WorkflowRun) { // so that its ttl does not end it
				r.Spec.TTLSecondsAfterFinished, r.Spec.Cancel = nil, new(true)
			})
			w.awaitState(run, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
		})
	}
}

// TestRun_P4_AForgedResultIsCorrected: an end that was real keeps its result.
func TestRun_P4_AForgedResultIsCorrected(t *testing.T) {
	w := newManagedWorld(t)
	run := w.pendingRun("order")
	s := w.store()
	end(t, s, claim(t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`{"b": 1.0, "a": [null, "<"]}`)})
	w.awaitState(run, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	if run.Status.Corrections != nil {
		t.Fatalf("a true end was corrected: %+v", run.Status)
	}
	if err := patchStatus(w, run, map[string]any{"output": map[string]any{"b": 2}}); err != nil {
		t.Fatal(err)
	}
	w.awaitCorrected(run, v1alpha1.RunCompleted, 1)
	if got := string(run.Status.Output.Raw); got != `{"a":[null,"<"],"b":1}` && got != `{"a":[null,"\u003c"],"b":1}` {
		t.Errorf("output is %s", got)
	}
}

// TestRun_P4_OnlyACorrectionGoesBack: the rules of the resource hold without any policy.
func TestRun_P4_OnlyACorrectionGoesBack(t *testing.T) {
	w := newWorld(t)
	run := newTestRun("order")
	w.create(run)
	set := func(members map[string]any) error { return patchStatus(w, run, members) }
	if err := set(map[string]any{"state": "Completed", "revision": 9}); err != nil {
		t.Fatal(err)
	}
	for name, members := range map[string]map[string]any{
		"another state":           {"state": "Running"},
		"an older revision":       {"revision": 8},
		"beyond every revision":   {"revision": int64(9223372036854775807)},
		"two corrections at once": {"state": "Running", "corrections": 2},
	} {
		if err := set(members); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := set(map[string]any{"state": "Running", "revision": 3, "corrections": 1}); err != nil {
		t.Errorf("a correction is refused: %v", err)
	}
	for name, corrections := range map[string]any{"taken back": nil, "skipped": 3} {
		if err := set(map[string]any{"corrections": corrections}); err == nil {
			t.Errorf("a correction is %s", name)
		}
	}
}

// TestReporter_P9_LeavesObjectsOfAnotherBackendAlone: a row may name any object in its context.
// Its worker reports it only to an object of the same Backend that the row belongs to.
func TestReporter_P9_LeavesObjectsOfAnotherBackendAlone(t *testing.T) {
	w := newWorld(t)
	other := newTestRun("other", func(r *run) { r.Spec.BackendRef.Name = "other" })
	mine, notMine := newTestRun("mine"), newTestRun("not-mine")
	w.create(other, mine, notMine)
	r, err := reporter.New(rest.CopyConfig(cluster.admin), w.Namespace, "pod-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.Backend = "default"
	now := time.Now().UTC()
	report := func(o *v1alpha1.WorkflowRun, id string, generation int64) {
		r.Report(&openworkflow.Run{
			ID: id, Status: openworkflow.RunCompleted, Attempts: 2, StartedAt: &now, FinishedAt: &now, CreatedAt: now, UpdatedAt: now,
			Context: openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
				Namespace: w.Namespace, Name: o.Name, UID: string(o.UID), Generation: generation,
			}}.Encode(),
		}, openworkflow.StepSummary{})
	}
	report(mine, string(mine.UID), 1)
	report(other, string(other.UID), 1)
	report(notMine, openworkflow.NewID(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Run(ctx, 10*time.Second) // sends what is queued
	for o, want := range map[*v1alpha1.WorkflowRun]v1alpha1.RunState{mine: v1alpha1.RunCompleted, other: v1alpha1.RunPending, notMine: v1alpha1.RunPending} {
		if got := fetch(w, o).Status.State; got != want {
			t.Errorf("%s is %s, want %s", o.Name, got, want)
		}
	}
}

// awaitEvent waits for an event of this reason about an object, and returns its message.
func (w *world) awaitEvent(name, reason string) (message string) {
	w.t.Helper()
	eventually(w.t, func() error {
		var list corev1.EventList
		if err := w.List(context.Background(), &list, client.InNamespace(w.Namespace)); err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].InvolvedObject.Name == name && list.Items[i].Reason == reason {
				message = list.Items[i].Message
				return nil
			}
		}
		return fmt.Errorf("no event %s about %s", reason, name)
	})
	return message
}
