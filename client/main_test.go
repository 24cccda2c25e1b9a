package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/worker"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestMain starts a database and a worker for the examples.
func TestMain(m *testing.M) {
	url, drop, err := testpg.ForExamples()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Setenv("OPENWORKFLOW_POSTGRES_URL", url)
	c, err := client.Open(context.Background(), client.Config{PostgresURL: url, Migrate: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	c.Close()
	stop := startWorker(url, Greet, Approve, Ship)
	testpg.Main(m, stop, drop)
}

// startWorker executes runs until stop is called.
func startWorker(url string, workflows ...workflow.Definition) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() {
		config := worker.Config{PostgresURL: url, Logger: slog.New(slog.DiscardHandler)}
		if err := worker.Run(ctx, config, workflows...); err != nil {
			fmt.Fprintln(os.Stderr, "the worker of the tests:", err)
		}
	})
	return func() {
		cancel()
		task.Wait()
	}
}
