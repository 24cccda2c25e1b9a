package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// losses are the ways to lose a lease.
var losses = map[string]func(f *fixture, l openworkflow.Lease){
	"claimed by another": func(f *fixture, l openworkflow.Lease) { f.steal(l.RunID) },
	"canceled": func(f *fixture, l openworkflow.Lease) {
		if _, err := f.CancelRuns(f.t.Context(), []string{l.RunID}); err != nil {
			f.t.Fatal(err)
		}
	},
	"failed at its deadline": func(f *fixture, l openworkflow.Lease) {
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE id = $1`, l.RunID)
		if _, err := f.FailExpired(f.t.Context(), 10); err != nil {
			f.t.Fatal(err)
		}
	},
	"released with its pod": func(f *fixture, _ openworkflow.Lease) {
		if _, err := f.ReleaseLeases(f.t.Context(), store.ReleaseRequest{PodUID: "pod"}); err != nil {
			f.t.Fatal(err)
		}
	},
	"completed": func(f *fixture, l openworkflow.Lease) {
		f.must(nil, []store.RunWrite{ending(l, store.RunComplete)})
	},
	"retried": func(f *fixture, l openworkflow.Lease) {
		f.must(nil, []store.RunWrite{ending(l, store.RunRetry)})
	},
	"deleted": func(f *fixture, l openworkflow.Lease) {
		f.exec(`DELETE FROM openworkflow.workflow_runs WHERE id = $1`, l.RunID)
	},
}

func TestFence_P2_EveryWriteAfterTheLeaseIsLostFails(t *testing.T) {
	t.Parallel()
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			begun := step(l, "begun", running, "")
			f.must([]store.StepWrite{begun}, nil)
			lose(f, l)
			before := f.snapshot(l.RunID)

			finish := step(l, "begun", completed, `1`)
			finish.Attempt.ID = begun.Attempt.ID
			stepErrs, _ := f.apply([]store.StepWrite{
				finish, begun, step(l, "x", running, ""), step(l, "y", completed, `1`), step(l, "z", failed, `{"message":"z"}`),
			}, nil)
			for i, err := range stepErrs {
				if !errors.Is(err, store.ErrLeaseLost) {
					t.Errorf("step write %d: %v, want %v", i, err, store.ErrLeaseLost)
				}
			}
			for opName, op := range ops {
				if name == "completed" && op == store.RunComplete {
					continue // the same completion again
				}
				stepErrs, runErrs := f.apply([]store.StepWrite{step(l, "w", completed, `1`)}, []store.RunWrite{ending(l, op)})
				if !errors.Is(stepErrs[0], store.ErrLeaseLost) || !errors.Is(runErrs[0], store.ErrLeaseLost) {
					t.Errorf("%s: %v, %v, want %v", opName, stepErrs, runErrs, store.ErrLeaseLost)
				}
			}
			states, err := f.Heartbeat(t.Context(), []openworkflow.Lease{l}, lease)
			if err != nil || states[0].Held {
				t.Errorf("Heartbeat: %+v, %v, want it lost", states, err)
			}
			if after := f.snapshot(l.RunID); after != before {
				t.Errorf("a lost lease changed\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestFence_LostLeasesLeaveTheBatchAlone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(6)
	runs := f.claim(6)
	var steps []store.StepWrite
	var ends []store.RunWrite
	for i, run := range runs {
		l := leaseOf(run)
		if i%2 == 0 {
			l.WorkerID = "pod.proc.stale"
		}
		steps = append(steps, step(l, "a", completed, `1`))
		ends = append(ends, ending(l, store.RunComplete))
	}

	stepErrs, runErrs := f.apply(steps, ends)

	for i, run := range runs {
		if lost := i%2 == 0; lost != errors.Is(stepErrs[i], store.ErrLeaseLost) || lost != errors.Is(runErrs[i], store.ErrLeaseLost) {
			t.Errorf("write %d: %v, %v; lost is %v", i, stepErrs[i], runErrs[i], lost)
		}
		f.expect(run.ID, "status", map[bool]string{true: "running", false: "completed"}[i%2 == 0])
	}
}

func TestFence_P2_AWriteThatWaitsForATakeoverFails(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Another worker's claim that has not committed yet.
	if _, err := tx.Exec(t.Context(), `UPDATE openworkflow.workflow_runs SET worker_id = 'other' WHERE id = $1`, l.RunID); err != nil {
		t.Fatal(err)
	}
	type result struct {
		step, run, beat error
		held            bool
	}
	done := make(chan result, 3)
	write := step(l, "a", completed, `1`)
	go func() {
		errs, _, err := f.Apply(t.Context(), []store.StepWrite{write}, nil)
		done <- result{step: errors.Join(append(errs, err)...)}
	}()
	go func() {
		_, errs, err := f.Apply(t.Context(), nil, []store.RunWrite{ending(l, store.RunComplete)})
		done <- result{run: errors.Join(append(errs, err)...)}
	}()
	go func() {
		states, err := f.Heartbeat(t.Context(), []openworkflow.Lease{l}, lease)
		done <- result{beat: err, held: err == nil && states[0].Held}
	}()
	f.awaitBlocked(3)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	var all result
	for range 3 {
		r := <-done
		all.step, all.run = errors.Join(all.step, r.step), errors.Join(all.run, r.run)
		all.beat, all.held = errors.Join(all.beat, r.beat), all.held || r.held
	}
	if !errors.Is(all.step, store.ErrLeaseLost) || !errors.Is(all.run, store.ErrLeaseLost) || all.beat != nil || all.held {
		t.Errorf("results %+v, want every write to fail", all)
	}
	f.expect(l.RunID, "worker_id", "other")
	f.expect(l.RunID, "status", "running")
}

// awaitBlocked waits until n sessions of the database wait for a lock.
func (f *fixture) awaitBlocked(n int) {
	f.t.Helper()
	watch := connect(f.t, f.url)
	for {
		var blocked int
		err := watch.QueryRow(f.t.Context(), `
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&blocked)
		if err != nil {
			f.t.Fatal(err)
		}
		if blocked >= n {
			return
		}
	}
}

// TestFence_NoDeadlocks lets writers that touch the same runs in different
// orders meet, with parents and children among them.
func TestFence_NoDeadlocks(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(20)
	runs := f.claim(20)
	for i, run := range runs {
		f.child(leaseOf(run), runs[(i+7)%20].ID) // everyone is somebody's parent
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for round := range 15 {
				var steps []store.StepWrite
				var ends []store.RunWrite
				var leases []openworkflow.Lease
				for i := range runs {
					l := leaseOf(runs[(i*(2*w+1)+round)%20])
					leases = append(leases, l)
					if i%3 == w%3 {
						steps = append(steps, step(l, fmt.Sprint(w, round, i), completed, `1`))
					}
					if i == round%20 && w%2 == 0 {
						ends = append(ends, ending(l, store.RunFail))
					}
				}
				if _, _, err := f.Apply(t.Context(), steps, ends); err != nil {
					t.Errorf("Apply: %v", err)
				}
				if _, err := f.Heartbeat(t.Context(), leases, lease); err != nil {
					t.Errorf("Heartbeat: %v", err)
				}
				if w == 5 {
					if _, err := f.CancelRuns(t.Context(), []string{leases[19].RunID, leases[0].RunID}); err != nil {
						t.Errorf("CancelRuns: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// child makes a run the child of a new workflow step of the parent's run.
func (f *fixture) child(parent openworkflow.Lease, childID string) (attemptID string) {
	f.t.Helper()
	w := step(parent, openworkflow.NewID(), running, "")
	w.Attempt.Kind = openworkflow.KindWorkflow
	w.Attempt.Context = []byte(`{"kind":"workflow","timeoutAt":"2100-01-01T00:00:00.000Z"}`)
	f.must([]store.StepWrite{w}, nil)
	f.exec(`UPDATE openworkflow.step_attempts SET child_workflow_run_namespace_id = 'default', child_workflow_run_id = $2 WHERE id = $1`,
		w.Attempt.ID, childID)
	f.exec(`UPDATE openworkflow.workflow_runs SET parent_step_attempt_namespace_id = 'default', parent_step_attempt_id = $2 WHERE id = $1`,
		childID, w.Attempt.ID)
	return w.Attempt.ID
}
