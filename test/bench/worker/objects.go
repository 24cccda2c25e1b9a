//go:build bench

package main

import (
	"context"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/reporter"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
	"github.com/openworkflow-operator/operator/worker"
)

// runOutside is worker.Main for a worker that reports to an API server without being in
// one of its pods.
func runOutside(kubeconfig, namespace string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	config, err := worker.ConfigFromEnv()
	if err != nil {
		return err
	}
	cluster, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	reports, err := reporter.New(cluster, namespace, config.PodName, slog.Default())
	if err != nil {
		return err
	}
	go reports.Run(ctx, time.Second)
	database, err := store.Open(ctx, store.Options{URL: config.PostgresURL, NamespaceID: config.NamespaceID})
	if err != nil {
		return err
	}
	defer database.Close()
	var definitions []durable.Definition
	for _, w := range workflows.All() {
		definitions = append(definitions, durable.DefinitionOf(w))
	}
	r, err := runner.New(database, definitions, runner.Options{
		Concurrency: config.Concurrency, PodUID: config.PodUID, PodName: config.PodName, Reporter: reports,
	})
	if err != nil {
		return err
	}
	return r.Run(ctx, 20*time.Second)
}
