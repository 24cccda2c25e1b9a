package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

type approval struct {
	By string `json:"by"`
}

func TestR99SignalReachesTheRunThatWaits(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("wait", func(ctx context.Context, in string) (string, error) {
		got, received, err := step.WaitForSignal[approval](ctx, "approval:"+in, step.Name("approval"), step.Timeout(time.Hour))
		return fmt.Sprint(got.By, received), err
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `"o1"`)
	other := b.start(w, `"o2"`)
	for _, waits := range []string{id, other} {
		b.await(waits, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	}
	b.signal("approval:o1", `{"by":"Ada"}`, id)
	if got := b.completed(id); got != `"Adatrue"` {
		t.Errorf("output is %s", got)
	}
	attempt := b.steps(id)[0]
	var context struct{ Kind, Signal, TimeoutAt string }
	if err := json.Unmarshal(attempt.Context, &context); err != nil ||
		context.Kind != "signal-wait" || context.Signal != "approval:o1" || context.TimeoutAt == "" {
		t.Errorf("context is %s (R25)", attempt.Context)
	}
	if string(attempt.Output) != `{"data": {"by": "Ada"}}` || attempt.StepName != "approval" {
		t.Errorf("attempt is %+v (R26)", attempt)
	}
	if run := b.result(id); run.Attempts != 2 {
		t.Errorf("the run was claimed %d times, want 2", run.Attempts)
	}
	if run := b.result(b.cancel(other)); run.Status != openworkflow.RunCanceled {
		t.Errorf("the other run is %s", run.Status)
	}
}

func (b *bench) cancel(id string) string {
	b.Helper()
	if _, err := b.store.CancelRuns(b.Context(), []string{id}); err != nil {
		b.Fatal(err)
	}
	return id
}

func TestR99TimeoutsEndWithNothing(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("wait", func(ctx context.Context, ms int) (bool, error) {
		_, received, err := step.WaitForSignal[string](ctx, "never", step.Timeout(time.Duration(ms)*time.Millisecond))
		return received, err
	})
	b.work(runner.Options{}, w)
	for ms, claims := range map[int]int{0: 1, 3000: 2} { // a slow machine parks the run before that
		t.Run(fmt.Sprintf("%d ms", ms), func(t *testing.T) {
			b := b.in(t)
			id := b.start(w, fmt.Sprint(ms))
			if got := b.completed(id); got != "false" {
				t.Errorf("output is %s", got)
			}
			if a := b.steps(id)[0]; a.Status != openworkflow.StepCompleted || a.Output != nil {
				t.Errorf("attempt is %+v (R26)", a)
			}
			if run := b.result(id); run.Attempts != claims {
				t.Errorf("claimed %d times, want %d", run.Attempts, claims)
			}
		})
	}
}

func TestR99SignalsFromAStepAreSentOnce(t *testing.T) {
	b := newBench(t)
	wait := workflow.Define("wait", func(ctx context.Context, _ any) (string, error) {
		got, _, err := step.WaitForSignal[string](ctx, "news")
		return got, err
	})
	send := workflow.Define("send", func(ctx context.Context, _ any) ([][]string, error) {
		first, err := step.SendSignal(ctx, "news", "hello")
		if err != nil {
			return nil, err
		}
		second, err := step.SendSignal(ctx, "nobody listens", nil, step.Name("second"))
		if err != nil {
			return nil, err
		}
		return [][]string{first, second}, step.Sleep(ctx, "nap", time.Millisecond)
	})
	b.work(runner.Options{}, wait, send)
	var waiting []string
	for range 3 {
		id := b.start(wait, `null`)
		b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
		waiting = append(waiting, id)
	}
	id := b.start(send, `null`)
	var sent [][]string
	if err := json.Unmarshal([]byte(b.completed(id)), &sent); err != nil {
		t.Fatal(err)
	}
	slices.Sort(sent[0])
	slices.Sort(waiting)
	if diff := cmp.Diff([][]string{waiting, {}}, sent); diff != "" {
		t.Errorf("recipients (-want +got):\n%s", diff)
	}
	for _, w := range waiting {
		if got := b.completed(w); got != `"hello"` {
			t.Errorf("received %s", got)
		}
	}
	first := b.steps(id)[0]
	if first.Kind != openworkflow.KindSignalSend || first.Context != nil || !strings.Contains(string(first.Output), `"workflowRunIds"`) {
		t.Errorf("attempt is %+v (R25, R26)", first)
	}
}

func TestASignalToOneself(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("echo", func(ctx context.Context, _ any) (string, error) {
		waiting := step.GoWaitForSignal[string](ctx, "echo", step.Name("hear"))
		if _, err := step.SendSignal(ctx, "echo", "hello", step.Name("call")); err != nil {
			return "", err
		}
		got, err := waiting.Await()
		return got.Data, err
	})
	b.work(runner.Options{}, w)
	if got := b.completed(b.start(w, `null`)); got != `"hello"` {
		t.Errorf("output is %s", got)
	}
}

func TestR99TwoWaitsForOneSignalAreRefused(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("greedy", func(ctx context.Context, _ any) (any, error) {
		step.GoWaitForSignal[any](ctx, "s", step.Name("one"))
		_, _, err := step.WaitForSignal[any](ctx, "s", step.Name("two"))
		return nil, err
	})
	b.work(runner.Options{}, w)
	if got := b.failed(b.start(w, `null`)); got.Message != `Signal "s" is already being waited on by step "one"` {
		t.Errorf("error is %+v", got)
	}
}

func TestP7SignalDataThatDoesNotDecodeFailsTheRun(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("wait", func(ctx context.Context, _ any) (approval, error) {
		got, _, err := step.WaitForSignal[approval](ctx, "approval")
		return got, err
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 5}))
	send := workflow.Define("send", func(ctx context.Context, _ any) (any, error) {
		_, err := step.SendSignal(ctx, "x", "nul: \x00")
		if _, ok := errors.AsType[*step.Error](err); ok {
			return nil, err
		}
		return nil, fmt.Errorf("not a step's error: %w", err)
	})
	b.work(runner.Options{}, w, send)
	id := b.start(w, `null`)
	b.signal("approval", `"not an object"`, id)
	if got := b.failed(id); !strings.Contains(got.Message, `decode what step "approval" received`) {
		t.Errorf("error is %+v", got)
	}
	if got := b.failed(b.start(send, `null`)); got.Message == "" || strings.Contains(got.Message, "not a step's") {
		t.Errorf("error is %+v", got)
	}
}

// A wait of an earlier version of the workflow's code wakes the run once, not again and again.
func TestASignalForAForgottenWaitMakesNoClaimStorm(t *testing.T) {
	b := newBench(t)
	old := workflow.Define("renamed", func(ctx context.Context, _ any) (any, error) {
		_, _, err := step.WaitForSignal[any](ctx, "old")
		return nil, err
	})
	_, stop := b.work(runner.Options{}, old)
	id := b.start(old, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	stop()
	changed := workflow.Define("renamed", func(ctx context.Context, _ any) (string, error) {
		got, _, err := step.WaitForSignal[string](ctx, "new")
		return got, err
	})
	b.work(runner.Options{}, changed)
	b.signal("old", `null`, id)
	b.await(id, "parked again", func(r *openworkflow.Run) bool { return r.Attempts == 2 && r.Parked() })
	b.signal("new", `"done"`, id)
	if got := b.completed(id); got != `"done"` {
		t.Errorf("output is %s", got)
	}
	if run := b.result(id); run.Attempts != 3 {
		t.Errorf("the run was claimed %d times, want 3", run.Attempts)
	}
}

// R107, R83: a signal that arrives while the run is executed is not lost.
func TestASignalThatComesWhileTheRunIsActive(t *testing.T) {
	b := newBench(t)
	begun, release := make(chan struct{}), make(chan struct{})
	w := workflow.Define("busy", func(ctx context.Context, _ any) (string, error) {
		waiting := step.GoWaitForSignal[string](ctx, "news")
		if _, err := step.Run(ctx, "busy", func(context.Context) (any, error) {
			close(begun)
			<-release
			return nil, nil
		}); err != nil {
			return "", err
		}
		got, err := waiting.Await()
		return got.Data, err
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	receive(t, begun, "the busy step")
	got, err := b.store.SendSignals(t.Context(), []store.Signal{{Name: "news", Data: []byte(`"fresh"`)}})
	if err != nil || len(got[0]) != 1 {
		t.Fatalf("the wait was not there before the function that comes after it: %v, %v", got, err)
	}
	close(release)
	if got := b.completed(id); got != `"fresh"` {
		t.Errorf("output is %s", got)
	}
}
