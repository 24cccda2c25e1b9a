package runner_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// declined is an error whose methods panic for a nil pointer.
type declined struct{ reason string }

func (d *declined) Error() string { return d.reason }

// treacherous has methods that panic, as those that errors.Is and errors.As call.
type treacherous struct{ method string }

func (t treacherous) panicIn(method string) {
	if t.method == method {
		panic(errors.New(method + " panics"))
	}
}
func (t treacherous) Error() string   { t.panicIn("Error"); return "treacherous" }
func (t treacherous) Unwrap() error   { t.panicIn("Unwrap"); return nil }
func (t treacherous) Is(error) bool   { t.panicIn("Is"); return false }
func (t treacherous) As(any) bool     { t.panicIn("As"); return false }
func (t treacherous) failure() string { return "panic: " + t.method + " panics" }

// A function that returns a nil pointer as an error, or an error whose methods panic, has panicked:
// its step or its run fails by its policy. The panic does not reach the goroutines of the worker.
func TestAuthorErrors_P1_PanicsOfMethodsFailTheFunction(t *testing.T) {
	b := newBench(t)
	const nilPointer = "panic: runtime error: invalid memory address"
	bad := map[string]error{"nil": (*declined)(nil)}
	texts := map[string]string{"nil": nilPointer}
	for _, method := range []string{"Error", "Unwrap", "Is", "As"} {
		bad[method], texts[method] = treacherous{method}, treacherous{method}.failure()
	}
	var seen calls
	retry := step.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 2})
	w := workflow.Define("returns-bad-errors", func(ctx context.Context, in [2]string) (any, error) {
		call := func(ctx context.Context) (any, error) {
			seen.add(workflow.Info(ctx).ID)
			return nil, bad[in[1]]
		}
		switch in[0] {
		case "Run":
			return step.Run(ctx, "charge", call, retry)
		case "MaxDuration":
			return step.Run(ctx, "charge", call, retry, step.MaxDuration(time.Hour))
		case "Go":
			return step.Go(ctx, "charge", call, retry).Await()
		case "Map":
			return step.Map(ctx, "charge", []int{1}, 1, func(ctx context.Context, _ int) (any, error) { return call(ctx) }, retry)
		default:
			return call(ctx)
		}
	}, workflow.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 2}))
	b.work(runner.Options{Concurrency: 10}, w)
	for _, verb := range []string{"Run", "MaxDuration", "Go", "Map", "workflow"} {
		for kind, text := range texts {
			id := b.start(w, fmt.Sprintf(`[%q, %q]`, verb, kind))
			got := b.failed(id)
			if got.Name != "PanicError" || !strings.Contains(got.Message, text) || got.Stack == "" {
				t.Errorf("%s returns %s: the error is %q: %q", verb, kind, got.Name, got.Message)
			}
			if n := seen.of(id); n != 2 {
				t.Errorf("%s returns %s: the function was called %d times", verb, kind, n)
			}
		}
	}
}

// A panic with a value that has no text fails the run too.
func TestAuthorErrors_P1_APanicNeedsNoText(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("panics", func(context.Context, any) (any, error) { panic(treacherous{"Error"}) })
	b.work(runner.Options{}, w)
	if got := b.failed(b.start(w, `null`)); got.Name != "PanicError" || !strings.HasPrefix(got.Message, "panic: ") {
		t.Errorf("error is %+v", got)
	}
}

// What the engine decides by is found in the chain of an author's error.
func TestAuthorErrors_R77_TheChainDecides(t *testing.T) {
	b := newBench(t)
	var seen calls
	once := step.Retry(workflow.RetryPolicy{MaximumAttempts: 1})
	w := workflow.Define("wraps", func(ctx context.Context, kind string) (any, error) {
		seen.add(workflow.Info(ctx).ID)
		switch kind {
		case "step":
			_, err := step.Run(ctx, "charge", func(context.Context) (any, error) { return nil, errors.New("declined") }, once)
			return nil, fmt.Errorf("checkout: %w", err)
		case "non-retryable":
			return nil, errors.Join(errors.New("a"), fmt.Errorf("b: %w", step.NonRetryable(&declined{"declined"})))
		case "deadline":
			return nil, fmt.Errorf("checkout: %w", workflow.ErrDeadlineExceeded)
		default:
			return nil, &declined{"declined"}
		}
	}, workflow.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 3}))
	b.work(runner.Options{}, w)
	for kind, want := range map[string]struct {
		calls      int
		name, text string
	}{
		"step":          {1, "StepError", `checkout: step "charge" failed: declined`},
		"non-retryable": {1, "Error", "a\nb: declined"},
		"deadline":      {1, "", "Workflow run deadline exceeded"},
		"other":         {3, "declined", "declined"},
	} {
		id := b.start(w, fmt.Sprintf("%q", kind))
		got := b.failed(id)
		if seen.of(id) < want.calls || got.Name != want.name || got.Message != want.text {
			t.Errorf("%s: %q: %q", kind, got.Name, got.Message)
		}
		if n := b.result(id).Failures; n != want.calls {
			t.Errorf("%s: %d failures, want %d", kind, n, want.calls)
		}
	}
}
