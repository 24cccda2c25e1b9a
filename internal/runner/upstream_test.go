package runner_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Where OpenWorkflow's worker behaves otherwise on the same tables. Other differences are tested
// beside the feature.

// never is a poll interval that is longer than any test.
const never = time.Hour

// Upstream's worker has one slot per loop, and a busy one backs off (R57, Q1): a freed
// slot claims at once, without a notification and long before the next poll.
func TestR57AFreedSlotClaimsAtOnce(t *testing.T) {
	b := newBench(t)
	begun := make(chan struct{})
	goOn := make(chan struct{})
	w := workflow.Define("queue", func(ctx context.Context, _ int) (any, error) {
		return step.Run(ctx, "work", func(context.Context) (any, error) {
			begun <- struct{}{}
			<-goOn
			return nil, nil
		})
	})
	var ids []string
	for i := range 5 {
		ids = append(ids, b.start(w, fmt.Sprint(i)))
	}
	b.work(runner.Options{Concurrency: 1, PollInterval: never}, w)
	for range ids {
		receive(t, begun, "a run to begin")
		goOn <- struct{}{}
	}
	for _, id := range ids {
		b.completed(id)
	}
}

// Upstream's workers poll every second while no run is due (R56): ours are notified.
func TestR56AnIdleWorkerIsWokenByANewRun(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("greet", func(_ context.Context, name string) (string, error) { return name, nil })
	r, _ := b.work(runner.Options{PollInterval: never}, w)
	for !r.Ready() { // it has looked, and found nothing
		select {
		case <-t.Context().Done():
			t.Fatal("the worker was never ready")
		case <-time.After(time.Millisecond):
		}
	}
	// LISTEN may start later than that. So the notification is repeated, as by the next start of
	// a run.
	id := b.start(w, `"ada"`)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-stop:
				return
			case <-ticker.C:
				_ = b.store.Notify(context.WithoutCancel(t.Context()))
			}
		}
	}()
	if got := b.completed(id); got != `"ada"` {
		t.Errorf("output is %s", got)
	}
}

// Upstream's sleeps and waits use up the workflow's retries, as they are claims (R97, Q11).
func TestR97SleepsAndWaitsLeaveTheWorkflowItsRetries(t *testing.T) {
	b := newBench(t)
	var c calls
	w := workflow.Define("sleepy", func(ctx context.Context, _ any) (int, error) {
		for range 3 {
			if err := step.Sleep(ctx, "nap", time.Millisecond); err != nil {
				return 0, err
			}
		}
		if _, _, err := step.WaitForSignal[any](ctx, "never sent", step.Timeout(time.Millisecond)); err != nil {
			return 0, err
		}
		if n := c.add("end"); n < 3 {
			return 0, errors.New("not yet")
		}
		return c.of("end"), nil
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 3, InitialInterval: time.Millisecond}))
	b.work(runner.Options{}, w)
	id := b.start(w, `null`)
	if got := b.completed(id); got != "3" {
		t.Errorf("output is %s", got)
	}
	if run := b.result(id); run.Attempts <= 3 || run.Failures != 2 {
		t.Errorf("%d claims and %d failures, want more claims than the 3 attempts, and 2 failures", run.Attempts, run.Failures)
	}
}
