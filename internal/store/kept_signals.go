package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// KeptSignal is a signal that is delivered at most once: to those who wait for it now, or to
// those who wait first until it expires.
type KeptSignal struct {
	// ID identifies the signal. It is the uid of its object.
	ID string
	// Name is the signal's name, and Data its payload, nil or null for none (R20).
	Name string
	Data json.RawMessage
	// Key is the idempotency key. Signals of one name and key are delivered once, also those
	// that SendSignals sends (R105). Empty means the ID.
	Key string
	// RunID is the only run that receives the signal, and Step its only step. Empty and nil
	// mean any.
	RunID string
	Step  *string
	// ExpiresAt is when the signal expires. The zero time means that it is for those who wait
	// now (R104). Others are for runs that have not ended, contrary to R106: a wait that a
	// canceled run has left behind would swallow them.
	ExpiresAt time.Time
}

// SignalState is what has become of a KeptSignal. All but SignalWaiting are final.
type SignalState string

const (
	// SignalWaiting means that no run has waited for the signal yet.
	SignalWaiting SignalState = "waiting"
	// SignalDelivered means that at least one run has received the signal.
	SignalDelivered SignalState = "delivered"
	// SignalUnreceived means that no run waited for a signal without ExpiresAt.
	SignalUnreceived SignalState = "unreceived"
	// SignalExpired means that no run has waited for the signal in time.
	SignalExpired SignalState = "expired"
	// SignalRunEnded means that the run with RunID has ended and does not wait for the signal.
	SignalRunEnded SignalState = "run-ended"
)

// SignalResult is what has become of a KeptSignal.
type SignalResult struct {
	State SignalState
	// Runs is the number of runs that have received the signal, and Deliveries has the first
	// 100 deliveries, by run.
	Runs       int
	Deliveries []SignalDelivery
	// FinishedAt is when the state became final, by the server's clock.
	FinishedAt *time.Time
}

// SignalDelivery is the delivery of a signal to a step.
type SignalDelivery struct {
	RunID string `json:"runID"`
	// Step is the name of the step, empty if its row is gone.
	Step string    `json:"step"`
	At   time.Time `json:"at"`
	// Object is the Kubernetes object that the run mirrors, nil for none.
	Object *openworkflow.ObjectRef `json:"object"`
}

// maxDeliveries is the number of deliveries that a SignalResult has.
const maxDeliveries = `100`

// keepSignalSQL keeps a signal, unless it is kept already. Primary key.
const keepSignalSQL = `
INSERT INTO {schema}.operator_signals (namespace_id, id, signal, data, key, run_id, step, expires_at, state, created_at)
VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, 'waiting', now())
ON CONFLICT (namespace_id, id) DO NOTHING`

// waitsForKept says that the attempt a waits for the signal k, and has received none (R105).
// Until the tables are first analyzed, CASE and OFFSET 0 keep the planner from reading all
// waiting attempts, all deliveries or all open runs.
const waitsForKept = `CASE
		WHEN a.kind <> 'signal-wait' OR a.status <> 'running' THEN false
		WHEN k.expires_at IS NULL THEN true
		ELSE EXISTS (
			SELECT
			FROM {schema}.workflow_runs r
			WHERE r.namespace_id = a.namespace_id AND r.id = a.workflow_run_id AND r.status IN (` + openStatuses + `)
			OFFSET 0
		)
	END
	AND NOT EXISTS (
		SELECT
		FROM {schema}.workflow_signals d
		WHERE d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id
		OFFSET 0
	)`

// keptReceivers are the attempts that may receive the signal k. Reads
// step_attempts_signal_wait_idx, or, for one run, step_attempts_workflow_run_created_at_idx.
const keptReceivers = `LATERAL (
		SELECT a.namespace_id, a.id, a.workflow_run_id
		FROM {schema}.step_attempts a
		WHERE k.run_id IS NULL AND a.namespace_id = k.namespace_id AND a.context ->> 'signal' = k.signal
			AND a.kind = 'signal-wait' AND a.status = 'running'
			AND ` + waitsForKept + `
		UNION ALL
		SELECT a.namespace_id, a.id, a.workflow_run_id
		FROM {schema}.step_attempts a
		WHERE k.run_id IS NOT NULL AND a.namespace_id = k.namespace_id AND a.workflow_run_id = k.run_id
			AND CASE a.kind WHEN 'signal-wait' THEN a.context ->> 'signal' = k.signal ELSE false END
			AND (k.step IS NULL OR a.step_name = k.step)
			AND ` + waitsForKept + `
	)`

// sentBefore says that a signal of the name and key of k was delivered: as OpenWorkflow knows
// it, or, if the runs that received it are gone, as we do. Reads
// workflow_signals_idempotency_idx and operator_signals_delivered_idx.
const sentBefore = `(
		EXISTS (
			SELECT
			FROM {schema}.workflow_signals d
			WHERE d.namespace_id = k.namespace_id AND d.signal = k.signal AND d.sender_idempotency_key = k.key
			OFFSET 0
		) OR EXISTS (
			SELECT
			FROM {schema}.operator_signals o
			WHERE o.namespace_id = k.namespace_id AND o.signal = k.signal AND o.key = k.key AND o.state = 'delivered'
			OFFSET 0
		)
	)`

// targetEnded says that the only run that may receive the signal k has ended.
const targetEnded = `EXISTS (
		SELECT
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = k.namespace_id AND r.id = k.run_id AND r.status IN (` + endedStatuses + `)
		OFFSET 0
	)`

// isKept says that the signal k waits. The CASE makes the planner find it by its id. Without it, the
// planner may walk the index of all that wait.
const isKept = `CASE k.state WHEN 'waiting' THEN true ELSE false END`

// keptReceiversSQL returns the name of a signal that waits, and the runs that may receive it.
// It locks nothing.
const keptReceiversSQL = `
SELECT k.signal, ARRAY(SELECT DISTINCT a.workflow_run_id FROM ` + keptReceivers + ` a)
FROM {schema}.operator_signals k
WHERE k.namespace_id = $1 AND k.id = $2 AND ` + isKept

// lockKeySQL excludes other deliveries under the key of a signal that waits.
const lockKeySQL = `
SELECT pg_advisory_xact_lock(hashtextextended(jsonb_build_array('openworkflow signal', k.namespace_id, k.signal, k.key)::text, 0))
FROM {schema}.operator_signals k
WHERE k.namespace_id = $1 AND k.id = $2 AND ` + isKept

// deliverKeptSQL delivers a signal that waits. As deliverSQL it follows the locks of the runs
// and waits for none.
const deliverKeptSQL = `
WITH signal AS MATERIALIZED (
	SELECT k.*
	FROM {schema}.operator_signals k
	WHERE k.namespace_id = $1 AND k.id = $2 AND ` + isKept + ` AND coalesce(k.expires_at > now(), true)
		AND NOT ` + sentBefore + `
), waiting AS MATERIALIZED (
	SELECT k.signal, k.key, k.data, k.expires_at, a.*
	FROM signal k
	CROSS JOIN ` + keptReceivers + ` a
), receiver AS MATERIALIZED (
	SELECT w.*
	FROM waiting w
	CROSS JOIN LATERAL (
		SELECT
		FROM {schema}.step_attempts a
		JOIN {schema}.workflow_runs r ON r.namespace_id = a.namespace_id AND r.id = a.workflow_run_id
		WHERE a.namespace_id = w.namespace_id AND a.id = w.id AND a.status = 'running'
			AND (w.expires_at IS NULL OR r.status IN (` + openStatuses + `))
		FOR NO KEY UPDATE OF r, a SKIP LOCKED
	) locked
)
INSERT INTO {schema}.workflow_signals (
	namespace_id, id, signal, data, sender_idempotency_key, workflow_run_id, step_attempt_id, created_at
)
SELECT r.namespace_id, gen_random_uuid()::text, r.signal, r.data, r.key, r.workflow_run_id, r.id, now()
FROM receiver r
ON CONFLICT (namespace_id, step_attempt_id) DO NOTHING`

// settleSQL writes what has become of a signal that waits, if that is final. The deliveries are
// those under its key, by this send or an earlier one.
const settleSQL = `
WITH delivery AS MATERIALIZED (
	SELECT d.workflow_run_id, d.step_attempt_id, d.created_at, d.namespace_id
	FROM {schema}.operator_signals k
	JOIN {schema}.workflow_signals d
		ON d.namespace_id = k.namespace_id AND d.signal = k.signal AND d.sender_idempotency_key = k.key
	WHERE k.namespace_id = $1 AND k.id = $2 AND ` + isKept + `
), earlier AS MATERIALIZED (
	SELECT o.runs, o.deliveries
	FROM {schema}.operator_signals k
	JOIN {schema}.operator_signals o
		ON o.namespace_id = k.namespace_id AND o.signal = k.signal AND o.key = k.key AND o.state = 'delivered'
	WHERE k.namespace_id = $1 AND k.id = $2 AND ` + isKept + `
	LIMIT 1
), found AS MATERIALIZED (
	SELECT coalesce(nullif((SELECT count(DISTINCT d.workflow_run_id) FROM delivery d), 0), (SELECT e.runs FROM earlier e), 0) AS runs
), settled AS MATERIALIZED (
	SELECT k.namespace_id, k.id, found.runs, CASE
			WHEN found.runs > 0 THEN 'delivered'
			WHEN k.expires_at IS NULL THEN 'unreceived'
			WHEN k.expires_at <= now() THEN 'expired'
			WHEN ` + targetEnded + ` THEN 'run-ended'
			ELSE 'waiting'
		END AS state
	FROM {schema}.operator_signals k
	CROSS JOIN found
	WHERE k.namespace_id = $1 AND k.id = $2 AND ` + isKept + `
)
UPDATE {schema}.operator_signals k
SET state       = settled.state,
	runs        = settled.runs,
	finished_at = now(),
	data        = NULL,
	deliveries  = coalesce((
		SELECT jsonb_agg(listed.delivery)
		FROM (
			SELECT jsonb_build_object(
				'runID', d.workflow_run_id, 'step', coalesce(a.step_name, ''), 'at', d.created_at,
				'object', CASE WHEN octet_length((r.context -> 'kubernetes')::text) <= ` + maxObjectRef + ` THEN r.context -> 'kubernetes' END
			) AS delivery
			FROM delivery d
			LEFT JOIN {schema}.step_attempts a ON a.namespace_id = d.namespace_id AND a.id = d.step_attempt_id
			LEFT JOIN {schema}.workflow_runs r ON r.namespace_id = d.namespace_id AND r.id = d.workflow_run_id
			ORDER BY d.workflow_run_id, d.step_attempt_id
			LIMIT ` + maxDeliveries + `
		) listed
	), (SELECT e.deliveries FROM earlier e), '[]')
FROM settled
WHERE k.namespace_id = settled.namespace_id AND k.id = settled.id AND settled.state <> 'waiting'`

const signalResultSQL = `
SELECT k.state, k.runs, k.deliveries, k.finished_at
FROM {schema}.operator_signals k
WHERE k.namespace_id = $1 AND k.id = $2`

// KeepSignal keeps a signal until it is delivered or expires, and delivers it if somebody waits
// for it. It may be repeated: a signal of an ID is kept once, as it was first. The caller
// notifies if it was delivered.
//
// A payload or name that cannot be stored is an error, and so is the name of an approval's signal
// (ErrReservedSignal); nothing is kept then.
func (s *Store) KeepSignal(ctx context.Context, k KeptSignal) (SignalResult, error) {
	if openworkflow.IsApprovalSignal(k.Name) {
		return SignalResult{}, fmt.Errorf("%w: %q", ErrReservedSignal, cutText(k.Name))
	}
	if k.Key == "" {
		k.Key = k.ID
	}
	var runID *string
	if k.RunID != "" {
		runID = &k.RunID
	}
	_, err := s.pool.Exec(ctx, s.sql(keepSignalSQL), s.namespace, k.ID, k.Name, jsonArg(k.Data), k.Key, runID, k.Step, milliseconds(&k.ExpiresAt))
	if err != nil {
		return SignalResult{}, Classify(err)
	}
	result, err := s.DeliverKept(ctx, k.ID)
	if errors.Is(err, ErrTooLarge) { // an index of deliveries cannot hold its name and key
		err = errors.Join(err, s.WithdrawSignals(ctx, []string{k.ID}))
	}
	return result, err
}

// DeliverKept delivers a signal that is kept if somebody waits for it, in one transaction, and
// returns what has become of it. It returns ErrNotFound for one that is not kept. It may be
// called at any time, by several processes. The caller notifies if it was delivered.
func (s *Store) DeliverKept(ctx context.Context, id string) (SignalResult, error) {
	var result SignalResult
	err := repeat(ctx, func(n int) (err error) {
		result, err = s.deliverKept(ctx, n, id)
		return err
	})
	return result, Classify(err)
}

// deliverKept delivers a signal in one transaction, the nth try.
func (s *Store) deliverKept(ctx context.Context, n int, id string) (SignalResult, error) {
	var b sqlBatch
	var name string
	var receivers []string
	err := s.pool.QueryRow(ctx, s.sql(keptReceiversSQL), s.namespace, id).Scan(&name, &receivers)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return SignalResult{}, err
	}
	if err == nil {
		b.Queue(s.sql(lockKeySQL), s.namespace, id)
		s.queueLocks(&b, n, receivers, nil)
		b.Queue(s.sql(deliverKeptSQL), s.namespace, id)
		b.Queue(s.sql(wakeReceiversSQL), s.namespace, []string{name})
		b.Queue(s.sql(settleSQL), s.namespace, id)
	}
	var result SignalResult
	b.Queue(s.sql(signalResultSQL), s.namespace, id).QueryRow(func(row pgx.Row) error {
		return row.Scan(&result.State, &result.Runs, &result.Deliveries, &result.FinishedAt)
	})
	err = s.send(ctx, &b)
	return result, err
}

// dueSignalsSQL reads the $4 signals that wait and follow the cursor $2, $3. It says of each
// whether DeliverKept would change it. It locks nothing. Reads a range of
// operator_signals_waiting_idx.
const dueSignalsSQL = `
WITH k AS MATERIALIZED (
	SELECT k.namespace_id, k.id, k.signal, k.key, k.run_id, k.step, k.expires_at, k.created_at
	FROM {schema}.operator_signals k
	WHERE k.namespace_id = $1 AND k.state = 'waiting' AND (k.created_at, k.id) > ($2::timestamptz, $3::text)
	ORDER BY k.created_at, k.id
	LIMIT $4
)
SELECT k.id, k.created_at, k.expires_at IS NOT NULL AND (
		k.expires_at <= now() OR EXISTS (SELECT FROM ` + keptReceivers + ` a) OR ` + targetEnded + ` OR ` + sentBefore + `
	)
FROM k
ORDER BY k.created_at, k.id`

// DueSignals reads up to limit of the signals that are kept, the oldest first, after a cursor
// that is zero at first. It returns the ids of those that can be delivered or have expired, and
// the cursor to continue after, which is zero at the end.
func (s *Store) DueSignals(ctx context.Context, after openworkflow.Cursor, limit int) (ids []string, next openworkflow.Cursor, err error) {
	seen := 0
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		isDue := false
		err := row.Scan(&next.ID, &next.CreatedAt, &isDue)
		if seen++; isDue {
			ids = append(ids, next.ID)
		}
		return err
	}, s.sql(dueSignalsSQL), s.namespace, after.CreatedAt, after.ID, limit)
	if err != nil {
		return nil, openworkflow.Cursor{}, Classify(err)
	}
	if seen < limit {
		next = openworkflow.Cursor{}
	}
	return ids, next, nil
}

// ApprovalStep is a step that asks for an approval, or may.
type ApprovalStep struct {
	RunID, Step string
}

// dueDecisionsSQL reads primary keys.
const dueDecisionsSQL = `
SELECT w.n - 1
FROM (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[]) WITH ORDINALITY w (run_id, step, n)
	OFFSET 0
) w
WHERE EXISTS (
	SELECT
	FROM {schema}.operator_approvals p
	WHERE p.namespace_id = w.namespace_id AND p.run_id = w.run_id AND p.step_name = w.step
	OFFSET 0
) OR EXISTS (
	SELECT
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = w.namespace_id AND r.id = w.run_id AND r.status IN (` + endedStatuses + `)
	OFFSET 0
)
ORDER BY 1`

// DueDecisions returns the indexes of those of the steps that have asked for an approval, or whose run
// has ended. It locks nothing.
func (s *Store) DueDecisions(ctx context.Context, steps []ApprovalStep) (due []int, err error) {
	runIDs, names := make([]string, len(steps)), make([]string, len(steps))
	for i, step := range steps {
		runIDs[i], names[i] = step.RunID, step.Step
	}
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var i int
		err := row.Scan(&i)
		due = append(due, i)
		return err
	}, s.sql(dueDecisionsSQL), s.namespace, runIDs, names)
	return due, Classify(err)
}

const withdrawSignalsSQL = `
DELETE FROM {schema}.operator_signals k
USING ` + idTable + ` ids
WHERE k.namespace_id = ids.namespace_id AND k.id = ids.id AND ` + isKept

// WithdrawSignals removes those of the signals that were not delivered yet.
func (s *Store) WithdrawSignals(ctx context.Context, ids []string) error {
	_, err := s.pool.Exec(ctx, s.sql(withdrawSignalsSQL), s.namespace, storableIDs(ids))
	return Classify(err)
}

// removeSignalsSQL reads the $4 signals that follow the id $3, and removes those that nobody
// needs: what was not delivered and is long over, and what was delivered under the key of its
// own object. A key that somebody has chosen identifies its deliveries for $2, or for ever if
// that is NULL (R105). Primary key.
const removeSignalsSQL = `
WITH page AS MATERIALIZED (
	SELECT k.namespace_id, k.id
	FROM {schema}.operator_signals k
	WHERE k.namespace_id = $1 AND k.id > $3
	ORDER BY k.id
	LIMIT $4
), removed AS (
	DELETE FROM {schema}.operator_signals k
	USING page
	WHERE k.namespace_id = page.namespace_id AND k.id = page.id AND coalesce(CASE
			WHEN k.state = 'waiting' THEN coalesce(k.expires_at, k.created_at) < now() - interval '7 days'
			WHEN k.state = 'delivered' AND k.key <> k.id THEN k.finished_at < now() - CASE WHEN $2::interval IS NOT NULL THEN greatest($2::interval, interval '7 days') END
			ELSE k.finished_at < now() - interval '7 days'
		END, false)
	RETURNING k.id
)
SELECT (SELECT CASE WHEN count(*) = $4 THEN max(page.id) ELSE '' END FROM page), (SELECT count(*) FROM removed)`

// RemoveSignals reads up to limit signals after an id, empty at first, and removes those that
// ended a week ago. Delivered ones whose key was chosen stay for keyedAfter, at least a week, or
// for ever if that is 0. It returns the id to continue after, empty at the end.
func (s *Store) RemoveSignals(ctx context.Context, keyedAfter time.Duration, after string, limit int) (next string, removed int, err error) {
	err = s.pool.QueryRow(ctx, s.sql(removeSignalsSQL), s.namespace, nullInterval(keyedAfter), after, limit).Scan(&next, &removed)
	return next, removed, Classify(err)
}
