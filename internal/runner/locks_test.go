package runner_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestLocks_P2_ALockedRunDelaysNoOther: another session locks one of ten runs for longer than
// a lease. The others go on, and each step is executed once. Of the locked run, this holds for
// what was acknowledged: its holder waits in the queue of the row, but a claim at the moment
// when the lock ends may come before it, as that of any expired lease.
func TestLocks_P2_ALockedRunDelaysNoOther(t *testing.T) {
	b := newBench(t)
	var executed calls
	const runs = 10
	started := make(chan string, runs)
	goOn := make(chan struct{})
	w := workflow.Define("locks", func(ctx context.Context, in string) (string, error) {
		for _, name := range []string{"first", "second", "third"} {
			_, err := step.Run(ctx, name, func(ctx context.Context) (string, error) {
				executed.add(in + name)
				if name == "first" {
					started <- in
					<-goOn
				}
				return in, ctx.Err()
			})
			if err != nil {
				return "", err
			}
		}
		return in, nil
	})
	const lease = 6 * time.Second // none but the locked run loses it, on a slow machine either
	b.work(runner.Options{Concurrency: runs, Lease: lease}, w)
	b.work(runner.Options{Concurrency: runs, Lease: lease}, w) // takes over what is lost
	ids := make([]string, runs)
	for i := range ids {
		ids[i] = b.start(w, fmt.Sprintf(`"run %d"`, i))
	}
	for range runs {
		receive(t, started, "all runs to be executed")
	}

	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	locked := ids[3]
	if _, err := tx.Exec(t.Context(), `SELECT FROM openworkflow.workflow_runs WHERE id = $1 FOR UPDATE`, locked); err != nil {
		t.Fatal(err)
	}
	b.await(locked, "past its lease", func(r *openworkflow.Run) bool { return time.Since(*r.AvailableAt) > lease/2 })
	close(goOn)
	for _, id := range ids {
		if id != locked {
			b.completed(id)
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.completed(locked)
	for i, id := range ids {
		for _, name := range []string{"first", "second", "third"} {
			most := 1
			if id == locked && name == "first" {
				most = 2
			}
			if n := executed.of(fmt.Sprintf("run %d%s", i, name)); n < 1 || n > most {
				t.Errorf("step %s of run %d was executed %d times, want 1 to %d", name, i, n, most)
			}
		}
	}
}
