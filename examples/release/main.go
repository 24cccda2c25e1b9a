// Command release is a worker with one workflow that asks people before it goes on:
// kubectl workflow inbox shows what it asks, and kubectl workflow approve lets it go on.
package main

import (
	"context"
	"log/slog"

	"github.com/openworkflow-operator/operator/worker"
)

func main() { worker.Main(ReleaseWorkflow(logCluster{})) }

// logCluster is a cluster that only logs.
type logCluster struct{}

func (logCluster) Deploy(_ context.Context, key, environment, version string) error {
	slog.Info("Deployed", "environment", environment, "version", version, "key", key)
	return nil
}
