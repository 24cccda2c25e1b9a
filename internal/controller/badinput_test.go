package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestRun_InvalidInputNeverStarts(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	tests := map[string]struct{ input, want string }{
		"nul":   {`{"text":"a\u0000b"}`, "the run cannot be stored"},
		"large": {`"` + strings.Repeat("x", maxInput) + `"`, "spec.input has 1048578 bytes, the limit is 1048576: keep the data elsewhere and pass a reference to it"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			run := newTestRun(name, func(r *v1alpha1.WorkflowRun) { r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(test.input)} })
			w.create(run)
			w.awaitState(run, v1alpha1.RunFailed, v1alpha1.ReasonInvalidInput)
			if !strings.Contains(run.Status.Message, test.want) {
				t.Errorf("message is %q", run.Status.Message)
			}
			for _, kind := range []string{v1alpha1.ConditionFailed, v1alpha1.ConditionStalled} {
				if !meta.IsStatusConditionTrue(run.Status.Conditions, kind) {
					t.Errorf("%s is not true: %+v", kind, run.Status.Conditions)
				}
			}
			if w.row(w.store(), run.UID) != nil {
				t.Errorf("a row exists")
			}
		})
	}
}

func TestRun_WaitsForItsBackend(t *testing.T) {
	w := newWorld(t)
	w.start()
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonBackendNotFound)
	if want := `Backend "default" does not exist in this namespace: create it, or name another in spec.backendRef`; run.Status.Message != want {
		t.Errorf("message is %q, want %q", run.Status.Message, want)
	}
	w.create(newBackend())
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonBackendNotReady)
	if !strings.Contains(run.Status.Message, `Backend "default" is not ready (SecretNotFound): Secret "db" does not exist`) {
		t.Errorf("message is %q", run.Status.Message)
	}
	w.secret("db", w.URL)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
}

func TestRun_WhoseRowIsGoneIsNotStartedAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	execute(t, w.URL, `DELETE FROM openworkflow.workflow_runs`)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonRunMissing)
	if !meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionStalled) || !strings.Contains(run.Status.Message, "is not started again") {
		t.Errorf("status is %+v", run.Status)
	}
	modify(w, run, func(r *v1alpha1.WorkflowRun) { r.Spec.TTLSecondsAfterFinished = new(int32(9)) })
	w.awaitRun(run, func(r *v1alpha1.WorkflowRun) error {
		if r.Status.ObservedGeneration != r.Generation {
			return fmt.Errorf("not observed")
		}
		return nil
	})
	if w.row(w.store(), run.UID) != nil {
		t.Error("the run was started again")
	}
}

func TestRun_NoWorkerNamesThePools(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	run := newTestRun("order", func(r *v1alpha1.WorkflowRun) { r.Spec.WorkflowName, r.Spec.Version = "chekout", "7" })
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonNoWorker)
	if want := `no worker serves workflow "chekout" version "7"; there is no WorkerPool for Backend "default" in this namespace`; run.Status.Message != want {
		t.Errorf("message is %q, want %q", run.Status.Message, want)
	}

	pool := newPool("shop")
	w.create(pool)
	s := w.store()
	announce := func(ds ...openworkflow.Definition) {
		worker := store.Worker{PodUID: "u", Process: "p", PodName: "n", Pool: "shop", Workflows: ds}
		if _, err := s.SaveWorker(t.Context(), worker, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	announce(openworkflow.Definition{Name: "checkout"}, openworkflow.Definition{Name: "refund", Version: new("2")})
	want := `no worker serves workflow "chekout" version "7"; pools: shop serves checkout, refund@2 (no pod is ready: RollingOut)`
	w.awaitRun(run, func(r *v1alpha1.WorkflowRun) error {
		if r.Status.Message != want {
			return fmt.Errorf("message is %q, want %q", r.Status.Message, want)
		}
		return nil
	})
	eventually(t, func() error {
		if got := fetch(w, pool).Status.Workflows; len(got) != 2 || got[1] != (v1alpha1.ServedWorkflow{Name: "refund", Version: "2"}) {
			return fmt.Errorf("pool serves %v", got)
		}
		return nil
	})

	announce(openworkflow.Definition{Name: "chekout", Version: new("7")})
	w.awaitRun(run, func(r *v1alpha1.WorkflowRun) error {
		if got := conditionReason(r.Status.Conditions); got != v1alpha1.ReasonPending {
			return fmt.Errorf("the reason is %s though a worker serves the run", got)
		}
		return nil
	})
}

func TestRun_StaleStatusIsRefusedAndDropped(t *testing.T) {
	w := newWorld(t)
	run := newTestRun("order")
	w.create(run)
	writer := &runStatusWriter{Client: w.Client, live: w.Client, events: discard{}}
	at := time.Now().UTC()
	row := &openworkflow.Run{ID: string(run.UID), Status: openworkflow.RunRunning, WorkerID: new("a.b.1"), Attempts: 2, StartedAt: &at, AvailableAt: &at, CreatedAt: at, UpdatedAt: at}
	write := func(change func(*openworkflow.Run)) writeOutcome {
		t.Helper()
		r := *row
		change(&r)
		outcome, err := writer.write(t.Context(), run, projection.Status(&r, openworkflow.StepSummary{}, ""))
		if err != nil {
			t.Fatal(err)
		}
		return outcome
	}
	if got := write(func(*openworkflow.Run) {}); got != statusWritten {
		t.Fatalf("the first status is %s", got)
	}
	if got := write(func(r *openworkflow.Run) { r.Attempts = 1 }); got != statusStale {
		t.Errorf("a status of an earlier claim is %s", got)
	}
	if got := write(func(r *openworkflow.Run) { r.Status = openworkflow.RunCompleted }); got != statusWritten {
		t.Errorf("the end is %s", got)
	}
	if got := write(func(r *openworkflow.Run) { r.Status, r.Attempts = openworkflow.RunCanceled, 3 }); got != statusStale {
		t.Errorf("another end is %s", got)
	}
	namesake := run.DeepCopy()
	namesake.UID = "another"
	row.Status, row.Attempts = openworkflow.RunCompleted, 9
	if got, err := writer.write(t.Context(), namesake, projection.Status(row, openworkflow.StepSummary{}, "")); err != nil || got != statusGone {
		t.Errorf("the status of a namesake is %s, %v", got, err)
	}
	if got := fetch(w, run).Status.State; got != v1alpha1.RunCompleted {
		t.Errorf("state is %s", got)
	}
}
