package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// StepWrite records a step attempt of a leased run (R46).
type StepWrite struct {
	openworkflow.Lease
	// Attempt's ID, StepName, Kind, Status, Context, Output and Error are used.
	// Status running inserts the row; completed and failed end it, inserting it
	// first when no running row was written. An attempt's id belongs to one
	// attempt for ever.
	Attempt openworkflow.StepAttempt
	// Elapsed is how long ago the attempt started: its started_at is the server's
	// now less Elapsed when this write inserts the row.
	Elapsed time.Duration
	// Child, not nil, is a run to create in the same transaction for an attempt of
	// kind workflow, and to link with it in both directions (R98c). Its ID is
	// required; WorkflowName, Version, Input and Context are used. It is due now. An
	// attempt that has a child keeps it, and one that exists without gets the run that
	// was created for it, if there is one.
	Child *NewRun
}

// RunOp is what a RunWrite does with a leased run (R42).
type RunOp int

// Every RunOp ends the lease. A suspended run that does not end with it is set
// aside until ResumeRuns, whatever the operation says about when it is due.
const (
	// RunPark sets the run aside until At, or until it is woken.
	RunPark RunOp = iota
	// RunComplete ends the run with Output.
	RunComplete
	// RunFail ends the run with Error.
	RunFail
	// RunRetry makes the run pending again at At, with Error.
	RunRetry
	// RunRelease hands the run back, due now.
	RunRelease
)

// RunWrite ends a lease.
type RunWrite struct {
	openworkflow.Lease
	Op RunOp
	// At is when a parked run is due, or a retried one. Zero means now.
	At     time.Time
	Output json.RawMessage
	Error  json.RawMessage
	// FinishedAt is when the run failed, by the caller's clock (R7). Zero means
	// now by the server's.
	FinishedAt time.Time
	// Failure says that the workflow itself has failed: a RunRetry or RunFail with
	// it is counted in the run's Failures.
	Failure bool
}

// Apply writes step attempts, then ends leases, in one transaction and one round
// trip. Each write succeeds or fails by itself, and its result stands at its
// index in stepErrs or runErrs: nil, ErrLeaseLost, or what is wrong with its own
// values (ErrInvalidJSON, ErrTooLarge). When a step write has such a fault, a
// run write for the same lease is not carried out and has the same result.
//
// A child is created and linked together with its attempt, or neither is. The caller
// notifies.
//
// Ends of runs wake the parents that wait for them in the same transaction
// (R82); the caller notifies. A run that parks although what it waits for has
// come is made due (R83).
//
// The error err means trouble with the database itself: it is unknown whether
// anything was written, and the caller repeats the same call. Repeated writes
// change nothing: those of steps and RunComplete report success again. RunPark,
// RunFail, RunRetry and RunRelease leave no trace of the worker id behind, so
// after a first success they report ErrLeaseLost; in either case the lease is
// over.
func (s *Store) Apply(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	stepErrs, runErrs, err = s.applyOnce(ctx, steps, runs)
	if err != nil && ownFault(err) {
		stepErrs, runErrs, err = s.applySeparately(ctx, steps, runs)
	}
	if err == nil {
		err = s.reconcile(ctx, runs)
	}
	if err != nil {
		return nil, nil, Classify(err)
	}
	return stepErrs, runErrs, nil
}

// applyOnce sends all writes as one batch.
func (s *Store) applyOnce(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	if len(steps) == 0 && len(runs) == 0 {
		return nil, nil, nil
	}
	var b queued
	children := s.childrenOf(steps)
	if len(runs) > 0 || len(children) > 0 {
		s.queueLocks(&b, steps, runs)
	}
	if len(children) > 0 {
		s.queueChildKeys(&b, children)
	}
	if len(steps) > 0 {
		stepErrs = s.queueSteps(&b, steps)
	}
	if len(children) > 0 {
		s.queueChildren(&b, children)
	}
	if len(runs) > 0 {
		runErrs = s.queueRuns(&b, runs)
	}
	return stepErrs, runErrs, s.send(ctx, &b)
}

// applySeparately finds the writes whose values Postgres refuses by halving, and
// applies all others. Order is kept: all steps, then the runs.
func (s *Store) applySeparately(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	stepErrs, err = halve(steps, func(part []StepWrite) ([]error, error) {
		errs, _, err := s.applyOnce(ctx, part, nil)
		return errs, err
	})
	if err != nil {
		return nil, nil, err
	}
	faults := map[openworkflow.Lease]error{}
	for i, err := range stepErrs {
		if err != nil && ownFault(err) {
			faults[steps[i].Lease] = err
		}
	}
	runErrs = make([]error, len(runs))
	sound, at := make([]RunWrite, 0, len(runs)), make([]int, 0, len(runs))
	for i, w := range runs {
		if fault := faults[w.Lease]; fault != nil {
			runErrs[i] = fault
			continue
		}
		sound, at = append(sound, w), append(at, i)
	}
	soundErrs, err := halve(sound, func(part []RunWrite) ([]error, error) {
		_, errs, err := s.applyOnce(ctx, nil, part)
		return errs, err
	})
	if err != nil {
		return nil, nil, err
	}
	for i, err := range soundErrs {
		runErrs[at[i]] = err
	}
	return stepErrs, runErrs, nil
}

// halve applies items in ever smaller parts until each part succeeds or is one
// item that fails by its own fault. It returns one result for each item.
func halve[T any](items []T, apply func([]T) ([]error, error)) ([]error, error) {
	if len(items) == 0 {
		return nil, nil
	}
	errs, err := apply(items)
	switch {
	case err == nil:
		return errs, nil
	case !ownFault(err):
		return nil, err
	case len(items) == 1:
		return []error{Classify(err)}, nil
	}
	left, err := halve(items[:len(items)/2], apply)
	if err != nil {
		return nil, err
	}
	right, err := halve(items[len(items)/2:], apply)
	if err != nil {
		return nil, err
	}
	return append(left, right...), nil
}

// lockSQL locks the runs $2 and the parents of the runs $3, in the order of
// their ids, before anything else of the transaction locks a run. Parents are
// locked even while they are active: a parent that is parking at this moment is
// then either seen parked, or sees its child ended (R171). Primary keys.
const lockSQL = `
SELECT
FROM {schema}.workflow_runs r
JOIN (
	SELECT $1::text AS namespace_id, unnest($2::text[]) AS id
	UNION
	SELECT a.namespace_id, a.workflow_run_id
	FROM (SELECT $1::text AS namespace_id, unnest($3::text[]) AS id) child
	JOIN {schema}.workflow_runs c USING (namespace_id, id)
	JOIN {schema}.step_attempts a
		ON a.namespace_id = c.parent_step_attempt_namespace_id AND a.id = c.parent_step_attempt_id
) l ON r.namespace_id = l.namespace_id AND r.id = l.id
ORDER BY r.id
FOR NO KEY UPDATE OF r`

func (s *Store) queueLocks(b *queued, steps []StepWrite, runs []RunWrite) {
	ids := make([]string, 0, len(steps)+len(runs))
	for _, w := range steps {
		ids = append(ids, w.RunID)
	}
	for _, w := range runs {
		ids = append(ids, w.RunID)
	}
	b.Queue(s.sql(lockSQL), s.namespace, ids, endings(runs))
}

// endings returns the runs that the writes end for good.
func endings(runs []RunWrite) []string {
	var ids []string
	for _, w := range runs {
		if w.Op == RunComplete || w.Op == RunFail {
			ids = append(ids, w.RunID)
		}
	}
	return ids
}

// stepsSQL writes step attempts under the leases of their runs (R46): runs are
// found by primary key and locked in the order of their ids, then attempts are
// inserted, or ended by primary key.
//
// A write is also a success when its outcome is in the row already: it was
// written before, and the acknowledgement was lost. That needs no lease.
const stepsSQL = `
WITH write AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
		$8::text[], $9::text[], $10::text[], $11::interval[]) WITH ORDINALITY
		w (run_id, worker_id, id, step_name, kind, status, context, output, error, elapsed, n)
), held AS MATERIALIZED (
	SELECT r.id, r.worker_id
	FROM {schema}.workflow_runs r
	JOIN (SELECT DISTINCT namespace_id, run_id, worker_id FROM write) w
		ON w.namespace_id = r.namespace_id AND w.run_id = r.id AND w.worker_id = r.worker_id
	WHERE r.status = 'running'
	ORDER BY r.id
	FOR NO KEY UPDATE OF r
), written AS (
	INSERT INTO {schema}.step_attempts AS a (
		namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error,
		started_at, finished_at, created_at, updated_at
	)
	SELECT w.namespace_id, w.id, w.run_id, w.step_name, w.kind, w.status, '{}', w.context::jsonb,
		CASE WHEN w.status = 'completed' THEN w.output::jsonb END,
		CASE WHEN w.status = 'failed' THEN w.error::jsonb END,
		now() - w.elapsed,
		CASE WHEN w.status <> 'running' THEN now() END,
		date_trunc('milliseconds', now()),
		now()
	FROM write w
	JOIN held h ON h.id = w.run_id AND h.worker_id = w.worker_id
	ORDER BY w.n
	ON CONFLICT (namespace_id, id) DO UPDATE
	SET status      = excluded.status,
		output      = excluded.output,
		error       = excluded.error,
		finished_at = excluded.finished_at,
		updated_at  = excluded.updated_at
	WHERE a.workflow_run_id = excluded.workflow_run_id AND a.status = 'running' AND excluded.status <> 'running'
	RETURNING a.id
)
SELECT CASE
	WHEN d.id IS NOT NULL THEN true
	ELSE coalesce((
		SELECT CASE
			WHEN a.workflow_run_id <> w.run_id THEN false
			WHEN w.status = 'running' THEN h.id IS NOT NULL
			ELSE a.status = w.status
		END
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = w.namespace_id AND a.id = w.id
	), false)
END
FROM write w
LEFT JOIN held h ON h.id = w.run_id AND h.worker_id = w.worker_id
LEFT JOIN written d ON d.id = w.id AND h.id IS NOT NULL
ORDER BY w.n`

// queueSteps queues the writes and returns where their results will be. Several
// writes of one attempt become one, the ending one, because a statement can
// write a row only once.
func (s *Store) queueSteps(b *queued, steps []StepWrite) []error {
	kept := map[string]int{} // attempt id → index in steps of the write to send
	for i, w := range steps {
		j, seen := kept[w.Attempt.ID]
		if !seen || steps[j].Attempt.Status == openworkflow.StepRunning {
			kept[w.Attempt.ID] = i
		}
	}
	var runIDs, workerIDs, ids, names, kinds, statuses []string
	var contexts, outputs, errs []*string
	var elapsed []time.Duration
	var sent []int
	for i, w := range steps {
		if kept[w.Attempt.ID] != i {
			continue
		}
		sent = append(sent, i)
		runIDs, workerIDs = append(runIDs, w.RunID), append(workerIDs, w.WorkerID)
		ids, names = append(ids, w.Attempt.ID), append(names, w.Attempt.StepName)
		kinds, statuses = append(kinds, string(w.Attempt.Kind)), append(statuses, string(w.Attempt.Status))
		contexts = append(contexts, text(w.Attempt.Context))
		outputs, errs = append(outputs, text(w.Attempt.Output)), append(errs, text(w.Attempt.Error))
		elapsed = append(elapsed, max(0, w.Elapsed))
	}
	results := make([]error, len(steps))
	row := 0
	b.collect(func(r pgx.CollectableRow) error {
		var ok bool
		err := r.Scan(&ok)
		if !ok {
			results[sent[row]] = ErrLeaseLost
		}
		if row++; row == len(sent) {
			for i, w := range steps {
				results[i] = results[kept[w.Attempt.ID]]
			}
		}
		return err
	}, s.sql(stepsSQL), s.namespace, runIDs, workerIDs, ids, names, kinds, statuses, contexts, outputs, errs, elapsed)
	return results
}
