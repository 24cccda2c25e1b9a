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

// callTimeout bounds the first try of a call of the database, so that a connection that hangs
// is given up. Each further try may take twice as long, up to maxCallTimeout: an answer that is
// only slow gets through.
const (
	callTimeout    = 5 * time.Second
	maxCallTimeout = time.Minute
)

// retry calls f until it succeeds or ctx ends, with backoff and a deadline for each try. It
// logs the first of several failures in a row, and the recovery.
func retry(ctx context.Context, log *slog.Logger, failure string, f func(ctx context.Context) error) error {
	for failures := 0; ; {
		err := within(ctx, min(callTimeout<<min(failures, 8), maxCallTimeout), f)
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

func within(ctx context.Context, d time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}
