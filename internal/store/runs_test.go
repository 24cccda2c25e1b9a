package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestCancelRuns_R125(t *testing.T) {
	t.Parallel()
	f := setup(t)
	pending := f.create(1, func(r *store.NewRun) { r.AvailableAt = new(time.Now().Add(time.Hour)) })[0]
	active, parked, done, sleeping := f.start(), f.start(), f.start(), f.start()
	running := step(active, "a", running, "")
	f.must([]store.StepWrite{running}, []store.RunWrite{ending(parked, store.RunPark), ending(done, store.RunComplete)})
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'sleeping' WHERE id = $1`, sleeping.RunID)

	for range 2 { // canceled twice is canceled
		got, err := f.CancelRuns(t.Context(), []string{pending, active.RunID, parked.RunID, done.RunID, sleeping.RunID, "missing"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]openworkflow.RunStatus{
			pending: "canceled", active.RunID: "canceled", parked.RunID: "canceled", sleeping.RunID: "canceled", done.RunID: "completed",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("statuses differ (-want +got):\n%s", diff)
		}
	}
	f.expect(active.RunID, "worker_id", "NULL")
	f.expect(active.RunID, "available_at", "NULL")
	f.expect(active.RunID, "finished_at = updated_at", "true")
	f.expect(active.RunID, "started_at IS NULL", "false")
	f.expectStep(running.Attempt.ID, "status", "running") // R126
}

func TestFailExpired_R44(t *testing.T) {
	t.Parallel()
	f := setup(t)
	expire := func(id string) {
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() - interval '1 second' WHERE id = $1`, id)
	}
	active, parked, done := f.start(), f.start(), f.start()
	f.must(nil, []store.RunWrite{ending(parked, store.RunPark), ending(done, store.RunComplete)})
	pending := f.create(1)[0]
	suspended := f.create(1, func(r *store.NewRun) { r.Suspended = true })[0]
	for _, id := range []string{pending, active.RunID, parked.RunID, suspended, done.RunID} {
		expire(id)
	}
	later := f.create(1, func(r *store.NewRun) { r.DeadlineAt = new(time.Now().Add(time.Hour)) })[0]

	var got []string
	for {
		failed, err := f.FailExpired(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, failed...); len(failed) < 3 {
			break
		}
	}

	slices.Sort(got)
	want := []string{pending, active.RunID, parked.RunID, suspended}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failed runs differ (-want +got):\n%s", diff)
	}
	for expression, want := range map[string]string{
		"status": "failed", "worker_id": "NULL", "available_at": "NULL", "finished_at = updated_at": "true",
		"started_at IS NULL": "false", "error": `{"message": "Workflow run deadline exceeded"}`,
	} {
		f.expect(active.RunID, expression, want)
	}
	f.expect(done.RunID, "status", "completed")
	f.expect(later, "status", "pending")
}

// family is a parent that waits for a child that a worker executes.
func (f *fixture) family() (parent, child openworkflow.Lease) {
	f.t.Helper()
	parent, child = f.start(), f.start()
	f.child(parent, child.RunID)
	return parent, child
}

// childEnds are the ways in which a child's run ends.
var childEnds = map[string]func(f *fixture, child openworkflow.Lease){
	"completes": func(f *fixture, child openworkflow.Lease) {
		f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	},
	"fails": func(f *fixture, child openworkflow.Lease) {
		f.must(nil, []store.RunWrite{ending(child, store.RunFail)})
	},
	"is canceled": func(f *fixture, child openworkflow.Lease) {
		if _, err := f.CancelRuns(f.t.Context(), []string{child.RunID}); err != nil {
			f.t.Fatal(err)
		}
	},
	"passes its deadline": func(f *fixture, child openworkflow.Lease) {
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE id = $1`, child.RunID)
		if _, err := f.FailExpired(f.t.Context(), 10); err != nil {
			f.t.Fatal(err)
		}
	},
}

func TestWake_R82_AChildsEndMakesItsParentDue(t *testing.T) {
	t.Parallel()
	for name, end := range childEnds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			parent, child := f.family()
			f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
			f.expect(parent.RunID, "available_at > now()", "true")

			end(f, child)

			f.expect(parent.RunID, "available_at <= now()", "true")
			if runs := f.claim(1); len(runs) != 1 || runs[0].ID != parent.RunID {
				t.Errorf("claimed %+v, want the parent", runs)
			}
		})
	}
}

func TestWake_R82_NotAnActiveParentNorARetry(t *testing.T) {
	t.Parallel()
	f := setup(t)
	parent, child := f.family()
	lease := f.value(`SELECT available_at FROM openworkflow.workflow_runs WHERE id = $1`, parent.RunID)
	f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	f.expect(parent.RunID, "available_at::text", lease)

	parent, child = f.family()
	f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
	f.must(nil, []store.RunWrite{ending(child, store.RunRetry)})
	f.expect(parent.RunID, "available_at > now()", "true")
}

func TestWake_ASuspendedParentIsDueWhenItResumes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	parent, child := f.family()
	f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
	f.suspend(parent.RunID)
	f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	f.expect(parent.RunID, "available_at", "NULL")
	f.resume(parent.RunID)
	f.expect(parent.RunID, "available_at <= now()", "true")
}

func TestPark_R83_AfterWhatItWaitsForHasCome(t *testing.T) {
	t.Parallel()
	for name, end := range childEnds {
		t.Run("the child "+name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			parent, child := f.family()
			end(f, child) // while the parent is active
			f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
			f.expect(parent.RunID, "available_at <= now()", "true")
		})
	}
	t.Run("a signal", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		l := f.start()
		wait := step(l, "s", running, "")
		wait.Attempt.Kind = openworkflow.KindSignalWait
		f.must([]store.StepWrite{wait}, nil)
		f.exec(`INSERT INTO openworkflow.workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id)
VALUES ('default', 'd', 's', $1, $2)`, l.RunID, wait.Attempt.ID)
		f.must(nil, []store.RunWrite{ending(l, store.RunPark)})
		f.expect(l.RunID, "available_at <= now()", "true")
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		parent, _ := f.family()
		f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
		f.expect(parent.RunID, "available_at > now()", "true")
	})
}

// TestPark_P3_RacesWithTheChildsEnd: the parent is due in either order of the two.
func TestPark_P3_RacesWithTheChildsEnd(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for range 40 {
		parent, child := f.family()
		done := make(chan error, 2)
		for _, w := range []store.RunWrite{ending(parent, store.RunPark), ending(child, store.RunComplete)} {
			go func() {
				_, errs, err := f.Apply(t.Context(), nil, []store.RunWrite{w})
				if err == nil {
					err = errs[0]
				}
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		f.expect(parent.RunID, "available_at <= now()", "true")
		f.exec(`UPDATE openworkflow.workflow_runs SET available_at = NULL`)
	}
}

func TestOpenObjectRuns(t *testing.T) {
	t.Parallel()
	f := setup(t)
	object := func(uid, cluster string) json.RawMessage {
		raw, err := json.Marshal(openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
			Cluster: cluster, Namespace: "ns", Name: "run", UID: uid,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var runs []store.NewRun
	var want []store.ObjectRun
	for i := range 7 {
		id := fmt.Sprintf("uid-%d", i)
		runs = append(runs, store.NewRun{ID: id, WorkflowName: "wf", Context: object(id, "c")})
		want = append(want, store.ObjectRun{RunID: id, Object: openworkflow.ObjectRef{Cluster: "c", Namespace: "ns", Name: "run", UID: id}})
	}
	runs = append(runs,
		store.NewRun{ID: "uid-elsewhere", WorkflowName: "wf", Context: object("uid-elsewhere", "other")},
		store.NewRun{ID: "uid-attached", WorkflowName: "wf", Context: object("another-uid", "c")},
		store.NewRun{ID: "uid-plain", WorkflowName: "wf"},
		store.NewRun{ID: "uid-scalar", WorkflowName: "wf", Context: json.RawMessage(`"kubernetes"`)},
		store.NewRun{ID: "uid-ended", WorkflowName: "wf", Context: object("uid-ended", "c")},
	)
	if _, err := f.CreateRuns(t.Context(), runs); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CancelRuns(t.Context(), []string{"uid-ended"}); err != nil {
		t.Fatal(err)
	}

	var got []store.ObjectRun
	after := ""
	for {
		page, err := f.OpenObjectRuns(t.Context(), "c", after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, page...); len(page) < 3 {
			break
		}
		after = page[2].RunID
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("runs differ (-want +got):\n%s", diff)
	}
}

func TestStepSummaries(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, b := f.start(), f.start()
	f.must([]store.StepWrite{
		step(a, "x", failed, `{"message":"1"}`), step(a, "x", failed, `{"message":"2"}`), step(a, "x", completed, `1`),
		step(a, "y", completed, `2`), step(a, "z", running, ""), step(b, "x", completed, `1`),
	}, nil)
	f.exec(`UPDATE openworkflow.step_attempts SET status = 'succeeded' WHERE step_name = 'y'`) // R41

	sums, err := f.StepSummaries(t.Context(), []string{a.RunID, b.RunID, a.RunID, "missing"}, 3)
	if err != nil {
		t.Fatal(err)
	}

	type short struct {
		Running, Completed, Failed, Names int
		Newest                            string
	}
	got := map[string]short{}
	for id, s := range sums {
		newest := ""
		for _, step := range s.Newest {
			newest += step.StepName
			if step.Output != nil {
				t.Errorf("%s has an output", step.StepName)
			}
		}
		got[id] = short{s.Running, s.Completed, s.Failed, s.Names, newest}
	}
	want := map[string]short{a.RunID: {1, 2, 2, 3, "xyz"}, b.RunID: {0, 1, 0, 1, "x"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summaries differ (-want +got):\n%s", diff)
	}
}
