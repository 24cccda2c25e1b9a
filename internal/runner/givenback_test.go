package runner_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestR62_P3_GivenBackRunsGoOnBesideASteadyStreamOfOthers: notifications of new runs neither
// postpone the look for runs that were given back, nor take all slots from them.
func TestR62_P3_GivenBackRunsGoOnBesideASteadyStreamOfOthers(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("given-back", func(context.Context, any) (string, error) { return "done", nil })
	other := workflow.Define("other", func(context.Context, any) (string, error) { return "other", nil })
	const n = 6
	ids := make([]string, n)
	for i := range ids {
		ids[i] = b.start(w, `null`)
	}
	runs, err := b.store.Claim(t.Context(), store.ClaimRequest{
		Served: []openworkflow.Definition{{Name: w.Name()}}, Max: n, WorkerIDPrefix: "typescript-", First: 1, Lease: time.Hour,
	})
	if err != nil || len(runs) != n {
		t.Fatalf("claimed %d runs: %v", len(runs), err)
	}
	var back store.Batch
	for _, run := range runs {
		back.Runs = append(back.Runs, store.RunWrite{
			Lease: openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}, Op: store.RunRetry, At: time.Now().Add(time.Hour),
			Error: json.RawMessage(`{"message":"Workflow \"given-back\" is not registered"}`),
		})
	}
	if _, err := b.store.ApplyAndClaim(t.Context(), back); err != nil {
		t.Fatal(err)
	}

	// More of the other runs than the slots can take, each with its notification.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	streamed := make(chan struct{})
	go func() {
		defer close(streamed)
		for ctx.Err() == nil {
			batch := make([]store.NewRun, 5)
			for i := range batch {
				batch[i].WorkflowName = other.Name()
			}
			if _, err := b.store.CreateRuns(ctx, batch); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	}()
	b.work(runner.Options{Concurrency: 2, PollInterval: 100 * time.Millisecond}, w, other)
	for _, id := range ids {
		if got := b.completed(id); got != `"done"` {
			t.Errorf("output is %s", got)
		}
	}
	stop()
	<-streamed
}
