package store_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/store"
)

// sweep runs a sweep, however long ago the last one was.
func (f *fixture) sweep(limit int) store.Swept {
	f.t.Helper()
	swept, err := f.Sweep(f.t.Context(), 0, limit)
	if err != nil || !swept.Ran {
		f.t.Fatalf("Sweep: %+v, %v", swept, err)
	}
	return swept
}

// orphan leaves a parked run whose child ended without waking it.
func (f *fixture) orphan() (runID, attemptID string) {
	f.t.Helper()
	l := f.start()
	w := childStep(l, "a")
	f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'completed', finished_at = now(), available_at = NULL WHERE id = $1`, w.Child.ID)
	return l.RunID, w.Attempt.ID
}

func TestSweep_R171_WakesWhatADeadWorkerLeftParked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change  string
		rescued bool
	}{
		"child completed": {``, true},
		"child succeeded": {`UPDATE openworkflow.workflow_runs SET status = 'succeeded' WHERE status = 'completed'`, true},
		"child failed":    {`UPDATE openworkflow.workflow_runs SET status = 'failed' WHERE status = 'completed'`, true},
		"child canceled":  {`UPDATE openworkflow.workflow_runs SET status = 'canceled' WHERE status = 'completed'`, true},
		"child open":      {`UPDATE openworkflow.workflow_runs SET status = 'running', worker_id = 'w' WHERE status = 'completed'`, false},
		"step ended":      {`UPDATE openworkflow.step_attempts SET status = 'completed'`, false},
		"legacy parent":   {`UPDATE openworkflow.workflow_runs SET status = 'sleeping' WHERE status = 'running'`, true},
		"parent executes": {`UPDATE openworkflow.workflow_runs SET worker_id = 'w' WHERE status = 'running'`, false},
		"parent in retry": {`UPDATE openworkflow.workflow_runs SET status = 'pending' WHERE status = 'running'`, false},
		"parent canceled": {`UPDATE openworkflow.workflow_runs SET status = 'canceled' WHERE status = 'running'`, false},
		"never due":       {`UPDATE openworkflow.workflow_runs SET available_at = NULL WHERE status = 'running'`, true},
		"no child and a signal": {`
UPDATE openworkflow.step_attempts
SET kind = 'signal-wait', child_workflow_run_id = NULL, child_workflow_run_namespace_id = NULL`, false},
		"signal delivered": {`
UPDATE openworkflow.step_attempts SET kind = 'signal-wait', child_workflow_run_id = NULL, child_workflow_run_namespace_id = NULL;
INSERT INTO openworkflow.workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id)
SELECT namespace_id, 'd', 'go', workflow_run_id, id FROM openworkflow.step_attempts`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			run, _ := f.orphan()
			if c.change != "" {
				f.exec(c.change)
			}
			var want []string
			if c.rescued {
				want = []string{run}
			}
			before := f.snapshot(run)

			if diff := cmp.Diff(want, f.sweep(10).Rescued, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("rescued (-want +got):\n%s", diff)
			}
			if after := f.snapshot(run); c.rescued == (after == before) {
				t.Errorf("rescued is %v, but the run became\n%s\nfrom\n%s", c.rescued, after, before)
			}
			if c.rescued {
				f.expect(run, "available_at = updated_at", "true")
			}
			if again := f.sweep(10); len(again.Rescued) != 0 {
				t.Errorf("rescued again: %v", again.Rescued)
			}
		})
	}
}

func TestSweep_R44_FailsExpiredRunsAndWakesTheirParents(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := childStep(l, "a")
	f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
	f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE id = $1`, w.Child.ID)

	swept := f.sweep(10)

	if !slices.Equal(swept.Expired, []string{w.Child.ID}) {
		t.Errorf("expired %v, want the child", swept.Expired)
	}
	f.expect(w.Child.ID, "status", "failed")
	f.expect(l.RunID, "available_at <= now()", "true")
}

func TestSweep_TurnsGoOnWhereTheLastEnded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var want []string
	for range 7 {
		id, _ := f.orphan()
		want = append(want, id)
	}
	for range 3 { // nothing has come for these
		f.waiter("go")
	}
	var got []string
	sweeps := 0
	for len(got) < len(want) && sweeps < 10 {
		swept := f.sweep(2)
		if len(swept.Rescued) > 2 {
			t.Errorf("a sweep of 2 rescued %v", swept.Rescued)
		}
		got = append(got, swept.Rescued...)
		sweeps++
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" || sweeps > 5 {
		t.Errorf("rescued in %d sweeps (-want +got):\n%s", sweeps, diff)
	}
	// The sweep after the last page starts anew.
	for range 2 {
		f.sweep(2)
	}
	late, _ := f.orphan()
	for range 6 {
		if slices.Contains(f.sweep(2).Rescued, late) {
			return
		}
	}
	t.Error("a run that was parked behind the sweep is never rescued")
}

func TestSweep_OneProcessAtATime(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.orphan()
	sweeps, rescued := make(chan bool, 20), make(chan string, 20)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			swept, err := f.Sweep(t.Context(), time.Hour, 10)
			if err != nil {
				t.Errorf("Sweep: %v", err)
			}
			sweeps <- swept.Ran
			for _, id := range swept.Rescued {
				rescued <- id
			}
		})
	}
	wg.Wait()
	close(sweeps)
	taken := 0
	for ran := range sweeps {
		if ran {
			taken++
		}
	}
	if taken != 1 || len(rescued) != 1 {
		t.Errorf("%d sweeps rescued %d runs, want 1 and 1", taken, len(rescued))
	}
}

func TestSweep_WhoseTurnItIs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other := open(t, store.Options{URL: f.url, NamespaceID: "other"})
	for _, c := range []struct {
		last string
		ran  bool
	}{
		{"", true},
		{"now()", false},
		{"now() - interval '59 seconds'", false},
		{"now() - interval '61 seconds'", true},
		{"now() + interval '59 seconds'", false},
		{"now() + interval '1 day'", true}, // the clock was set back
	} {
		t.Run("last "+c.last, func(t *testing.T) {
			f := f.in(t)
			if c.last != "" {
				f.exec(`UPDATE openworkflow.operator_sweeps SET swept_at = ` + c.last)
			}
			swept, err := f.Sweep(t.Context(), time.Minute, 10)
			if err != nil || swept.Ran != c.ran {
				t.Errorf("%+v, %v, want ran %v", swept, err, c.ran)
			}
		})
	}
	if swept, err := other.Sweep(t.Context(), time.Minute, 10); err != nil || !swept.Ran {
		t.Errorf("another namespace: %+v, %v, want a sweep", swept, err)
	}
}

// TestSweep_CostFollowsTheLimit: a sweep reads one page of waiting runs, however many there
// are.
func TestSweep_CostFollowsTheLimit(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.populateWaits(30_000, 0)
	f.analyzedOrNot(func() {
		f.expectCost("sweep", f.explain(f.SweepWaitsSQL(), "default", "wait-5", 500), "operator_attempts_waiting_idx", 500)
		if swept := f.sweep(500); len(swept.Rescued) == 0 || len(swept.Rescued) > 500 {
			t.Errorf("a sweep of 500 rescued %d runs", len(swept.Rescued))
		}
	})
}
