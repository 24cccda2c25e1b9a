package runner_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// branches is a workflow of two functions that block, one that waits for its retry, and one step
// after them.
type branches struct {
	*workflow.Workflow[any, []string]
	calls       calls
	begun, fell chan string
	finish      map[string]chan struct{}
}

// newBranches returns the workflow with the time after which the third function is tried again.
func newBranches(backoff time.Duration) *branches {
	w := &branches{
		begun: make(chan string, 2), fell: make(chan string, 1),
		finish: map[string]chan struct{}{"left": make(chan struct{}), "right": make(chan struct{})},
	}
	w.Workflow = workflow.Define("branches", func(ctx context.Context, _ any) ([]string, error) {
		slow := func(name string) *step.Future[string] {
			return step.Go(ctx, name, func(context.Context) (string, error) {
				w.calls.add(name)
				w.begun <- name
				<-w.finish[name]
				return name, nil
			})
		}
		left, right := slow("left"), slow("right")
		flaky := step.Go(ctx, "flaky", func(context.Context) (string, error) {
			if w.calls.add("flaky") == 1 {
				w.fell <- "flaky"
				return "", errors.New("not yet")
			}
			return "flaky", nil
		}, step.Retry(workflow.RetryPolicy{InitialInterval: backoff, MaximumInterval: backoff}))
		var results []string
		for _, f := range []*step.Future[string]{left, right, flaky} {
			result, err := f.Await()
			if err != nil {
				return nil, err
			}
			results = append(results, result)
		}
		after, err := step.Run(ctx, "after", func(context.Context) (string, error) {
			w.calls.add("after")
			return "after", nil
		})
		return append(results, after), err
	})
	return w
}

// started waits until both functions are executing and the third has failed.
func (w *branches) started(t *testing.T) {
	t.Helper()
	receive(t, w.begun, "the one function")
	receive(t, w.begun, "the other function")
	receive(t, w.fell, "the third to fail")
}

func TestADrainLosesNothingOfParallelSteps(t *testing.T) {
	b := newBench(t)
	const backoff = 8 * time.Second
	w := newBranches(backoff)
	r, stop := b.work(runner.Options{Lease: time.Hour}, w)
	id := b.start(w, `null`)
	w.started(t)
	r.Drain()
	close(w.finish["left"]) // what is in flight may end, each by itself
	b.await(id, "one step further", func(*openworkflow.Run) bool { return b.outcomes(id)["left"] == "completed" })
	close(w.finish["right"])
	stop()

	run := b.await(id, "handed back", func(r *openworkflow.Run) bool { return r.WorkerID == nil })
	if run.Status != openworkflow.RunRunning || run.AvailableAt == nil || run.AvailableAt.After(time.Now()) {
		t.Errorf("the run is %+v, want it due", run)
	}
	want := map[string]string{"left": "completed", "right": "completed", "flaky": "failed"}
	if diff := cmp.Diff(want, b.outcomes(id)); diff != "" {
		t.Errorf("attempts after the drain (-want +got):\n%s", diff)
	}
	failed := b.steps(id)

	b.work(runner.Options{}, w)
	if got := b.completed(id); got != `["left", "right", "flaky", "after"]` {
		t.Errorf("output is %s", got)
	}
	want = map[string]string{"left": "completed", "right": "completed", "flaky": "failed completed", "after": "completed"}
	if diff := cmp.Diff(want, b.outcomes(id)); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	for name, calls := range map[string]int{"left": 1, "right": 1, "flaky": 2, "after": 1} {
		if n := w.calls.of(name); n != calls {
			t.Errorf("%s was called %d times, want %d", name, n, calls)
		}
	}
	// The backoff counts from the failure, whichever worker retries.
	var fell, again time.Time
	for _, s := range failed {
		if s.StepName == "flaky" {
			fell = *s.FinishedAt
		}
	}
	for _, s := range b.steps(id) {
		if s.StepName == "flaky" && s.Status == openworkflow.StepCompleted {
			again = *s.StartedAt
		}
	}
	if wait := again.Sub(fell); wait < backoff-200*time.Millisecond {
		t.Errorf("the step was tried again after %v, want its backoff of %v", wait, backoff)
	}
}

// The context of a function that outlasts the grace period ends. An error that it then returns
// is no failure of its step, and the result of its sibling is stored.
func TestAStopThatCannotWaitCountsAsNoFailure(t *testing.T) {
	b := newBench(t)
	begun, ended := make(chan string, 2), make(chan error, 1)
	var c calls
	w := workflow.Define("stubborn", func(ctx context.Context, _ any) ([]string, error) {
		quick := step.Go(ctx, "quick", func(context.Context) (string, error) {
			c.add("quick")
			begun <- "quick"
			return "quick", nil
		})
		slow := step.Go(ctx, "slow", func(ctx context.Context) (string, error) {
			if c.add("slow") > 1 {
				return "slow", nil
			}
			begun <- "slow"
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return "", ctx.Err()
		}, step.Retry(workflow.RetryPolicy{MaximumAttempts: 1}))
		one, err := quick.Await()
		if err != nil {
			return nil, err
		}
		other, err := slow.Await()
		return []string{one, other}, err
	})
	r, err := runner.New(b.store, definitions(w), runner.Options{Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var task sync.WaitGroup
	task.Go(func() {
		if err := r.Run(ctx, time.Millisecond); err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	id := b.start(w, `null`)
	receive(t, begun, "the one function")
	receive(t, begun, "the other function")
	b.await(id, "one step further", func(*openworkflow.Run) bool { return b.outcomes(id)["quick"] == "completed" })
	cancel()
	if cause := receive(t, ended, "the end of the function's context"); !errors.Is(cause, workflow.ErrShutdown) {
		t.Errorf("the function's context ended with %v", cause)
	}
	task.Wait()
	run := b.await(id, "handed back", func(r *openworkflow.Run) bool { return r.WorkerID == nil })
	if run.Status != openworkflow.RunRunning || run.AvailableAt == nil || run.AvailableAt.After(time.Now()) {
		t.Errorf("the run is %+v, want it due", run)
	}
	b.work(runner.Options{}, w)
	if got := b.completed(id); got != `["quick", "slow"]` {
		t.Errorf("output is %s", got)
	}
	if c.of("quick") != 1 || c.of("slow") != 2 {
		t.Errorf("quick was called %d times, slow %d times; want 1, 2", c.of("quick"), c.of("slow"))
	}
	for _, s := range b.steps(id) {
		if s.Status == openworkflow.StepFailed {
			t.Errorf("attempt %+v has failed", s)
		}
	}
}

func TestASuspensionLetsStepsInFlightEndAndLosesNoRetry(t *testing.T) {
	b := newBench(t)
	w := newBranches(2 * time.Second)
	b.work(runner.Options{Lease: shortLease}, w)
	id := b.start(w, `null`)
	w.started(t)
	if _, err := b.store.SuspendRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	// The second heartbeat from now starts after the answer to the first.
	row := b.await(id, "still held", func(r *openworkflow.Run) bool { return r.WorkerID != nil && r.SuspendedAt != nil })
	for range 2 {
		beat := row.UpdatedAt
		row = b.await(id, "beaten", func(r *openworkflow.Run) bool { return r.UpdatedAt.After(beat) })
	}
	close(w.finish["left"])
	close(w.finish["right"])
	b.await(id, "set aside", func(r *openworkflow.Run) bool { return r.WorkerID == nil && r.AvailableAt == nil })
	if got := b.outcomes(id); got["left"] != "completed" || got["right"] != "completed" || w.calls.of("after") != 0 {
		t.Errorf("attempts of the suspended run are %v", got)
	}
	if _, err := b.store.ResumeRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(id); got != `["left", "right", "flaky", "after"]` {
		t.Errorf("output is %s", got)
	}
	for name, calls := range map[string]int{"left": 1, "right": 1, "flaky": 2, "after": 1} {
		if n := w.calls.of(name); n != calls {
			t.Errorf("%s was called %d times, want %d", name, n, calls)
		}
	}
}

// A signal for a suspended run is delivered when it is resumed.
func TestASuspendedRunKeepsWhatHasComeForItsBranches(t *testing.T) {
	b := newBench(t)
	child := workflow.Define("child", func(ctx context.Context, _ any) (string, error) {
		s, _, err := step.WaitForSignal[string](ctx, "child may end")
		return s, err
	})
	w := workflow.Define("patient", func(ctx context.Context, _ any) ([]string, error) {
		answer := step.GoWaitForSignal[string](ctx, "answer")
		kid := step.GoWorkflow(ctx, child, nil)
		nap := step.GoSleep(ctx, "nap", 100*time.Millisecond)
		a, err := answer.Await()
		if err != nil {
			return nil, err
		}
		k, err := kid.Await()
		if err != nil {
			return nil, err
		}
		_, err = nap.Await()
		return []string{a.Data, k}, err
	})
	quick := workflow.Define("quick", func(context.Context, any) (any, error) { return nil, nil })
	b.work(runner.Options{Concurrency: 1}, w, child, quick)
	id := b.start(w, `null`)
	kid, _ := b.childOf(id, "child")
	b.await(kid.ID, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Parked() })
	if _, err := b.store.SuspendRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	suspended := b.await(id, "set aside", func(r *openworkflow.Run) bool { return r.WorkerID == nil && r.AvailableAt == nil })
	b.signal("answer", `"yes"`, id)
	b.signal("child may end", `"grown up"`, kid.ID)
	b.completed(kid.ID)
	b.completed(b.start(quick, `null`)) // the worker has looked for what is due
	if run := b.await(id, "there", func(*openworkflow.Run) bool { return true }); run.Attempts != suspended.Attempts {
		t.Errorf("the suspended run was executed")
	}
	if _, err := b.store.ResumeRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(id); got != `["yes", "grown up"]` {
		t.Errorf("output is %s", got)
	}
}

// A run whose definition no worker serves waits, unchanged, for a worker that does.
func TestADefinitionThatIsRemovedBetweenClaims(t *testing.T) {
	b := newBench(t)
	var c calls
	moved := workflow.Define("moved", func(ctx context.Context, _ any) (string, error) {
		if _, err := step.Run(ctx, "once", func(context.Context) (int, error) { return c.add("once"), nil }); err != nil {
			return "", err
		}
		s, _, err := step.WaitForSignal[string](ctx, "go on")
		return s, err
	})
	stays := workflow.Define("stays", func(context.Context, any) (string, error) { return "here", nil })
	_, stop := b.work(runner.Options{}, moved, stays)
	id := b.start(moved, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	stop()

	_, stop = b.work(runner.Options{}, stays)
	b.signal("go on", `"on"`, id)
	b.completed(b.start(stays, `null`)) // the worker has looked for what is due
	run := b.await(id, "there", func(*openworkflow.Run) bool { return true })
	if run.Attempts != 1 || run.Status != openworkflow.RunRunning || run.Error != nil || run.AvailableAt.After(time.Now()) {
		t.Errorf("the run that no worker serves is %+v, want it due and untouched", run)
	}
	stop()

	b.work(runner.Options{}, moved)
	if got := b.completed(id); got != `"on"` || c.of("once") != 1 {
		t.Errorf("output is %s after %d calls of the step", got, c.of("once"))
	}
}

// R61: each run, and each child, is executed by the definition of its own version, also
// after a wait.
func TestR61VersionsSideBySide(t *testing.T) {
	b := newBench(t)
	versions := []string{"", "1", "2"}
	child := func(version string) *workflow.Workflow[any, string] {
		return workflow.Define("child", func(ctx context.Context, _ any) (string, error) {
			err := step.Sleep(ctx, "nap", 10*time.Millisecond)
			return "child " + version + "=" + workflow.Info(ctx).Version, err
		}, versioned(version)...)
	}
	var all []workflow.Definition
	runs := map[string]string{}
	for i, version := range versions {
		kid := child(versions[len(versions)-1-i])
		parent := workflow.Define("parent", func(ctx context.Context, _ any) (string, error) {
			got, err := step.RunWorkflow(ctx, kid, nil)
			return "parent " + version + "=" + workflow.Info(ctx).Version + ", " + got, err
		}, versioned(version)...)
		all = append(all, parent, kid)
		runs[version] = b.start(parent, `null`)
	}
	b.work(runner.Options{}, all...)
	for version, want := range map[string]string{
		"":  `"parent =, child 2=2"`,
		"1": `"parent 1=1, child 1=1"`,
		"2": `"parent 2=2, child ="`,
	} {
		t.Run("version "+version, func(t *testing.T) {
			if got := b.in(t).completed(runs[version]); got != want {
				t.Errorf("output is %s, want %s", got, want)
			}
		})
	}
}

func versioned(version string) []workflow.Option {
	if version == "" {
		return nil
	}
	return []workflow.Option{workflow.Version(version)}
}
