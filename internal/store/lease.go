package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// LeaseState is the state of one lease, as Heartbeat found it.
type LeaseState struct {
	openworkflow.Lease
	// Held is false when the run no longer carries the worker id. The lease was not extended
	// then.
	Held bool
	// Status is the run's, whoever holds the run. It is empty when the run does not exist.
	Status openworkflow.RunStatus
	// Suspended asks the holder to park the run.
	Suspended  bool
	DeadlineAt *time.Time
}

// heartbeatSQL finds runs by primary key and locks those that are held, in the order of their
// ids. It returns those.
var heartbeatSQL = `
WITH lease AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.run_id, w.worker_id
	FROM unnest($2::text[], $3::text[]) w (run_id, worker_id)
), held AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM lease w
	JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
	WHERE ` + heldBy("w.worker_id") + `
	ORDER BY r.id
	FOR NO KEY UPDATE OF r
)
UPDATE {schema}.workflow_runs r
SET available_at = now() + $4::interval, updated_at = now()
FROM held h
WHERE r.namespace_id = h.namespace_id AND r.id = h.id
RETURNING r.id, r.worker_id, ` + isSuspended("r") + `, r.deadline_at`

// Heartbeat extends the leases that are still held to d from now. It returns the state of each
// lease, in the same order.
func (s *Store) Heartbeat(ctx context.Context, leases []openworkflow.Lease, d time.Duration) ([]LeaseState, error) {
	if len(leases) == 0 {
		return nil, nil
	}
	runIDs, workerIDs := make([]string, len(leases)), make([]string, len(leases))
	for i, l := range leases {
		runIDs[i], workerIDs[i] = l.RunID, l.WorkerID
	}
	held := make(map[openworkflow.Lease]LeaseState, len(leases))
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		state := LeaseState{Held: true, Status: openworkflow.RunRunning}
		err := row.Scan(&state.RunID, &state.WorkerID, &state.Suspended, &state.DeadlineAt)
		held[state.Lease] = state
		return err
	}, s.sql(heartbeatSQL), s.namespace, runIDs, workerIDs, d)
	if err != nil {
		return nil, Classify(err)
	}
	states := make([]LeaseState, len(leases))
	for i, l := range leases {
		states[i] = held[l]
		states[i].Lease = l
	}
	return states, s.describeLost(ctx, states)
}

// describeLost fills in the states of lost leases from the rows.
func (s *Store) describeLost(ctx context.Context, states []LeaseState) error {
	var lost []string
	for _, state := range states {
		if !state.Held {
			lost = append(lost, state.RunID)
		}
	}
	if len(lost) == 0 {
		return nil
	}
	runs, err := s.RunStates(ctx, lost)
	if err != nil {
		return err
	}
	for i := range states {
		if run := runs[states[i].RunID]; run != nil && !states[i].Held {
			states[i].Status, states[i].Suspended, states[i].DeadlineAt = run.Status, run.SuspendedAt != nil, run.DeadlineAt
		}
	}
	return nil
}

// releaseSQL reads a range of operator_runs_lease_idx: the worker ids from prefix "uid." up to
// "uid/", which follows it. Both are bounds, not patterns, so no character of a uid is
// special. Runs are locked in the order of their ids.
var releaseSQL = `
WITH held AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status = 'running' AND r.worker_id IS NOT NULL
		AND r.worker_id ~>=~ ($2 || '.') AND r.worker_id ~<~ ($2 || '/')
		AND ($3 = '' OR NOT starts_with(r.worker_id, $2 || '.' || $3 || '.'))
	ORDER BY r.id
	FOR NO KEY UPDATE
)
UPDATE {schema}.workflow_runs r
SET worker_id    = NULL,
	` + makeDue("r") + `
FROM held h
WHERE r.namespace_id = h.namespace_id AND r.id = h.id
RETURNING r.id`

// ReleaseLeases ends the leases of a pod's uid, and makes the runs due now. It spares those of
// the process exceptProcess, if that is not empty. It returns the runs' ids; the caller
// notifies.
func (s *Store) ReleaseLeases(ctx context.Context, podUID, exceptProcess string) ([]string, error) {
	ids, err := s.queryIDs(ctx, s.sql(releaseSQL), s.namespace, podUID, exceptProcess)
	return ids, Classify(err)
}

// suspendSQL leaves the lease of a run that a worker executes. The worker learns of the
// suspension by Heartbeat. Primary key, locks in the order of ids.
var suspendSQL = `
WITH open AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM {schema}.workflow_runs r
	JOIN ` + idTable + ` ids USING (namespace_id, id)
	WHERE ` + isOpen("r") + ` AND NOT ` + isSuspended("r") + `
	ORDER BY r.id
	FOR NO KEY UPDATE OF r
)
UPDATE {schema}.workflow_runs r
SET config       = (` + configOf("r") + ` - ` + configResumeAt + `) || ` + timeEntry(configSuspendedAt, "now()") + ` ||
		CASE WHEN r.worker_id IS NULL AND r.available_at IS NOT NULL
			THEN ` + timeEntry(configResumeAt, "r.available_at") + `
			ELSE '{}'
		END,
	available_at = CASE WHEN r.worker_id IS NULL THEN NULL ELSE r.available_at END,
	updated_at   = now()
FROM open o
WHERE r.namespace_id = o.namespace_id AND r.id = o.id
RETURNING r.id`

// SuspendRuns keeps open runs from being claimed, by workers of either language, until
// ResumeRuns. It returns how many it suspended. It leaves alone runs that are suspended
// already, have ended, or do not exist.
func (s *Store) SuspendRuns(ctx context.Context, ids []string) (int, error) {
	suspended, err := s.queryIDs(ctx, s.sql(suspendSQL), s.namespace, ids)
	return len(suspended), Classify(err)
}

// resumeSQL takes the earlier of the two instants: an OpenWorkflow client that woke the run
// meanwhile has set available_at.
var resumeSQL = `
WITH suspended AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM {schema}.workflow_runs r
	JOIN ` + idTable + ` ids USING (namespace_id, id)
	WHERE ` + isOpen("r") + ` AND ` + isSuspended("r") + `
	ORDER BY r.id
	FOR NO KEY UPDATE OF r
)
UPDATE {schema}.workflow_runs r
SET config       = ` + configOf("r") + ` - ` + configSuspendedAt + ` - ` + configResumeAt + `,
	available_at = CASE
		WHEN r.worker_id IS NULL THEN coalesce(least(r.available_at, ` + configTime("r", configResumeAt) + `), now())
		ELSE r.available_at
	END,
	updated_at   = now()
FROM suspended o
WHERE r.namespace_id = o.namespace_id AND r.id = o.id
RETURNING r.id`

// ResumeRuns undoes SuspendRuns: each run is due when it would have been. It returns how many
// it resumed; the caller notifies.
func (s *Store) ResumeRuns(ctx context.Context, ids []string) (int, error) {
	resumed, err := s.queryIDs(ctx, s.sql(resumeSQL), s.namespace, ids)
	return len(resumed), Classify(err)
}

// queryIDs runs a query that returns one text for each row.
func (s *Store) queryIDs(ctx context.Context, sql string, args ...any) ([]string, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
