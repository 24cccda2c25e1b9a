package store

import (
	"context"
	"math"
	"strings"
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
	// Locked says that another session has locked the run, which carries the worker id. The
	// lease was not extended. Nobody can claim the run before the lock ends.
	Locked bool
	// Status is the run's, whoever holds the run. It is empty when the run does not exist.
	Status openworkflow.RunStatus
	// Suspended asks the holder to park the run.
	Suspended  bool
	DeadlineAt *time.Time
}

// heartbeatTemplate finds runs by primary key and locks those that are held, in the order of
// their ids. It returns those.
var heartbeatTemplate = `
WITH lease AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.run_id, w.worker_id
	FROM unnest($2::text[], $3::text[]) w (run_id, worker_id)
), held AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM lease w
	JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
	WHERE ` + heldBy("w.worker_id") + `
	ORDER BY r.id
	FOR NO KEY UPDATE OF r {wait}
)
UPDATE {schema}.workflow_runs r
SET available_at = now() + $4::interval, updated_at = now()
FROM held h
WHERE r.namespace_id = h.namespace_id AND r.id = h.id
RETURNING r.id, r.worker_id, ` + isSuspended("r") + `, r.deadline_at`

// heartbeatSQL skips locked runs. heartbeatAloneSQL, for one lease, waits.
var (
	heartbeatSQL      = strings.ReplaceAll(heartbeatTemplate, "{wait}", "SKIP LOCKED")
	heartbeatAloneSQL = strings.ReplaceAll(heartbeatTemplate, "{wait}", "")
)

// Heartbeat extends the leases that are still held to d from now. It returns the state of each
// lease, in the same order. A locked run delays none of the others. For a single lease, the
// call waits for the lock until ctx is about to end, so that the lease is extended before
// anybody can claim the run.
func (s *Store) Heartbeat(ctx context.Context, leases []openworkflow.Lease, d time.Duration) ([]LeaseState, error) {
	if len(leases) == 0 {
		return nil, nil
	}
	runIDs, workerIDs := make([]string, len(leases)), make([]string, len(leases))
	for i, l := range leases {
		runIDs[i], workerIDs[i] = l.RunID, l.WorkerID
	}
	held := make(map[openworkflow.Lease]LeaseState, len(leases))
	add := func(row pgx.CollectableRow) error {
		state := LeaseState{Held: true, Status: openworkflow.RunRunning}
		err := row.Scan(&state.RunID, &state.WorkerID, &state.Suspended, &state.DeadlineAt)
		held[state.Lease] = state
		return err
	}
	var b sqlBatch
	sql := heartbeatSQL
	if len(leases) == 1 {
		b.waitForLocks(untilEnd(ctx))
		sql = heartbeatAloneSQL
	}
	b.collect(add, s.sql(sql), s.namespace, runIDs, workerIDs, d)
	if err := s.send(ctx, &b); err != nil && !isConflict(err) {
		return nil, Classify(err)
	}
	states := make([]LeaseState, len(leases))
	for i, l := range leases {
		states[i] = held[l]
		states[i].Lease = l
	}
	return states, s.describeLost(ctx, states)
}

// describeLost fills in the states of leases that were not extended from the rows.
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
			states[i].Locked = run.Status == openworkflow.RunRunning && run.WorkerID != nil && *run.WorkerID == states[i].WorkerID
		}
	}
	return nil
}

// ReleaseRequest says whose leases ReleaseLeases ends, and why.
type ReleaseRequest struct {
	// PodUID is the uid of the pod with which the worker ids begin.
	PodUID string
	// ExceptProcess is a process of the pod whose leases stay. Empty means none.
	ExceptProcess string
	// Died says that the worker's process died while its pod lives on, so that one of its runs
	// may have killed it. The death then counts for each of them.
	Died bool
	// MaxDeaths is the number of deaths at which a worker fails a run. A run that has reached
	// it is due at once. 0 means none.
	MaxDeaths int
}

// ReleasedRun is a run whose lease was ended.
type ReleasedRun struct {
	ID string
	// Deaths is how many processes in a row have now died while they executed the run. It is 0
	// when the death did not count.
	Deaths int
}

// releaseSQL reads a range of operator_runs_lease_idx: the worker ids from prefix "uid." up to
// "uid/", which follows it. Both are bounds, not patterns, so no character of a uid is
// special. It skips locked runs. It returns the ids that it found, and whether it released
// them, with the number of deaths. Only if the death counts and was not the first one does it
// look for progress.
var releaseSQL = `
WITH held AS MATERIALIZED (
	SELECT r.namespace_id, r.id, r.worker_id
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status = 'running' AND r.worker_id IS NOT NULL
		AND r.worker_id ~>=~ ($2 || '.') AND r.worker_id ~<~ ($2 || '/')
		AND ($3 = '' OR NOT starts_with(r.worker_id, $2 || '.' || $3 || '.'))
), free AS MATERIALIZED (
	SELECT r.namespace_id, r.id, CASE
		WHEN NOT $4::bool THEN 0
		WHEN ` + deathCount("r") + ` > 0 AND NOT ` + madeProgress("r") + ` THEN ` + deathCount("r") + ` + 1
		ELSE 1
	END AS deaths
	FROM held h
	JOIN {schema}.workflow_runs r USING (namespace_id, id)
	WHERE ` + heldBy("h.worker_id") + `
	FOR NO KEY UPDATE OF r SKIP LOCKED
), due AS (
	SELECT f.*, now() + CASE
		WHEN f.deaths = 0 OR f.deaths >= $5::int THEN interval '0'
		ELSE ($6::interval[])[least(f.deaths, cardinality($6::interval[]))]
	END AS at
	FROM free f
), released AS (
	UPDATE {schema}.workflow_runs r
	SET worker_id    = NULL,
		available_at = CASE WHEN NOT ` + isSuspended("r") + ` THEN due.at END,
		config       = CASE
			WHEN due.deaths = 0 AND NOT ` + isSuspended("r") + ` THEN r.config
			ELSE ` + configOf("r") + ` || CASE
				WHEN ` + isSuspended("r") + ` THEN ` + timeEntry(configResumeAt, "due.at") + `
				ELSE '{}'
			END || CASE
				WHEN due.deaths > 0 THEN jsonb_build_object(` + configDeaths + `, due.deaths) || ` + timeEntry(configDiedAt, "now()") + `
				ELSE '{}'
			END
		END,
		updated_at   = now()
	FROM due
	WHERE r.namespace_id = due.namespace_id AND r.id = due.id
)
SELECT f.id, true, f.deaths
FROM free f
UNION ALL
SELECT h.id, false, 0
FROM held h
WHERE h.id NOT IN (SELECT id FROM free)`

// ReleaseLeases ends the leases of a pod's uid, and makes the runs due now or, after several
// deaths, a while later (openworkflow.DeathDelay). It returns the runs; the caller notifies. A
// run that stays locked for longer than a transaction of a worker keeps its lease, which ends
// by itself.
//
// The statement locks and writes what it releases, as before deaths were counted. A counted
// death reads the step attempts of those of its runs that had one before.
func (s *Store) ReleaseLeases(ctx context.Context, r ReleaseRequest) ([]ReleasedRun, error) {
	bound := r.MaxDeaths
	if bound <= 0 {
		bound = math.MaxInt32
	}
	var released []ReleasedRun
	err := s.untilUnlocked(ctx, func(row pgx.CollectableRow) (done bool, err error) {
		var run ReleasedRun
		if err = row.Scan(&run.ID, &done, &run.Deaths); done {
			released = append(released, run)
		}
		return done, err
	}, s.sql(releaseSQL), s.namespace, r.PodUID, r.ExceptProcess, r.Died, bound, openworkflow.DeathDelays())
	return released, Classify(err)
}

// skipTries bounds the repetitions of untilUnlocked, which together take less than 200 ms.
const skipTries = 6

// skipLocked runs a statement that returns the ids of the rows it found, and whether it has
// changed them. It repeats it as untilUnlocked does, and returns the ids of those that were
// changed.
func (s *Store) skipLocked(ctx context.Context, sql string, args ...any) (changed []string, err error) {
	err = s.untilUnlocked(ctx, func(row pgx.CollectableRow) (done bool, err error) {
		var id string
		if err = row.Scan(&id, &done); done {
			changed = append(changed, id)
		}
		return done, err
	}, sql, args...)
	return changed, err
}

// untilUnlocked runs a statement that skips locked rows. It calls scan with each row of the
// answer, which reports whether the row was changed. It repeats the statement while rows are
// skipped, a few times.
func (s *Store) untilUnlocked(ctx context.Context, scan func(pgx.CollectableRow) (done bool, err error), sql string, args ...any) error {
	for n := 1; ; n++ {
		skipped := false
		err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
			done, err := scan(row)
			skipped = skipped || !done
			return err
		}, sql, args...)
		if err != nil || !skipped || n == skipTries {
			return err
		}
		if err := lockBackoff.Wait(ctx, n); err != nil {
			return err
		}
	}
}

// suspendSQL leaves the lease of a run that a worker executes. The worker learns of the
// suspension by Heartbeat. Primary key. It waits for no lock.
var suspendSQL = `
WITH open AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM {schema}.workflow_runs r
	JOIN ` + idTable + ` ids USING (namespace_id, id)
	WHERE ` + isOpen("r") + ` AND NOT ` + isSuspended("r") + `
	FOR NO KEY UPDATE OF r NOWAIT
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
	return s.countApart(ctx, s.sql(suspendSQL), ids)
}

// resumeSQL takes the earlier of the two instants: an OpenWorkflow client that woke the run
// meanwhile has set available_at.
var resumeSQL = `
WITH suspended AS MATERIALIZED (
	SELECT r.namespace_id, r.id
	FROM {schema}.workflow_runs r
	JOIN ` + idTable + ` ids USING (namespace_id, id)
	WHERE ` + isOpen("r") + ` AND ` + isSuspended("r") + `
	FOR NO KEY UPDATE OF r NOWAIT
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
	return s.countApart(ctx, s.sql(resumeSQL), ids)
}

// queryIDs runs a query that returns one text for each row.
// countApart runs a statement that changes the runs $2, so that a locked one delays no other.
// It returns how many were changed.
func (s *Store) countApart(ctx context.Context, sql string, ids []string) (n int, err error) {
	if ids = storableIDs(ids); len(ids) == 0 {
		return 0, nil
	}
	err = apart(ctx, ids, func(ids []string, _ int) error {
		changed, err := s.queryIDs(ctx, sql, s.namespace, ids)
		n += len(changed)
		return err
	})
	return n, Classify(err)
}

func (s *Store) queryIDs(ctx context.Context, sql string, args ...any) ([]string, error) {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
