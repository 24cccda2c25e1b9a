package runner

import (
	"context"
	"log/slog"
	"time"

	"github.com/openworkflow-operator/operator/internal/backoff"
)

// databaseBackoff spaces out retries while the database does not answer. Package store has one
// for LISTEN (listenBackoff), and package worker one for the first connection (openBackoff).
var databaseBackoff = backoff.Policy{First: 50 * time.Millisecond, Max: 2 * time.Second}

// retry calls f until it succeeds or ctx ends, with backoff. It logs the first of several
// failures in a row, and the recovery.
func retry(ctx context.Context, log *slog.Logger, failure string, f func() error) error {
	for failures := 0; ; {
		err := f()
		if err == nil {
			if failures > 0 {
				log.Info("Database answers again")
			}
			return nil
		}
		if failures++; failures == 1 && ctx.Err() == nil {
			log.Warn(failure, "error", err)
		}
		if err := databaseBackoff.Wait(ctx, failures); err != nil {
			return err
		}
	}
}
