package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ErrLocked means that another session held the lock of a row for longer than the call was
// willing to wait. Nothing was written; the call may be repeated.
var ErrLocked = errors.New("row is locked by another session")

// lockPatience is how long a call waits for a row that is not a run of its caller's before it
// returns ErrLocked. It repeats its transaction meanwhile.
const lockPatience = 10 * time.Second

// lockBackoff spaces out the repetitions of a transaction that found a lock taken.
var lockBackoff = backoff.Policy{First: 4 * time.Millisecond, Max: 250 * time.Millisecond}

// isConflict reports whether a transaction was rolled back because of another one: a lock was
// not available (55P03), a deadlock (40P01), or a serialization failure (40001). It has
// written nothing.
func isConflict(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (pg.Code == "55P03" || pg.Code == "40P01" || pg.Code == "40001")
}

// LockTimeout reports whether an error means that another session held a lock for too long: for
// the caller's patience (ErrLocked), or for the lock_timeout of the server or the role.
func LockTimeout(err error) bool { return errors.Is(err, ErrLocked) || isConflict(err) }

// repeat calls try, with its number from 1, until it meets no conflict. It returns ErrLocked
// after lockPatience.
func repeat(ctx context.Context, try func(n int) error) error {
	for end, n := time.Now().Add(lockPatience), 1; ; n++ {
		err := try(n)
		switch {
		case err != nil && n > 1 && ctx.Err() != nil: // while it waited for the lock
			return fmt.Errorf("%w: %w", ErrLocked, err)
		case err == nil || !isConflict(err):
			return err
		}
		if time.Now().After(end) || lockBackoff.Wait(ctx, n) != nil {
			return fmt.Errorf("%w: %w", ErrLocked, err)
		}
	}
}

// apart calls do with all ids, and with ever smaller parts where that meets a conflict. An id
// whose row is locked is tried again after all others, so it delays none of them.
func apart(ctx context.Context, ids []string, do func(ids []string, n int) error) error {
	var locked []string
	var divide func(ids []string) error
	divide = func(ids []string) error {
		err := do(ids, 1)
		switch {
		case err == nil || !isConflict(err):
			return err
		case len(ids) == 1:
			locked = append(locked, ids[0])
			return nil
		}
		if err := divide(ids[:len(ids)/2]); err != nil {
			return err
		}
		return divide(ids[len(ids)/2:])
	}
	if err := divide(ids); err != nil {
		return err
	}
	var errs []error
	for _, id := range locked {
		errs = append(errs, repeat(ctx, func(n int) error { return do([]string{id}, n) }))
	}
	return errors.Join(errs...)
}

// setLockTimeoutSQL sets how many milliseconds the transaction waits for a lock.
const setLockTimeoutSQL = `SELECT set_config('lock_timeout', $1, true)`

// untilEnd returns how long a transaction may wait for a lock so that its answer arrives
// before ctx ends.
func untilEnd(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return time.Until(end) * 9 / 10
	}
	return lockPatience
}

// waitForLocks makes the transaction wait for up to d for each lock. It comes first in the
// batch. Long waits are for a transaction that takes one lock only.
func (b *sqlBatch) waitForLocks(d time.Duration) {
	queued := b.QueuedQueries
	b.QueuedQueries = nil
	b.Queue(setLockTimeoutSQL, strconv.FormatInt(max(1, d.Milliseconds()), 10))
	b.QueuedQueries = append(b.QueuedQueries, queued...)
}

// noWaitTries is how often a transaction tries to lock its runs without waiting. If it takes
// many, one of them may always be locked by somebody, so it then waits busyPatience for each,
// which is long enough for the commit of a worker.
const (
	noWaitTries  = 3
	busyPatience = 50 * time.Millisecond
)

// queueLocks queues the locks of runs and of the parents of children, for the nth try.
func (s *Store) queueLocks(b *sqlBatch, n int, ids, children []string) {
	if n <= noWaitTries {
		b.Queue(s.sql(lockRunsNoWaitSQL), s.namespace, ids, children)
		return
	}
	b.waitForLocks(busyPatience)
	b.Queue(s.sql(lockRunsSQL), s.namespace, ids, children)
}

// lockedSQL returns those of the runs $2 and of the children $3 that cannot be written
// without waiting: the run, or the parent of the child, is locked. It waits for no lock.
// Primary keys.
const lockedSQL = `
SELECT DISTINCT l.writer
FROM (
	SELECT $1::text AS namespace_id, id, id AS writer FROM unnest($2::text[]) id
	UNION
	SELECT a.namespace_id, a.workflow_run_id, c.id
	FROM (SELECT $1::text AS namespace_id, unnest($3::text[]) AS id) child
	JOIN {schema}.workflow_runs c USING (namespace_id, id)
	JOIN {schema}.step_attempts a
		ON a.namespace_id = c.parent_step_attempt_namespace_id AND a.id = c.parent_step_attempt_id
) l
JOIN {schema}.workflow_runs r ON r.namespace_id = l.namespace_id AND r.id = l.id
LEFT JOIN LATERAL (
	SELECT true AS is_free
	FROM {schema}.workflow_runs f
	WHERE f.namespace_id = r.namespace_id AND f.id = r.id
	FOR NO KEY UPDATE SKIP LOCKED
) f ON true
WHERE f.is_free IS NULL`

// lockedWaitsSQL returns the runs of those of the attempts $2 that are locked. It waits for
// no lock. Primary key.
const lockedWaitsSQL = `
SELECT DISTINCT a.workflow_run_id
FROM ` + idTable + ` ids
JOIN {schema}.step_attempts a USING (namespace_id, id)
LEFT JOIN LATERAL (
	SELECT true AS is_free
	FROM {schema}.step_attempts f
	WHERE f.namespace_id = a.namespace_id AND f.id = a.id
	FOR NO KEY UPDATE SKIP LOCKED
) f ON true
WHERE f.is_free IS NULL`

// lockWaitsSQL locks the attempts $2 that the batch ends and that wait for a signal, after
// their runs. It waits for none: OpenWorkflow's sender locks attempts before runs. Primary
// key.
const lockWaitsSQL = `
SELECT
FROM {schema}.step_attempts a
JOIN ` + idTable + ` ids USING (namespace_id, id)
FOR NO KEY UPDATE OF a NOWAIT`

// endedSignalWaits returns the attempts that wait for a signal and that the writes end.
func endedSignalWaits(steps []StepWrite) []string {
	var ids []string
	for i := range steps {
		a := &steps[i].Attempt
		if a.Kind == openworkflow.KindSignalWait && a.Status != openworkflow.StepRunning && !steps[i].New {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// lockedWriters returns the runs whose writes would have to wait for a lock.
func (s *Store) lockedWriters(ctx context.Context, batch Batch) (map[string]bool, error) {
	locked := map[string]bool{}
	add := func(row pgx.CollectableRow) error {
		var id string
		err := row.Scan(&id)
		locked[id] = true
		return err
	}
	// Two transactions: no lock is held while the second looks.
	err := s.eachRow(ctx, add, s.sql(lockedSQL), s.namespace, batch.runIDs(), endedChildren(batch.Runs))
	if waits := endedSignalWaits(batch.Steps); err == nil && len(waits) > 0 {
		err = s.eachRow(ctx, add, s.sql(lockedWaitsSQL), s.namespace, waits)
	}
	return locked, err
}

// applyUnlocked applies the writes of a batch that wait for no lock. The others get ErrLocked.
// A batch that meets locks again and again is given up as a whole.
func (s *Store) applyUnlocked(ctx context.Context, batch Batch) (result BatchResult, err error) {
	result = BatchResult{Steps: make([]error, len(batch.Steps)), Runs: make([]error, len(batch.Runs))}
	steps, runs := indexes(len(batch.Steps)), indexes(len(batch.Runs))
	const tries = 3
	for n := 1; len(steps)+len(runs) > 0; n++ {
		locked, err := s.lockedWriters(ctx, batch.part(steps, runs))
		if err != nil {
			return BatchResult{}, err
		}
		isLocked := func(l openworkflow.Lease) bool { return n > tries || locked[l.RunID] }
		steps = slices.DeleteFunc(steps, func(i int) bool {
			return refuse(&result.Steps[i], isLocked(batch.Steps[i].Lease))
		})
		runs = slices.DeleteFunc(runs, func(i int) bool {
			return refuse(&result.Runs[i], isLocked(batch.Runs[i].Lease))
		})
		applied, err := s.applyValid(ctx, batch.part(steps, runs), nil)
		switch {
		case err == nil:
			for k, i := range steps {
				result.Steps[i] = applied.Steps[k]
			}
			for k, i := range runs {
				result.Runs[i] = applied.Runs[k]
			}
			return result, nil
		case !isConflict(err):
			return BatchResult{}, err
		}
		if err := lockBackoff.Wait(ctx, n); err != nil {
			return BatchResult{}, err
		}
	}
	return result, nil
}

// runIDs returns the runs that the batch writes to.
func (b Batch) runIDs() []string {
	ids := make([]string, 0, len(b.Steps)+len(b.Runs))
	for i := range b.Steps {
		ids = append(ids, b.Steps[i].RunID)
	}
	for i := range b.Runs {
		ids = append(ids, b.Runs[i].RunID)
	}
	return ids
}

// part returns a batch of some of the writes, by index.
func (b Batch) part(steps, runs []int) Batch {
	var part Batch
	for _, i := range steps {
		part.Steps = append(part.Steps, b.Steps[i])
	}
	for _, i := range runs {
		part.Runs = append(part.Runs, b.Runs[i])
	}
	return part
}

// refuse sets the result of a write whose run is locked, and reports whether it is.
func refuse(result *error, locked bool) bool {
	if locked {
		*result = ErrLocked
	}
	return locked
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}
