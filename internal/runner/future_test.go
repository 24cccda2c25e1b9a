package runner_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// A future that is of no step, or of another run, fails the run at once, with no lock held: the
// heartbeats of the worker's other runs go on, and it executes the next run.
func TestFuture_P7_OfNoStepOrAnotherRunFailsTheRun(t *testing.T) {
	b := newBench(t)
	foreign := make(chan *step.Future[struct{}], 1)
	owner := workflow.Define("owner", func(ctx context.Context, _ any) (any, error) {
		f := step.GoSleep(ctx, "year", 365*24*time.Hour)
		foreign <- f
		_, err := f.Await()
		return nil, err
	})
	var theirs *step.Future[struct{}]
	w := workflow.Define("misuses", func(ctx context.Context, kind string) (any, error) {
		nap := step.GoSleep(ctx, "nap", time.Hour)
		var none *step.Future[int]
		var zero step.Future[int]
		var err error
		switch kind {
		case "select zero":
			_, err = step.Select(ctx, "first", nap, &zero)
		case "select nil":
			_, err = step.Select(ctx, "first", none, nap)
		case "select nothing":
			_, err = step.Select(ctx, "first", nil, nap)
		case "select foreign":
			_, err = step.Select(ctx, "first", nap, theirs)
		case "await zero":
			_, err = zero.Await()
		case "await nil":
			_, err = none.Await()
		}
		return nil, err
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 3}))
	b.work(runner.Options{Lease: shortLease}, owner, w, quick)
	b.start(owner, `null`)
	theirs = receive(t, foreign, "the other run")
	for kind, want := range map[string]string{
		"select zero": "the future is of no step", "select nil": "the future is of no step", "select nothing": "the future is of no step",
		"select foreign": `select "first": the future is of another run`,
		"await zero":     "the future is of no step", "await nil": "the future is of no step",
	} {
		id := b.start(w, `"`+kind+`"`)
		if got := b.failed(id); !strings.Contains(got.Message, want) {
			t.Errorf("%s: error is %+v", kind, got)
		}
		if run := b.result(id); run.Attempts != 1 {
			t.Errorf("%s: the run was executed %d times", kind, run.Attempts)
		}
	}
	b.completed(b.start(quick, `1`))
}
