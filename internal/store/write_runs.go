package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// configAfterWrite is the config of a run after runsSQL, unless the run's workflow has failed.
var configAfterWrite = `CASE
			WHEN w.op NOT IN ('complete', 'fail') AND ` + isSuspended("r") + `
				THEN ` + configOf("r") + ` || ` + timeEntry(configResumeAt, "coalesce(w.at, now())") + `
			ELSE ` + configOf("r") + ` - ` + configResumeAt + `
		END`

// runsSQL ends leases by the write matrix (R42). Runs are found by primary key; lockRunsSQL
// has locked them. A run that stays open and is suspended keeps its due time in its config. A
// failure of the workflow itself is progress: the worker has lived to write it. The statement
// returns the positions of the writes that it made.
var runsSQL = `
WITH write AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::timestamptz[],
		$9::bool[]) WITH ORDINALITY
		w (run_id, worker_id, op, at, output, error, finished_at, failure, n)
)
UPDATE {schema}.workflow_runs r
SET status = CASE w.op
		WHEN 'complete' THEN 'completed'
		WHEN 'fail' THEN 'failed'
		WHEN 'retry' THEN 'pending'
		ELSE 'running'
	END,
	worker_id = CASE WHEN w.op = 'complete' THEN r.worker_id END,
	available_at = CASE WHEN w.op NOT IN ('complete', 'fail') AND NOT ` + isSuspended("r") + ` THEN coalesce(w.at, now()) END,
	config = CASE
		WHEN w.failure AND w.op IN ('fail', 'retry')
			THEN (` + configAfterWrite + ` - ` + configDeaths + ` - ` + configDiedAt + `)
				|| jsonb_build_object(` + configFailures + `, ` + configCount("r", configFailures) + ` + 1)
		ELSE ` + configAfterWrite + `
	END,
	started_at = CASE WHEN w.op IN ('fail', 'retry') THEN NULL ELSE r.started_at END,
	finished_at = CASE w.op
		WHEN 'complete' THEN now()
		WHEN 'fail' THEN coalesce(w.finished_at, date_trunc('milliseconds', now()))
		WHEN 'retry' THEN NULL
		ELSE r.finished_at
	END,
	output = CASE WHEN w.op = 'complete' THEN w.output::jsonb ELSE r.output END,
	error = CASE
		WHEN w.op = 'complete' THEN NULL
		WHEN w.op IN ('fail', 'retry') THEN w.error::jsonb
		ELSE r.error
	END,
	updated_at = now()
FROM write w
WHERE r.namespace_id = w.namespace_id AND r.id = w.run_id AND ` + heldBy("w.worker_id") + `
RETURNING w.n - 1`

// completedSQL returns the positions of completions that runsSQL did not make and that the
// rows have already, by the same worker id. Primary key. CASE keeps the planner from other
// indexes, here and in stepsDoneSQL.
const completedSQL = `
WITH write AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::int[]) w (run_id, worker_id, n)
)
SELECT w.n
FROM write w
JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
WHERE CASE r.status WHEN 'completed' THEN r.worker_id = w.worker_id ELSE false END`

// runWrites are the run writes of one batch.
type runWrites struct {
	all  []RunWrite
	sent []int        // indexes in all of the writes to send: the first of each lease
	done map[int]bool // positions in sent of the writes that are made
}

func newRunWrites(runs []RunWrite) *runWrites {
	w := &runWrites{all: runs, done: make(map[int]bool, len(runs))}
	seen := make(map[openworkflow.Lease]bool, len(runs))
	for i := range runs {
		if !seen[runs[i].Lease] {
			seen[runs[i].Lease] = true
			w.sent = append(w.sent, i)
		}
	}
	return w
}

// markDone scans the position of a write that is made.
func (w *runWrites) markDone(row pgx.CollectableRow) error {
	var n int
	err := row.Scan(&n)
	w.done[n] = true
	return err
}

// queue queues the ends of leases, then the wakes of parents.
func (w *runWrites) queue(s *Store, b *sqlBatch) {
	n := len(w.sent)
	runIDs, workerIDs, names := make([]string, 0, n), make([]string, 0, n), make([]string, 0, n)
	at, finished := make([]*time.Time, 0, n), make([]*time.Time, 0, n)
	outputs, errs := make([]*string, 0, n), make([]*string, 0, n)
	failures := make([]bool, 0, n)
	for _, i := range w.sent {
		run := &w.all[i]
		runIDs, workerIDs, names = append(runIDs, run.RunID), append(workerIDs, run.WorkerID), append(names, run.Op.String())
		due := milliseconds(&run.At)
		if run.Op == RunRelease {
			due = nil // now
		}
		at, finished = append(at, due), append(finished, milliseconds(&run.FinishedAt))
		outputs, errs = append(outputs, jsonArg(run.Output)), append(errs, jsonArg(run.Error))
		failures = append(failures, run.Failure)
	}
	b.collect(w.markDone, s.sql(runsSQL), s.namespace, runIDs, workerIDs, names, at, outputs, errs, finished, failures)
	if ended := endedChildren(w.all); len(ended) > 0 {
		b.Queue(s.sql(wakeParentsSQL), s.namespace, ended)
	}
}

// results returns one result for each write. After the commit it looks up the completions that
// the statement has not made.
func (w *runWrites) results(ctx context.Context, s *Store) ([]error, error) {
	var runIDs, workerIDs []string
	var positions []int
	for n, i := range w.sent {
		if !w.done[n] && w.all[i].Op == RunComplete {
			runIDs, workerIDs = append(runIDs, w.all[i].RunID), append(workerIDs, w.all[i].WorkerID)
			positions = append(positions, n)
		}
	}
	if len(positions) > 0 {
		if err := s.eachRow(ctx, w.markDone, s.sql(completedSQL), s.namespace, runIDs, workerIDs, positions); err != nil {
			return nil, err
		}
	}
	errs := make([]error, len(w.all))
	for i := range errs {
		errs[i] = ErrLeaseLost
	}
	for n, i := range w.sent {
		if w.done[n] {
			errs[i] = nil
		}
	}
	return errs, nil
}
