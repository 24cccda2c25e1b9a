package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestDeadlines_P6_RunsGoOnWhenAllConnectionsHang: the server processes behind the worker's
// connections are stopped. The connections stay open, and nothing answers on them.
func TestDeadlines_P6_RunsGoOnWhenAllConnectionsHang(t *testing.T) {
	b := newBench(t)
	const runs = 4
	started, goOn := make(chan int, runs), make(chan struct{})
	w := workflow.Define("hang", func(ctx context.Context, n int) (int, error) {
		_, err := step.Run(ctx, "held", func(context.Context) (int, error) {
			started <- n
			<-goOn
			return n, nil
		})
		if err != nil {
			return 0, err
		}
		if _, err := step.SendSignal(ctx, "nobody", n); err != nil {
			return 0, err
		}
		if err := step.Sleep(ctx, "rest", 10*time.Millisecond); err != nil {
			return 0, err
		}
		return step.Run(ctx, "last", func(context.Context) (int, error) { return n, nil })
	})
	s, err := store.Open(t.Context(), store.Options{URL: b.url, ApplicationName: "hangs", MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	b.workOn(s, runner.Options{Concurrency: runs, Lease: 20 * time.Second, PollInterval: 2 * time.Second}, w)
	ids := make([]string, runs)
	for i := range ids {
		ids[i] = b.start(w, fmt.Sprint(i))
	}
	for range runs {
		receive(t, started, "all runs to be executed")
	}

	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	rows, err := conn.Query(t.Context(),
		`SELECT pid FROM pg_stat_activity WHERE application_name = 'hangs' AND state = 'idle'`)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil || len(pids) == 0 {
		t.Fatalf("the worker has no idle connection: %v, %v", pids, err)
	}
	for _, pid := range pids {
		signalBackend(t, pid, syscall.SIGSTOP)
		t.Cleanup(func() { signalBackend(t, pid, syscall.SIGCONT) })
	}
	stopped := time.Now()
	close(goOn)
	for i, id := range ids {
		if got := b.completed(id); got != fmt.Sprint(i) {
			t.Errorf("run %d returned %s", i, got)
		}
	}
	t.Logf("%d of %d connections hung; all runs ended %s later", len(pids), 4, time.Since(stopped))

	// The worker has announced itself since, so nobody reports that there is none.
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := stopped.Add(30 * time.Second); ; <-ticker.C {
		workers, err := b.store.Workers(t.Context(), time.Hour)
		if err == nil && len(workers) == 1 && workers[0].SeenAt.After(stopped) {
			return
		}
		if time.Now().After(end) {
			seen, _ := json.Marshal(workers)
			t.Fatalf("the worker has not announced itself since its connections hang: %s, %v", seen, err)
		}
	}
}

// signalBackend signals a server process.
func signalBackend(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		t.Errorf("send %v to a server process: %v", sig, err)
	}
}
