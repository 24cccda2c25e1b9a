// Command goworker executes runs of the interop tests' workflows with this module.
//
//	goworker [WORKFLOW[@VERSION]...]
//
// It is configured by the environment as every worker is, and keeps the tests'
// ledger in the same database.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/worker"
	"github.com/openworkflow-operator/operator/workflow"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := run(context.Background(), log); err != nil {
		log.Error("Worker cannot work", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	config, err := worker.ConfigFromEnv()
	if err != nil {
		return err
	}
	config.Logger = log
	pool, err := pgxpool.New(ctx, config.PostgresURL)
	if err != nil {
		return err
	}
	defer pool.Close()

	known := workflows(&ledger{database: pool})
	var served []workflow.Definition
	for _, key := range os.Args[1:] {
		definition, ok := known[key]
		if !ok {
			return fmt.Errorf("there is no workflow %q", key)
		}
		served = append(served, definition)
	}
	return worker.Run(ctx, config, served...)
}
