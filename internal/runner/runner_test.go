package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

type order struct {
	ID     string `json:"id"`
	Amount int    `json:"amount"`
}

// fast is a retry policy that does not make a test wait.
var fast = workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumInterval: 5 * time.Millisecond, MaximumAttempts: 3}

func TestR91StepsRunInOrderAndTheirOutputsAreStored(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("sum", func(ctx context.Context, in order) (int, error) {
		total := 0
		for i := range 3 {
			n, err := step.Run(ctx, "add", func(context.Context) (int, error) { return in.Amount * i, nil })
			if err != nil {
				return 0, err
			}
			total += n
		}
		return total, nil
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `{"id":"o1","amount":7}`)
	if got := b.completed(id); got != "21" {
		t.Errorf("output is %s, want 21", got)
	}
	steps := b.steps(id)
	for i, want := range []string{"add=0", "add:1=7", "add:2=14"} {
		if got := steps[i].StepName + "=" + string(steps[i].Output); got != want {
			t.Errorf("step %d is %s, want %s", i, got, want)
		}
	}
	run := b.result(id)
	if run.Attempts != 1 || run.WorkerID == nil || run.AvailableAt != nil || run.StartedAt == nil || run.FinishedAt == nil {
		t.Errorf("completed row does not follow R42: %+v", run)
	}
}

func TestR77FailedStepIsRetriedAndWorkflowSeesOnlyTheEnd(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("flaky", func(ctx context.Context, _ any) (string, error) {
		c.add("pass")
		out, err := step.Run(ctx, "flaky", func(context.Context) (string, error) {
			if n := c.add("call"); n < 3 {
				return "", fmt.Errorf("failure %d", n)
			}
			return "fine", nil
		}, step.Retry(workflow.RetryPolicy{InitialInterval: 2 * time.Second, BackoffCoefficient: 1, MaximumAttempts: 3}))
		if err != nil {
			c.add("error seen")
		}
		return out, err
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != `"fine"` {
		t.Errorf("output is %s", got)
	}
	if c.of("call") != 3 || c.of("pass") != 3 || c.of("error seen") != 0 {
		t.Errorf("calls %d, passes %d, errors seen %d; want 3, 3, 0", c.of("call"), c.of("pass"), c.of("error seen"))
	}
	var states []string
	for _, s := range b.steps(id) {
		states = append(states, string(s.Status))
	}
	if got := strings.Join(states, " "); got != "failed failed completed" {
		t.Errorf("attempts are %s", got)
	}
	if run := b.result(id); run.Attempts != 3 || run.Error != nil {
		t.Errorf("attempts %d, error %s; want 3 and none (R122)", run.Attempts, run.Error)
	}
}

func TestR90StepWithoutAttemptsLeftFailsTheRunWithItsOwnError(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("broken", func(ctx context.Context, wrap bool) (any, error) {
		_, err := step.Run(ctx, "pay", func(context.Context) (any, error) { return nil, errors.New("no money") }, step.Retry(fast))
		var failed *step.Error
		if !errors.As(err, &failed) || failed.Step != "pay" {
			return nil, fmt.Errorf("not a step error: %w", err)
		}
		if wrap {
			return nil, fmt.Errorf("checkout: %w", err)
		}
		return nil, err
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: workflow.Unlimited, InitialInterval: time.Millisecond}))
	b.work(runner.Options{}, w)
	if got := b.failed(b.start(w, `false`)); got.Message != "no money" || got.Name != "Error" {
		t.Errorf("error is %+v", got)
	}
	if got := b.failed(b.start(w, `true`)); got.Message != `checkout: step "pay" failed: no money` {
		t.Errorf("error is %+v", got)
	}
}

func TestCaughtStepFailureIsRememberedNotExecutedAgain(t *testing.T) {
	b := newBench(t)
	var c calls
	once := workflow.RetryPolicy{MaximumAttempts: 1}
	w := workflow.Define("saga", func(ctx context.Context, _ any) (string, error) {
		_, err := step.Run(ctx, "book", func(context.Context) (any, error) {
			c.add("book")
			return nil, errors.New("sold out")
		}, step.Retry(once))
		_, declined := step.Run(ctx, "charge", func(context.Context) (any, error) {
			c.add("charge")
			return nil, step.NonRetryable(errors.New("declined"))
		})
		_, err3 := step.Run(ctx, "compensate", func(context.Context) (any, error) {
			if c.add("compensate") < 3 {
				return nil, errors.New("try again")
			}
			return nil, nil
		}, step.Retry(fast))
		return fmt.Sprint(err, "|", declined, "|", err3), nil
	})
	b.work(runner.Options{}, w)
	got := b.completed(b.start(w, `null`))
	if want := `"step \"book\" failed: sold out|step \"charge\" failed: declined|<nil>"`; strings.ReplaceAll(got, `\\`, `\`) != want {
		t.Errorf("output is %s, want %s", got, want)
	}
	if c.of("book") != 1 || c.of("charge") != 1 || c.of("compensate") != 3 {
		t.Errorf("book was called %d times, charge %d, compensate %d; want 1, 1, 3", c.of("book"), c.of("charge"), c.of("compensate"))
	}
}

func TestP7WorkflowsThatMisbehaveFailWithAClearMessage(t *testing.T) {
	b := newBench(t)
	once := step.Retry(workflow.RetryPolicy{MaximumAttempts: 1})
	panics := workflow.Define("panics", func(context.Context, any) (any, error) { panic("out of cheese") })
	stepPanics := workflow.Define("step-panics", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "boom", func(context.Context) (any, error) { var none *order; return none.ID, nil }, once)
	})
	returnsError := workflow.Define("returns-error", func(context.Context, any) (any, error) { return nil, errors.New("no stock") })
	unmarshalable := workflow.Define("unmarshalable", func(context.Context, any) (float64, error) { return math.NaN(), nil })
	stepUnmarshalable := workflow.Define("step-unmarshalable", func(ctx context.Context, _ any) (any, error) {
		_, err := step.Run(ctx, "chan", func(context.Context) (any, error) { return make(chan int), nil }, once)
		return nil, err
	})
	nul := workflow.Define("nul", func(context.Context, any) (string, error) { return "a\x00b", nil })
	stepNUL := workflow.Define("step-nul", func(ctx context.Context, _ any) (string, error) {
		return step.Run(ctx, "nul", func(context.Context) (string, error) { return "a\x00b", nil }, once)
	})
	errorNUL := workflow.Define("error-nul", func(context.Context, any) (any, error) { return nil, errors.New("a\x00b") })
	badName := workflow.Define("bad-name", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "a\x00b", func(context.Context) (any, error) { return nil, nil })
	})
	typed := workflow.Define("typed", func(_ context.Context, in order) (any, error) { return in, nil },
		workflow.Retry(workflow.RetryPolicy{MaximumAttempts: workflow.Unlimited}))
	nested := workflow.Define("nested", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "outer", func(ctx context.Context) (any, error) {
			return step.Run(ctx, "inner", func(context.Context) (any, error) { return nil, nil })
		}, once)
	})
	endless := workflow.Define("endless", func(ctx context.Context, _ any) (any, error) {
		for {
			if _, err := step.Run(ctx, "again", func(context.Context) (any, error) { return nil, nil }); err != nil {
				return nil, err
			}
		}
	})
	b.work(runner.Options{Concurrency: 20}, panics, stepPanics, returnsError, unmarshalable, stepUnmarshalable, nul, stepNUL,
		errorNUL, badName, typed, nested, endless)
	for _, test := range []struct {
		workflow workflow.Definition
		input    string
		name     string
		message  string
	}{
		{panics, `null`, "PanicError", "panic: out of cheese"},
		{stepPanics, `null`, "PanicError", "panic: runtime error: invalid memory address"},
		{returnsError, `null`, "Error", "no stock"},
		{unmarshalable, `null`, "UnsupportedValueError", `encode the output of workflow "unmarshalable": json: unsupported value: NaN`},
		{stepUnmarshalable, `null`, "UnsupportedTypeError", "encode the result: json: unsupported type: chan int"},
		{nul, `null`, "", `\u0000 cannot be converted to text`},
		{stepNUL, `null`, "", `\u0000 cannot be converted to text`},
		{errorNUL, `null`, "Error", "a\uFFFDb"},
		{badName, `null`, "Error", `step name "a\x00b" cannot be stored`},
		{typed, `{"id":"o","amount":"seven"}`, "InputError", `input field "amount" must be int, not a JSON string`},
		{typed, `[1]`, "InputError", `input must be runner_test.order, not a JSON array`},
		{nested, `null`, "Error", `step "inner" inside step "outer": steps do not nest`},
		{endless, `null`, "StepLimitExceededError", "Exceeded the step limit of 1000 attempts (current count: 1000)"},
	} {
		t.Run(test.workflow.Name()+" "+test.input, func(t *testing.T) {
			b := b.in(t)
			got := b.failed(b.start(test.workflow, test.input))
			if !strings.Contains(got.Message, test.message) {
				t.Errorf("message is %q, want it to contain %q", got.Message, test.message)
			}
			if test.name != "" && got.Name != test.name {
				t.Errorf("error name is %q, want %q", got.Name, test.name)
			}
		})
	}
}

// shortLease is the lease of workers whose heartbeats, of which there are three in a lease, a test
// waits for. A slow machine does not lose it.
const shortLease = 5 * time.Second

func TestDeadlineEndsTheStepAndFailsTheRun(t *testing.T) {
	b := newBench(t)
	causes := make(chan error, 1)
	w := workflow.Define("slow", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "wait", func(ctx context.Context) (any, error) {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		})
	})
	b.work(runner.Options{}, w, quick)
	b.completed(b.start(quick, `1`)) // the worker claims by now
	id := b.start(w, `null`, func(r *store.NewRun) {
		at := time.Now().Add(8 * time.Second) // long enough to be claimed
		r.DeadlineAt = &at
	})
	if got := b.failed(id); got.Message != openworkflow.DeadlineMessage {
		t.Errorf("error is %+v", got)
	}
	if cause := receive(t, causes, "the step's end"); !errors.Is(cause, workflow.ErrDeadlineExceeded) {
		t.Errorf("the step's context ended with %v", cause)
	}
}

func TestCancelEndsTheStepsContext(t *testing.T) {
	b := newBench(t)
	begun, causes := make(chan struct{}), make(chan error, 1)
	w := workflow.Define("slow", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "wait", func(ctx context.Context) (any, error) {
			close(begun)
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		})
	})
	b.work(runner.Options{Lease: shortLease}, w)
	id := b.start(w, `null`)
	receive(t, begun, "the step")
	if _, err := b.store.CancelRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if cause := receive(t, causes, "the step's end"); !errors.Is(cause, workflow.ErrCanceled) {
		t.Errorf("the step's context ended with %v", cause)
	}
	if run := b.result(id); run.Status != openworkflow.RunCanceled {
		t.Errorf("run is %s", run.Status)
	}
}

// P2: after a lease changes hands, the former holder's every write fails.
func TestP2FormerHolderWritesNothing(t *testing.T) {
	b := newBench(t)
	begun, finish, causes := make(chan string, 2), make(chan struct{}), make(chan error, 1)
	var c calls
	w := workflow.Define("contested", func(ctx context.Context, _ any) (string, error) {
		return step.Run(ctx, "work", func(ctx context.Context) (string, error) {
			if c.add("work") == 1 {
				begun <- "first"
				<-ctx.Done() // the first holder has lost its lease, and still tries to store a result
				causes <- context.Cause(ctx)
				<-finish
				return "from the first", nil
			}
			begun <- "second"
			return "from the second", nil
		})
	})
	_, stop := b.work(runner.Options{Lease: shortLease, PodUID: "pod-1"}, w)
	id := b.start(w, `null`)
	receive(t, begun, "the first holder")
	if _, err := b.store.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: "pod-1"}); err != nil {
		t.Fatal(err)
	}
	b.work(runner.Options{PodUID: "pod-2"}, w)
	if cause := receive(t, causes, "the end of the first holder's context"); !errors.Is(cause, workflow.ErrLeaseLost) {
		t.Errorf("the first holder's context ended with %v", cause)
	}
	close(finish)
	if got := b.completed(id); got != `"from the second"` {
		t.Errorf("output is %s", got)
	}
	stop()
	for _, s := range b.steps(id) {
		if string(s.Output) == `"from the first"` {
			t.Error("the former holder has stored its result")
		}
	}
}

func TestGracefulStopEndsStepsInFlightAndHandsTheRestBack(t *testing.T) {
	b := newBench(t)
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	var c calls
	w := workflow.Define("two", func(ctx context.Context, _ any) (string, error) {
		first, err := step.Run(ctx, "first", func(context.Context) (string, error) {
			c.add("first")
			begun <- struct{}{}
			<-finish
			return "1", nil
		})
		if err != nil {
			return "", err
		}
		second, err := step.Run(ctx, "second", func(context.Context) (string, error) {
			c.add("second")
			return "2", nil
		})
		return first + second, err
	})
	r, stop := b.work(runner.Options{Lease: time.Minute}, w)
	id := b.start(w, `null`)
	receive(t, begun, "the first step")
	r.Drain()
	close(finish)
	stop()
	run := b.await(id, "handed back", func(r *openworkflow.Run) bool { return r.WorkerID == nil })
	if run.Status != openworkflow.RunRunning || run.AvailableAt == nil || run.AvailableAt.After(time.Now()) {
		t.Errorf("handed back row is %+v, want it due", run)
	}
	if c.of("second") != 0 {
		t.Error("the runner started a step after Drain")
	}
	b.work(runner.Options{}, w)
	if got := b.completed(id); got != `"12"` {
		t.Errorf("output is %s", got)
	}
	if c.of("first") != 1 || c.of("second") != 1 {
		t.Errorf("first was executed %d times, second %d; want once each", c.of("first"), c.of("second"))
	}
}

func TestP6RestartedContainerReleasesTheLeasesOfItsPreviousProcess(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("w", func(context.Context, any) (string, error) { return "done", nil })
	id := b.start(w, `null`)
	runs, err := b.store.Claim(t.Context(), store.ClaimRequest{
		Served: []openworkflow.Definition{{Name: "w"}}, Max: 1, WorkerIDPrefix: "pod-1.earlier.", First: 1, Lease: time.Hour,
	})
	if err != nil || len(runs) != 1 {
		t.Fatalf("claimed %d runs: %v", len(runs), err)
	}
	b.work(runner.Options{PodUID: "pod-1"}, w)
	if got := b.completed(id); got != `"done"` {
		t.Errorf("output is %s", got)
	}
}

func TestSuspendedRunStopsAtItsNextStepAndGoesOnWhenResumed(t *testing.T) {
	b := newBench(t)
	begun, finish := make(chan struct{}, 1), make(chan struct{})
	var c calls
	w := workflow.Define("pausable", func(ctx context.Context, _ any) (int, error) {
		if _, err := step.Run(ctx, "first", func(context.Context) (any, error) {
			c.add("first")
			begun <- struct{}{}
			<-finish
			return nil, nil
		}); err != nil {
			return 0, err
		}
		return step.Run(ctx, "second", func(context.Context) (int, error) { return c.add("second"), nil })
	})
	b.work(runner.Options{Lease: shortLease}, w)
	id := b.start(w, `null`)
	receive(t, begun, "the first step")
	if _, err := b.store.SuspendRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	// A heartbeat suspends the pass; the step in flight ends after that.
	row := b.await(id, "still held", func(r *openworkflow.Run) bool { return r.WorkerID != nil && r.SuspendedAt != nil })
	// The second heartbeat from now starts after the answer to the first was processed.
	for range 2 {
		beat := row.UpdatedAt
		row = b.await(id, "beaten", func(r *openworkflow.Run) bool { return r.UpdatedAt.After(beat) })
	}
	close(finish)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.WorkerID == nil && r.AvailableAt == nil })
	if c.of("second") != 0 {
		t.Error("the suspended run went on")
	}
	if _, err := b.store.ResumeRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(id); got != "1" || c.of("first") != 1 {
		t.Errorf("output is %s after %d executions of the first step", got, c.of("first"))
	}
}

func TestR61WorkerClaimsOnlyTheVersionsItServes(t *testing.T) {
	b := newBench(t)
	define := func(version string) *workflow.Workflow[any, string] {
		options := []workflow.Option{}
		if version != "" {
			options = append(options, workflow.Version(version))
		}
		return workflow.Define("versioned", func(ctx context.Context, _ any) (string, error) {
			return "v" + workflow.Info(ctx).Version, nil
		}, options...)
	}
	unversioned, one, two := define(""), define("1"), define("2")
	waiting := b.start(two, `null`)
	b.work(runner.Options{}, unversioned, one)
	if got := b.completed(b.start(one, `null`)); got != `"v1"` {
		t.Errorf("output is %s", got)
	}
	if got := b.completed(b.start(unversioned, `null`)); got != `"v"` {
		t.Errorf("output is %s", got)
	}
	if run := b.await(waiting, "there", func(*openworkflow.Run) bool { return true }); run.Attempts != 0 {
		t.Errorf("a run of a version that nobody serves was claimed %d times", run.Attempts)
	}
}

// A worker of OpenWorkflow claims runs of workflows that it does not have, and delays them by
// minutes. A worker of ours that has the workflow does not wait for that.
func TestR62ARunThatWasGivenBackGoesOnAtTheNextPoll(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("w", func(context.Context, any) (string, error) { return "done", nil })
	id := b.start(w, `null`)
	runs, err := b.store.Claim(t.Context(), store.ClaimRequest{
		Served: []openworkflow.Definition{{Name: "w"}}, Max: 1, WorkerIDPrefix: "typescript-", First: 1, Lease: time.Hour,
	})
	if err != nil || len(runs) != 1 {
		t.Fatalf("claimed %d runs: %v", len(runs), err)
	}
	back := store.RunWrite{
		Lease: openworkflow.Lease{RunID: id, WorkerID: "typescript-1"}, Op: store.RunRetry, At: time.Now().Add(time.Hour),
		Error: json.RawMessage(`{"message":"Workflow \"w\" is not registered"}`),
	}
	if result, err := b.store.ApplyAndClaim(t.Context(), store.Batch{Runs: []store.RunWrite{back}}); err != nil || result.Runs[0] != nil {
		t.Fatal(result.Runs, err)
	}
	b.work(runner.Options{PollInterval: 10 * time.Millisecond}, w)
	if got := b.completed(id); got != `"done"` {
		t.Errorf("output is %s", got)
	}
}

func TestLongStepShowsWhileItRuns(t *testing.T) {
	b := newBench(t)
	finish := make(chan struct{})
	w := workflow.Define("long", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "long", func(context.Context) (any, error) { <-finish; return "x", nil })
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for len(b.steps(id)) == 0 {
		<-ticker.C
	}
	if s := b.steps(id)[0]; s.Status != openworkflow.StepRunning || s.Output != nil || s.FinishedAt != nil {
		t.Errorf("row of the running step is %+v", s)
	}
	close(finish)
	b.completed(id)
	if steps := b.steps(id); len(steps) != 1 || steps[0].Status != openworkflow.StepCompleted {
		t.Errorf("rows after the end are %+v, want the one row completed", steps)
	}
}

func TestDuplicateDefinitionIsRefused(t *testing.T) {
	t.Parallel()
	w := workflow.Define("twice", func(context.Context, any) (any, error) { return nil, nil }, workflow.Version("1"))
	_, err := runner.New(nil, nil, runner.Options{})
	if err == nil || !strings.Contains(err.Error(), "no workflows") {
		t.Errorf("without workflows: %v", err)
	}
	definition := durable.DefinitionOf(w)
	_, err = runner.New(nil, []durable.Definition{definition, definition}, runner.Options{})
	if err == nil || err.Error() != `workflow "twice" (version: 1) is already registered` {
		t.Errorf("with two of a name: %v", err)
	}
}

func TestResultsTravelAsJSONAlsoAtTheFirstExecution(t *testing.T) {
	b := newBench(t)
	type secretive struct {
		Shown  string `json:"shown"`
		hidden string
	}
	w := workflow.Define("json", func(ctx context.Context, _ any) (string, error) {
		s, err := step.Run(ctx, "make", func(context.Context) (secretive, error) {
			return secretive{Shown: "a", hidden: "b"}, nil
		})
		return s.Shown + s.hidden, err
	})
	b.work(runner.Options{}, w)
	if got := b.completed(b.start(w, `null`)); got != `"a"` {
		t.Errorf("output is %s: a result must be the same at first and at later executions", got)
	}
}

// P3: a workflow that calls a step on a goroutine of its own, and waits for it in vain, does
// not hold its run for ever.
func TestP3WorkflowThatWaitsInVainLosesItsRun(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("vain", func(ctx context.Context, _ any) (string, error) {
		results := make(chan string)
		go func() {
			out, _ := step.Run(ctx, "elsewhere", func(context.Context) (string, error) {
				return "", errors.New("not yet")
			}, step.Retry(workflow.RetryPolicy{InitialInterval: 500 * time.Millisecond, MaximumAttempts: 2}))
			results <- out
		}()
		return <-results, nil // the goroutine above ends when its step is to be retried
	})
	b.work(runner.Options{Concurrency: 1}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != `""` {
		t.Errorf("output is %s", got)
	}
	// The first claim, and one for the retry of its step. One more if the write that ended the
	// first pass has claimed it: the failure is then as old as that write.
	if run := b.result(id); run.Attempts < 2 || run.Attempts > 3 {
		t.Errorf("the run was claimed %d times, want 2 or 3", run.Attempts)
	}
}

// R23, R92: a result that is not UTF-8 fails its step, which the workflow can catch.
func TestR92_AResultThatIsNotUTF8FailsItsStep(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("catches", func(ctx context.Context, _ any) (string, error) {
		_, err := step.Run(ctx, "latin-1", func(context.Context) (json.RawMessage, error) {
			return json.RawMessage("\"\xff\""), nil
		}, step.Retry(workflow.RetryPolicy{MaximumAttempts: 1}))
		failed, ok := errors.AsType[*step.Error](err)
		if !ok {
			return "", err
		}
		return failed.Step, nil
	})
	b.work(runner.Options{}, w)
	if got := b.completed(b.start(w, `null`)); got != `"latin-1"` {
		t.Errorf("output is %s", got)
	}
}

// R23, R79: an output that cannot be stored fails the workflow, by its policy, and no step that is
// written with it.
func TestR79_AnUnstorableOutputIsTheWorkflowsFailure(t *testing.T) {
	b := newBench(t)
	var seen calls
	output := workflow.Define("output", func(ctx context.Context, _ any) (string, error) {
		seen.add("workflow")
		_, err := step.Run(ctx, "inline", func(context.Context) (string, error) {
			seen.add("inline")
			return "a", nil
		})
		return "\x00", err
	}, workflow.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 2}))
	b.work(runner.Options{}, output)
	id := b.start(output, `null`)
	got := b.failed(id)
	if strings.Contains(got.Message, "store step") || !strings.Contains(got.Message, `\u0000`) {
		t.Errorf("error is %+v", got)
	}
	if run := b.result(id); seen.of("workflow") != 2 || seen.of("inline") != 1 || run.Failures != 2 {
		t.Errorf("the workflow was called %d times and its step %d times; the run has %d failures",
			seen.of("workflow"), seen.of("inline"), run.Failures)
	}
}
