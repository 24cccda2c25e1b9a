package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// importRunSQL inserts a run as it was elsewhere, without a worker. An open one is suspended:
// nobody means to execute its steps again by looking at it. It names its successor if that is in
// this database. Primary key.
var importRunSQL = `
INSERT INTO {schema}.workflow_runs (
	namespace_id, id, workflow_name, version, status, idempotency_key, config, input, output, error, attempts,
	available_at, deadline_at, started_at, finished_at, created_at, updated_at
)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $16::bool
		THEN ` + timeEntry(configSuspendedAt, "now()") + ` || ` + timeEntry(configResumeAt, "coalesce($11::timestamptz, now())") + `
		ELSE '{}'
	END || jsonb_strip_nulls(jsonb_build_object(` + configForkedFrom + `, $17::text, ` + configForkStep + `, $18::text,
		` + configSupersededBy + `, (SELECT r.id FROM {schema}.workflow_runs r WHERE r.namespace_id = $1 AND r.id = $19::text))),
	$7::jsonb, $8::jsonb, $9::jsonb, $10, CASE WHEN NOT $16::bool THEN $11::timestamptz END, $12, $13, $14, $15, now())
ON CONFLICT (namespace_id, id) DO NOTHING`

// importStepsSQL inserts step attempts of the run $2. A link to a child run is kept if the child
// is in this database. Primary keys.
const importStepsSQL = `
INSERT INTO {schema}.step_attempts (
	namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error,
	child_workflow_run_namespace_id, child_workflow_run_id, started_at, finished_at, created_at, updated_at
)
SELECT $1, s.id, $2, s.name, s.kind, s.status, '{}', s.context::jsonb, s.output::jsonb, s.error::jsonb,
	child.namespace_id, child.id, s.started_at, s.finished_at, s.created_at, now()
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
	$11::timestamptz[], $12::timestamptz[], $13::timestamptz[])
	s (id, name, kind, status, context, output, error, child, started_at, finished_at, created_at)
LEFT JOIN LATERAL (
	SELECT c.namespace_id, c.id
	FROM {schema}.workflow_runs c
	WHERE c.namespace_id = $1 AND c.id = s.child
	FOR KEY SHARE SKIP LOCKED
) child ON true`

// ImportRun inserts a run of another database with its step attempts, in one transaction. An open
// run is suspended, so that no worker claims it before ResumeRuns. It returns false, and changes
// nothing, if the database has a run of this id.
func (s *Store) ImportRun(ctx context.Context, run *openworkflow.Run, steps []openworkflow.StepAttempt) (bool, error) {
	inserted := false
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.sql(importRunSQL), s.namespace, run.ID, run.WorkflowName, run.Version, string(run.Status),
			run.IdempotencyKey, jsonArg(run.Input), jsonArg(run.Output), jsonArg(run.Error), run.Attempts,
			run.AvailableAt, run.DeadlineAt, run.StartedAt, run.FinishedAt, run.CreatedAt, !run.Status.Terminal(),
			run.ForkedFrom, run.ForkStep, run.SupersededBy)
		if inserted = tag.RowsAffected() == 1; err != nil || !inserted {
			return err
		}
		return s.importSteps(ctx, tx, run.ID, steps)
	})
	return inserted, Classify(err)
}

func (s *Store) importSteps(ctx context.Context, tx pgx.Tx, runID string, steps []openworkflow.StepAttempt) error {
	var ids, names, kinds, statuses []string
	var contexts, outputs, failures, children []*string
	var started, finished []*time.Time
	var created []time.Time
	for i := range steps {
		a := &steps[i]
		ids, names = append(ids, a.ID), append(names, a.StepName)
		kinds, statuses = append(kinds, string(a.Kind)), append(statuses, string(a.Status))
		contexts, outputs = append(contexts, jsonArg(a.Context)), append(outputs, jsonArg(a.Output))
		failures, children = append(failures, jsonArg(a.Error)), append(children, a.ChildWorkflowRunID)
		started, finished, created = append(started, a.StartedAt), append(finished, a.FinishedAt), append(created, a.CreatedAt)
	}
	_, err := tx.Exec(ctx, s.sql(importStepsSQL), s.namespace, runID, ids, names, kinds, statuses, contexts, outputs, failures,
		children, started, finished, created)
	return err
}
