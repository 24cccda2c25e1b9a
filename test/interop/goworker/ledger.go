package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// language is what this worker writes into the ledger and returns from steps.
const language = "go"

// ledger counts what is executed; the test has made its tables.
type ledger struct {
	database *pgxpool.Pool
}

// enter writes an execution down and returns how many there are of this step.
func (l *ledger) enter(ctx context.Context, runID, step string) (executions int, err error) {
	err = l.database.QueryRow(ctx, `
		WITH entry AS (INSERT INTO ledger (run_id, step, language) VALUES ($1, $2, $3))
		SELECT count(*) + 1 FROM ledger WHERE run_id = $1 AND step = $2`, runID, step, language).Scan(&executions)
	return executions, err
}

// gate waits until the run's gate is open for this language. When its context ends
// before that, it writes down why.
func (l *ledger) gate(ctx context.Context, runID string) error {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		var open bool
		err := l.database.QueryRow(ctx, `SELECT EXISTS (SELECT FROM gates WHERE run_id = $1 AND language = $2)`, runID, language).Scan(&open)
		if ctx.Err() != nil {
			cause := context.Cause(ctx)
			_, err := l.enter(context.WithoutCancel(ctx), runID, "interrupted: "+cause.Error())
			if err != nil {
				return err
			}
			return cause
		}
		if open || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
