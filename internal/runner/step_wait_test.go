package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

func TestR98SleepParksTheRunAndIsNotArmedAnew(t *testing.T) {
	b := newBench(t)
	var c calls
	const nap = 5 * time.Second // the run is parked before its end, on a slow machine too
	w := workflow.Define("sleeper", func(ctx context.Context, _ any) (string, error) {
		before, err := step.Run(ctx, "before", func(context.Context) (int, error) { return c.add("before"), nil })
		if err != nil {
			return "", err
		}
		if err := step.Sleep(ctx, "nap", nap); err != nil {
			return "", err
		}
		after, err := step.Run(ctx, "after", func(context.Context) (int, error) { return c.add("after"), nil })
		return fmt.Sprint(before, after), err
	})
	b.work(runner.Options{}, w)
	began := time.Now()
	id := b.start(w, `null`)
	parked := b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	steps := b.steps(id)
	if len(steps) != 2 || steps[1].Kind != openworkflow.KindSleep || steps[1].Status != openworkflow.StepRunning {
		t.Fatalf("steps of the parked run are %+v", steps)
	}
	var context struct{ Kind, ResumeAt string }
	if err := json.Unmarshal(steps[1].Context, &context); err != nil || context.Kind != "sleep" {
		t.Errorf("context of the sleep is %s", steps[1].Context)
	}
	if at, err := openworkflow.ParseTime(context.ResumeAt); err != nil || !at.Equal(*parked.AvailableAt) {
		t.Errorf("sleep resumes at %s, the run is due at %s", context.ResumeAt, parked.AvailableAt)
	}
	if got := b.completed(id); got != `"1 1"` {
		t.Errorf("output is %s", got)
	}
	if took := time.Since(began); took < nap {
		t.Errorf("the run took %v, less than its sleep of %v", took, nap)
	}
	run := b.result(id)
	if run.Attempts != 2 {
		t.Errorf("the run was claimed %d times, want 2: to start, and after the nap", run.Attempts)
	}
	if nap := b.steps(id)[1]; nap.Status != openworkflow.StepCompleted || nap.Output != nil || nap.FinishedAt == nil {
		t.Errorf("row of the sleep is %+v (R26)", nap)
	}
}

func TestSleepHoldsNoSlot(t *testing.T) {
	b := newBench(t)
	sleeper := workflow.Define("sleeper", func(ctx context.Context, _ any) (any, error) {
		return nil, step.SleepUntil(ctx, "long", time.Now().Add(time.Hour))
	})
	quick := workflow.Define("quick", func(context.Context, any) (string, error) { return "done", nil })
	b.work(runner.Options{Concurrency: 1}, sleeper, quick)
	for range 5 {
		id := b.start(sleeper, `null`)
		b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	}
	if got := b.completed(b.start(quick, `null`)); got != `"done"` {
		t.Errorf("output is %s", got)
	}
}

func TestSleepsInALoopAndOfNoLength(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("poll", func(ctx context.Context, _ any) (int, error) {
		for i := range 5 {
			if err := step.Sleep(ctx, "pause", time.Duration(i-1)*300*time.Millisecond); err != nil {
				return 0, err
			}
		}
		return 5, nil
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != "5" {
		t.Errorf("output is %s", got)
	}
	var names []string
	for _, s := range b.steps(id) {
		names = append(names, s.StepName)
	}
	if got := strings.Join(names, " "); got != "pause pause:1 pause:2 pause:3 pause:4" {
		t.Errorf("steps are %s", got)
	}
	if run := b.result(id); run.Attempts < 2 || run.Attempts > 4 { // a sleep may be over before the run is parked
		t.Errorf("the run was claimed %d times, want 4: to begin, and after each sleep of some length", run.Attempts)
	}
}

// P6: a run that sleeps when its worker dies is continued by another worker.
func TestSleepOutlivesItsWorker(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("sleeper", func(ctx context.Context, _ any) (int, error) {
		if _, err := step.Run(ctx, "once", func(context.Context) (int, error) { return c.add("once"), nil }); err != nil {
			return 0, err
		}
		if err := step.Sleep(ctx, "nap", 5*time.Second); err != nil { // a slow machine parks the run in time
			return 0, err
		}
		return c.of("once"), nil
	})
	_, stop := b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	stop()
	b.work(runner.Options{}, w)
	if got := b.completed(id); got != "1" {
		t.Errorf("output is %s", got)
	}
}

func TestSuspendedSleeperStaysAsleepUntilResumed(t *testing.T) {
	b := newBench(t)
	const nap = 5 * time.Second // the run is suspended before its end, on a slow machine too
	w := workflow.Define("sleeper", func(ctx context.Context, _ any) (string, error) {
		return "woke", step.Sleep(ctx, "nap", nap)
	})
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts == 1 && r.Parked() })
	if _, err := b.store.SuspendRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(nap + time.Second)
	row := b.await(id, "past its nap", func(*openworkflow.Run) bool { return time.Now().After(past) })
	if row.Attempts != 1 || row.Status.Terminal() {
		t.Errorf("the suspended run went on: %+v", row)
	}
	if _, err := b.store.ResumeRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(id); got != `"woke"` {
		t.Errorf("output is %s", got)
	}
}
