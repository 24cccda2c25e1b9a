package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// NewRun is a run to create (R50).
type NewRun struct {
	// ID is the run's id. Empty means a new one.
	ID           string
	WorkflowName string
	// Version nil is the unversioned workflow.
	Version *string
	// IdempotencyKey, not nil, attaches the call to the run that already holds the key for
	// this workflow. A run is created only if there is none.
	IdempotencyKey *string
	// KeyWindow is the age up to which a run holds its key: 24 hours for OpenWorkflow's
	// clients (R51). 0 means for ever.
	KeyWindow time.Duration
	Input     json.RawMessage
	Context   json.RawMessage
	// AvailableAt is when the run is due, nil for Delay after its creation by the server's clock.
	AvailableAt *time.Time
	Delay       time.Duration
	// DeadlineAt is when the run fails, nil for Timeout after its creation by the server's clock.
	// Without either it has no deadline.
	DeadlineAt *time.Time
	Timeout    time.Duration
	// Suspended runs are created but cannot be claimed before ResumeRuns.
	Suspended bool
}

// Created is the result for one NewRun.
type Created struct {
	// RunID differs from NewRun.ID when an idempotency key attached the call to an existing
	// run.
	RunID string
	// Inserted is false when the run existed already.
	Inserted bool
	// Err says that a value of this run cannot be stored (ErrInvalidJSON, ErrTooLarge), or that
	// an open transaction holds the run's key or id (ErrLocked). The other runs of the call are
	// not affected.
	Err error
}

// CreateRuns creates runs and returns a result for each, in the same order. An existing run of
// the same id is left as it is, so the call may be repeated. Listeners are notified if a run
// is due now.
//
// A run whose key or id an open transaction holds is not created, and delays the others little.
// The only run of a call waits for that transaction instead, for Options.KeyPatience.
func (s *Store) CreateRuns(ctx context.Context, runs []NewRun) ([]Created, error) {
	created := make([]Created, len(runs))
	plain, keyed := newRows(runs, created)
	began := time.Now()
	for _, part := range []struct {
		rows   []newRow
		create func([]newRow, func(*sqlBatch) error) error
	}{{plain, s.createPlain}, {keyed, s.createKeyed}} {
		var last error
		create := func(rows []newRow) ([]error, error) {
			if isConflict(last) && time.Since(began) > locksGiveUp {
				return nil, last
			}
			last = part.create(rows, func(b *sqlBatch) error {
				if rows[0].IdempotencyKey != nil || last != nil {
					b.waitForLocks(s.createPatience(ctx, runs, began))
				}
				return s.sendAndNotify(ctx, b, Hints{Due: anyDue(rows)})
			})
			return make([]error, len(rows)), last
		}
		rows := part.rows
		if len(rows) > 1 && rows[0].IdempotencyKey != nil {
			_, err := create(rows)
			if err == nil {
				continue
			}
			if isConflict(err) {
				rows, err = s.withoutHeldKeys(ctx, rows)
			}
			if err != nil && !isOfOneRun(err) {
				return nil, Classify(err)
			}
		}
		errs, err := bisect(rows, isOfOneRun, create)
		if err != nil {
			return nil, Classify(err)
		}
		for i, err := range errs {
			if isConflict(err) {
				err = fmt.Errorf("%w: %w", ErrLocked, err)
			}
			rows[i].result.Err = err
		}
	}
	return created, nil
}

// keyPatience is how long the runs of one call wait for the lock of a key. Then one statement says
// which keys are held, and the others are created without those. What still meets a lock, that of an
// id or of the table, is found in as many tries as the logarithm of the batch; after keysPatience
// they wait no more, and after locksGiveUp there are none.
const (
	keyPatience  = 50 * time.Millisecond
	keysPatience = time.Second
	locksGiveUp  = 3 * time.Second
)

// createPatience is how long a try of a call that began then waits for each lock.
func (s *Store) createPatience(ctx context.Context, runs []NewRun, began time.Time) time.Duration {
	switch {
	case len(runs) > 1:
		return min(keyPatience, keysPatience-time.Since(began))
	case s.keyPatience > 0:
		return s.keyPatience
	default:
		return untilEnd(ctx)
	}
}

// heldKeysSQL returns those of the scopes whose locks others hold. It is a transaction of its own,
// at whose end the locks are given back that it has taken.
const heldKeysSQL = `
SELECT scope FROM unnest($1::text[]) scope WHERE NOT pg_try_advisory_xact_lock(hashtextextended(scope, 0))`

// withoutHeldKeys sets the result of the rows whose key others hold, and returns the rest.
func (s *Store) withoutHeldKeys(ctx context.Context, rows []newRow) (free []newRow, err error) {
	scope := func(r newRow) string {
		return openworkflow.IdempotencyScope(s.namespace, r.WorkflowName, *r.IdempotencyKey)
	}
	var scopes []string
	for _, r := range rows {
		scopes = append(scopes, scope(r))
	}
	held := map[string]bool{}
	if err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var scope string
		err := row.Scan(&scope)
		held[scope] = true
		return err
	}, heldKeysSQL, scopes); err != nil {
		return nil, err
	}
	for _, r := range rows {
		if held[scope(r)] {
			r.result.Err = fmt.Errorf("%w (its idempotency key)", ErrLocked)
		} else {
			free = append(free, r)
		}
	}
	return free, nil
}

// isOfOneRun reports whether the error is about one of the runs: a value, or a lock.
func isOfOneRun(err error) bool { return isValueError(err) || isConflict(err) }

// errIsolation refuses a transaction that reads from one snapshot: it does not see a run that
// took a key after the snapshot.
var errIsolation = errors.New("idempotency keys need a transaction of isolation level read committed")

// CreateRunsIn is CreateRuns within the caller's transaction on the same database. The runs
// exist once it commits; the caller notifies after that. The locks of idempotency keys are
// held until then. A run that cannot be stored fails the call and, as any failed statement
// does, the transaction.
func (s *Store) CreateRunsIn(ctx context.Context, tx pgx.Tx, runs []NewRun) ([]Created, error) {
	created := make([]Created, len(runs))
	plain, keyed := newRows(runs, created)
	send := func(b *sqlBatch) error { return tx.SendBatch(ctx, &b.Batch).Close() }
	if len(keyed) > 0 {
		var isolation string
		if err := tx.QueryRow(ctx, `SHOW transaction_isolation`).Scan(&isolation); err != nil {
			return nil, Classify(err)
		}
		if isolation != "read committed" {
			return nil, errIsolation
		}
		if err := s.createKeyed(keyed, send); err != nil {
			return nil, Classify(err)
		}
	}
	if len(plain) > 0 {
		if err := s.createPlain(plain, send); err != nil {
			return nil, Classify(err)
		}
	}
	return created, nil
}

// newRows divides runs into those without and those with an idempotency key.
func newRows(runs []NewRun, created []Created) (plain, keyed []newRow) {
	for i, r := range runs {
		row := newRow{NewRun: r, result: &created[i]}
		if row.ID == "" {
			row.ID = openworkflow.NewID()
		}
		row.result.RunID = row.ID
		if row.IdempotencyKey == nil {
			plain = append(plain, row)
		} else {
			keyed = append(keyed, row)
		}
	}
	return plain, keyed
}

// newRow is a NewRun and the place of its result.
type newRow struct {
	NewRun
	result *Created
}

// insertRunsSQL inserts one run for each element of the arrays (R50). A suspended run keeps
// its due time in its config. Runs that are due at once get due times in their order, a
// microsecond apart, because a cursor of claims must be able to stop between any two of them.
var insertRunsSQL = `
INSERT INTO {schema}.workflow_runs (
	namespace_id, id, workflow_name, version, status, idempotency_key, config, context, input, attempts,
	available_at, deadline_at, created_at, updated_at
)
SELECT $1, n.id, n.workflow_name, n.version, 'pending', n.idempotency_key,
	CASE WHEN n.suspended
		THEN ` + timeEntry(configSuspendedAt, "now()") + ` || ` + timeEntry(configResumeAt, "coalesce(n.available_at, "+afterNow("n.delay")+", now())") + `
		ELSE '{}'
	END,
	n.context::jsonb, n.input::jsonb, 0,
	CASE WHEN NOT n.suspended
		THEN coalesce(n.available_at, ` + afterNow("n.delay") + `, now() - (cardinality($2::text[]) - n.ordinal) * interval '1 us')
	END,
	coalesce(n.deadline_at, ` + afterNow("n.timeout") + `), date_trunc('milliseconds', now()), now()
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
	$8::timestamptz[], $9::timestamptz[], $10::bool[], $11::interval[], $12::interval[], $13::interval[]) WITH ORDINALITY
	n (id, workflow_name, version, idempotency_key, context, input, available_at, deadline_at, suspended, key_window,
		delay, timeout, ordinal)
`

// afterNow is an instant by the server's clock, of the precision of those that clients pass (R7),
// NULL without an interval.
func afterNow(interval string) string {
	return `date_trunc('milliseconds', now() + ` + interval + `)`
}

// insertPlainSQL inserts runs without a key. A conflict means that the run exists. Primary
// key.
var insertPlainSQL = insertRunsSQL + `
ORDER BY n.ordinal
ON CONFLICT (namespace_id, id) DO NOTHING
RETURNING id`

// insertKeyedSQL inserts the first run of each key that no run holds. It reads
// workflow_runs_workflow_name_idempotency_key_created_at_idx and follows lockKeysSQL.
var insertKeyedSQL = insertRunsSQL + `
WHERE NOT EXISTS (
	SELECT
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.workflow_name = n.workflow_name AND r.idempotency_key = n.idempotency_key
		AND (n.key_window IS NULL OR r.created_at >= now() - n.key_window)
)
AND NOT EXISTS (
	SELECT
	FROM unnest($3::text[], $5::text[]) WITH ORDINALITY earlier (workflow_name, idempotency_key, ordinal)
	WHERE earlier.workflow_name = n.workflow_name AND earlier.idempotency_key = n.idempotency_key
		AND earlier.ordinal < n.ordinal
)
ORDER BY n.ordinal
ON CONFLICT (namespace_id, id) DO NOTHING
RETURNING id`

// lockKeysSQL takes the advisory lock of each key, in the order of the locks' numbers.
// OpenWorkflow's clients take the same locks (R52).
const lockKeysSQL = `
SELECT pg_advisory_xact_lock(k.lock)
FROM (SELECT DISTINCT hashtextextended(scope, 0) AS lock FROM unnest($1::text[]) scope ORDER BY lock) k`

// keyHoldersSQL returns for each new run the run that has its id or, if there is none, the
// oldest that holds its key. Primary key, and
// workflow_runs_workflow_name_idempotency_key_created_at_idx.
const keyHoldersSQL = `
SELECT coalesce(
	(SELECT r.id FROM {schema}.workflow_runs r WHERE r.namespace_id = n.namespace_id AND r.id = n.id),
	(
		SELECT r.id
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = n.namespace_id AND r.workflow_name = n.workflow_name AND r.idempotency_key = n.idempotency_key
			AND (n.key_window IS NULL OR r.created_at >= now() - n.key_window)
		ORDER BY r.created_at, r.id
		LIMIT 1
	)
)
FROM (
	SELECT $1::text AS namespace_id, n.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::interval[]) WITH ORDINALITY
		n (id, workflow_name, idempotency_key, key_window, ordinal)
	OFFSET 0 -- stays a table, see idTable
) n
ORDER BY n.ordinal`

// Due reports whether the run may be claimed at once.
func (r NewRun) Due(now time.Time) bool {
	return !r.Suspended && (r.AvailableAt == nil && r.Delay <= 0 || r.AvailableAt != nil && !r.AvailableAt.After(now))
}

func anyDue(rows []newRow) bool {
	now := time.Now()
	return slices.ContainsFunc(rows, func(r newRow) bool { return r.Due(now) })
}

func (s *Store) createPlain(rows []newRow, send func(*sqlBatch) error) error {
	var b sqlBatch
	inserted := s.queueInsert(&b, insertPlainSQL, rows)
	if err := send(&b); err != nil {
		return err
	}
	markInserted(rows, inserted)
	return nil
}

// createKeyed locks the keys in a statement of its own. The next statement then sees what the
// former holders of the locks committed.
func (s *Store) createKeyed(rows []newRow, send func(*sqlBatch) error) error {
	var ids, names, keys, scopes, holders []string
	var windows []*time.Duration
	for _, r := range rows {
		ids, names, keys = append(ids, r.ID), append(names, r.WorkflowName), append(keys, *r.IdempotencyKey)
		scopes = append(scopes, openworkflow.IdempotencyScope(s.namespace, r.WorkflowName, *r.IdempotencyKey))
		windows = append(windows, nullInterval(r.KeyWindow))
	}
	var b sqlBatch
	b.Queue(s.sql(lockKeysSQL), scopes)
	inserted := s.queueInsert(&b, insertKeyedSQL, rows)
	b.collect(func(row pgx.CollectableRow) error {
		var holder string
		err := row.Scan(&holder)
		holders = append(holders, holder)
		return err
	}, s.sql(keyHoldersSQL), s.namespace, ids, names, keys, windows)
	if err := send(&b); err != nil {
		return err
	}
	for i, r := range rows {
		r.result.RunID = holders[i]
	}
	markInserted(rows, inserted)
	return nil
}

// queueInsert queues an insert of the rows. The map that it returns gets the inserted ids when
// the batch is sent.
func (s *Store) queueInsert(b *sqlBatch, sql string, rows []newRow) map[string]bool {
	var ids, names []string
	var versions, keys, contexts, inputs []*string
	var available, deadlines []*time.Time
	var suspended []bool
	var windows, delays, timeouts []*time.Duration
	for _, r := range rows {
		ids, names = append(ids, r.ID), append(names, r.WorkflowName)
		versions, keys = append(versions, r.Version), append(keys, r.IdempotencyKey)
		contexts, inputs = append(contexts, jsonArg(r.Context)), append(inputs, jsonArg(r.Input))
		available, deadlines = append(available, milliseconds(r.AvailableAt)), append(deadlines, milliseconds(r.DeadlineAt))
		suspended, windows = append(suspended, r.Suspended), append(windows, nullInterval(r.KeyWindow))
		delays, timeouts = append(delays, nullInterval(r.Delay)), append(timeouts, nullInterval(r.Timeout))
	}
	inserted := make(map[string]bool, len(rows))
	b.collect(func(row pgx.CollectableRow) error {
		var id string
		err := row.Scan(&id)
		inserted[id] = true
		return err
	}, s.sql(sql), s.namespace, ids, names, versions, keys, contexts, inputs, available, deadlines, suspended, windows,
		delays, timeouts)
	return inserted
}

// markInserted sets Inserted on the first row of each inserted id.
func markInserted(rows []newRow, inserted map[string]bool) {
	for _, r := range rows {
		if inserted[r.ID] && r.result.RunID == r.ID {
			r.result.Inserted = true
			delete(inserted, r.ID)
		}
	}
}

// nullInterval returns an interval as a statement's argument: NULL for 0.
func nullInterval(d time.Duration) *time.Duration {
	if d == 0 {
		return nil
	}
	return &d
}
