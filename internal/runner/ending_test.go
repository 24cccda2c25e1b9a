package runner_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// R80: a run that is canceled while it is executed stays canceled, whatever the outcome of the
// execution. Its unwritten attempts are dropped without a warning, its slot becomes free, and
// no other end is reported.
func TestR80AnEndThatComesAfterTheCancelIsDropped(t *testing.T) {
	for name, end := range map[string]func(ctx context.Context) (any, error){
		"completed": func(context.Context) (any, error) { return "too late", nil },
		"failed":    func(context.Context) (any, error) { return nil, step.NonRetryable(errors.New("too late")) },
		"retried":   func(context.Context) (any, error) { return nil, errors.New("too late") },
		"parked":    func(ctx context.Context) (any, error) { return nil, step.Sleep(ctx, "nap", time.Hour) },
		"retried step": func(ctx context.Context) (any, error) {
			return step.Run(ctx, "flaky", func(context.Context) (any, error) { return nil, errors.New("too late") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			begun, release := make(chan struct{}), make(chan struct{})
			w := workflow.Define("late", func(ctx context.Context, _ any) (any, error) {
				close(begun)
				<-release
				return end(ctx)
			}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 5}))
			quick := workflow.Define("quick", func(context.Context, any) (any, error) { return "done", nil })
			var log lines
			var told reports
			// No heartbeat comes: the execution learns of the cancel by its last write.
			b.work(runner.Options{
				Concurrency: 1, Lease: time.Hour, Reporter: &told, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			}, w, quick)
			id := b.start(w, `null`)
			receive(t, begun, "the run")
			b.cancel(id)
			close(release)
			if got := b.completed(b.start(quick, `null`)); got != `"done"` {
				t.Errorf("the output of the next run is %s", got)
			}
			run := b.result(id)
			if run.Status != openworkflow.RunCanceled || run.Output != nil || run.Error != nil || run.Failures != 0 {
				t.Errorf("the canceled run is %+v", run)
			}
			if steps := b.steps(id); len(steps) != 0 {
				t.Errorf("the canceled run has the attempts %+v", steps)
			}
			if log.count("level=WARN")+log.count("level=ERROR") != 0 {
				t.Errorf("the log says:\n%s", log.text.String())
			}
			if got := told.of(id); !slices.Equal(got, []openworkflow.RunStatus{openworkflow.RunRunning}) {
				t.Errorf("reported were %v, want the start alone", got)
			}
		})
	}
}

// reports is a Reporter that records statuses.
type reports struct {
	mu       sync.Mutex
	statuses map[string][]openworkflow.RunStatus
}

func (r *reports) Report(run *openworkflow.Run, _ openworkflow.StepSummary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.statuses == nil {
		r.statuses = map[string][]openworkflow.RunStatus{}
	}
	r.statuses[run.ID] = append(r.statuses[run.ID], run.Status)
}

func (r *reports) of(id string) []openworkflow.RunStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Compact(slices.Clone(r.statuses[id]))
}

// R101: a wait does not end at the deadline of its run, so no pass notices the deadline. A
// sweep fails the run, whatever it waits for.
func TestR101ASweepFailsWhatWaitsPastItsDeadline(t *testing.T) {
	b := newBench(t)
	child := workflow.Define("child", func(ctx context.Context, _ any) (any, error) {
		return nil, step.Sleep(ctx, "nap", time.Hour)
	})
	waits := map[string]func(ctx context.Context) (any, error){
		"sleep": func(ctx context.Context) (any, error) { return nil, step.Sleep(ctx, "nap", time.Hour) },
		"signal": func(ctx context.Context) (any, error) {
			_, _, err := step.WaitForSignal[any](ctx, "never")
			return nil, err
		},
		"child": func(ctx context.Context) (any, error) { return step.RunWorkflow(ctx, child, nil) },
		"retry": func(ctx context.Context) (any, error) {
			return step.Run(ctx, "flaky", func(context.Context) (any, error) { return nil, errors.New("not yet") },
				step.Retry(workflow.RetryPolicy{InitialInterval: time.Hour, MaximumInterval: time.Hour}))
		},
	}
	w := workflow.Define("waits", func(ctx context.Context, what string) (any, error) { return waits[what](ctx) })
	b.work(runner.Options{}, w, child)
	ids := map[string]string{}
	for what := range waits {
		ids[what] = b.start(w, `"`+what+`"`, func(r *store.NewRun) { r.DeadlineAt = new(time.Now().Add(24 * time.Hour)) })
	}
	for _, id := range ids {
		b.await(id, "waiting", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.WorkerID == nil })
	}
	grandchild, _ := b.childOf(ids["child"], "child")
	b.await(grandchild.ID, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	b.sql(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE workflow_name = 'waits'`)
	b.sweep()
	for what, id := range ids {
		t.Run(what, func(t *testing.T) {
			b := b.in(t)
			if got := b.failed(id); got.Message != openworkflow.DeadlineMessage {
				t.Errorf("the run has failed with %+v", got)
			}
			if run := b.result(id); run.Attempts != 1 {
				t.Errorf("the run was executed %d times, want once", run.Attempts)
			}
		})
	}
	if run := b.await(grandchild.ID, "there", func(*openworkflow.Run) bool { return true }); !run.Parked() {
		t.Errorf("the child of a run past its deadline is %s, want it parked", run.Status)
	}
}

// Upstream does not wake the parent of a child that was failed at its deadline (R44, R82).
func TestR101TheDeadlineOfAChildWakesItsParent(t *testing.T) {
	b := newBench(t)
	child := workflow.Define("child", func(ctx context.Context, _ any) (any, error) {
		return nil, step.Sleep(ctx, "nap", time.Hour)
	})
	parent := workflow.Define("parent", func(ctx context.Context, _ any) (string, error) {
		_, err := step.RunWorkflow(ctx, child, nil)
		if failed, ok := errors.AsType[*step.Error](err); ok {
			return failed.Message, nil
		}
		return "", err
	})
	b.work(runner.Options{}, parent, child)
	id := b.start(parent, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	waiting, _ := b.childOf(id, "child")
	b.await(waiting.ID, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	b.sql(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE workflow_name = 'child'`)
	b.sweep()
	if got := b.completed(id); got != `"`+openworkflow.DeadlineMessage+`"` {
		t.Errorf("the parent has got %s", got)
	}
}

// sweep does what a worker or the manager does periodically.
func (b *bench) sweep() {
	b.Helper()
	swept, err := b.store.Sweep(b.Context(), 0, 1000)
	if err != nil || !swept.Ran {
		b.Fatalf("sweep: %+v, %v", swept, err)
	}
	if err := b.store.Notify(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// sql runs a statement on the tables.
func (b *bench) sql(statement string, args ...any) {
	b.Helper()
	db, err := pgx.Connect(b.Context(), b.url)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close(b.Context()) }()
	if _, err := db.Exec(b.Context(), statement, args...); err != nil {
		b.Fatalf("%s: %v", statement, err)
	}
}

// A run that fails while a step of it cannot be stored ends with its own error. It would be executed
// again whenever its lease ends, for ever.
func TestRunFail_P1_EndsTheRunAlthoughAStepCannotBeStored(t *testing.T) {
	b := newBench(t)
	child := workflow.Declare[string, any]("child")
	w := workflow.Define("fails", func(ctx context.Context, _ any) (any, error) {
		step.GoWorkflow(ctx, child, "a\x00b")
		return nil, errors.New("refused by the bank")
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.failed(id); got.Message != "refused by the bank" {
		t.Errorf("error is %+v", got)
	}
	if run := b.result(id); run.Attempts != 1 {
		t.Errorf("the run was executed %d times", run.Attempts)
	}
}

// shortErrors refuses failures with long errors, as Postgres does from 256 MiB.
type shortErrors struct{ runner.Store }

func (s shortErrors) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	refused := func(w store.RunWrite) bool { return w.Op == store.RunFail && len(w.Error) > 1000 }
	accepted := batch
	accepted.Runs = slices.DeleteFunc(slices.Clone(batch.Runs), refused)
	result, err := s.Store.ApplyAndClaim(ctx, accepted)
	if err == nil && len(accepted.Runs) < len(batch.Runs) {
		for i, w := range batch.Runs {
			if refused(w) {
				result.Runs = slices.Insert(result.Runs, i, store.ErrTooLarge)
			}
		}
	}
	return result, err
}

// An error that cannot be stored is replaced by a text that can.
func TestRunFail_P1_EndsTheRunWhoseErrorCannotBeStored(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("fails", func(context.Context, any) (any, error) {
		return nil, errors.New(strings.Repeat("x", 2000))
	})
	b.workOn(shortErrors{b.store}, runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.failed(id); got.Message != "the run has failed, and the error of the failure cannot be stored" {
		t.Errorf("error is %.100s", got.Message)
	}
	if run := b.result(id); run.Attempts != 1 {
		t.Errorf("the run was executed %d times", run.Attempts)
	}
}

// slowChildren takes 50 ms for a write that starts a child, and tells that the write has come.
type slowChildren struct {
	runner.Store
	coming chan struct{}
}

func (s slowChildren) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	if slices.ContainsFunc(batch.Steps, func(w store.StepWrite) bool { return w.Child != nil }) {
		select {
		case s.coming <- struct{}{}:
		default:
		}
		time.Sleep(50 * time.Millisecond) // the execution ends meanwhile
	}
	return s.Store.ApplyAndClaim(ctx, batch)
}

// The buffer's timer writes a child that cannot be stored while the workflow ends: the run fails. It
// would wait for a child without a row, or complete without its step.
func TestWriteBuffer_P1_ARefusalAfterTheEndFailsTheRun(t *testing.T) {
	for name, end := range map[string]func(f *step.Future[any]) (any, error){
		"parks":     func(f *step.Future[any]) (any, error) { return f.Await() },
		"completes": func(*step.Future[any]) (any, error) { return "done", nil },
		"retries":   func(*step.Future[any]) (any, error) { return nil, errors.New("try again") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := slowChildren{b.store, make(chan struct{}, 1)}
			child := workflow.Declare[string, any]("child")
			w := workflow.Define("parent", func(ctx context.Context, _ any) (any, error) {
				if _, err := step.Run(ctx, "inline", func(context.Context) (int, error) { return 1, nil }); err != nil {
					return nil, err
				}
				f := step.GoWorkflow(ctx, child, "a\x00b")
				receive(t, s.coming, "the write of the child")
				return end(f)
			}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 3}))
			b.workOn(s, runner.Options{}, w)
			id := b.start(w, `null`)
			if got := b.failed(id); !strings.Contains(got.Message, "store") || !strings.Contains(got.Message, `\u0000`) {
				t.Errorf("error is %+v", got)
			}
			if run := b.result(id); run.Attempts != 1 {
				t.Errorf("the run was executed %d times", run.Attempts)
			}
		})
	}
}
