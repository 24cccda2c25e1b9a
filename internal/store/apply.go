package store

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
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
	// New says that no write of the attempt was ever sent, so that none needs to be looked
	// for. Where that is wrong, the call finds out, and takes longer.
	New bool
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
	// HasParent says that the run is a child: its end wakes the parent.
	HasParent bool
}

// ApplyAndClaim writes step attempts, then ends leases, then claims, in one transaction
// and one round trip. Each write succeeds or fails by itself, and its result stands at its
// index in stepErrs or runErrs: nil, ErrLeaseLost, or what is wrong with its own
// values (ErrInvalidJSON, ErrTooLarge). When a step write has such a fault, a
// run write for the same lease is not carried out and has the same result.
//
// A child is created and linked together with its attempt, or neither is. Ends of runs
// that have parents wake those that wait for them in the same transaction (R82). Of all
// that, listeners are notified as hints says. A run that parks although what it waits for
// has come is made due (R83), and listeners are notified of that in any case.
//
// The claim, if one is requested, is Claim: whoever ends runs takes the next ones with
// them. It may claim fewer than there are; none when a write has a fault of its own.
//
// The error err means trouble with the database itself: it is unknown whether
// anything was written, and the caller repeats the same call. Repeated writes
// change nothing: those of steps and RunComplete report success again. RunPark,
// RunFail, RunRetry and RunRelease leave no trace of the worker id behind, so
// after a first success they report ErrLeaseLost; in either case the lease is
// over. With an error it returns what is claimed for certain. A call is repeated without
// the request, whose worker ids may be used: what has been claimed and was not returned
// is due again when its lease ends.
func (s *Store) ApplyAndClaim(
	ctx context.Context, steps []StepWrite, runs []RunWrite, request *ClaimRequest, hints Hints,
) (stepErrs, runErrs []error, claimed []openworkflow.Run, err error) {
	c := s.newClaim(request)
	stepErrs, runErrs, err = s.applyOnce(ctx, steps, runs, c, hints)
	if err == nil && c != nil {
		c.advanceCursors(s)
		claimed = c.runs
	}
	if err != nil && (isValueError(err) || isUniqueViolation(err)) {
		if stepErrs, runErrs, err = s.applyBisecting(ctx, steps, runs); err == nil {
			_ = s.notify(ctx, hints) // a poll finds what nobody was told of
		}
	}
	if err == nil {
		err = s.wakeParked(ctx, runs)
	}
	if err != nil {
		return nil, nil, claimed, Classify(err)
	}
	return stepErrs, runErrs, claimed, nil
}

// applyOnce sends all writes, and the claim if there is one, as one batch.
func (s *Store) applyOnce(
	ctx context.Context, steps []StepWrite, runs []RunWrite, c *claim, hints Hints,
) (stepErrs, runErrs []error, err error) {
	if len(steps) == 0 && len(runs) == 0 && c == nil {
		return nil, nil, nil
	}
	var b sqlBatch
	children := s.childrenOf(steps)
	stepWrites, runWrites := newStepWrites(steps), newRunWrites(runs)
	if len(children) > 0 || len(endedChildren(runs)) > 0 || !stepWrites.locksAllRuns(runs) {
		s.queueLocks(&b, steps, runs)
	}
	if len(children) > 0 {
		s.queueChildKeys(&b, children)
	}
	if len(steps) > 0 {
		stepWrites.queue(s, &b)
	}
	if len(children) > 0 {
		s.queueChildren(&b, children)
	}
	if len(runs) > 0 {
		runWrites.queue(s, &b)
	}
	if c != nil {
		c.queue(s, &b)
	}
	if err := s.sendAndNotify(ctx, &b, hints); err != nil {
		return nil, nil, err
	}
	if stepErrs, err = stepWrites.results(ctx, s); err == nil {
		runErrs, err = runWrites.results(ctx, s)
	}
	return stepErrs, runErrs, err
}

// applyBisecting finds the writes whose values Postgres refuses, by bisecting, and applies
// all others. Order is kept: all steps, then the runs.
func (s *Store) applyBisecting(ctx context.Context, steps []StepWrite, runs []RunWrite) (stepErrs, runErrs []error, err error) {
	steps = slices.Clone(steps)
	for i := range steps {
		steps[i].New = false
	}
	stepErrs, err = bisect(steps, func(part []StepWrite) ([]error, error) {
		errs, _, err := s.applyOnce(ctx, part, nil, nil, Hints{})
		return errs, err
	})
	if err != nil {
		return nil, nil, err
	}
	valueErrs := map[openworkflow.Lease]error{}
	for i, err := range stepErrs {
		if err != nil && isValueError(err) {
			valueErrs[steps[i].Lease] = err
		}
	}
	runErrs = make([]error, len(runs))
	valid, at := make([]RunWrite, 0, len(runs)), make([]int, 0, len(runs))
	for i, w := range runs {
		if valueErr := valueErrs[w.Lease]; valueErr != nil {
			runErrs[i] = valueErr
			continue
		}
		valid, at = append(valid, w), append(at, i)
	}
	validErrs, err := bisect(valid, func(part []RunWrite) ([]error, error) {
		_, errs, err := s.applyOnce(ctx, nil, part, nil, Hints{})
		return errs, err
	})
	if err != nil {
		return nil, nil, err
	}
	for i, err := range validErrs {
		runErrs[at[i]] = err
	}
	return stepErrs, runErrs, nil
}

// bisect applies items in ever smaller parts until each part succeeds or is one
// item that fails because of its value. It returns one result for each item.
func bisect[T any](items []T, apply func([]T) ([]error, error)) ([]error, error) {
	if len(items) == 0 {
		return nil, nil
	}
	errs, err := apply(items)
	switch {
	case err == nil:
		return errs, nil
	case !isValueError(err):
		return nil, err
	case len(items) == 1:
		return []error{Classify(err)}, nil
	}
	left, err := bisect(items[:len(items)/2], apply)
	if err != nil {
		return nil, err
	}
	right, err := bisect(items[len(items)/2:], apply)
	if err != nil {
		return nil, err
	}
	return append(left, right...), nil
}

// lockRunsSQL locks the runs $2 and the parents of the runs $3, in the order of
// their ids, before anything else of the transaction locks a run. Parents are
// locked even while they are active: a parent that is parking at this moment is
// then either seen parked, or sees its child ended (R171). Primary keys.
const lockRunsSQL = `
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

func (s *Store) queueLocks(b *sqlBatch, steps []StepWrite, runs []RunWrite) {
	ids := make([]string, 0, len(steps)+len(runs))
	for _, w := range steps {
		ids = append(ids, w.RunID)
	}
	for _, w := range runs {
		ids = append(ids, w.RunID)
	}
	b.Queue(s.sql(lockRunsSQL), s.namespace, ids, endedChildren(runs))
}

// endedChildren returns the children that the writes end for good.
func endedChildren(runs []RunWrite) []string {
	var ids []string
	for _, w := range runs {
		if w.HasParent && (w.Op == RunComplete || w.Op == RunFail) {
			ids = append(ids, w.RunID)
		}
	}
	return ids
}

// held says that the run r carries the worker id of the lease w. The status is in a CASE
// so that the planner does not look through all runs that are executed, by the index that
// has only those, instead of finding the run by its id.
const held = `CASE r.status WHEN 'running' THEN r.worker_id = w.worker_id ELSE false END`

// stepsSQL writes step attempts under the leases of their runs (R46): runs are
// found by primary key and locked in the order of their ids, then attempts are
// inserted or, by anyStepsSQL, ended by primary key. It returns the attempts that it
// wrote.
const stepsSQL = `
WITH write AS {writes}
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
FROM (
	SELECT w.*
	FROM write w
	JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
	WHERE ` + held + `
	ORDER BY w.run_id, w.n
	FOR NO KEY UPDATE OF r
) w
{conflict}
RETURNING a.id`

// manyWrites are the writes of a batch.
const manyWrites = `MATERIALIZED (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
		$8::text[], $9::text[], $10::text[], $11::interval[]) WITH ORDINALITY
		w (run_id, worker_id, id, step_name, kind, status, context, output, error, elapsed, n)
)`

// newStepsSQL is stepsSQL for attempts of which there is no row.
var newStepsSQL = strings.NewReplacer("{writes}", manyWrites, "{conflict}", "").Replace(stepsSQL)

// newStepSQL is newStepsSQL for the write of a run that goes on by itself, step by step:
// nothing is gathered, joined or sorted for it.
const newStepSQL = `
INSERT INTO {schema}.step_attempts AS a (
	namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error,
	started_at, finished_at, created_at, updated_at
)
SELECT r.namespace_id, $4::text, r.id, $5::text, $6::text, $7::text, '{}', $8::text::jsonb,
	CASE WHEN $7 = 'completed' THEN $9::text::jsonb END,
	CASE WHEN $7 = 'failed' THEN $10::text::jsonb END,
	now() - $11::interval,
	CASE WHEN $7 <> 'running' THEN now() END,
	date_trunc('milliseconds', now()),
	now()
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.id = $2 AND CASE r.status WHEN 'running' THEN r.worker_id = $3 ELSE false END
FOR NO KEY UPDATE OF r
RETURNING a.id`

// anyStepsSQL is stepsSQL for attempts that are perhaps there already.
var anyStepsSQL = strings.NewReplacer("{writes}", manyWrites, "{conflict}", `ON CONFLICT (namespace_id, id) DO UPDATE
SET status      = excluded.status,
	output      = excluded.output,
	error       = excluded.error,
	finished_at = excluded.finished_at,
	updated_at  = excluded.updated_at
WHERE a.workflow_run_id = excluded.workflow_run_id AND a.status = 'running' AND excluded.status <> 'running'`).Replace(stepsSQL)

// stepsDoneSQL looks at attempts that stepsSQL did not write, and returns those whose
// outcome is in the row already: it was written before, and the acknowledgement was
// lost. That an attempt is running counts only under the lease. Primary keys.
const stepsDoneSQL = `
WITH write AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) w (run_id, worker_id, id, status)
)
SELECT a.id
FROM write w
JOIN {schema}.step_attempts a ON a.namespace_id = w.namespace_id AND a.id = w.id
JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
WHERE CASE
		WHEN a.workflow_run_id <> w.run_id THEN false
		WHEN w.status = 'running' THEN ` + held + `
		ELSE a.status = w.status
	END`

// stepWrites are the writes of one batch: each attempt once.
type stepWrites struct {
	all []StepWrite
	// sent are the indexes in all of the writes to send, by attempt. Several writes of
	// one attempt become one, the ending one, because a statement can write a row only
	// once.
	sent map[string]int
	done map[string]bool // attempts that are written
}

func newStepWrites(steps []StepWrite) *stepWrites {
	w := &stepWrites{all: steps, sent: make(map[string]int, len(steps)), done: make(map[string]bool, len(steps))}
	for i, step := range steps {
		j, seen := w.sent[step.Attempt.ID]
		if !seen || steps[j].Attempt.Status == openworkflow.StepRunning {
			w.sent[step.Attempt.ID] = i
		}
	}
	return w
}

// markDone scans the id of an attempt that is written.
func (w *stepWrites) markDone(row pgx.CollectableRow) error {
	var id string
	err := row.Scan(&id)
	w.done[id] = true
	return err
}

// locksAllRuns reports whether the first statement of the batch locks all the runs that the
// batch writes to, in the order of their ids. Otherwise lockRunsSQL has to.
func (w *stepWrites) locksAllRuns(runs []RunWrite) bool {
	first := make(map[string]bool, len(w.sent))
	isNew := w.anyNew()
	for i := range w.all {
		if w.sends(i) && w.all[i].New == isNew {
			first[w.all[i].RunID] = true
		}
	}
	for i := range w.all {
		if !first[w.all[i].RunID] {
			return false
		}
	}
	if len(runs) == 1 && len(w.all) == 0 {
		return true
	}
	for i := range runs {
		if !first[runs[i].RunID] {
			return false
		}
	}
	return true
}

// sends reports whether the write with this index is one to send.
func (w *stepWrites) sends(i int) bool { return w.sent[w.all[i].Attempt.ID] == i }

func (w *stepWrites) anyNew() bool {
	for i := range w.all {
		if w.all[i].New && w.sends(i) {
			return true
		}
	}
	return false
}

// queue queues the statements, that for new attempts first.
func (w *stepWrites) queue(s *Store, b *sqlBatch) {
	w.queueSubset(s, b, newStepsSQL, true)
	w.queueSubset(s, b, anyStepsSQL, false)
}

func (w *stepWrites) queueSubset(s *Store, b *sqlBatch, sql string, isNew bool) {
	n := len(w.sent)
	runIDs, workerIDs, ids := make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)
	names, kinds, statuses := make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)
	contexts, outputs, errs := make([]*string, 0, n), make([]*string, 0, n), make([]*string, 0, n)
	elapsed := make([]time.Duration, 0, n)
	for i := range w.all {
		step := &w.all[i]
		if step.New != isNew || !w.sends(i) {
			continue
		}
		runIDs, workerIDs = append(runIDs, step.RunID), append(workerIDs, step.WorkerID)
		ids, names = append(ids, step.Attempt.ID), append(names, step.Attempt.StepName)
		kinds, statuses = append(kinds, string(step.Attempt.Kind)), append(statuses, string(step.Attempt.Status))
		contexts = append(contexts, jsonArg(step.Attempt.Context))
		outputs, errs = append(outputs, jsonArg(step.Attempt.Output)), append(errs, jsonArg(step.Attempt.Error))
		elapsed = append(elapsed, max(0, step.Elapsed))
	}
	switch {
	case len(ids) == 0:
	case len(ids) == 1 && isNew:
		b.collect(w.markDone, s.sql(newStepSQL), s.namespace, runIDs[0], workerIDs[0], ids[0], names[0], kinds[0], statuses[0],
			contexts[0], outputs[0], errs[0], elapsed[0])
	default:
		b.collect(w.markDone, s.sql(sql), s.namespace, runIDs, workerIDs, ids, names, kinds, statuses, contexts, outputs, errs, elapsed)
	}
}

// results returns one for each write. It asks for those that the statement has not
// written, after the commit.
func (w *stepWrites) results(ctx context.Context, s *Store) ([]error, error) {
	var runIDs, workerIDs, ids, statuses []string
	for id, i := range w.sent {
		if !w.done[id] {
			runIDs, workerIDs = append(runIDs, w.all[i].RunID), append(workerIDs, w.all[i].WorkerID)
			ids, statuses = append(ids, id), append(statuses, string(w.all[i].Attempt.Status))
		}
	}
	if len(ids) > 0 {
		if err := s.eachRow(ctx, w.markDone, s.sql(stepsDoneSQL), s.namespace, runIDs, workerIDs, ids, statuses); err != nil {
			return nil, err
		}
	}
	errs := make([]error, len(w.all))
	for i := range w.all {
		if !w.done[w.all[i].Attempt.ID] {
			errs[i] = ErrLeaseLost
		}
	}
	return errs, nil
}
