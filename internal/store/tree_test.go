package store_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// beget starts a child of a run and claims it.
func (f *fixture) beget(parent openworkflow.Lease) (child openworkflow.Lease, attemptID string) {
	f.t.Helper()
	w := childStep(parent, openworkflow.NewID())
	f.must([]store.StepWrite{w}, nil)
	for _, run := range f.claim(100, openworkflow.Definition{Name: "child"}) {
		if run.ID == w.Child.ID {
			return leaseOf(run), w.Attempt.ID
		}
	}
	f.t.Fatal("the child was not claimed")
	return openworkflow.Lease{}, ""
}

func (f *fixture) statuses() map[string]openworkflow.RunStatus {
	f.t.Helper()
	statuses := map[string]openworkflow.RunStatus{}
	for _, run := range f.list(store.RunFilter{Brief: true}, store.Page{Limit: 10_000}).Runs {
		statuses[run.ID] = run.Status
	}
	return statuses
}

func TestCancelTree_CancelsAllThatIsOpenBelow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	above := f.start()
	root, _ := f.beget(above)
	f.must(nil, []store.RunWrite{ending(above, store.RunPark)})

	parked, _ := f.beget(root)
	belowParked, _ := f.beget(parked)
	f.must(nil, []store.RunWrite{ending(parked, store.RunPark)})
	done, _ := f.beget(root)
	belowDone, _ := f.beget(done)
	f.must(nil, []store.RunWrite{ending(done, store.RunComplete)})
	unlinked, attempt := f.beget(root)
	f.exec(`UPDATE openworkflow.step_attempts SET child_workflow_run_namespace_id = NULL, child_workflow_run_id = NULL WHERE id = $1`, attempt)
	orphan, _ := f.beget(root)
	f.exec(`UPDATE openworkflow.workflow_runs SET parent_step_attempt_namespace_id = NULL, parent_step_attempt_id = NULL WHERE id = $1`, orphan.RunID)
	sibling, _ := f.beget(f.steal(above.RunID))
	stranger := f.start()
	f.must(nil, []store.RunWrite{{Lease: sibling, Op: store.RunFail}})

	got, err := f.CancelTree(t.Context(), []string{root.RunID, sibling.RunID, "missing"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]openworkflow.RunStatus{
		root.RunID: "canceled", parked.RunID: "canceled", belowParked.RunID: "canceled", belowDone.RunID: "canceled",
		unlinked.RunID: "canceled", orphan.RunID: "canceled", sibling.RunID: "failed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want[done.RunID], want[above.RunID], want[stranger.RunID] = "completed", "running", "running"
	if diff := cmp.Diff(want, f.statuses()); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

func TestCancelTree_R82_WakesWhoeverWaitsForTheTop(t *testing.T) {
	t.Parallel()
	f := setup(t)
	above := f.start()
	root, _ := f.beget(above)
	f.must(nil, []store.RunWrite{ending(above, store.RunPark)})
	f.expect(above.RunID, "available_at <= now()", "false")
	if _, err := f.CancelTree(t.Context(), []string{root.RunID}); err != nil {
		t.Fatal(err)
	}
	f.expect(above.RunID, "available_at <= now()", "true")
}

func TestCancelTree_MayBeRepeated(t *testing.T) {
	t.Parallel()
	f := setup(t)
	root := f.start()
	child, _ := f.beget(root)
	// A first call that got no further than the top.
	if _, err := f.CancelRuns(t.Context(), []string{root.RunID}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []map[string]openworkflow.RunStatus{
		{root.RunID: "canceled", child.RunID: "canceled"},
		{root.RunID: "canceled"},
	} {
		got, err := f.CancelTree(t.Context(), []string{root.RunID})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestCancelTree_LeavesAloneWhatIsBelowARunThatHadEnded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	root := f.start()
	child, _ := f.beget(root)
	f.must(nil, []store.RunWrite{ending(root, store.RunComplete)})
	got, err := f.CancelTree(t.Context(), []string{root.RunID})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]openworkflow.RunStatus{root.RunID: "completed"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	f.expect(child.RunID, "status", "running")
}

// TestCancelTree_NothingBelowSurvives lets runs start children as long as they may, while the
// topmost run is canceled.
func TestCancelTree_NothingBelowSurvives(t *testing.T) {
	t.Parallel()
	f := setup(t)
	root := f.start()
	begun := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	var multiply func(openworkflow.Lease, int)
	multiply = func(parent openworkflow.Lease, depth int) {
		for i := range 200 {
			w := childStep(parent, fmt.Sprint(i))
			errs, _, err := f.Apply(t.Context(), []store.StepWrite{w}, nil)
			if err != nil {
				t.Errorf("Apply: %v", err)
			}
			if err != nil || errs[0] != nil {
				return // canceled
			}
			if depth == 3 {
				once.Do(func() { close(begun) })
				continue
			}
			runs, err := f.Claim(t.Context(), request(1, openworkflow.Definition{Name: "child"}))
			if err != nil {
				t.Errorf("Claim: %v", err)
			}
			for _, run := range runs {
				wg.Go(func() { multiply(leaseOf(run), depth+1) })
			}
		}
	}
	wg.Go(func() { multiply(root, 0) })
	<-begun
	if _, err := f.CancelTree(t.Context(), []string{root.RunID}); err != nil {
		t.Errorf("CancelTree: %v", err)
	}
	for id, status := range f.statuses() {
		if status != openworkflow.RunCanceled {
			t.Errorf("run %s is %s", id, status)
		}
	}
	wg.Wait()
	t.Logf("%s runs", f.count("workflow_runs"))
}
