package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// The errors of Fork about its request.
var (
	// ErrNotEnded means that the source of a fork is open. Cancel it first: a run that goes on
	// beside its fork would do the same work twice.
	ErrNotEnded = errors.New("run has not ended")
	// ErrInvalidFork means that the request asks for what the source does not have.
	ErrInvalidFork = errors.New("invalid fork")
	// ErrSuperseded means that the source has another fork (ForkRequest.Once).
	ErrSuperseded = errors.New("run has been forked already")
)

// ForkRequest asks for a new run that takes over results of one that has ended.
type ForkRequest struct {
	// Source is the id of the run that has ended.
	Source string
	// Run is the new run. Its workflow and version are those of the source, whatever it says. A
	// nil Input is that of the source; the JSON value null is none.
	Run NewRun
	// From says which results the new run takes over.
	From ForkPoint
	// RestartChildren leaves out the results of child runs, so that these are started anew. All
	// other results stay, also those that were computed from a child's output.
	RestartChildren bool
	// Outputs are results by durable name, which replace those of the source: of a function or a
	// child its output, of a wait for a signal the signal's data. A step with an output counts as
	// completed.
	Outputs map[string]json.RawMessage
	// Once refuses a source that has been forked already.
	Once bool
}

// ForkPoint is the place in the source's history up to which results are taken over. The zero
// value takes over nothing: the new run is a rerun.
type ForkPoint struct {
	// Step is the durable name of a step, nil for none: a name may be empty. Completed steps that
	// began before it are taken over.
	Step *string
	// LastFailed takes over all completed steps but those that began after the failure that ended
	// the source. Set at most one of the two.
	LastFailed bool
}

// ForkResult says what Fork has made.
type ForkResult struct {
	Created
	// Step is the durable name of the step at which the new run leaves the history of its source;
	// nil if it takes over all of it or nothing.
	Step *string
	// Kept is the number of steps whose results the new run takes over.
	Kept int
}

// Bounds of what Fork reads into memory. A run has 1,000 attempts at most unless its workflow says
// otherwise (R110).
const (
	maxForkAttempts = 100_000
	// maxForkTexts is the number of bytes of all names of steps and errors.
	maxForkTexts = 32 << 20
	// forkPage is the number of attempts of one statement. Their answer has 8 MiB of errors at most.
	forkPage = 2000
)

// forkSourceSQL locks the source. It waits for no lock, as Fork is repeated. Of what the source
// carries it reads as much of the error as a status shows. Primary key.
var forkSourceSQL = `
SELECT ` + strings.NewReplacer("r.context, r.input, r.output, r.error",
	`NULL::jsonb, NULL::jsonb, NULL::jsonb, `+shownError("r.error")).Replace(runColumns) + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.id = $2
FOR NO KEY UPDATE NOWAIT`

// forkHistorySQL reads a page of the attempts of the source without what they carry, which stays in
// the database: contexts, outputs, and what of an error a status does not show. It reads
// step_attempts_workflow_run_created_at_idx, which has the order of a history (R71).
var forkHistorySQL = `
SELECT a.namespace_id, a.id, a.workflow_run_id, a.step_name, a.kind, a.status, NULL::jsonb, NULL::jsonb,
	CASE WHEN a.status = 'failed' THEN ` + shownError("a.error") + ` END,
	a.child_workflow_run_id, a.started_at, a.finished_at, a.created_at, a.updated_at
FROM {schema}.step_attempts a
WHERE a.namespace_id = $1 AND a.workflow_run_id = $2 AND (a.created_at, a.id) > ($4::timestamptz, $5::text)
ORDER BY a.created_at, a.id
LIMIT $3`

// copyStepsSQL and copyArchivedSQL copy the attempts $3, of the table or of the rows $7, to the run
// $2 under the ids $4, with their times. Those of $5 are completed with the outputs $6 instead. The
// link to a child run is copied too: a TypeScript worker takes a failed attempt without one for an
// attempt that never started its child (R98b). A child that retention is removing is left out.
// Primary keys.
const (
	copyStepsSQL    = copySQL + `{schema}.step_attempts` + copyOfSQL
	copyArchivedSQL = copySQL + `jsonb_populate_recordset(NULL::{schema}.step_attempts, $7::jsonb)` + copyOfSQL

	copySQL = `
INSERT INTO {schema}.step_attempts (
	namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error,
	child_workflow_run_namespace_id, child_workflow_run_id, started_at, finished_at, created_at, updated_at
)
SELECT a.namespace_id, copy.new_id, $2, a.step_name, a.kind,
	CASE WHEN copy.corrected OR a.status = 'succeeded' THEN 'completed' ELSE a.status END,
	'{}', a.context,
	CASE WHEN copy.corrected THEN copy.output::jsonb ELSE a.output END,
	CASE WHEN NOT copy.corrected THEN a.error END,
	child.namespace_id, child.id, a.started_at, coalesce(a.finished_at, now()), a.created_at, now()
FROM (
	SELECT $1::text AS namespace_id, c.*
	FROM unnest($3::text[], $4::text[], $5::bool[], $6::text[]) c (id, new_id, corrected, output)
	OFFSET 0 -- stays a table, see idTable
) copy
JOIN `

	copyOfSQL = ` a USING (namespace_id, id)
LEFT JOIN LATERAL (
	SELECT c.namespace_id, c.id
	FROM {schema}.workflow_runs c
	WHERE c.namespace_id = a.child_workflow_run_namespace_id AND c.id = a.child_workflow_run_id
	FOR KEY SHARE SKIP LOCKED
) child ON true`
)

// linkForkSQL writes the lineage into the configs of the new run $2 and of its source $3, and copies
// the source's input to the new run if $5: it may be longer than what is read of a row. It changes
// nothing else of the source, not even updated_at, which is when the source ended (removableRun).
// Primary key.
var linkForkSQL = `
UPDATE {schema}.workflow_runs r
SET config = ` + configOf("r") + ` || CASE
		WHEN r.id = $3 THEN jsonb_build_object(` + configSupersededBy + `, $2::text)
		ELSE jsonb_strip_nulls(jsonb_build_object(` + configForkedFrom + `, $3::text, ` + configForkStep + `, $4::text))
	END,
	input = CASE WHEN $5::bool AND r.id = $2
		THEN (SELECT source.input FROM {schema}.workflow_runs source WHERE source.namespace_id = $1 AND source.id = $3)
		ELSE r.input
	END
FROM (SELECT $1::text AS namespace_id, unnest(ARRAY[$2::text, $3::text]) AS id) ids
WHERE r.namespace_id = ids.namespace_id AND r.id = ids.id`

// Fork creates a run that takes over results of one that has ended, in one transaction. The
// source keeps its status, output and error; its config names the new run (SupersededBy).
//
// A run that has the new run's id is returned as it is, so the call may be repeated, also after
// the source was removed. So is a run that holds its idempotency key. Listeners are notified if
// the run is due now.
//
// The error is ErrNotFound if the source does not exist, ErrNotEnded while it is open,
// ErrSuperseded as Once says, and ErrInvalidFork if the request is at odds with the source.
func (s *Store) Fork(ctx context.Context, r ForkRequest) (ForkResult, error) {
	chosen := r.Run.ID != ""
	if !chosen {
		r.Run.ID = openworkflow.NewID()
	}
	if !storableID(r.Source) {
		return ForkResult{}, forkSourceMissing(r.Source)
	}
	var result ForkResult
	err := repeat(ctx, func(int) error {
		if chosen && r.Run.ID != r.Source {
			if runs, err := s.RunStates(ctx, []string{r.Run.ID}); err != nil || runs[r.Run.ID] != nil {
				result = ForkResult{Created: Created{RunID: r.Run.ID}}
				return err
			}
		}
		return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) (err error) {
			result, err = s.fork(ctx, tx, r)
			return err
		})
	})
	if err != nil {
		return ForkResult{}, Classify(err)
	}
	if result.Inserted && r.Run.Due(time.Now()) {
		_ = s.Notify(ctx) // without the hint, a poll finds it
	}
	return result, nil
}

func forkSourceMissing(id string) error { return fmt.Errorf("run %s: %w", id, ErrNotFound) }

// forkSource locks the source and reads its history, from the archive if it was removed. The lock
// keeps retention from removing it.
func (s *Store) forkSource(ctx context.Context, tx pgx.Tx, id string) (*forkSource, error) {
	rows, err := tx.Query(ctx, s.sql(forkSourceSQL), s.namespace, id)
	if err != nil {
		return nil, err
	}
	run, err := pgx.CollectExactlyOneRow(rows, scanRun)
	source := &forkSource{run: &run, limits: s.forkLimits}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		source, err = s.archivedSource(ctx, tx, id)
	case err != nil || !run.Status.Terminal(): // of an open run, no history is needed
	default:
		err = s.forkHistory(ctx, tx, source)
	}
	return source, err
}

// forkHistory reads the history of a source, page by page: an answer of an untrusted server has a
// limit.
func (s *Store) forkHistory(ctx context.Context, tx pgx.Tx, source *forkSource) error {
	for last := (openworkflow.StepAttempt{}); ; last = source.attempts[len(source.attempts)-1] {
		rows, err := tx.Query(ctx, s.sql(forkHistorySQL), s.namespace, source.run.ID, forkPage, last.CreatedAt, last.ID)
		if err != nil {
			return err
		}
		page, err := pgx.CollectRows(rows, scanStep)
		if err != nil {
			return err
		}
		for i := range page {
			if err := source.add(page[i]); err != nil {
				return err
			}
		}
		if len(page) < forkPage {
			return nil
		}
	}
}

// forkLimits bound what is kept of a history: the attempts, and the bytes of their names and errors.
type forkLimits struct{ attempts, texts int }

// forkSource is what a fork is made from.
type forkSource struct {
	run *openworkflow.Run
	// attempts are without contexts and outputs, and texts is the length of their names and errors.
	attempts []openworkflow.StepAttempt
	texts    int
	limits   forkLimits
	// archived says where the source is, nil if it is in the tables.
	archived *archivedRun
}

// add adds an attempt to the history. A history is read whole or not at all: without its end, the
// step that failed last would be another.
func (s *forkSource) add(a openworkflow.StepAttempt) error {
	s.attempts = append(s.attempts, a)
	s.texts += len(a.StepName) + len(a.Error)
	switch {
	case len(s.attempts) > s.limits.attempts:
		return invalidFork("run %s has more than %d step attempts", s.run.ID, s.limits.attempts)
	case s.texts > s.limits.texts:
		return invalidFork("the names and errors of the steps of run %s have more than %d bytes", s.run.ID, s.limits.texts)
	}
	return nil
}

// fork is the transaction of Fork.
func (s *Store) fork(ctx context.Context, tx pgx.Tx, r ForkRequest) (ForkResult, error) {
	source, err := s.forkSource(ctx, tx, r.Source)
	if err != nil {
		return ForkResult{}, err
	}
	plan, err := NewForkPlan(source.run, source.attempts, r)
	if err != nil {
		return ForkResult{}, err
	}
	created, err := s.CreateRunsIn(ctx, tx, []NewRun{plan.Run})
	if err != nil {
		return ForkResult{}, err
	}
	if !created[0].Inserted {
		return ForkResult{Created: created[0]}, nil
	}
	var b sqlBatch
	if source.archived == nil {
		s.queueCopies(&b, copyStepsSQL, r.Run.ID, plan.Copies)
	} else if err := s.copyArchived(ctx, tx, source, r.Run.ID, plan.Copies); err != nil {
		return ForkResult{}, err
	}
	copiesInput := plan.Run.Input == nil && source.archived == nil
	b.Queue(s.sql(linkForkSQL), s.namespace, r.Run.ID, source.run.ID, plan.Step, copiesInput)
	b.Queue(s.sql(noteForkSQL), s.namespace, r.Run.ID)
	return ForkResult{Created: created[0], Step: plan.Step, Kept: plan.Kept}, tx.SendBatch(ctx, &b.Batch).Close()
}

// queueCopies queues the copies of attempts to a run. More are further arguments of the statement.
func (s *Store) queueCopies(b *sqlBatch, sql, runID string, copies []ForkCopy, more ...any) {
	var ids, newIDs []string
	var corrected []bool
	var outputs []*string
	for _, c := range copies {
		ids, newIDs = append(ids, c.AttemptID), append(newIDs, openworkflow.NewID())
		corrected, outputs = append(corrected, c.Corrected), append(outputs, jsonArg(c.Output))
	}
	b.Queue(s.sql(sql), append([]any{s.namespace, runID, ids, newIDs, corrected, outputs}, more...)...)
}
