package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

type run = v1alpha1.WorkflowRun

// claim claims one due run as a worker in this pod does.
func claim(t *testing.T, s *store.Store, podUID string) openworkflow.Run {
	t.Helper()
	return claimAs(t, s, podUID, openworkflow.NewID())
}

// claimAs is claim for a process of this pod.
func claimAs(t *testing.T, s *store.Store, podUID, process string) openworkflow.Run {
	t.Helper()
	var got openworkflow.Run
	eventually(t, func() error {
		runs, err := s.Claim(context.Background(), store.ClaimRequest{
			Served:         []openworkflow.Definition{{Name: "checkout"}},
			Max:            1,
			WorkerIDPrefix: podUID + "." + process + ".",
			First:          1,
			Lease:          time.Hour,
		})
		if err != nil {
			return err
		}
		if len(runs) == 0 {
			return fmt.Errorf("no run is due")
		}
		got = runs[0]
		return nil
	})
	return got
}

// end applies one write to a claimed run.
func end(t *testing.T, s *store.Store, claimed openworkflow.Run, write store.RunWrite) {
	t.Helper()
	write.Lease = openworkflow.Lease{RunID: claimed.ID, WorkerID: *claimed.WorkerID}
	result, err := s.ApplyAndClaim(context.Background(), store.Batch{Runs: []store.RunWrite{write}})
	if err != nil || result.Runs[0] != nil {
		t.Fatalf("ApplyAndClaim: %v, %v", err, result.Runs)
	}
}

func TestRun_IsMirroredByItsUID(t *testing.T) {
	w := newManagedWorld(t)
	w.awaitBackend(newBackendIn(w), v1alpha1.ReasonConnected) // so no status changes the object before it is mirrored
	run := newTestRun("order", func(r *run) {
		r.Spec.Version = "2"
		r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`{"total":42}`)}
		r.Spec.TimeoutSeconds = new(int64(600))
	})
	w.create(run)
	created := run.ResourceVersion

	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	if run.Status.RunID != string(run.UID) || run.Status.ObservedGeneration != 1 {
		t.Errorf("status has runID %q, observedGeneration %d", run.Status.RunID, run.Status.ObservedGeneration)
	}
	row := w.row(w.store(), run.UID)
	if row == nil || row.WorkflowName != "checkout" || *row.Version != "2" || row.Status != openworkflow.RunPending {
		t.Fatalf("row is %+v", row)
	}
	var input map[string]int
	if err := json.Unmarshal(row.Input, &input); err != nil || input["total"] != 42 {
		t.Errorf("input is %s", row.Input)
	}
	want := openworkflow.ObjectRef{
		Cluster: "test-cluster", Namespace: w.Namespace, Name: "order", UID: string(run.UID), Generation: 1, ResourceVersion: created,
	}
	if got := row.Object(); got == nil || *got != want {
		t.Errorf("context names %+v, want %+v", got, want)
	}
	// The database counts what is left of the timeout from its own clock, at a time since the creation.
	first, last := run.CreationTimestamp.Add(10*time.Minute-time.Second), time.Now().Add(10*time.Minute)
	if d := row.DeadlineAt; d == nil || d.Before(first) || d.After(last) {
		t.Errorf("deadline is %v, want it from %v to %v", d, first, last)
	}
}

func TestRun_AppliedTwiceChangesNothing(t *testing.T) {
	w := newManagedWorld(t)
	apply := func() *unstructured.Unstructured {
		o := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "WorkflowRun",
			"metadata": map[string]any{"name": "order", "namespace": w.Namespace},
			"spec": map[string]any{ // it is not due, so nothing changes its status
				"workflowName": "checkout", "input": map[string]any{"a": int64(1)}, "availableAt": "2100-01-01T00:00:00Z",
			},
		}}
		if err := w.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("user")); err != nil {
			t.Fatal(err)
		}
		return o
	}
	apply()
	run := newTestRun("order")
	run.Namespace = w.Namespace
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonScheduled)
	version := run.ResourceVersion
	if again := apply(); again.GetResourceVersion() != version {
		t.Errorf("the second apply made resource version %s of %s", again.GetResourceVersion(), version)
	}
	if rows := openRuns(t, w.store()); len(rows) != 1 {
		t.Errorf("%d runs, want 1", len(rows))
	}
}

func openRuns(t *testing.T, s *store.Store) []store.ObjectRun {
	t.Helper()
	rows, err := s.OpenObjectRuns(context.Background(), "test-cluster", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestRun_DefinitionIsImmutable(t *testing.T) {
	w := newWorld(t)
	at := metav1.NewTime(time.Now().Add(time.Hour).Truncate(time.Second))
	run := newTestRun("order", func(r *run) {
		r.Spec.Version = "1"
		r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`{"a":1}`)}
		r.Spec.IdempotencyKey = "k"
		r.Spec.AvailableAt = &at
		r.Spec.DeadlineAt = &at
		r.Spec.Cancel = new(true)
	})
	w.create(run)
	const anew = "are immutable: delete the WorkflowRun and create another"
	tests := map[string]struct {
		spec string
		want string
	}{
		"workflowName":           {`{"workflowName":"other"}`, anew},
		"version":                {`{"version":"2"}`, anew},
		"version removed":        {`{"version":null}`, anew},
		"input":                  {`{"input":{"a":2}}`, "input is immutable: delete the WorkflowRun and create another"},
		"input removed":          {`{"input":null}`, "input is immutable: delete the WorkflowRun and create another"},
		"idempotencyKey":         {`{"idempotencyKey":"l"}`, anew},
		"idempotencyKey removed": {`{"idempotencyKey":null}`, anew},
		"availableAt":            {`{"availableAt":"2031-01-01T00:00:00Z"}`, anew},
		"availableAt removed":    {`{"availableAt":null}`, anew},
		"deadlineAt":             {`{"deadlineAt":"2031-01-01T00:00:00Z"}`, anew},
		"deadlineAt removed":     {`{"deadlineAt":null}`, anew},
		"timeoutSeconds added":   {`{"timeoutSeconds":5,"deadlineAt":null}`, anew},
		"two deadlines":          {`{"timeoutSeconds":5}`, "give deadlineAt or timeoutSeconds, not both"},
		"backendRef":             {`{"backendRef":{"name":"other"}}`, anew},
		"cancel taken back":      {`{"cancel":false}`, "cancel cannot be taken back"},
		"cancel removed":         {`{"cancel":null}`, "cancel cannot be taken back"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := w.Patch(context.Background(), run.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"spec":`+test.spec+`}`)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
	ok := []byte(`{"spec":{"suspend":true,"ttlSecondsAfterFinished":5}}`)
	if err := w.Patch(context.Background(), run, client.RawPatch(types.MergePatchType, ok)); err != nil {
		t.Errorf("suspend and ttl may change: %v", err)
	}
}

func TestRun_Cancel(t *testing.T) {
	w := newManagedWorld(t)
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	claimed := claim(t, w.store(), "pod")

	modify(w, run, func(r *v1alpha1.WorkflowRun) { r.Spec.Cancel = new(true) })
	w.awaitState(run, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
	if !meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionReady) || meta.FindStatusCondition(run.Status.Conditions, v1alpha1.ConditionStalled) != nil {
		t.Errorf("a canceled run is ready and not stalled: %+v", run.Status.Conditions)
	}
	if row := w.row(w.store(), types.UID(claimed.ID)); row.Status != openworkflow.RunCanceled {
		t.Errorf("row is %s", row.Status)
	}
}

func TestRun_CanceledBeforeItBeganNeverBegins(t *testing.T) {
	w := newManagedWorld(t)
	run := newTestRun("order", func(r *run) { r.Spec.Cancel = new(true) })
	w.create(run)
	w.awaitState(run, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
	if row := w.row(w.store(), run.UID); row.Attempts != 0 || row.Status != openworkflow.RunCanceled {
		t.Errorf("row is %+v", row)
	}
}

func TestRun_SuspendAndResume(t *testing.T) {
	w := newManagedWorld(t)
	run := newTestRun("order", func(r *run) { r.Spec.Suspend = new(true) })
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonSuspended)
	if c := run.Status.Conditions; meta.FindStatusCondition(c, v1alpha1.ConditionReconciling) != nil || meta.FindStatusCondition(c, v1alpha1.ConditionStalled) != nil {
		t.Errorf("a suspended run neither reconciles nor stalls: %+v", c)
	}
	s := w.store()
	request := store.ClaimRequest{Served: []openworkflow.Definition{{Name: "checkout"}}, Max: 1, WorkerIDPrefix: "a.b.", First: 1, Lease: time.Minute}
	if runs, err := s.Claim(t.Context(), request); err != nil || len(runs) > 0 {
		t.Fatalf("a suspended run was claimed: %v, %v", runs, err)
	}

	modify(w, run, func(r *v1alpha1.WorkflowRun) { r.Spec.Suspend = new(false) })
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	claimed := claim(t, s, "pod")
	w.awaitState(run, v1alpha1.RunRunning, v1alpha1.ReasonRunning)

	modify(w, run, func(r *v1alpha1.WorkflowRun) { r.Spec.Suspend = new(true) })
	eventually(t, func() error {
		if w.row(s, run.UID).SuspendedAt == nil {
			return fmt.Errorf("not suspended")
		}
		return nil
	})
	end(t, s, claimed, store.RunWrite{Op: store.RunPark, At: time.Now()})
	w.awaitRun(run, func(r *v1alpha1.WorkflowRun) error {
		if conditionReason(r.Status.Conditions) != v1alpha1.ReasonSuspended {
			return fmt.Errorf("status is %+v", r.Status)
		}
		return nil
	})
}

func TestRun_TTLDeletesTheEndedObjectAndKeepsTheRow(t *testing.T) {
	w := newManagedWorld(t)
	run := newTestRun("order", func(r *run) { r.Spec.TTLSecondsAfterFinished = new(int32(0)) })
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	s := w.store()
	end(t, s, claim(t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`1`)})
	eventually(t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(run), run); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %t", err == nil)
		}
		return nil
	})
	if row := w.row(s, run.UID); row == nil || row.Status != openworkflow.RunCompleted {
		t.Errorf("row is %+v", row)
	}
}

// A Backend's ttl is for objects that have none, those that have ended before it was set too.
func TestRun_TTLOfTheBackendDeletesEndedObjectsWithoutOne(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	b := w.backend()
	early, kept := newTestRun("early"), newTestRun("kept", func(r *run) { r.Spec.TTLSecondsAfterFinished = new(int32(3600)) })
	w.create(early, kept)
	for _, r := range []*run{early, kept} {
		w.awaitState(r, v1alpha1.RunPending, v1alpha1.ReasonPending)
	}
	rows := w.store()
	w.completeAll(rows, early, kept)
	open := w.pendingRun("open")
	awaitGone := func(r *run) {
		t.Helper()
		eventually(t, func() error {
			if err := w.Get(context.Background(), client.ObjectKeyFromObject(r), r); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%s is still there: %t", r.Name, err == nil)
			}
			return nil
		})
	}

	modify(w, b, func(b *v1alpha1.Backend) { b.Spec.Retention.ObjectTTLSecondsAfterFinished = new(int32(0)) })
	awaitGone(early)
	if w.row(rows, early.UID) == nil {
		t.Error("the row was removed with its object")
	}
	end(t, rows, claim(t, rows, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`1`)})
	awaitGone(open)

	m.halt() // the next manager reads the Backend and its objects in any order
	idle := newTestRun("idle")
	w.create(idle)
	idle.Status = v1alpha1.WorkflowRunStatus{State: v1alpha1.RunFailed, ObservedGeneration: idle.Generation}
	if err := w.Status().Update(t.Context(), idle); err != nil {
		t.Fatal(err)
	}
	w.start()
	awaitGone(idle)
	fetch(w, kept) // its own ttl counts
}

// The ttl of a Backend that is gone, or names another, deletes nothing.
func TestObjectTTLs_AreThoseOfTheBackend(t *testing.T) {
	t.Parallel()
	var ttls objectTTLs
	key := types.NamespacedName{Namespace: "shop", Name: "default"}
	object := newTestRun("order", func(r *run) { r.Namespace = "shop" })
	other := newTestRun("order", func(r *run) { r.Namespace, r.Spec.BackendRef.Name = "shop", "other" })
	for _, c := range []struct {
		ttl     *int32
		changed bool
	}{{new(int32(7)), true}, {new(int32(7)), false}, {new(int32(0)), true}, {nil, false}, {new(int32(0)), true}} {
		if changed := ttls.set(key, c.ttl); changed != c.changed {
			t.Errorf("set %v: changed is %t", c.ttl, changed)
		}
		if got := ttls.of(object); (got == nil) != (c.ttl == nil) || got != nil && *got != *c.ttl {
			t.Errorf("the ttl is %v, want %v", got, c.ttl)
		}
		if got := ttls.of(other); got != nil {
			t.Errorf("the ttl of another Backend's object is %d", *got)
		}
	}
	object.Spec.TTLSecondsAfterFinished = new(int32(60))
	if got := ttls.of(object); *got != 60 {
		t.Errorf("the object's own ttl is 60, got %d", *got)
	}
}

func TestRun_FailsAtItsDeadline(t *testing.T) {
	w := newManagedWorld(t)
	run := newTestRun("order", func(r *run) { r.Spec.TimeoutSeconds = new(int64(1)) })
	w.create(run)
	w.awaitState(run, v1alpha1.RunFailed, v1alpha1.ReasonDeadlineExceeded)
	if !meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("a failed run is stalled: %+v", run.Status.Conditions)
	}
}

// Clients that wait for results are notified of runs that the manager ends.
func TestRun_EndsMadeByTheManagerAreNotified(t *testing.T) {
	w := newManagedWorld(t)
	ends := wake.New()
	ctx, cancel := context.WithCancel(t.Context())
	var listening sync.WaitGroup
	s := w.store()
	listening.Go(func() {
		_ = s.ListenEnds(ctx, ends.Set)
	})
	t.Cleanup(func() { cancel(); listening.Wait() })
	expectNotify := func(what string) {
		t.Helper()
		select {
		case <-ends:
		case <-time.After(time.Minute):
			t.Fatalf("no notification of %s", what)
		}
	}
	expectNotify("the connection")

	late := newTestRun("late", func(r *run) { r.Spec.TimeoutSeconds = new(int64(1)) })
	w.create(late)
	expectNotify("the end at the deadline")
	w.awaitState(late, v1alpha1.RunFailed, v1alpha1.ReasonDeadlineExceeded)

	canceled, deleted := newTestRun("canceled"), newTestRun("deleted")
	w.create(canceled, deleted)
	for _, r := range []*run{canceled, deleted} {
		w.awaitState(r, v1alpha1.RunPending, v1alpha1.ReasonPending)
	}
	modify(w, canceled, func(r *run) { r.Spec.Cancel = new(true) })
	expectNotify("the cancel")
	w.awaitState(canceled, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
	if err := w.Delete(t.Context(), deleted); err != nil {
		t.Fatal(err)
	}
	expectNotify("the cancel of the deleted object's run")
}

// OpenWorkflow's worker ends a child and wakes its parent in two statements. If it dies
// between them, the parent keeps waiting (R171).
func TestRun_ParentThatWasNotWokenIsRescued(t *testing.T) {
	w := newManagedWorld(t)
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	s := w.store()
	claimed := claim(t, s, "pod")
	child := &store.NewRun{ID: openworkflow.NewID(), WorkflowName: "label"}
	lease := openworkflow.Lease{RunID: claimed.ID, WorkerID: *claimed.WorkerID}
	wait := store.StepWrite{Lease: lease, Child: child, Attempt: openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: "label", Kind: openworkflow.KindWorkflow, Status: openworkflow.StepRunning,
	}}
	park := store.RunWrite{Lease: lease, Op: store.RunPark, At: time.Now().Add(time.Hour)}
	result, err := s.ApplyAndClaim(t.Context(), store.Batch{Steps: []store.StepWrite{wait}, Runs: []store.RunWrite{park}})
	if err != nil || result.Steps[0] != nil {
		t.Fatal(result.Steps, err)
	}
	execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET status = 'completed', finished_at = now() WHERE id = '`+child.ID+`'`)
	eventually(t, func() error {
		if at := w.row(s, run.UID).AvailableAt; at == nil || at.After(time.Now()) {
			return fmt.Errorf("the parent is due at %v", at)
		}
		return nil
	})
}

func TestRun_ProgressOfWorkersThatReportNothing(t *testing.T) {
	w := newManagedWorld(t)
	run := w.pendingRun("order")
	s := w.store()
	claimed := claim(t, s, "pod")
	w.awaitState(run, v1alpha1.RunRunning, v1alpha1.ReasonRunning)
	end(t, s, claimed, store.RunWrite{Op: store.RunPark, At: time.Now().Add(time.Hour)})
	w.awaitState(run, v1alpha1.RunWaiting, v1alpha1.ReasonWaiting)
	if _, err := s.CancelRuns(t.Context(), []string{claimed.ID}); err != nil {
		t.Fatal(err)
	}
	w.awaitState(run, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
}

func TestRun_DeletionInEachStateCancelsTheRow(t *testing.T) {
	w := newWorld(t)
	w.start(func(o *managerOptions) { o.Intervals.Orphan = time.Hour }) // only the watch cancels
	w.backend()
	states := map[string]struct {
		prepare func(*testing.T, *store.Store, openworkflow.Run)
		want    openworkflow.RunStatus
	}{
		"pending": {nil, openworkflow.RunCanceled},
		"running": {func(*testing.T, *store.Store, openworkflow.Run) {}, openworkflow.RunCanceled},
		"waiting": {func(t *testing.T, s *store.Store, r openworkflow.Run) {
			end(t, s, r, store.RunWrite{Op: store.RunPark, At: time.Now().Add(time.Hour)})
		}, openworkflow.RunCanceled},
		"retrying": {func(t *testing.T, s *store.Store, r openworkflow.Run) {
			failure := openworkflow.Error{Message: "no"}.Encode()
			end(t, s, r, store.RunWrite{Op: store.RunRetry, At: time.Now().Add(time.Hour), Error: failure})
		}, openworkflow.RunCanceled},
		"completed": {func(t *testing.T, s *store.Store, r openworkflow.Run) {
			end(t, s, r, store.RunWrite{Op: store.RunComplete})
		}, openworkflow.RunCompleted},
		"failed": {func(t *testing.T, s *store.Store, r openworkflow.Run) {
			end(t, s, r, store.RunWrite{Op: store.RunFail, FinishedAt: time.Now(), Error: openworkflow.Error{Message: "no"}.Encode()})
		}, openworkflow.RunFailed},
	}
	for name, state := range states {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			run := w.pendingRun(name)
			s := w.store()
			if state.prepare != nil {
				state.prepare(t, s, claim(t, s, "pod"))
			}
			if err := w.Delete(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				if row := w.row(s, run.UID); row.Status != state.want {
					return fmt.Errorf("row is %s, want %s", row.Status, state.want)
				}
				return nil
			})
		})
	}
}

func TestRun_IdempotencyKeyAttaches(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	key := func(r *run) { r.Spec.IdempotencyKey = "order-1" }
	first := w.pendingRun("first", key)
	second := w.pendingRun("second", key)
	if second.Status.RunID != string(first.UID) {
		t.Fatalf("second shows run %s, want %s", second.Status.RunID, first.UID)
	}

	if err := w.Delete(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	s := w.store()
	end(t, s, claim(t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`{"paid":true}`)})
	w.awaitState(first, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)

	// The object that started it is garbage-collected and applied again.
	if err := w.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	again := newTestRun("first", key)
	w.create(again)
	w.awaitState(again, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	if again.UID == first.UID || again.Status.RunID != string(first.UID) || string(again.Status.Output.Raw) != `{"paid":true}` {
		t.Errorf("status is %+v", again.Status)
	}
	if w.row(s, again.UID) != nil {
		t.Error("a second run was started")
	}
}
