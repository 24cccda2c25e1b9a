package worker_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/worker"
)

// TestMain starts a database for the examples. A process that is the worker of a test has its own.
func TestMain(m *testing.M) {
	if build := os.Getenv("TEST_MAIN"); build != "" {
		worker.MainProcess(build)
		return
	}
	url, drop, err := testpg.ForExamples()
	if err == nil {
		var c *client.Client
		if c, err = client.Open(context.Background(), client.Config{PostgresURL: url, Migrate: true}); err == nil {
			c.Close()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = os.Setenv("OPENWORKFLOW_POSTGRES_URL", url)
	testpg.Main(m, drop)
}
