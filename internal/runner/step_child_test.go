package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// childOf waits until the run has a linked child under a step's name, and returns the
// child's row and the attempt's.
func (b *bench) childOf(id, name string) (*openworkflow.Run, openworkflow.StepAttempt) {
	b.Helper()
	var attempt openworkflow.StepAttempt
	b.await(id, "the parent of "+name, func(*openworkflow.Run) bool {
		for _, s := range b.steps(id) {
			if s.StepName == name && s.ChildWorkflowRunID != nil {
				attempt = s
				return true
			}
		}
		return false
	})
	child := b.await(*attempt.ChildWorkflowRunID, "there", func(*openworkflow.Run) bool { return true })
	return child, attempt
}

func TestR98ChildRunsOnceAndItsOutputIsTheSteps(t *testing.T) {
	b := newBench(t)
	var c calls
	child := workflow.Define("label", func(_ context.Context, in order) (string, error) {
		c.add("child")
		return "label of " + in.ID, nil
	}, workflow.Version("2"))
	parent := workflow.Define("parcel", func(ctx context.Context, in order) (string, error) {
		label, err := step.RunWorkflow(ctx, child, in, step.Timeout(time.Hour))
		if err != nil {
			return "", err
		}
		return label, step.Sleep(ctx, "nap", time.Millisecond)
	})
	b.work(runner.Options{}, parent, child)
	id := b.start(parent, `{"id":"o1","amount":7}`)
	if got := b.completed(id); got != `"label of o1"` {
		t.Errorf("output is %s", got)
	}
	if c.of("child") != 1 {
		t.Errorf("the child ran %d times", c.of("child"))
	}
	run, attempt := b.childOf(id, "label")
	var context struct{ Kind, TimeoutAt string }
	if err := json.Unmarshal(attempt.Context, &context); err != nil || context.Kind != "workflow" || context.TimeoutAt == "" {
		t.Errorf("context of the attempt is %s (R25)", attempt.Context)
	}
	if attempt.Kind != openworkflow.KindWorkflow || string(attempt.Output) != `"label of o1"` {
		t.Errorf("attempt is %+v (R26)", attempt)
	}
	key := "__workflow:default:" + attempt.ID
	if run.IdempotencyKey == nil || *run.IdempotencyKey != key || run.ParentStepAttemptID == nil || *run.ParentStepAttemptID != attempt.ID {
		t.Errorf("child is %+v, want the key %s (R98c)", run, key)
	}
	if run.Version == nil || *run.Version != "2" || run.DeadlineAt != nil {
		t.Errorf("child is %+v", run)
	}
}

// A worker is notified of a child, whichever write starts it (its parent's park, a flush while a
// function executes, its parent's end), and the parent of the child's end.
func TestChildrenBeginAndEndWithoutAPoll(t *testing.T) {
	child := workflow.Define("child", func(_ context.Context, n int) (int, error) { return n + 1, nil })
	parents := map[string]func(context.Context, int) (int, error){
		"parked": func(ctx context.Context, n int) (int, error) {
			for range 3 {
				var err error
				if n, err = step.RunWorkflow(ctx, child, n); err != nil {
					return 0, err
				}
			}
			return n, nil
		},
		"busy": func(ctx context.Context, n int) (int, error) {
			begun := make(chan struct{})
			busy := step.Go(ctx, "busy", func(ctx context.Context) (any, error) {
				select {
				case <-begun:
				case <-ctx.Done():
				}
				return nil, ctx.Err()
			})
			n, err := step.GoWorkflow(ctx, child, n).Await()
			close(begun)
			if err != nil {
				return 0, err
			}
			_, err = busy.Await()
			return n + 2, err
		},
		"ended": func(ctx context.Context, n int) (int, error) {
			step.GoWorkflow(ctx, child, n)
			return n + 3, nil
		},
	}
	for name, execute := range parents {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			parent := workflow.Define(name, execute)
			b.work(runner.Options{PollInterval: time.Hour}, parent, child)
			id := b.start(parent, `1`)
			if got := b.completed(id); got != `4` {
				t.Errorf("output is %s", got)
			}
			for _, a := range b.steps(id) {
				if a.Kind == openworkflow.KindWorkflow {
					b.completed(*a.ChildWorkflowRunID)
				}
			}
		})
	}
}

func TestR98FailuresOfAChildAreTheSteps(t *testing.T) {
	b := newBench(t)
	var c calls
	failing := workflow.Define("failing", func(context.Context, any) (any, error) { return nil, errors.New("out of paper") })
	idle := workflow.Declare[any, any]("idle") // no worker serves it
	parent := workflow.Define("parent", func(ctx context.Context, which string) (string, error) {
		c.add(which)
		var err error
		switch which {
		case "failed", "caught":
			_, err = step.RunWorkflow(ctx, failing, nil)
		case "canceled":
			_, err = step.RunWorkflow(ctx, idle, nil)
		case "late":
			_, err = step.RunWorkflow(ctx, idle, nil, step.Timeout(20*time.Millisecond))
		case "at once":
			_, err = step.RunWorkflow(ctx, idle, nil, step.Timeout(0))
		}
		var failed *step.Error
		if !errors.As(err, &failed) {
			return "", fmt.Errorf("not a step's error: %w", err)
		}
		if which == "caught" {
			return failed.Message, step.Sleep(ctx, "nap", time.Millisecond)
		}
		return "", err
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 3, InitialInterval: time.Millisecond}))
	b.work(runner.Options{}, parent, failing)

	if got := b.failed(b.start(parent, `"failed"`)); got.Message != "out of paper" || got.Name != "Error" {
		t.Errorf("error is %+v", got)
	}
	id := b.start(parent, `"caught"`)
	if got := b.completed(id); got != `"out of paper"` {
		t.Errorf("output is %s", got)
	}
	if n := len(b.steps(id)); n != 2 {
		t.Errorf("%d attempts, want 2: a child that failed is not started again", n)
	}
	for _, which := range []string{"late", "at once"} {
		t.Run(which, func(t *testing.T) {
			b := b.in(t)
			id := b.start(parent, `"`+which+`"`)
			if got := b.failed(id); got.Message != "Timed out waiting for child workflow to complete" {
				t.Errorf("error is %+v", got)
			}
			if child, _ := b.childOf(id, "idle"); child.Status != openworkflow.RunPending {
				t.Errorf("the child is %s, and should not have been touched", child.Status)
			}
		})
	}

	id = b.start(parent, `"canceled"`)
	child, _ := b.childOf(id, "idle")
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Parked() })
	if _, err := b.store.CancelRuns(t.Context(), []string{child.ID}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Notify(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := `Workflow step "idle" failed because child workflow run "` + child.ID + `" was canceled`
	if got := b.failed(id); got.Message != want {
		t.Errorf("error is %+v", got)
	}
}

func TestManyChildrenRunInParallelAndTheParentHoldsNoSlot(t *testing.T) {
	b := newBench(t)
	const n = 50
	child := workflow.Define("double", func(_ context.Context, in int) (int, error) { return 2 * in, nil })
	parent := workflow.Define("sum", func(ctx context.Context, n int) (int, error) {
		var futures []*step.Future[int]
		for i := range n {
			futures = append(futures, step.GoWorkflow(ctx, child, i))
		}
		sum := 0
		for _, f := range futures {
			part, err := f.Await()
			if err != nil {
				return 0, err
			}
			sum += part
		}
		return sum, nil
	})
	b.work(runner.Options{Concurrency: 1}, parent, child)
	id := b.start(parent, fmt.Sprint(n))
	if got := b.completed(id); got != fmt.Sprint(n*(n-1)) {
		t.Errorf("output is %s", got)
	}
	if run := b.result(id); run.Attempts > n+1 {
		t.Errorf("the parent was claimed %d times for %d children", run.Attempts, n)
	}
}

func TestAChildWhoseInputCannotBeStoredFailsItsParent(t *testing.T) {
	b := newBench(t)
	child := workflow.Declare[string, any]("child")
	parent := workflow.Define("parent", func(ctx context.Context, _ any) (any, error) {
		return step.RunWorkflow(ctx, child, "nul: \x00")
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 5}))
	b.work(runner.Options{}, parent)
	if got := b.failed(b.start(parent, `null`)); !strings.Contains(got.Message, `store step "child"`) {
		t.Errorf("error is %+v", got)
	}
}

// R98c: a TypeScript worker that died between its two writes leaves an attempt without
// its child.
func TestAnUnlinkedAttemptGetsItsChild(t *testing.T) {
	b := newBench(t)
	child := workflow.Define("child", func(context.Context, any) (string, error) { return "done", nil })
	parent := workflow.Define("parent", func(ctx context.Context, _ any) (string, error) {
		return step.RunWorkflow(ctx, child, nil)
	})
	id := b.start(parent, `null`)
	claimed, err := b.store.Claim(t.Context(), store.ClaimRequest{
		Served:         []openworkflow.Definition{{Name: "parent"}},
		Max:            1,
		WorkerIDPrefix: "typescript-",
		First:          1,
		Lease:          time.Millisecond,
	})
	if err != nil || len(claimed) != 1 {
		t.Fatalf("claimed %v, %v", claimed, err)
	}
	attempt := openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: "child", Kind: openworkflow.KindWorkflow, Status: openworkflow.StepRunning,
		Context: json.RawMessage(`{"kind":"workflow","timeoutAt":"2999-01-01T00:00:00.000Z"}`),
	}
	lease := openworkflow.Lease{RunID: id, WorkerID: "typescript-1"}
	write := store.StepWrite{Lease: lease, Attempt: attempt}
	if result, err := b.store.ApplyAndClaim(t.Context(), store.Batch{Steps: []store.StepWrite{write}}); err != nil || result.Steps[0] != nil {
		t.Fatal(result.Steps, err)
	}
	b.work(runner.Options{}, parent, child)
	if got := b.completed(id); got != `"done"` {
		t.Errorf("output is %s", got)
	}
	if steps := b.steps(id); len(steps) != 1 || steps[0].ID != attempt.ID {
		t.Errorf("attempts are %+v, want the one that was there", steps)
	}
}

func TestADeclaredWorkflowIsNoWorkers(t *testing.T) {
	b := newBench(t)
	declared := workflow.Declare[any, any]("elsewhere")
	if _, err := runner.New(b.store, definitions(declared), runner.Options{}); err == nil || !strings.Contains(err.Error(), "only declared") {
		t.Errorf("New returned %v", err)
	}
}
