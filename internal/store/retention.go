package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Bounds of one transaction of RemoveRuns. Both count, because it deletes the attempts of a
// run row by row.
const (
	removeRuns     = 500
	removeAttempts = 5000
)

// Retention says how long ago something must have ended to be removed.
type Retention struct {
	// After is for runs without a key. OpenWorkflow's clients find a run by its key for 24
	// hours after its creation (R51), so it must not be less.
	After time.Duration
	// KeyedAfter is for runs and deliveries that hold a key: an idempotency key, or an id that
	// is no UUID, so that somebody has chosen it. 0 keeps them for ever. The keys that
	// OpenWorkflow itself makes, for children and sent signals, do not count: they matter only
	// while their run is open.
	KeyedAfter time.Duration
	// Archive stores runs in an archive before they are removed.
	Archive bool
	// ArchivesFor is for how long archives are kept. 0 keeps them for ever.
	ArchivesFor time.Duration
}

// EndedRun is a run that may be removed according to its own row.
type EndedRun struct {
	ID string
	// Keyed says that the run is subject to KeyedAfter.
	Keyed bool
	// Object is the Kubernetes object that the run mirrors, nil for none. It is empty for a
	// reference of another shape than ours.
	Object *openworkflow.ObjectRef
}

// keyedRun says that the run r holds a key. Children have keys of OpenWorkflow's (R98c), and
// generated ids are UUIDs (R4).
const keyedRun = `(
		r.idempotency_key IS NOT NULL AND NOT starts_with(r.idempotency_key, '` + openworkflow.ChildKeyPrefix + `' || r.namespace_id || ':')
		OR r.id !~ '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'
	)`

// removableRun says that the ended run r ended $2 ago, or $3 ago if it is keyed. updated_at is
// the end of an ended run by the server's clock; finished_at may be by a worker's (R7). NULL
// in $3 means never.
const removableRun = `coalesce(r.updated_at < now() - CASE WHEN r.keyed THEN $3::interval ELSE $2::interval END, false)`

// endedRunsSQL reads, for each status, a range of workflow_runs_status_created_at_desc_idx
// from its oldest run. It reads nothing when no run is old enough, because no run ends before
// it is created. It locks nothing.
const endedRunsSQL = `
SELECT r.created_at, r.id, r.keyed, ` + removableRun + `, r.object
FROM (
	SELECT r.created_at, r.id, r.updated_at, ` + keyedRun + ` AS keyed,
		CASE
			WHEN octet_length((r.context -> 'kubernetes')::text) > ` + maxObjectRef + ` THEN '{}'
			ELSE r.context -> 'kubernetes'
		END AS object
	FROM (
		SELECT r.*
		FROM unnest(ARRAY[` + endedStatuses + `]) s (status)
		CROSS JOIN LATERAL (
			SELECT r.namespace_id, r.id, r.created_at, r.updated_at, r.idempotency_key, r.context
			FROM {schema}.workflow_runs r
			WHERE r.namespace_id = $1 AND r.status = s.status AND r.created_at < now() - $2::interval
				AND (r.created_at, r.id) > ($4::timestamptz, $5::text)
			ORDER BY r.created_at, r.id
			LIMIT $6
		) r
		ORDER BY r.created_at, r.id
		LIMIT $6
	) r
	OFFSET 0
) r
ORDER BY r.created_at, r.id`

// EndedRuns reads up to limit of the oldest ended runs after a cursor, which is zero at first.
// It returns those that may be removed, and the cursor of the last run that it read; the zero
// cursor means that there are no more. So a caller passes the runs that have to stay, and
// reads them again in each round.
func (s *Store) EndedRuns(
	ctx context.Context, r Retention, after openworkflow.Cursor, limit int,
) (runs []EndedRun, next openworkflow.Cursor, err error) {
	seen := 0
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var run EndedRun
		var due bool
		var object json.RawMessage
		if err := row.Scan(&next.CreatedAt, &next.ID, &run.Keyed, &due, (*jsonColumn)(&object)); err != nil {
			return err
		}
		seen++
		if !due {
			return nil
		}
		run.ID = next.ID
		if object != nil {
			run.Object = &openworkflow.ObjectRef{}
			if json.Unmarshal(object, run.Object) != nil {
				run.Object = &openworkflow.ObjectRef{}
			}
		}
		runs = append(runs, run)
		return nil
	}, s.sql(endedRunsSQL), s.namespace, r.After, nullInterval(r.KeyedAfter), after.CreatedAt, after.ID, limit)
	if err != nil {
		return nil, openworkflow.Cursor{}, Classify(err)
	}
	if seen < limit {
		next = openworkflow.Cursor{}
	}
	return runs, next, nil
}

// sizesSQL counts the attempts of each run, in the order of $2. Reads an index of
// step_attempts that begins with the run.
const sizesSQL = `
SELECT (SELECT count(*) FROM {schema}.step_attempts a WHERE a.namespace_id = ids.namespace_id AND a.workflow_run_id = ids.id)
FROM (SELECT $1::text AS namespace_id, id, n FROM unnest($2::text[]) WITH ORDINALITY ids (id, n) OFFSET 0) ids
ORDER BY ids.n`

// lockEndedSQL locks those of the runs $4 that may be removed, in the order of their ids. It
// skips runs that another process has locked, so it waits for no lock. A run's children are
// removed before the run, but not while it is open, because it reads their outcome from their
// rows (R98d). Either row may have the link between them (R98c). So removing a run changes no
// other run's row, which another process might have locked. Primary keys,
// step_attempts_workflow_run_created_at_idx, step_attempts_child_workflow_run_idx and
// workflow_runs_parent_step_idx.
var lockEndedSQL = `
SELECT r.id
FROM (SELECT DISTINCT $1::text AS namespace_id, unnest($4::text[]) AS id) ids
JOIN {schema}.workflow_runs r USING (namespace_id, id)
WHERE r.status IN (` + endedStatuses + `) AND ` + strings.Replace(removableRun, "r.keyed", keyedRun, 1) + `
	AND NOT EXISTS (
		SELECT
		FROM {schema}.step_attempts a
		JOIN {schema}.workflow_runs p ON p.namespace_id = a.namespace_id AND p.id = a.workflow_run_id
		WHERE a.namespace_id = r.parent_step_attempt_namespace_id AND a.id = r.parent_step_attempt_id
			AND p.status NOT IN (` + endedStatuses + `)
		OFFSET 0
	)
	AND NOT EXISTS (
		SELECT
		FROM {schema}.step_attempts a
		JOIN {schema}.workflow_runs p ON p.namespace_id = a.namespace_id AND p.id = a.workflow_run_id
		WHERE a.child_workflow_run_namespace_id = r.namespace_id AND a.child_workflow_run_id = r.id
			AND p.status NOT IN (` + endedStatuses + `)
		OFFSET 0
	)
	AND NOT EXISTS (
		SELECT
		FROM {schema}.step_attempts a
		CROSS JOIN LATERAL (
			SELECT
			FROM {schema}.workflow_runs c
			WHERE c.parent_step_attempt_namespace_id = a.namespace_id AND c.parent_step_attempt_id = a.id
			OFFSET 0
		) c
		WHERE a.namespace_id = r.namespace_id AND a.workflow_run_id = r.id
		OFFSET 0
	)
ORDER BY r.id
FOR UPDATE OF r SKIP LOCKED`

// removableDelivery says that the delivery d, whose run is gone or about to go, is no longer
// needed. A sender's key identifies its deliveries for ever (R105), so they stay for $3, or
// for ever if that is NULL. A step that sends has a key of OpenWorkflow's, which contains the
// id of its run (R99a), and needs it only while that run is open.
const removableDelivery = `CASE
		WHEN d.sender_idempotency_key IS NULL THEN true
		WHEN starts_with(d.sender_idempotency_key, '` + openworkflow.SignalKeyPrefix + `') THEN NOT EXISTS (
			SELECT
			FROM {schema}.workflow_runs p
			WHERE p.namespace_id = d.namespace_id AND p.id = split_part(d.sender_idempotency_key, ':', 2)
				AND p.status NOT IN (` + endedStatuses + `)
			OFFSET 0
		)
		ELSE coalesce(d.created_at < now() - $3::interval, false)
	END`

// removeDeliveriesSQL removes the signals that were delivered to the runs $2. Deliveries have
// no foreign key (R2), so they are found by the attempts that waited. Reads
// step_attempts_workflow_run_created_at_idx and workflow_signals_step_attempt_idx.
const removeDeliveriesSQL = `
DELETE FROM {schema}.workflow_signals d
USING ` + idTable + ` ids
JOIN {schema}.step_attempts a ON a.namespace_id = ids.namespace_id AND a.workflow_run_id = ids.id
WHERE a.kind = 'signal-wait' AND d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id
	AND ` + removableDelivery

// removeApprovalsSQL removes what the runs $2 have asked. A range of the primary key for each run.
const removeApprovalsSQL = `
DELETE FROM {schema}.operator_approvals p
USING ` + idTable + ` ids
WHERE p.namespace_id = ids.namespace_id AND p.run_id = ids.id`

// removeRunsSQL removes the runs $2, which lockEndedSQL has locked. Foreign keys remove their
// attempts (R2). Primary key; the foreign keys read the indexes of links.
const removeRunsSQL = `
DELETE FROM {schema}.workflow_runs r
USING ` + idTable + ` ids
WHERE r.namespace_id = ids.namespace_id AND r.id = ids.id`

// Removed counts what was removed.
type Removed struct {
	Runs, Deliveries int
	// Archived are those of the runs that were archived.
	Archived int
	// TooLarge are runs that stay because they cannot be archived: they have more than 64 MiB, or a
	// row of more than 16 MiB.
	TooLarge int
}

// RemoveRuns takes as many of the first runs as fit into one small transaction. Of these it
// removes the runs that ended long enough ago, with their step attempts, their approvals and the
// signals delivered to them. Runs with children, children of open runs, and runs that another process
// has locked stay. With Archive, it stores them in the same transaction. Rest are the runs that it has not taken: call again with these.
func (s *Store) RemoveRuns(ctx context.Context, r Retention, ids []string) (removed Removed, rest []string, err error) {
	if len(ids) == 0 {
		return Removed{}, nil, nil
	}
	batch := archiveBatch{}
	first := ids[:min(len(ids), removeRuns)]
	if r.Archive {
		batch, err = s.countArchivable(ctx, first)
	} else {
		batch.runs, err = s.countFitting(ctx, first)
	}
	if err != nil {
		return Removed{}, ids, Classify(err)
	}
	if batch.tooLarge {
		return Removed{TooLarge: 1}, ids[1:], nil
	}
	err = pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
		removed, err = s.removeRuns(ctx, tx, r, ids[:batch.runs], batch.large)
		return err
	})
	if err != nil {
		return Removed{}, ids, Classify(err)
	}
	return removed, ids[batch.runs:], nil
}

// countFitting returns how many of the runs fit into a transaction, at least one.
func (s *Store) countFitting(ctx context.Context, ids []string) (n int, err error) {
	attempts := 0
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var has int
		if err := row.Scan(&has); err != nil {
			return err
		}
		if attempts += has; n == 0 || attempts <= removeAttempts {
			n++
		}
		return nil
	}, s.sql(sizesSQL), s.namespace, ids)
	return n, err
}

func (s *Store) removeRuns(ctx context.Context, tx pgx.Tx, r Retention, ids []string, large bool) (Removed, error) {
	rows, err := tx.Query(ctx, s.sql(lockEndedSQL), s.namespace, r.After, nullInterval(r.KeyedAfter), ids)
	if err != nil {
		return Removed{}, err
	}
	locked, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(locked) == 0 {
		return Removed{}, err
	}
	archived := 0
	if r.Archive {
		if err := s.archive(ctx, tx, locked, large); err != nil {
			return Removed{}, fmt.Errorf("archive %d runs: %w", len(locked), err)
		}
		archived = len(locked)
	}
	deliveries, err := tx.Exec(ctx, s.sql(removeDeliveriesSQL), s.namespace, locked, nullInterval(r.KeyedAfter))
	if err != nil {
		return Removed{}, err
	}
	for _, sql := range []string{removeApprovalsSQL, removeStatesSQL} {
		if _, err := tx.Exec(ctx, s.sql(sql), s.namespace, locked); err != nil {
			return Removed{}, err
		}
	}
	runs, err := tx.Exec(ctx, s.sql(removeRunsSQL), s.namespace, locked)
	return Removed{Runs: int(runs.RowsAffected()), Deliveries: int(deliveries.RowsAffected()), Archived: archived}, err
}

// strayDeliveriesSQL reads the $5 deliveries that follow the id $4 and removes those whose run
// is gone. It returns the last id, or the empty string when there were fewer, and how many it
// removed. It reads a range of the primary key, and the primary key of runs. Nothing else
// locks deliveries.
const strayDeliveriesSQL = `
WITH page AS MATERIALIZED (
	SELECT d.namespace_id, d.id
	FROM {schema}.workflow_signals d
	WHERE d.namespace_id = $1 AND d.id > $4
	ORDER BY d.id
	LIMIT $5
), removed AS (
	DELETE FROM {schema}.workflow_signals d
	USING page
	WHERE d.namespace_id = page.namespace_id AND d.id = page.id AND d.created_at < now() - $2::interval
		AND NOT EXISTS (
			SELECT
			FROM {schema}.workflow_runs r
			WHERE r.namespace_id = d.namespace_id AND r.id = d.workflow_run_id
			OFFSET 0
		)
		AND ` + removableDelivery + `
	RETURNING d.id
)
SELECT (SELECT CASE WHEN count(*) = $5 THEN max(page.id) ELSE '' END FROM page), (SELECT count(*) FROM removed)`

// RemoveStrayDeliveries reads up to limit deliveries after an id, empty at first, and removes
// those whose run is gone: they arrived while it was removed, were kept for their key, or the
// run was deleted by hand. It returns the id to continue after, empty at the end.
func (s *Store) RemoveStrayDeliveries(
	ctx context.Context, r Retention, after string, limit int,
) (next string, removed int, err error) {
	err = s.pool.QueryRow(ctx, s.sql(strayDeliveriesSQL),
		s.namespace, r.After, nullInterval(r.KeyedAfter), after, limit).Scan(&next, &removed)
	return next, removed, Classify(err)
}
