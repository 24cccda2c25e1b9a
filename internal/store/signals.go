package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Signal is a message to all step attempts that wait for its name.
type Signal struct {
	Name string
	// Data is the payload, nil or null for none (R20).
	Data json.RawMessage
	// IdempotencyKey, not nil, makes a repeated send deliver nothing, and return the
	// recipients of the first send that had any. It counts for this name, for ever (R105).
	IdempotencyKey *string
}

// checkName refuses the names of signals that only decisions send.
func (s Signal) checkName() error {
	if openworkflow.IsApprovalSignal(s.Name) {
		return fmt.Errorf("%w: %q", ErrReservedSignal, cutText(s.Name))
	}
	return nil
}

// signalsTable is the table of a statement's signals, $2 to $4, in their order.
const signalsTable = `(
	SELECT $1::text AS namespace_id, s.*
	FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY s (name, key, data, n)
)`

// receivers are the attempts that wait for the signal s. An attempt receives one delivery,
// ever (R105). Reads step_attempts_signal_wait_idx for each signal, and
// workflow_signals_step_attempt_idx for each attempt. Until the tables are first analyzed,
// OFFSET 0 keeps the planner from reading all waiting attempts and all deliveries.
const receivers = `LATERAL (
		SELECT a.namespace_id, a.id, a.workflow_run_id
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = s.namespace_id AND a.context ->> 'signal' = s.name
			AND a.kind = 'signal-wait' AND a.status = 'running'
			AND NOT EXISTS (
				SELECT
				FROM {schema}.workflow_signals d
				WHERE d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id
				OFFSET 0
			)
		OFFSET 0
	) a`

// receiversSQL returns the runs that wait for the signals, and locks nothing.
const receiversSQL = `
SELECT DISTINCT a.workflow_run_id
FROM (SELECT DISTINCT $1::text AS namespace_id, unnest($2::text[]) AS name) s
CROSS JOIN ` + receivers + `
`

// deliverSQL delivers the signals (R104). It returns the recipients of an earlier send with a
// signal's key by the signal's number, and the new recipients by the signal's name. Of several
// signals of one name, only the first without earlier recipients is delivered: no attempt
// waits for the next.
//
// lockRunsSQL has locked the waiting runs, also those that a worker executes. A run that is
// about to park is then either seen parked, or sees the delivery (R83).
//
// This statement waits for no lock. It delivers to a run that started to wait since then only
// if no one has locked it. OpenWorkflow's sender locks attempts before runs; of two senders,
// the one that has locked an attempt delivers to it.
const deliverSQL = `
WITH signal AS MATERIALIZED (
	SELECT s.namespace_id, s.name, s.key, s.data::jsonb AS data, s.n
	FROM ` + signalsTable + ` s
	{fence}
), earlier AS MATERIALIZED (
	SELECT s.n, d.workflow_run_id
	FROM signal s
	CROSS JOIN LATERAL (
		SELECT DISTINCT d.workflow_run_id
		FROM {schema}.workflow_signals d
		WHERE d.namespace_id = s.namespace_id AND d.signal = s.name AND d.sender_idempotency_key = s.key
	) d
), sent AS MATERIALIZED (
	SELECT DISTINCT ON (s.name) s.*
	FROM signal s
	WHERE s.n NOT IN (SELECT e.n FROM earlier e)
	ORDER BY s.name, s.n
), waiting AS MATERIALIZED (
	SELECT s.name, s.key, s.data, a.*
	FROM sent s
	CROSS JOIN ` + receivers + `
), receiver AS MATERIALIZED (
	SELECT w.*
	FROM waiting w
	CROSS JOIN LATERAL (
		SELECT
		FROM {schema}.step_attempts a
		JOIN {schema}.workflow_runs r ON r.namespace_id = a.namespace_id AND r.id = a.workflow_run_id
		WHERE a.namespace_id = w.namespace_id AND a.id = w.id AND a.status = 'running'
		FOR NO KEY UPDATE OF r, a SKIP LOCKED
	) locked
), delivered AS (
	INSERT INTO {schema}.workflow_signals (
		namespace_id, id, signal, data, sender_idempotency_key, workflow_run_id, step_attempt_id, created_at
	)
	SELECT r.namespace_id, gen_random_uuid()::text, r.name, r.data, r.key, r.workflow_run_id, r.id, now()
	FROM receiver r
	ON CONFLICT (namespace_id, step_attempt_id) DO NOTHING
	RETURNING signal, workflow_run_id
)
SELECT e.n, '', e.workflow_run_id FROM earlier e
UNION
SELECT 0, d.signal, d.workflow_run_id FROM delivered d
ORDER BY 3`

// The fences of deliverSQL. For a signal that a step sends, the run must be held, and the step
// must not have ended.
var (
	deliverAnySQL  = strings.ReplaceAll(deliverSQL, "{fence}", "")
	deliverStepSQL = strings.ReplaceAll(deliverSQL, "{fence}", `WHERE EXISTS (
		SELECT
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = $1 AND r.id = $5 AND `+heldBy("$6")+`
	) AND NOT EXISTS (
		SELECT
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = $1 AND a.id = $7 AND a.status <> 'running'
	)`)
)

// wakeReceiversSQL makes due the runs to which this transaction has delivered, unless a worker
// executes them (R42, R107). It runs after deliverSQL, in a statement of its own, so it sees
// the rows as they are locked.
var wakeReceiversSQL = `
UPDATE {schema}.workflow_runs p
SET ` + makeDue("p") + `
FROM (
	SELECT DISTINCT a.namespace_id, a.workflow_run_id AS id
	FROM (SELECT DISTINCT $1::text AS namespace_id, unnest($2::text[]) AS name) s
	CROSS JOIN LATERAL (
		SELECT a.namespace_id, a.workflow_run_id
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = s.namespace_id AND a.context ->> 'signal' = s.name
			AND a.kind = 'signal-wait' AND a.status = 'running'
			AND EXISTS (
				SELECT
				FROM {schema}.workflow_signals d
				WHERE d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id AND d.created_at = now()
				OFFSET 0
			)
		OFFSET 0
	) a
) receiver
WHERE p.namespace_id = receiver.namespace_id AND p.id = receiver.id
	AND CASE WHEN p.status IN (` + openStatuses + `) THEN p.worker_id IS NULL ELSE false END
	AND ` + notDue

// SendSignals delivers each signal to the step attempts that wait for its name at this moment,
// in one transaction. It returns, for each signal, the runs that received it. A signal for
// which no attempt waits is not kept (R104). Of two signals of one name the first is
// delivered. The caller notifies.
//
// Running attempts of ended runs also receive (R106). A payload that cannot be stored fails
// the call, which then delivers nothing. So does the name of an approval, with
// ErrReservedSignal.
func (s *Store) SendSignals(ctx context.Context, signals []Signal) (runIDs [][]string, err error) {
	runIDs = make([][]string, len(signals))
	if len(signals) == 0 {
		return runIDs, nil
	}
	for _, signal := range signals {
		if err := signal.checkName(); err != nil {
			return nil, err
		}
	}
	// Send a repeated key once.
	type sender struct{ name, key string }
	var sent []Signal
	of := make([]int, len(signals)) // index in signals → index in sent
	keyed := map[sender]int{}
	for i, signal := range signals {
		of[i] = len(sent)
		if signal.IdempotencyKey != nil {
			by := sender{signal.Name, *signal.IdempotencyKey}
			if first, ok := keyed[by]; ok {
				of[i] = first
				continue
			}
			keyed[by] = of[i]
		}
		sent = append(sent, signal)
	}

	var recipients [][]string
	var delivered map[string][]string
	err = repeat(ctx, func(n int) (err error) {
		recipients, delivered, err = s.deliver(ctx, n, sent)
		return err
	})
	if err != nil {
		return nil, Classify(err)
	}
	for i, signal := range sent {
		if recipients[i] == nil {
			recipients[i] = delivered[signal.Name]
			delete(delivered, signal.Name)
		}
	}
	for i := range signals {
		runIDs[i] = recipients[of[i]]
	}
	return runIDs, nil
}

// deliver delivers signals in one transaction, the nth try. It may wait for the lock of the
// only waiting run, before it holds any. It returns the recipients of earlier sends by signal,
// and the new ones by name.
func (s *Store) deliver(ctx context.Context, n int, sent []Signal) (recipients [][]string, delivered map[string][]string, err error) {
	names, keys, data := signalColumns(sent)
	waiting, err := s.queryIDs(ctx, s.sql(receiversSQL), s.namespace, names)
	if err != nil {
		return nil, nil, err
	}
	recipients, delivered = make([][]string, len(sent)), map[string][]string{}
	var b sqlBatch
	if len(waiting) == 1 {
		b.Queue(s.sql(lockRunsSQL), s.namespace, waiting, nil)
	} else {
		s.queueLocks(&b, n, waiting, nil)
	}
	b.collect(func(row pgx.CollectableRow) error {
		var n int
		var name, id string
		err := row.Scan(&n, &name, &id)
		if n > 0 {
			recipients[n-1] = append(recipients[n-1], id)
		} else {
			delivered[name] = append(delivered[name], id)
		}
		return err
	}, s.sql(deliverAnySQL), s.namespace, names, keys, data)
	b.Queue(s.sql(wakeReceiversSQL), s.namespace, names)
	return recipients, delivered, s.send(ctx, &b)
}

// signalColumns returns the arguments $2 to $4 of the statements.
func signalColumns(signals []Signal) (names []string, keys, data []*string) {
	for _, signal := range signals {
		names, keys, data = append(names, signal.Name), append(keys, signal.IdempotencyKey), append(data, jsonArg(signal.Data))
	}
	return names, keys, data
}

// writeSendSQL ends the attempt that sends a signal, under the lease of its run, which
// lockRunsSQL has locked (R46). The output lists the recipients of the signal's key (R26). It
// returns the output in the row: this one, or that of the first write if this one is repeated.
// Primary keys and workflow_signals_idempotency_idx.
var writeSendSQL = `
WITH written AS (
	INSERT INTO {schema}.step_attempts AS a (
		namespace_id, id, workflow_run_id, step_name, kind, status, config, output, started_at, finished_at, created_at, updated_at
	)
	SELECT r.namespace_id, $4::text, r.id, $5::text, 'signal-send', 'completed', '{}',
		jsonb_build_object('workflowRunIds', ARRAY(
			SELECT DISTINCT d.workflow_run_id
			FROM {schema}.workflow_signals d
			WHERE d.namespace_id = r.namespace_id AND d.signal = $7 AND d.sender_idempotency_key = $8
			ORDER BY d.workflow_run_id
		)),
		now() - $6::interval, now(), date_trunc('milliseconds', now()), now()
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.id = $2 AND ` + heldBy("$3") + `
	ON CONFLICT (namespace_id, id) DO UPDATE
	SET status      = excluded.status,
		output      = excluded.output,
		finished_at = excluded.finished_at,
		updated_at  = excluded.updated_at
	WHERE a.workflow_run_id = excluded.workflow_run_id AND a.status = 'running'
	RETURNING a.output
)
SELECT output FROM written
UNION ALL
SELECT a.output
FROM {schema}.step_attempts a
WHERE a.namespace_id = $1 AND a.id = $4 AND a.workflow_run_id = $2 AND a.status = 'completed'`

// SendSignal delivers the signal that a step sends (R99a), and writes the step's attempt as
// completed in the same transaction, under the lease of its run. It returns the runs that
// received the signal. Of the step's Attempt it uses the ID and StepName. A signal without a
// key gets the step's own. The caller notifies.
//
// A repeated call delivers nothing more, and returns what the first one did. If the lease is
// not held, the call delivers nothing and returns ErrLeaseLost.
func (s *Store) SendSignal(ctx context.Context, step StepWrite, signal Signal) (runIDs []string, err error) {
	if err := signal.checkName(); err != nil {
		return nil, err
	}
	if signal.IdempotencyKey == nil {
		signal.IdempotencyKey = new(openworkflow.SignalKey(step.RunID, step.Attempt.StepName))
	}
	held := false
	err = repeat(ctx, func(n int) (err error) {
		runIDs, held, err = s.deliverStep(ctx, n, step, signal)
		return err
	})
	if err != nil {
		return nil, Classify(err)
	}
	if !held {
		return nil, ErrLeaseLost
	}
	return runIDs, nil
}

// deliverStep delivers the signal of a step in one transaction, the nth try. Held is false
// when the lease is lost.
func (s *Store) deliverStep(ctx context.Context, n int, step StepWrite, signal Signal) (runIDs []string, held bool, err error) {
	names, keys, data := signalColumns([]Signal{signal})
	waiting, err := s.queryIDs(ctx, s.sql(receiversSQL), s.namespace, names)
	if err != nil {
		return nil, false, err
	}
	var output struct {
		WorkflowRunIDs []string `json:"workflowRunIds"`
	}
	var b sqlBatch
	s.queueLocks(&b, n, append(waiting, step.RunID), nil)
	b.Queue(s.sql(deliverStepSQL), s.namespace, names, keys, data, step.RunID, step.WorkerID, step.Attempt.ID)
	b.Queue(s.sql(wakeReceiversSQL), s.namespace, names)
	b.collect(func(row pgx.CollectableRow) error {
		held = true
		return row.Scan(&output)
	}, s.sql(writeSendSQL), s.namespace, step.RunID, step.WorkerID, step.Attempt.ID, step.Attempt.StepName, max(0, step.Elapsed),
		signal.Name, signal.IdempotencyKey)
	err = s.send(ctx, &b)
	return output.WorkflowRunIDs, held, err
}
