package runner_test

import (
	"context"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// told is a Reporter that passes reports on.
type told chan openworkflow.Run

func (c told) Report(run *openworkflow.Run, _ openworkflow.StepSummary) { c <- *run }

// R180: what a worker reports is by the clock of the server, as the rows are, however far its own
// is from that. Otherwise the manager would take the report for a forged one.
func TestR180ReportsAreByTheServersClock(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testpg.New(t)
			testpg.SetClock(t, url, ahead)
			b := benchOn(t, url)
			reports := make(told, 100)
			done := workflow.Define("done", func(ctx context.Context, _ any) (any, error) {
				return nil, step.Sleep(ctx, "nap", time.Millisecond)
			})
			b.work(runner.Options{Concurrency: 1, Reporter: reports}, done)
			id := b.start(done, `null`)
			b.completed(id)
			row := b.result(id)
			if skew := time.Until(*row.FinishedAt); (skew - ahead).Abs() > 10*time.Minute {
				t.Fatalf("the row says %s: the server's clock is not %s %s", row.FinishedAt, ahead.Abs(), name)
			}
			for {
				report := <-reports
				if off := report.UpdatedAt.Sub(*row.FinishedAt).Abs(); off > 10*time.Minute {
					t.Errorf("the report of %s is by a clock that differs by %s", report.Status, off)
				}
				if report.Status != openworkflow.RunCompleted {
					continue
				}
				if off := report.FinishedAt.Sub(*row.FinishedAt).Abs(); off > 10*time.Minute {
					t.Errorf("the reported end differs by %s", off)
				}
				return
			}
		})
	}
}
