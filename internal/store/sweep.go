package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Swept is the result of one Sweep.
type Swept struct {
	// Ran is false when another process has swept lately. This call did nothing then.
	Ran bool
	// Expired are the runs that were failed at their deadline.
	Expired []string
	// Rescued are the parked runs that were made due because their wait has a result.
	Rescued []string
}

// startSweepSQL returns the cursor of the last sweep, or no row when that started less
// than $2 ago. A start further in the future is from before the server's clock was set
// back. Primary key.
const startSweepSQL = `
INSERT INTO {schema}.operator_sweeps AS s (namespace_id, swept_at, after_id)
SELECT $1, now(), ''
WHERE NOT EXISTS (
	SELECT
	FROM {schema}.operator_sweeps s
	WHERE s.namespace_id = $1 AND s.swept_at > now() - $2::interval AND s.swept_at < now() + $2::interval
)
ON CONFLICT (namespace_id) DO UPDATE
SET swept_at = excluded.swept_at
WHERE NOT (s.swept_at > now() - $2::interval AND s.swept_at < now() + $2::interval)
RETURNING after_id`

// sweepWaitsSQL reads the $3 waiting attempts that follow the id $2. It returns the id of the
// last of them, or the empty string when there were fewer, and the runs of those whose wait
// has a result. It locks nothing. Reads a range of operator_attempts_waiting_idx, and primary
// keys.
const sweepWaitsSQL = `
WITH a AS MATERIALIZED (
	SELECT a.namespace_id, a.id, a.workflow_run_id, a.kind, a.status, a.child_workflow_run_namespace_id, a.child_workflow_run_id
	FROM {schema}.step_attempts a
	WHERE a.namespace_id = $1 AND a.id > $2 AND a.status = 'running' AND a.kind IN ('workflow', 'signal-wait')
	ORDER BY a.id
	LIMIT $3
)
SELECT CASE WHEN count(*) = $3 THEN max(a.id) ELSE '' END,
	coalesce(array_agg(DISTINCT a.workflow_run_id) FILTER (WHERE ` + hasWaitResult + `), '{}')
FROM a`

const saveSweepSQL = `UPDATE {schema}.operator_sweeps SET after_id = $2 WHERE namespace_id = $1`

// Sweep fails expired runs as FailExpired does, and makes due the parked runs whose wait has a
// result (rescues them). Usually both happen at once. Sweep makes up for a process that died
// in between, and for OpenWorkflow's, which end a child and wake its parent in two
// transactions (R171).
//
// Any number of processes may call it at any rate. When the namespace's last sweep is older
// than every, the first call sweeps and the others do nothing. A sweep reads at most limit
// expired runs and at most limit waiting steps. The next one continues after those. The caller
// notifies.
func (s *Store) Sweep(ctx context.Context, every time.Duration, limit int) (Swept, error) {
	var swept Swept
	var after string
	switch err := s.pool.QueryRow(ctx, s.sql(startSweepSQL), s.namespace, every).Scan(&after); {
	case errors.Is(err, pgx.ErrNoRows):
		return swept, nil
	case err != nil:
		return swept, Classify(err)
	}
	swept.Ran = true
	var err error
	if swept.Expired, err = s.FailExpired(ctx, limit); err != nil {
		return swept, err
	}
	var resolved []string
	if err := s.pool.QueryRow(ctx, s.sql(sweepWaitsSQL), s.namespace, after, limit).Scan(&after, &resolved); err != nil {
		return swept, Classify(err)
	}
	if len(resolved) > 0 {
		if swept.Rescued, err = s.skipLocked(ctx, s.sql(wakeParkedSQL), s.namespace, resolved); err != nil {
			return swept, Classify(err)
		}
	}
	_, err = s.pool.Exec(ctx, s.sql(saveSweepSQL), s.namespace, after)
	return swept, Classify(err)
}
