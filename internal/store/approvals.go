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

// MaxApprovalRequest bounds the text of a request, in bytes. Longer ones are not read.
const MaxApprovalRequest = 64 << 10

// Bounds of the columns that are read, in bytes. Whoever may write rows may write anything there.
// The second one is for a hundred decisions with the longest comments.
const (
	maxApprovalRequest   = `65536`
	maxApprovalDecisions = `1048576`
)

// publishSQL stores what the steps of attempts ask for, in the transaction that inserts the attempts.
// The statement of the attempts has locked their runs. A repeated write finds the row. Primary keys.
var publishSQL = `
INSERT INTO {schema}.operator_approvals (
	namespace_id, run_id, step_name, step_attempt_id, digest, request, on_expiry, expires_at, state, created_at
)
SELECT a.namespace_id, a.workflow_run_id, a.step_name, a.id, w.digest, w.request, w.on_expiry, w.expires_at, 'Open', now()
FROM (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[])
		w (run_id, worker_id, attempt_id, digest, request, on_expiry, expires_at)
	OFFSET 0 -- stays a table, see idTable
) w
JOIN {schema}.step_attempts a ON a.namespace_id = w.namespace_id AND a.id = w.attempt_id
JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
WHERE ` + heldBy("w.worker_id") + ` AND a.workflow_run_id = w.run_id
ON CONFLICT DO NOTHING`

// queueApprovals queues what the writes publish. Queue it after the attempts' writes. A batch
// without approvals has no such statement.
func (s *Store) queueApprovals(b *sqlBatch, steps []StepWrite) {
	var runIDs, workerIDs, attemptIDs, digests, requests, onExpiry []string
	var expires []time.Time
	for i := range steps {
		a := steps[i].Approval
		if a == nil {
			continue
		}
		runIDs, workerIDs = append(runIDs, steps[i].RunID), append(workerIDs, steps[i].WorkerID)
		attemptIDs, digests, requests = append(attemptIDs, steps[i].Attempt.ID), append(digests, a.Digest), append(requests, a.Request)
		onExpiry, expires = append(onExpiry, a.OnExpiry), append(expires, a.ExpiresAt.Truncate(time.Millisecond))
	}
	if len(runIDs) > 0 {
		b.Queue(s.sql(publishSQL), s.namespace, runIDs, workerIDs, attemptIDs, digests, requests, onExpiry, expires)
	}
}

// approvalSQL reads the approval of a step, and locks its attempt without waiting: OpenWorkflow's
// sender locks attempts before runs. lockRunsSQL has locked the run. The instant is that of the
// statement, as the transaction may have waited for the run. Primary keys and
// workflow_signals_step_attempt_idx.
const approvalSQL = `
SELECT a.id, clock_timestamp(), p.digest, CASE WHEN octet_length(p.request) <= ` + maxApprovalRequest + ` THEN p.request ELSE '' END,
	p.on_expiry, p.expires_at, p.state, CASE WHEN octet_length(p.decisions::text) <= ` + maxApprovalDecisions + ` THEN p.decisions END,
	r.status NOT IN (` + openStatuses + `) OR a.status <> 'running' OR EXISTS (
		SELECT
		FROM {schema}.workflow_signals d
		WHERE d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id
		OFFSET 0
	)
FROM {schema}.operator_approvals p
JOIN {schema}.workflow_runs r ON r.namespace_id = p.namespace_id AND r.id = p.run_id
JOIN {schema}.step_attempts a ON a.namespace_id = p.namespace_id AND a.id = p.step_attempt_id AND a.workflow_run_id = p.run_id
WHERE p.namespace_id = $1 AND p.run_id = $2 AND p.step_name = $3
FOR NO KEY UPDATE OF a NOWAIT`

// decideSQL stores the decisions about a step. Primary key.
const decideSQL = `
UPDATE {schema}.operator_approvals p
SET state = $4, decisions = $5::text::jsonb, decided_at = CASE WHEN $4 <> 'Open' THEN now() END
WHERE p.namespace_id = $1 AND p.run_id = $2 AND p.step_name = $3`

// deliverOutcomeSQL delivers the end of an approval to the attempt $4, as a signal (R104).
const deliverOutcomeSQL = `
INSERT INTO {schema}.workflow_signals (namespace_id, id, signal, data, workflow_run_id, step_attempt_id, created_at)
VALUES ($1, gen_random_uuid()::text, $3, $5::text::jsonb, $2, $4, now())`

// wakeDecidedSQL makes the run due unless a worker executes it (R42, R107). Primary key.
var wakeDecidedSQL = `
UPDATE {schema}.workflow_runs p
SET ` + makeDue("p") + `
WHERE p.namespace_id = $1 AND p.id = $2
	AND CASE WHEN p.status IN (` + openStatuses + `) THEN p.worker_id IS NULL ELSE false END
	AND ` + notDue

// Decide makes a decision about an approval. When it ends the approval, the step receives that in
// the same transaction, and listeners are notified. Of decisions that arrive at the same time, each
// sees those before it.
//
// The error is ErrNoSuchApproval, ErrStaleDigest, ErrNotApprover, ErrAlreadyDecided or
// ErrInvalidDecision about the decision, and nothing was written then. After another error it is
// unknown whether the decision was made: call again with the same key.
func (s *Store) Decide(ctx context.Context, in DecideInput) (Decision, error) {
	if err := in.Check(); err != nil {
		return Decision{}, err
	}
	var decision Decision
	err := s.changeApproval(ctx, in.RunID, in.Step, func(a *ApprovalRow, now time.Time) (changed bool, err error) {
		decision, err = a.Decide(in, now)
		return !decision.Repeated, err
	})
	if err != nil {
		return Decision{}, err
	}
	if decision.State != ApprovalOpen && !decision.Repeated {
		_ = s.Notify(ctx) // without the hint, a poll finds it
	}
	return decision, nil
}

// ExpireApproval ends the approval of a step if its time is over by the server's clock, and returns
// its state. The step receives the end as it receives a decision. The caller notifies, if it does
// not execute the run itself. The error is ErrNoSuchApproval if the step has asked for none.
func (s *Store) ExpireApproval(ctx context.Context, runID, step string) (state ApprovalState, err error) {
	err = s.changeApproval(ctx, runID, step, func(a *ApprovalRow, now time.Time) (bool, error) {
		changed := a.Expire(now)
		state = a.State
		return changed, nil
	})
	return state, err
}

// changeApproval changes the approval of a step in one transaction. Each is repeated while another
// session holds a lock that it needs.
func (s *Store) changeApproval(
	ctx context.Context, runID, step string, change func(a *ApprovalRow, now time.Time) (changed bool, err error),
) error {
	if !storableID(runID) || !storableID(step) {
		return noApproval(runID, step)
	}
	return Classify(repeat(ctx, func(int) error {
		return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			return s.changeApprovalIn(ctx, tx, runID, step, change)
		})
	}))
}

func noApproval(runID, step string) error {
	return fmt.Errorf("%w: step %q of run %s asks for none", ErrNoSuchApproval, cutText(step), cutText(runID))
}

func (s *Store) changeApprovalIn(
	ctx context.Context, tx pgx.Tx, runID, step string, change func(a *ApprovalRow, now time.Time) (changed bool, err error),
) error {
	var lock sqlBatch
	lock.waitForLocks(busyPatience)
	lock.Queue(s.sql(lockRunsSQL), s.namespace, []string{runID}, nil)
	if err := tx.SendBatch(ctx, &lock.Batch).Close(); err != nil {
		return err
	}
	a, attemptID, now, err := s.lockApproval(ctx, tx, runID, step)
	if err != nil {
		return err
	}
	if changed, err := change(a, now); err != nil || !changed {
		return err
	}
	decisions, err := json.Marshal(a.Decisions)
	if err != nil {
		return fmt.Errorf("encode the decisions about step %q: %w", step, err)
	}
	if a.Decisions == nil {
		decisions = json.RawMessage(`[]`)
	}
	var b sqlBatch
	b.Queue(s.sql(decideSQL), s.namespace, runID, step, a.State, string(decisions))
	if outcome := a.Outcome(); outcome != nil {
		b.Queue(s.sql(deliverOutcomeSQL), s.namespace, runID, openworkflow.ApprovalSignal(runID, step), attemptID, string(outcome))
		b.Queue(s.sql(wakeDecidedSQL), s.namespace, runID)
	}
	return tx.SendBatch(ctx, &b.Batch).Close()
}

// lockApproval reads the approval of a step whose run is locked, and the server's time.
func (s *Store) lockApproval(ctx context.Context, tx pgx.Tx, runID, step string) (a *ApprovalRow, attemptID string, now time.Time, err error) {
	a = &ApprovalRow{}
	var decisions json.RawMessage
	err = tx.QueryRow(ctx, s.sql(approvalSQL), s.namespace, runID, step).Scan(&attemptID, &now, &a.Digest, &a.Request,
		&a.OnExpiry, &a.ExpiresAt, &a.State, (*jsonColumn)(&decisions), &a.Ended)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", now, noApproval(runID, step)
	}
	if err != nil {
		return nil, "", now, err
	}
	if json.Unmarshal(decisions, &a.Decisions) != nil {
		a.Decisions = nil
	}
	return a, attemptID, now, nil
}
