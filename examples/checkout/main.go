// Command checkout is a worker with one workflow: charge a card, then send an email.
//
// The payment ledger and the mailbox are tables in the worker's own database, written by plain
// inserts: only the workflow keeps a card from being charged twice.
//
// Environment, in addition to that of each worker:
//
//	CHECKOUT_MAIL_LATENCY   how long sending an email takes, for example 2s. Default: 0
package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/worker"
)

func main() {
	latency, err := time.ParseDuration(env("CHECKOUT_MAIL_LATENCY", "0s"))
	if err != nil {
		fail("CHECKOUT_MAIL_LATENCY is not a duration such as 2s", err)
	}
	// A pool connects at its first use, so a database that is down now only delays the first
	// order.
	pool, err := pgxpool.New(context.Background(), os.Getenv("OPENWORKFLOW_POSTGRES_URL"))
	if err != nil {
		fail("OPENWORKFLOW_POSTGRES_URL does not parse", err)
	}
	defer pool.Close()

	shop := &Shop{Database: pool, Pod: env("POD_NAME", "checkout"), MailLatency: latency}
	worker.Main(shop.Checkout())
}

func env(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

func fail(message string, err error) {
	slog.Error(message, "error", err)
	os.Exit(1)
}
