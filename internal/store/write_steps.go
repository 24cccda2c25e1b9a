package store

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// stepsSQL writes step attempts under the leases of their runs (R46). Runs are found by
// primary key and locked in the order of their ids. Then attempts are inserted or, by
// anyStepsSQL, ended by primary key. It returns the attempts that it wrote.
var stepsSQL = `
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
	WHERE ` + heldBy("w.worker_id") + `
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

// newStepsSQL is stepsSQL for attempts that have no row.
var newStepsSQL = strings.NewReplacer("{writes}", manyWrites, "{conflict}", "").Replace(stepsSQL)

// newStepSQL is newStepsSQL for a single write, which is what one run that executes step after
// step sends. It needs no arrays, no join and no sort.
var newStepSQL = `
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
WHERE r.namespace_id = $1 AND r.id = $2 AND ` + heldBy("$3") + `
FOR NO KEY UPDATE OF r
RETURNING a.id`

// anyStepsSQL is stepsSQL for attempts that may have a row already.
var anyStepsSQL = strings.NewReplacer("{writes}", manyWrites, "{conflict}", `ON CONFLICT (namespace_id, id) DO UPDATE
SET status      = excluded.status,
	output      = excluded.output,
	error       = excluded.error,
	finished_at = excluded.finished_at,
	updated_at  = excluded.updated_at
WHERE a.workflow_run_id = excluded.workflow_run_id AND a.status = 'running' AND excluded.status <> 'running'`).Replace(stepsSQL)

// stepsDoneSQL returns those of the attempts that stepsSQL did not write whose outcome is in
// the row already: an earlier call wrote it, and its acknowledgement was lost. A running
// attempt counts only under the lease. Primary keys.
var stepsDoneSQL = `
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
		WHEN w.status = 'running' THEN ` + heldBy("w.worker_id") + `
		ELSE a.status = w.status
	END`

// stepWrites are the step writes of one batch.
type stepWrites struct {
	all []StepWrite
	// sent has, by attempt, the index in all of the write to send. Several writes of one
	// attempt become one, the ending one, because a statement can write a row only once.
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

// locksAllRuns reports whether the first statement of the batch locks all runs that the batch
// writes to, in the order of their ids. If not, lockRunsSQL must come first.
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

// sends reports whether the write with this index is sent.
func (w *stepWrites) sends(i int) bool { return w.sent[w.all[i].Attempt.ID] == i }

func (w *stepWrites) anyNew() bool {
	for i := range w.all {
		if w.all[i].New && w.sends(i) {
			return true
		}
	}
	return false
}

// queue queues the statement for new attempts, then that for others.
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

// results returns one result for each write. After the commit it looks up the attempts that
// the statements have not written.
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
