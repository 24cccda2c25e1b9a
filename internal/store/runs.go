package store

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// getRunsSQL reads the primary key.
var getRunsSQL = `
SELECT ` + runColumns + `
FROM {schema}.workflow_runs r
JOIN ` + idTable + ` ids USING (namespace_id, id)`

// runStatesSQL reads the primary key, and never a TOASTed input.
var runStatesSQL = shownRunColumns.Replace(getRunsSQL)

// GetRuns returns the runs by id. Those that do not exist are absent.
func (s *Store) GetRuns(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	return s.runsByID(ctx, getRunsSQL, ids)
}

// RunStates is GetRuns without the inputs, which may be a megabyte each, and with the beginning
// of other long values only, so that a status says the same. It is for callers that read many runs
// again and again.
func (s *Store) RunStates(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	return s.runsByID(ctx, runStatesSQL, ids)
}

func (s *Store) runsByID(ctx context.Context, sql string, ids []string) (map[string]*openworkflow.Run, error) {
	runs := make(map[string]*openworkflow.Run, len(ids))
	if ids = storableIDs(ids); len(ids) == 0 {
		return runs, nil
	}
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRun(row)
		runs[run.ID] = &run
		return err
	}, s.sql(sql), s.namespace, ids)
	if err != nil {
		return nil, Classify(err)
	}
	return runs, nil
}

// cancelSQL reads the primary key; lockRunsSQL has locked the runs (R42, R125).
var cancelSQL = `
UPDATE {schema}.workflow_runs r
SET status = 'canceled', worker_id = NULL, available_at = NULL, config = ` + configOf("r") + ` - ` + configResumeAt + `,
	finished_at = now(), updated_at = now()
FROM ` + idTable + ` ids
WHERE r.namespace_id = ids.namespace_id AND r.id = ids.id AND ` + isOpen("r")

const statusSQL = `
SELECT r.id, r.status FROM {schema}.workflow_runs r JOIN ` + idTable + ` ids USING (namespace_id, id)`

// CancelRuns cancels the runs that are open. It returns the status of each afterwards:
// canceled, or the one with which it had ended before. Runs that do not exist are absent.
// Parents that wait for them are woken in the same transaction; the caller notifies. A run that
// stays locked, or whose parent does, is not canceled, and fails the call with ErrLocked once
// the others are canceled.
func (s *Store) CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	statuses := make(map[string]openworkflow.RunStatus, len(ids))
	if ids = storableIDs(ids); len(ids) == 0 {
		return statuses, nil
	}
	err := apart(ctx, ids, func(ids []string, n int) error {
		var b sqlBatch
		s.queueLocks(&b, n, ids, ids)
		b.Queue(s.sql(cancelSQL), s.namespace, ids)
		b.Queue(s.sql(wakeParentsSQL), s.namespace, ids)
		b.collect(func(row pgx.CollectableRow) error {
			var id string
			var status openworkflow.RunStatus
			err := row.Scan(&id, &status)
			statuses[id] = status
			return err
		}, s.sql(statusSQL), s.namespace, ids)
		return s.send(ctx, &b)
	})
	if err != nil {
		return nil, Classify(err)
	}
	return statuses, nil
}

// expiredSQL reads operator_runs_deadline_idx and locks nothing.
const expiredSQL = `
SELECT id
FROM {schema}.workflow_runs
WHERE namespace_id = $1 AND deadline_at <= now() AND status IN (` + openStatuses + `)
ORDER BY deadline_at
LIMIT $2`

// failExpiredSQL reads the primary key, because of the CASE, see heldBy. lockRunsSQL has
// locked the runs, which may have ended before that (R42, R44).
var failExpiredSQL = `
UPDATE {schema}.workflow_runs r
SET status = 'failed', worker_id = NULL, available_at = NULL, config = ` + configOf("r") + ` - ` + configResumeAt + `,
	finished_at = now(), updated_at = now(), error = jsonb_build_object('message', $3::text)
FROM ` + idTable + ` ids
WHERE r.namespace_id = ids.namespace_id AND r.id = ids.id
	AND CASE WHEN r.status IN (` + openStatuses + `) THEN r.deadline_at <= now() ELSE false END
RETURNING r.id`

// FailExpired fails up to limit open runs whose deadline has passed, oldest deadline first,
// and returns their ids. It includes runs that a worker executes. Parents that wait for them
// are woken in the same transaction. The caller notifies, and calls again if limit runs were
// returned. A run that is locked, or whose parent is, is left to the next call.
func (s *Store) FailExpired(ctx context.Context, limit int) ([]string, error) {
	expired, err := s.queryIDs(ctx, s.sql(expiredSQL), s.namespace, limit)
	if err != nil || len(expired) == 0 {
		return nil, Classify(err)
	}
	var failed []string
	for n := 1; n <= skipTries; n++ {
		failed, err = s.failUnlocked(ctx, expired)
		if err == nil || !isConflict(err) || lockBackoff.Wait(ctx, n) != nil {
			break
		}
	}
	return failed, Classify(err)
}

// failUnlocked fails those of the runs that it can lock without waiting, with their parents.
func (s *Store) failUnlocked(ctx context.Context, expired []string) (failed []string, err error) {
	locked := map[string]bool{}
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var id string
		err := row.Scan(&id)
		locked[id] = true
		return err
	}, s.sql(lockedSQL), s.namespace, expired, expired)
	free := slices.DeleteFunc(slices.Clone(expired), func(id string) bool { return locked[id] })
	if err != nil || len(free) == 0 {
		return nil, err
	}
	var b sqlBatch
	b.Queue(s.sql(lockRunsNoWaitSQL), s.namespace, free, free)
	b.collect(func(row pgx.CollectableRow) error {
		var id string
		err := row.Scan(&id)
		failed = append(failed, id)
		return err
	}, s.sql(failExpiredSQL), s.namespace, free, openworkflow.DeadlineMessage)
	b.Queue(s.sql(wakeParentsSQL), s.namespace, free)
	if err := s.send(ctx, &b); err != nil {
		return nil, err
	}
	return failed, nil
}

// ObjectRun is an open run that mirrors a Kubernetes object.
type ObjectRun struct {
	RunID  string
	Object openworkflow.ObjectRef
}

// openObjectRunsSQL reads a range of operator_runs_object_idx.
const openObjectRunsSQL = `
SELECT r.id, r.context -> 'kubernetes'
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.context #>> '{kubernetes,cluster}' = $2 AND r.id > $3
	AND r.status IN (` + openStatuses + `)
	AND r.context #>> '{kubernetes,uid}' = r.id AND octet_length((r.context -> 'kubernetes')::text) <= ` + maxObjectRef + `
ORDER BY r.id
LIMIT $4`

// OpenObjectRuns returns up to limit open runs that mirror an object of the cluster and have
// its uid as their id. They come in the order of ids, after afterRunID, which is empty at
// first. A run to which an object attached by an idempotency key is not among them. Fewer than
// limit means that these were the last. A row whose context is of another shape, or names no object that
// there could be, counts for the page, with an Object that is not valid.
func (s *Store) OpenObjectRuns(ctx context.Context, cluster, afterRunID string, limit int) ([]ObjectRun, error) {
	var runs []ObjectRun
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var run ObjectRun
		var object json.RawMessage
		if err := row.Scan(&run.RunID, &object); err != nil {
			return err
		}
		if json.Unmarshal(object, &run.Object) != nil {
			run.Object = openworkflow.ObjectRef{} // of another shape than ours, and so not valid
		}
		runs = append(runs, run)
		return nil
	}, s.sql(openObjectRunsSQL), s.namespace, cluster, afterRunID, limit)
	return runs, Classify(err)
}
