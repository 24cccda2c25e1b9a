package store_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// imported returns an open run with one completed step.
func imported(id string) (*openworkflow.Run, []openworkflow.StepAttempt) {
	at := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	run := &openworkflow.Run{ID: id, WorkflowName: "w", Status: openworkflow.RunPending, Input: json.RawMessage(`1`), Attempts: 2, CreatedAt: at, StartedAt: &at}
	child := "missing"
	return run, []openworkflow.StepAttempt{{
		ID: id + "-1", StepName: "a", Kind: openworkflow.KindFunction, Status: openworkflow.StepCompleted, Output: json.RawMessage(`2`),
		ChildWorkflowRunID: &child, CreatedAt: at, StartedAt: &at, FinishedAt: &at,
	}}
}

// A run that had not ended is claimed by nobody until it is resumed, and then with its history.
func TestImportRun_P1_WaitsUntilItIsResumed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run, steps := imported("run")
	if inserted, err := f.ImportRun(t.Context(), run, steps); err != nil || !inserted {
		t.Fatalf("ImportRun: %v, %v", inserted, err)
	}
	states, err := f.RunStates(t.Context(), []string{"run"})
	if err != nil || states["run"] == nil || states["run"].SuspendedAt == nil || states["run"].AvailableAt != nil {
		t.Fatalf("it is not suspended: %+v, %v", states["run"], err)
	}
	if _, err := f.ResumeRuns(t.Context(), []string{"run"}); err != nil {
		t.Fatal(err)
	}
	states, err = f.RunStates(t.Context(), []string{"run"})
	if err != nil || states["run"].SuspendedAt != nil || states["run"].AvailableAt == nil {
		t.Errorf("it is not resumed: %+v, %v", states["run"], err)
	}
	history, err := f.LoadSteps(t.Context(), []string{"run"})
	if err != nil || len(history["run"]) != 1 || string(history["run"][0].Output) != "2" || history["run"][0].ChildWorkflowRunID != nil {
		t.Errorf("its history is %+v, %v", history, err)
	}
}

// A fork keeps the name of its source. A source names a fork that is in the database, and no other:
// lists would leave it out in favor of a run that is not there.
func TestImportRun_KeepsLineage(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, id := range []string{"second", "first", "other"} {
		run, steps := imported(id)
		switch id {
		case "second":
			run.ForkedFrom, run.ForkStep = new("first"), new("a")
		case "first":
			run.SupersededBy = new("second")
		case "other":
			run.SupersededBy = new("elsewhere")
		}
		if _, err := f.ImportRun(t.Context(), run, steps); err != nil {
			t.Fatal(err)
		}
	}
	states, err := f.RunStates(t.Context(), []string{"first", "second", "other"})
	if err != nil {
		t.Fatal(err)
	}
	first, second, other := states["first"], states["second"], states["other"]
	if second.ForkedFrom == nil || *second.ForkedFrom != "first" || second.ForkStep == nil || *second.ForkStep != "a" || second.SupersededBy != nil {
		t.Errorf("the fork is %+v", second)
	}
	if first.SupersededBy == nil || *first.SupersededBy != "second" || first.ForkedFrom != nil || first.SuspendedAt == nil {
		t.Errorf("the source is %+v", first)
	}
	if other.SupersededBy != nil {
		t.Errorf("it names a run that is not there: %s", *other.SupersededBy)
	}
}

func TestImportRun_P5_LeavesAnExistingRunAlone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run, steps := imported("run")
	if _, err := f.ImportRun(t.Context(), run, steps); err != nil {
		t.Fatal(err)
	}
	before := f.snapshot("run")
	run.WorkflowName, steps[0].ID = "other", "other"
	if inserted, err := f.ImportRun(t.Context(), run, steps); err != nil || inserted {
		t.Errorf("ImportRun: %v, %v", inserted, err)
	}
	if after := f.snapshot("run"); after != before {
		t.Errorf("the run has changed from\n%s\nto\n%s", before, after)
	}
}

// A value that Postgres cannot store leaves no half of a run behind.
func TestImportRun_P7_IsWholeOrNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run, steps := imported("run")
	steps[0].Output = json.RawMessage(`"\u0000"`)
	if _, err := f.ImportRun(t.Context(), run, steps); !errors.Is(err, store.ErrInvalidJSON) {
		t.Errorf("ImportRun: %v", err)
	}
	if states, err := f.RunStates(t.Context(), []string{"run"}); err != nil || states["run"] != nil {
		t.Errorf("a failed import left %+v, %v", states["run"], err)
	}
}
