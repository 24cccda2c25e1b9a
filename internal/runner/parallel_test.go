package runner_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
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

// outcomes returns the statuses of the attempts of a run, by step name.
func (b *bench) outcomes(id string) map[string]string {
	b.Helper()
	outcomes := map[string]string{}
	for _, s := range b.steps(id) {
		outcomes[s.StepName] = strings.TrimSpace(outcomes[s.StepName] + " " + string(s.Status))
	}
	return outcomes
}

func TestR88ParallelStepsRunAtTheSameTimeUnderNamesInTheOrderOfTheCalls(t *testing.T) {
	b := newBench(t)
	const n = 5
	var meeting atomic.Int32
	together := make(chan struct{})
	w := workflow.Define("fan-out", func(ctx context.Context, _ any) ([]int, error) {
		var futures []*step.Future[int]
		for i := range n {
			futures = append(futures, step.Go(ctx, "part", func(ctx context.Context) (int, error) {
				if meeting.Add(1) == n {
					close(together)
				}
				select {
				case <-together:
				case <-ctx.Done():
					return 0, ctx.Err()
				}
				return i, nil
			}))
		}
		var results []int
		for _, f := range futures {
			result, err := f.Await()
			if err != nil {
				return nil, err
			}
			results = append(results, result)
		}
		return results, nil
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != "[0, 1, 2, 3, 4]" {
		t.Errorf("output is %s", got)
	}
	outputs := map[string]string{}
	for _, s := range b.steps(id) {
		outputs[s.StepName] = string(s.Output)
	}
	want := map[string]string{"part": "0", "part:1": "1", "part:2": "2", "part:3": "3", "part:4": "4"}
	if diff := cmp.Diff(want, outputs); diff != "" {
		t.Errorf("outputs by name (-want +got):\n%s", diff)
	}
	if run := b.result(id); run.Attempts != 1 {
		t.Errorf("the run was claimed %d times", run.Attempts)
	}
}

// Upstream loses the result of a function whose sibling parks or fails (R86).
func TestABranchThatWaitsDoesNotDiscardItsSiblingsFunction(t *testing.T) {
	b := newBench(t)
	var c calls
	release := make(chan struct{})
	w := workflow.Define("mixed", func(ctx context.Context, _ any) (string, error) {
		nap := step.GoSleep(ctx, "nap", time.Hour)
		flaky := step.Go(ctx, "flaky", func(context.Context) (string, error) {
			if c.add("flaky") == 1 {
				return "", errors.New("not yet")
			}
			return "flaky", nil
		}, step.Retry(workflow.RetryPolicy{InitialInterval: 2 * time.Millisecond}))
		slow := step.Go(ctx, "slow", func(context.Context) (string, error) {
			c.add("slow")
			<-release
			return "slow", nil
		})
		first, err := step.Select(ctx, "first", nap, flaky)
		if err != nil {
			return "", err
		}
		close(release)
		result, err := slow.Await()
		return fmt.Sprint(first, result), err
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != `"1slow"` {
		t.Errorf("output is %s", got)
	}
	want := map[string]string{"nap": "running", "flaky": "failed completed", "slow": "completed", "first": "completed"}
	if diff := cmp.Diff(want, b.outcomes(id)); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	if c.of("slow") != 1 || c.of("flaky") != 2 || b.result(id).Attempts != 1 {
		t.Errorf("slow was called %d times, flaky %d times, in %d claims; want 1, 2, 1",
			c.of("slow"), c.of("flaky"), b.result(id).Attempts)
	}
}

// Upstream's pending sleep holds up all branches until it has elapsed (R73, R84).
func TestASleepHoldsUpNoOtherBranchAndMakesNoClaimStorm(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("race", func(ctx context.Context, _ any) (string, error) {
		nap := step.GoSleep(ctx, "nap", time.Hour)
		answer := step.GoWaitForSignal[string](ctx, "answer")
		if _, err := step.Select(ctx, "nap or answer", nap, answer); err != nil {
			return "", err
		}
		got, err := answer.Await()
		if err != nil {
			return "", err
		}
		// The nap is still pending, and the answer was delivered: upstream claims such a run
		// over and over. Ours must stay parked.
		second, _, err := step.WaitForSignal[string](ctx, "second")
		return got.Data + second, err
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	b.signal("answer", `"yes"`, id)
	b.await(id, "parked again", func(r *openworkflow.Run) bool { return r.Attempts == 2 && r.Parked() })
	b.signal("second", `"!"`, id)
	if got := b.completed(id); got != `"yes!"` {
		t.Errorf("output is %s", got)
	}
	if run := b.result(id); run.Attempts != 3 {
		t.Errorf("the run was claimed %d times, want 3: to begin, and for each signal", run.Attempts)
	}
}

func TestBranchesResolveWhileAFunctionTakesItsTime(t *testing.T) {
	b := newBench(t)
	steps := make(chan string, 10)
	release := make(chan struct{})
	child := workflow.Define("child", func(context.Context, any) (string, error) { return "child", nil })
	w := workflow.Define("parent", func(ctx context.Context, _ any) (string, error) {
		slow := step.Go(ctx, "slow", func(context.Context) (string, error) {
			<-release
			return "slow", nil
		})
		nap := step.GoSleep(ctx, "nap", 20*time.Millisecond)
		answer := step.GoWaitForSignal[string](ctx, "answer")
		born := step.GoWorkflow(ctx, child, nil)
		if _, err := nap.Await(); err != nil {
			return "", err
		}
		steps <- "nap"
		if _, err := born.Await(); err != nil {
			return "", err
		}
		steps <- "child"
		if _, err := answer.Await(); err != nil {
			return "", err
		}
		steps <- "answer"
		return slow.Await()
	})
	b.work(runner.Options{}, w, child)
	id := b.start(w, `null`)
	if got := receive(t, steps, "the nap"); got != "nap" {
		t.Errorf("first was %s", got)
	}
	if got := receive(t, steps, "the child"); got != "child" {
		t.Errorf("second was %s", got)
	}
	b.signal("answer", `"yes"`, id)
	if got := receive(t, steps, "the answer"); got != "answer" {
		t.Errorf("third was %s", got)
	}
	close(release)
	if got := b.completed(id); got != `"slow"` {
		t.Errorf("output is %s", got)
	}
	if run := b.result(id); run.Attempts != 1 {
		t.Errorf("the run was claimed %d times, want 1: its function was executing all the while", run.Attempts)
	}
}

func TestParallelFailuresAreRetriedEachByItsOwnPolicy(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("flaky", func(ctx context.Context, _ any) ([]string, error) {
		var futures []*step.Future[string]
		for _, name := range []string{"a", "b", "c"} {
			futures = append(futures, step.Go(ctx, name, func(context.Context) (string, error) {
				if n := c.add(name); n < 3 {
					return "", fmt.Errorf("failure %d of %s", n, name)
				}
				return name, nil
			}, step.Retry(workflow.RetryPolicy{InitialInterval: 3 * time.Second, BackoffCoefficient: 1})))
		}
		var results []string
		for _, f := range futures {
			result, err := f.Await()
			if err != nil {
				return nil, err
			}
			results = append(results, result)
		}
		return results, nil
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	run := b.await(id, "to be retried", func(r *openworkflow.Run) bool { return r.Status == openworkflow.RunPending && r.Attempts == 1 })
	if run.Error == nil || run.StartedAt != nil {
		t.Errorf("the row of a run whose steps are retried is %+v (R77)", run)
	}
	if got := b.completed(id); got != `["a", "b", "c"]` {
		t.Errorf("output is %s", got)
	}
	for _, name := range []string{"a", "b", "c"} {
		if c.of(name) != 3 {
			t.Errorf("%s was called %d times, want 3", name, c.of(name))
		}
	}
	if run := b.result(id); run.Attempts > 7 { // those that are due together share a claim
		t.Errorf("the run was claimed %d times, want at most once for each retry", run.Attempts)
	}
}

// A run that is woken early, by a signal for example, retries no step before it is due.
func TestAWakeDoesNotCutABackoffShort(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("patient", func(ctx context.Context, _ any) (string, error) {
		flaky := step.Go(ctx, "flaky", func(context.Context) (string, error) {
			if c.add("flaky") == 1 {
				return "", errors.New("not yet")
			}
			return "fine", nil
		}, step.Retry(workflow.RetryPolicy{InitialInterval: time.Hour, MaximumInterval: time.Hour}))
		answer, err := step.GoWaitForSignal[string](ctx, "answer").Await()
		if err != nil {
			return "", err
		}
		if answer.Data == "stop" {
			return "stopped", nil
		}
		return flaky.Await()
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	b.signal("answer", `"go on"`, id)
	run := b.await(id, "to be retried", func(r *openworkflow.Run) bool { return r.Attempts == 2 && r.Status == openworkflow.RunPending })
	if wait := time.Until(*run.AvailableAt); wait < 50*time.Minute {
		t.Errorf("the run is due in %v", wait)
	}
	if c.of("flaky") != 1 {
		t.Errorf("flaky was called %d times", c.of("flaky"))
	}
}

func TestAWorkflowThatReturnsLetsItsStepsInFlightEnd(t *testing.T) {
	b := newBench(t)
	begun, release := make(chan struct{}), make(chan struct{})
	w := workflow.Define("hasty", func(ctx context.Context, _ any) (string, error) {
		step.Go(ctx, "slow", func(context.Context) (string, error) {
			close(begun)
			<-release
			return "slow", nil
		})
		_, err := step.Run(ctx, "quick", func(context.Context) (any, error) { return nil, step.NonRetryable(errors.New("broken")) })
		return "", err
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	receive(t, begun, "the slow step")
	b.await(id, "failing", func(*openworkflow.Run) bool { return b.outcomes(id)["quick"] == "failed" })
	if run := b.await(id, "there", func(*openworkflow.Run) bool { return true }); run.Status.Terminal() {
		t.Error("the run ended before its step did")
	}
	close(release)
	if got := b.failed(id); got.Message != "broken" {
		t.Errorf("error is %+v", got)
	}
	if got := b.outcomes(id)["slow"]; got != "completed" {
		t.Errorf("the slow step is %s", got)
	}
}

func TestSelectIsTheSameAtEveryExecution(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("race", func(ctx context.Context, _ any) (int, error) {
		answer := step.GoWaitForSignal[string](ctx, "answer")
		nap := step.GoSleep(ctx, "nap", 30*time.Millisecond)
		first, err := step.Select(ctx, "first", answer, nap)
		if err != nil {
			return 0, err
		}
		c.add("pass")
		// Both have resolved when the workflow is executed again after this.
		if _, err := answer.Await(); err != nil {
			return 0, err
		}
		return first, step.Sleep(ctx, "after", time.Millisecond)
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	b.await(id, "past its nap", func(r *openworkflow.Run) bool { return r.Parked() && b.outcomes(id)["first"] == "completed" })
	b.signal("answer", `"late"`, id)
	if got := b.completed(id); got != "1" {
		t.Errorf("output is %s, want 1, the nap", got)
	}
	if c.of("pass") < 2 {
		t.Errorf("the workflow was executed %d times after its choice; the test shows nothing", c.of("pass"))
	}
}

func TestMapBoundsItsParallelismAndKeepsTheOrder(t *testing.T) {
	b := newBench(t)
	const limit = 3
	var running, most atomic.Int32
	full := make(chan struct{}) // closed once as many run as may
	fill := sync.OnceFunc(func() { close(full) })
	w := workflow.Define("map", func(ctx context.Context, items []int) ([]int, error) {
		return step.Map(ctx, "square", items, limit, func(_ context.Context, item int) (int, error) {
			n := running.Add(1)
			defer running.Add(-1)
			for {
				m := most.Load()
				if n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			if n == limit {
				fill()
			}
			<-full
			return item * item, nil
		})
	})
	failing := workflow.Define("failing", func(ctx context.Context, items []int) ([]int, error) {
		return step.Map(ctx, "try", items, 1, func(_ context.Context, item int) (int, error) {
			if item == 2 {
				return 0, step.NonRetryable(errors.New("two"))
			}
			return item, nil
		})
	})
	b.work(runner.Options{}, w, failing)
	id := b.start(w, `[1,2,3,4,5,6,7,8,9,10]`)
	if got := b.completed(id); got != "[1, 4, 9, 16, 25, 36, 49, 64, 81, 100]" {
		t.Errorf("output is %s", got)
	}
	if m := most.Load(); m != limit {
		t.Errorf("%d ran at a time, want %d", m, limit)
	}
	id = b.start(failing, `[1,2,3,4]`)
	if got := b.failed(id); got.Message != "two" {
		t.Errorf("error is %+v", got)
	}
	if n := len(b.steps(id)); n != 2 {
		t.Errorf("%d steps were begun, want 2", n)
	}
	if got := b.completed(b.start(w, `[]`)); got != "[]" {
		t.Errorf("output for no items is %s", got)
	}
}

// P1: which items start depends on what is stored, not on what came first; and the names
// of later steps do not depend on how many started.
func TestP1MapStartsNoItemOnReplayThatItRefusedBefore(t *testing.T) {
	b := newBench(t)
	failed := make(chan struct{}) // closed once the failure of B is stored
	var mu sync.Mutex
	called := map[string]int{}
	var before map[string]int // called when Map returned for the first time
	w := workflow.Define("map", func(ctx context.Context, items []string) (string, error) {
		_, err := step.Map(ctx, "x", items, 2, func(_ context.Context, item string) (string, error) {
			mu.Lock()
			called[item]++
			mu.Unlock()
			if item == "B" {
				return "", step.NonRetryable(errors.New("B cannot be done"))
			}
			<-failed // A is still running while B fails
			return item, nil
		})
		if err == nil {
			return "", errors.New("the map did not fail")
		}
		mu.Lock()
		if before == nil {
			before = maps.Clone(called)
		}
		mu.Unlock()
		if err := step.Sleep(ctx, "pause", time.Millisecond); err != nil {
			return "", err
		}
		return step.Run(ctx, "x", func(context.Context) (string, error) { return "after", nil })
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `["A", "B", "C", "D"]`)
	b.await(id, "past the failure of B", func(*openworkflow.Run) bool { return b.outcomes(id)["x:1"] == "failed" })
	close(failed)
	if got := b.completed(id); got != `"after"` {
		t.Errorf("output is %s", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(before, called); diff != "" {
		t.Errorf("calls when the map had failed, and at the end (-want +got):\n%s", diff)
	}
	if got := b.outcomes(id)["x:4"]; got != "completed" {
		t.Errorf("the step after the map is not stored as x:4: %v", b.outcomes(id))
	}
}

func TestStepsOnOtherGoroutinesFailTheRunWithAnExplanation(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("wild", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "outer", func(context.Context) (any, error) {
			return step.Run(ctx, "inner", func(context.Context) (any, error) { return nil, nil })
		})
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 5}))
	b.work(runner.Options{}, w)
	if got := b.failed(b.start(w, `null`)); !strings.Contains(got.Message, "step.Go") {
		t.Errorf("error is %+v", got)
	}
}

func TestMaxDurationEndsTheContextOfAStep(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("slow", func(ctx context.Context, _ any) (string, error) {
		return step.Run(ctx, "call", func(ctx context.Context) (string, error) {
			if c.add("call") == 1 {
				<-ctx.Done()
				return "", ctx.Err()
			}
			return "done", nil
		}, step.MaxDuration(10*time.Millisecond), step.Retry(fast))
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != `"done"` {
		t.Errorf("output is %s", got)
	}
	got := openworkflow.DecodeError(b.steps(id)[0].Error)
	if got.Name != "MaxDurationError" || !strings.Contains(got.Message, "maximum duration of 10ms") {
		t.Errorf("error of the first attempt is %+v", got)
	}
}

// P1, P3: a worker that is stopped during a fan-out loses no result.
func TestParallelStepsOutliveTheirWorker(t *testing.T) {
	b := newBench(t)
	var c calls
	reached := make(chan struct{}, 8)
	gate := make(chan struct{})
	w := workflow.Define("fan-out", func(ctx context.Context, _ any) (int, error) {
		results, err := step.Map(ctx, "part", []int{0, 1, 2, 3, 4, 5, 6, 7}, 0, func(ctx context.Context, i int) (int, error) {
			c.add(fmt.Sprint(i))
			if i >= 4 {
				reached <- struct{}{}
				select {
				case <-gate:
				case <-ctx.Done():
					return 0, context.Cause(ctx)
				}
			}
			return i, nil
		})
		sum := 0
		for _, r := range results {
			sum += r
		}
		return sum, err
	})
	first, _ := b.work(runner.Options{PodUID: "first"}, w)
	id := b.start(w, `null`)
	for range 4 {
		receive(t, reached, "the slow parts")
	}
	b.await(id, "half done", func(*openworkflow.Run) bool {
		done := 0
		for _, outcome := range b.outcomes(id) {
			if outcome == "completed" {
				done++
			}
		}
		return done == 4
	})
	if _, err := b.store.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: "first"}); err != nil { // as when its pod is gone
		t.Fatal(err)
	}
	first.Drain()
	b.work(runner.Options{PodUID: "second"}, w)
	for range 4 {
		receive(t, reached, "the slow parts, again")
	}
	close(gate)
	if got := b.completed(id); got != "28" {
		t.Errorf("output is %s", got)
	}
	for i := range 4 {
		if n := c.of(fmt.Sprint(i)); n != 1 {
			t.Errorf("part %d, whose completion was stored, was called %d times", i, n)
		}
	}
}

// signal sends a signal and checks that this run alone has received it.
func (b *bench) signal(name, data, recipient string) {
	b.Helper()
	var got [][]string
	b.await(recipient, "waiting for "+name, func(*openworkflow.Run) bool {
		var err error
		got, err = b.store.SendSignals(b.Context(), []store.Signal{{Name: name, Data: []byte(data)}})
		if err != nil {
			b.Fatal(err)
		}
		return len(got[0]) > 0
	})
	if diff := cmp.Diff([][]string{{recipient}}, got); diff != "" {
		b.Errorf("recipients of %s (-want +got):\n%s", name, diff)
	}
	if err := b.store.Notify(b.Context()); err != nil {
		b.Fatal(err)
	}
}
