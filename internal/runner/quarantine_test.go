package runner_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// dieIn lets a worker begin a step of each of the due runs of a workflow and die, so often.
func (b *bench) dieIn(w workflow.Definition, stepName string, runs, deaths int) {
	b.Helper()
	for range deaths {
		claimed, err := b.store.Claim(b.Context(), store.ClaimRequest{
			Served: []openworkflow.Definition{{Name: w.Name()}}, Max: runs, WorkerIDPrefix: "dying." + openworkflow.NewID() + ".", First: 1, Lease: time.Minute,
		})
		if err != nil || len(claimed) != runs {
			b.Fatalf("claimed %d runs, want %d: %v", len(claimed), runs, err)
		}
		var begun []store.StepWrite
		for _, run := range claimed {
			begun = append(begun, store.StepWrite{
				Lease:   openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID},
				Attempt: openworkflow.StepAttempt{ID: openworkflow.NewID(), StepName: stepName, Kind: openworkflow.KindFunction, Status: openworkflow.StepRunning},
			})
		}
		if _, err := b.store.ApplyAndClaim(b.Context(), store.Batch{Steps: begun}); err != nil {
			b.Fatal(err)
		}
		// The bound is that of the worker under test: a run that has reached it is due at once.
		released, err := b.store.ReleaseLeases(b.Context(), store.ReleaseRequest{PodUID: "dying", Died: true, MaxDeaths: deaths})
		if err != nil || len(released) != runs {
			b.Fatalf("released %v: %v", released, err)
		}
	}
}

// TestQuarantine_P3_ARunFailsAtTheBound: none of its code is executed then.
func TestQuarantine_P3_ARunFailsAtTheBound(t *testing.T) {
	b := newBench(t)
	var c calls
	child := workflow.Define("killer", func(ctx context.Context, _ any) (string, error) {
		c.add("workflow")
		return step.Run(ctx, "kill", func(context.Context) (string, error) { return "lived", nil })
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 9}))
	parent := workflow.Define("parent", func(ctx context.Context, _ any) (string, error) {
		_, err := step.RunWorkflow(ctx, child, any(nil))
		return fmt.Sprint("the child has failed: ", err), nil
	})
	_, stop := b.work(runner.Options{}, parent)
	id := b.start(parent, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Parked() })
	childID := *b.steps(id)[0].ChildWorkflowRunID
	b.dieIn(child, "kill", 1, 3)
	b.work(runner.Options{MaxWorkerDeaths: 3}, child)

	want := openworkflow.Error{
		Name:    "WorkerDeathsExceededError",
		Message: `the worker process has died 3 times in a row in step "kill" of the run, without progress; the run is not executed again`,
	}
	if got := b.failed(childID); got != want {
		t.Errorf("the error is %+v, want %+v", got, want)
	}
	if n := c.of("workflow"); n != 0 {
		t.Errorf("the workflow was executed %d times", n)
	}
	if got := b.completed(id); !strings.Contains(got, "has died 3 times") {
		t.Errorf("the parent returned %s", got)
	}
	stop()
}

func TestQuarantine_P3_ARunBelowTheBoundIsExecuted(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("unlucky", func(ctx context.Context, _ any) (string, error) {
		return step.Run(ctx, "kill", func(context.Context) (string, error) { return "lived", nil })
	})
	id := b.start(w, `null`)
	b.dieIn(w, "kill", 1, 2)
	b.work(runner.Options{MaxWorkerDeaths: 3}, w)
	if got := b.completed(id); got != `"lived"` {
		t.Errorf("output is %s", got)
	}
}

// TestQuarantine_P3_OneAtATimeBesideOthers: the others are back in the database, without a
// count, before the one is executed. When it has made progress, the next one is.
func TestQuarantine_P3_OneAtATimeBesideOthers(t *testing.T) {
	b := newBench(t)
	const quarantined = 4
	var inside, most, begun atomic.Int32
	type moment struct{ held, deaths int }
	moments := make(chan moment, quarantined)
	suspects := workflow.Define("suspects", func(ctx context.Context, n int) (int, error) {
		_, err := step.Run(ctx, "kill", func(context.Context) (int, error) {
			most.Store(max(most.Load(), inside.Add(1)))
			defer inside.Add(-1)
			if begun.Add(1) == 1 {
				moments <- moment{b.count(t, `worker_id IS NOT NULL AND workflow_name = 'suspects'`), b.count(t, `config ->> 'openworkflow.dev/deaths' = '2'`)}
				fresh := b.start(workflow.Declare[int, int]("fresh"), `1`)
				b.completed(fresh) // beside the quarantined run
			}
			return n, nil
		})
		return n, err
	})
	fresh := workflow.Define("fresh", func(context.Context, int) (int, error) { return 1, nil })
	ids := make([]string, quarantined)
	for i := range ids {
		ids[i] = b.start(suspects, fmt.Sprint(i))
	}
	b.dieIn(suspects, "kill", quarantined, 2)
	b.work(runner.Options{Concurrency: 10, PollInterval: 100 * time.Millisecond}, suspects, fresh)
	if got := receive(t, moments, "the first quarantined run"); got != (moment{1, quarantined}) {
		t.Errorf("at the first step %d of the runs were held and %d have two deaths, want 1 and %d", got.held, got.deaths, quarantined)
	}
	for i, id := range ids {
		if got := b.completed(id); got != fmt.Sprint(i) {
			t.Errorf("run %d returned %s", i, got)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d quarantined runs were executed together", most.Load())
	}
}

// count counts the runs for which the SQL condition holds.
func (b *bench) count(t *testing.T, condition string) (n int) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Error(err)
		return -1
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM openworkflow.workflow_runs WHERE `+condition).Scan(&n); err != nil {
		t.Error(err)
	}
	return n
}

// TestQuarantine_P3_EndsWithProgress: a run that waits or continues after progress does not
// keep others out.
func TestQuarantine_P3_EndsWithProgress(t *testing.T) {
	for name, progress := range map[string]func(ctx context.Context) error{
		"a step": func(ctx context.Context) error {
			_, err := step.Run(ctx, "progress", func(context.Context) (string, error) { return "", nil })
			return err
		},
		"a wait": func(ctx context.Context) error { return step.Sleep(ctx, "progress", time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			arrived, leave := make(chan int, 2), make(chan struct{})
			w := workflow.Define("suspects", func(ctx context.Context, n int) (int, error) {
				if err := progress(ctx); err != nil {
					return 0, err
				}
				return step.Run(ctx, "together", func(context.Context) (int, error) {
					arrived <- n
					<-leave
					return n, nil
				})
			})
			ids := []string{b.start(w, `0`), b.start(w, `1`)}
			b.dieIn(w, "progress", 2, 2)
			b.work(runner.Options{PollInterval: 100 * time.Millisecond}, w)
			both := []int{receive(t, arrived, "one run"), receive(t, arrived, "the other run beside it")}
			slices.Sort(both)
			if !slices.Equal(both, []int{0, 1}) {
				t.Errorf("arrived %v", both)
			}
			close(leave)
			for _, id := range ids {
				b.completed(id)
			}
		})
	}
}

// TestQuarantine_P3_TheStepIsStoredBeforeItsFunctionIsCalled once the worker has died, until
// the run has made progress.
func TestQuarantine_P3_TheStepIsStoredBeforeItsFunctionIsCalled(t *testing.T) {
	for deaths := range 3 {
		t.Run(fmt.Sprint(deaths), func(t *testing.T) {
			b := newBench(t)
			stored := make(chan []string, 2)
			w := workflow.Define("named", func(ctx context.Context, _ any) (any, error) {
				for _, name := range []string{"kill", "next"} {
					_, err := step.Run(ctx, name, func(ctx context.Context) (any, error) {
						var names []string
						for _, a := range b.steps(workflow.Info(ctx).ID) {
							// The row of a step that lasts longer than a moment is stored in any case.
							mayBe := a.StepName == name && (name == "next" || deaths == 0)
							if a.Status == openworkflow.StepRunning && !mayBe {
								names = append(names, a.StepName)
							}
						}
						stored <- names
						return nil, nil
					})
					if err != nil {
						return nil, err
					}
				}
				return nil, nil
			})
			id := b.start(w, `null`)
			b.dieIn(w, "earlier", 1, deaths)
			b.work(runner.Options{}, w)
			b.completed(id)
			want := slices.Repeat([]string{"earlier"}, deaths)
			if deaths > 0 {
				want = append(want, "kill")
			}
			if got := receive(t, stored, "the first step"); !slices.Equal(got, want) {
				t.Errorf("running rows while the first step executes are %q, want %q", got, want)
			}
			if deaths > 0 {
				want = want[:deaths]
			}
			if got := receive(t, stored, "the second step"); !slices.Equal(got, want) {
				t.Errorf("running rows while the second step executes are %q, want %q", got, want)
			}
		})
	}
}
