package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ForeignClaim is a run that a worker of OpenWorkflow's holds. Its worker id says nothing about
// its pod or process (R54).
type ForeignClaim struct {
	openworkflow.Lease
	// Attempts counts claims (R9).
	Attempts  int
	StartedAt *time.Time
	// SeenAt is the server's time, and LeaseEnd when the lease ends by the same clock.
	SeenAt, LeaseEnd time.Time
}

// foreignSQL reads operator_runs_lease_idx: all runs that workers of either kind hold. Ids of
// our workers have a dot.
const foreignSQL = `
SELECT r.id, r.worker_id, r.attempts, r.started_at, now(), r.available_at
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.status = 'running' AND r.worker_id IS NOT NULL
	AND position('.' IN r.worker_id) = 0 AND r.available_at IS NOT NULL
LIMIT $2`

// ForeignClaims lists up to limit runs that workers of OpenWorkflow's hold, in no order. It
// locks nothing.
func (s *Store) ForeignClaims(ctx context.Context, limit int) ([]ForeignClaim, error) {
	var claims []ForeignClaim
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var c ForeignClaim
		err := row.Scan(&c.RunID, &c.WorkerID, &c.Attempts, &c.StartedAt, &c.SeenAt, &c.LeaseEnd)
		claims = append(claims, c)
		return err
	}, s.sql(foreignSQL), s.namespace, limit)
	return claims, Classify(err)
}

// countTakeoverSQL finds the run by its primary key. It skips a locked run.
var countTakeoverSQL = `
WITH held AS MATERIALIZED (
	SELECT r.namespace_id, r.id, CASE
		WHEN ` + deathCount("r") + ` > 0 AND NOT ` + madeProgress("r") + ` THEN ` + deathCount("r") + ` + 1
		ELSE 1
	END AS deaths
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.id = $2 AND ` + heldBy("$3") + ` AND NOT ` + progressSince("r", "$4::timestamptz") + `
	FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE {schema}.workflow_runs r
SET worker_id  = CASE WHEN h.deaths >= $5::int THEN $6 ELSE r.worker_id END,
	config     = ` + configOf("r") + ` || jsonb_build_object(` + configDeaths + `, h.deaths) || ` + timeEntry(configDiedAt, "now()") + `,
	updated_at = now()
FROM held h
WHERE r.namespace_id = h.namespace_id AND r.id = h.id
RETURNING h.deaths`

// CountTakeover counts the death of the worker that held a run before this lease, and returns
// how many there were in a row. From so many deaths on that the run must not go on under this lease, it gives
// the lease to another worker id, of the caller. It returns 0, and changes nothing, if the run
// has made progress since the instant, is locked, or is not held any more.
func (s *Store) CountTakeover(ctx context.Context, lease openworkflow.Lease, since time.Time, from int, workerID string) (deaths int, err error) {
	err = s.pool.QueryRow(ctx, s.sql(countTakeoverSQL), s.namespace, lease.RunID, lease.WorkerID, since, from, workerID).Scan(&deaths)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	return deaths, Classify(err)
}
