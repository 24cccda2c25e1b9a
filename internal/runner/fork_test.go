package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// forkLedger counts the executions of each step of each run.
type forkLedger struct {
	mu         sync.Mutex
	executions map[string]map[string]int
	// broken makes the step of this name fail.
	broken atomic.Pointer[string]
}

func newForkLedger(broken string) *forkLedger {
	l := &forkLedger{executions: map[string]map[string]int{}}
	l.broken.Store(&broken)
	return l
}

// step returns a function that counts, and fails while it is broken.
func (l *forkLedger) step(run, name string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.executions[run] == nil {
			l.executions[run] = map[string]int{}
		}
		l.executions[run][name]++
		if name == *l.broken.Load() {
			return "", step.NonRetryable(errors.New("broken"))
		}
		return name + " of " + run, nil
	}
}

func (l *forkLedger) run(ctx context.Context, name string) (string, error) {
	return step.Run(ctx, name, l.step(workflow.Info(ctx).ID, name))
}

func (l *forkLedger) expect(t *testing.T, run string, want map[string]int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if diff := cmp.Diff(want, l.executions[run]); diff != "" {
		t.Errorf("executions of run %s (-want +got):\n%s", run, diff)
	}
}

func (b *bench) fork(r store.ForkRequest) string {
	b.Helper()
	fork, err := b.store.Fork(b.Context(), r)
	if err != nil || !fork.Inserted {
		b.Fatalf("Fork: %+v, %v", fork, err)
	}
	return fork.RunID
}

// TestFork_P1_KeptStepsAreNotExecutedAgain has a step of each kind before the one that fails.
func TestFork_P1_KeptStepsAreNotExecutedAgain(t *testing.T) {
	b := newBench(t)
	l := newForkLedger("last")
	child := workflow.Define("child", func(ctx context.Context, _ string) (string, error) { return l.run(ctx, "in child") })
	listener := workflow.Define("listener", func(ctx context.Context, _ struct{}) (string, error) {
		data, _, err := step.WaitForSignal[string](ctx, "sent")
		return data, err
	})
	w := workflow.Define("wf", func(ctx context.Context, in string) (all []string, err error) {
		add := func(s string, stepErr error) {
			all = append(all, s)
			err = errors.Join(err, stepErr)
		}
		add(l.run(ctx, "one"))
		add("slept", step.Sleep(ctx, "nap", time.Millisecond))
		add(step.RunWorkflow(ctx, child, in))
		data, _, waitErr := step.WaitForSignal[string](ctx, "go on")
		add(data, waitErr)
		recipients, sendErr := step.SendSignal(ctx, "sent", "hello")
		add(fmt.Sprint(len(recipients)), sendErr)
		if err != nil {
			return nil, err
		}
		last, err := l.run(ctx, "last")
		return append(all, last), err
	})
	_, stop := b.work(runner.Options{}, w, child, listener)
	listening := b.start(listener, `{}`)
	b.await(listening, "waiting", func(*openworkflow.Run) bool { return len(b.steps(listening)) == 1 })
	source := b.start(w, `"in"`)
	b.signal("go on", `"signaled"`, source)
	if e := b.failed(source); e.Message != "broken" {
		t.Fatalf("the source failed with %q", e.Message)
	}
	childRun, _ := b.childOf(source, "child")
	stop() // the fork is the first claim of a worker that has no history in memory
	l.broken.Store(new(""))
	again := b.start(listener, `{}`)
	b.work(runner.Options{}, w, child, listener)
	b.await(again, "waiting", func(*openworkflow.Run) bool { return len(b.steps(again)) == 1 })

	fork := b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}})
	want := fmt.Sprintf(`["one of %s", "slept", "in child of %s", "signaled", "1", "last of %s"]`, source, childRun.ID, fork)
	if got := b.completed(fork); got != want {
		t.Errorf("output of the fork is %s, want %s", got, want)
	}
	l.expect(t, source, map[string]int{"one": 1, "last": 1})
	l.expect(t, fork, map[string]int{"last": 1})
	l.expect(t, childRun.ID, map[string]int{"in child": 1})
	if steps := b.steps(again); steps[0].Status != "running" {
		t.Error("the signal that the source had sent was sent again")
	}

	anew := b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}, RestartChildren: true})
	b.completed(anew)
	l.expect(t, anew, map[string]int{"last": 1})
	if restarted, _ := b.childOf(anew, "child"); restarted.ID == childRun.ID {
		t.Error("the child was not started anew")
	} else {
		l.expect(t, restarted.ID, map[string]int{"in child": 1})
	}

	// Corrected outputs: the wait's is the signal's data.
	corrected := b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}, Outputs: map[string]json.RawMessage{
		"go on": json.RawMessage(`"corrected"`), "one": json.RawMessage(`"1"`), "last": json.RawMessage(`"by hand"`),
	}})
	want = fmt.Sprintf(`["1", "slept", "in child of %s", "corrected", "1", "by hand"]`, childRun.ID)
	if got := b.completed(corrected); got != want {
		t.Errorf("with corrected outputs, the output is %s, want %s", got, want)
	}
	l.expect(t, corrected, nil)

	rerun := b.fork(store.ForkRequest{Source: source})
	b.signal("go on", `"again"`, rerun)
	b.completed(rerun)
	l.expect(t, rerun, map[string]int{"one": 1, "last": 1})
}

// TestFork_P1_ParallelStepsThatCompletedAreKept retries one failed item of many.
func TestFork_P1_ParallelStepsThatCompletedAreKept(t *testing.T) {
	b := newBench(t)
	l := newForkLedger("item 1")
	w := workflow.Define("wf", func(ctx context.Context, in []string) ([]string, error) {
		run := workflow.Info(ctx).ID
		return step.Map(ctx, "item", in, 0, func(ctx context.Context, item string) (string, error) {
			for item == *l.broken.Load() && ctx.Err() == nil { // it fails when the others are stored
				if steps, err := b.store.StepSummaries(ctx, []string{run}, 1); err == nil && steps[run].Completed == len(in)-1 {
					break
				}
			}
			return l.step(run, item)(ctx)
		})
	})
	b.work(runner.Options{}, w)
	source := b.start(w, `["item 0", "item 1", "item 2", "item 3"]`)
	b.failed(source)
	l.broken.Store(new(""))
	fork := b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}})
	b.completed(fork)
	l.expect(t, fork, map[string]int{"item 1": 1})
}

// TestFork_P1_WhatTheWorkflowDidInsteadIsNotUndone has a step that failed for good, and another
// that the workflow executed instead. A retry must not do both.
func TestFork_P1_WhatTheWorkflowDidInsteadIsNotUndone(t *testing.T) {
	b := newBench(t)
	l := newForkLedger("card")
	var bug atomic.Bool
	bug.Store(true)
	w := workflow.Define("wf", func(ctx context.Context, _ struct{}) (paid string, err error) {
		if paid, err = l.run(ctx, "card"); err != nil {
			if paid, err = l.run(ctx, "invoice"); err != nil {
				return "", err
			}
		}
		if bug.Load() {
			return "", errors.New("a bug")
		}
		return paid, nil
	})
	b.work(runner.Options{}, w)
	source := b.start(w, `{}`)
	b.failed(source)
	l.broken.Store(new("")) // the card works now
	bug.Store(false)
	fork := b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}})
	if got, want := b.completed(fork), `"invoice of `+source+`"`; got != want {
		t.Errorf("paid by %s, want %s", got, want)
	}
	l.expect(t, fork, nil)
}

// TestFork_RetriesAreFresh: of the failures of the step that is tried again none counts.
func TestFork_RetriesAreFresh(t *testing.T) {
	b := newBench(t)
	var calls atomic.Int32
	policy := step.Retry(workflow.RetryPolicy{MaximumAttempts: 2, InitialInterval: time.Millisecond})
	w := workflow.Define("wf", func(ctx context.Context, _ struct{}) (string, error) {
		out, err := step.Run(ctx, "flaky", func(context.Context) (string, error) {
			if n := calls.Add(1); n < 4 {
				return "", fmt.Errorf("call %d", n)
			}
			return "ok", nil
		}, policy)
		if err != nil {
			return "", fmt.Errorf("wrapped: %w", err)
		}
		return out, nil
	})
	b.work(runner.Options{}, w)
	source := b.start(w, `{}`)
	b.failed(source)
	fork := b.fork(store.ForkRequest{Source: source, From: store.ForkPoint{LastFailed: true}})
	if got := b.completed(fork); got != `"ok"` || calls.Load() != 4 {
		t.Errorf("output %s after %d calls, want the fork to have 2 of its own", got, calls.Load())
	}
}
