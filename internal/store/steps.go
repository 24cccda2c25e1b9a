package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// loadStepsSQL reads step_attempts_workflow_run_created_at_idx.
const loadStepsSQL = `
SELECT ` + stepColumns + `
FROM {schema}.step_attempts a
JOIN ` + idTable + ` run ON a.namespace_id = run.namespace_id AND a.workflow_run_id = run.id
ORDER BY a.workflow_run_id, a.created_at, a.id`

// LoadSteps returns all step attempts of the runs, oldest first (R71). A run
// without any is absent from the map.
func (s *Store) LoadSteps(ctx context.Context, runIDs []string) (map[string][]openworkflow.StepAttempt, error) {
	steps := make(map[string][]openworkflow.StepAttempt, len(runIDs))
	if len(runIDs) == 0 {
		return steps, nil
	}
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		a, err := scanStep(row)
		steps[a.WorkflowRunID] = append(steps[a.WorkflowRunID], a)
		return err
	}, s.sql(loadStepsSQL), s.namespace, runIDs)
	if err != nil {
		return nil, Classify(err)
	}
	return steps, nil
}

// countStepsSQL reads step_attempts_workflow_run_created_at_idx.
const countStepsSQL = `
SELECT a.workflow_run_id,
	count(*) FILTER (WHERE a.status = 'running'),
	count(*) FILTER (WHERE a.status IN ('completed', 'succeeded')),
	count(*) FILTER (WHERE a.status = 'failed'),
	count(DISTINCT a.step_name)
FROM {schema}.step_attempts a
JOIN ` + idTable + ` run ON a.namespace_id = run.namespace_id AND a.workflow_run_id = run.id
GROUP BY a.workflow_run_id`

// newestStepsSQL reads the end of step_attempts_workflow_run_created_at_idx, once for each
// run. It leaves out outputs, which may be large, and cuts the rest as runStatesSQL does.
var newestStepsSQL = `
SELECT a.namespace_id, a.id, a.workflow_run_id, ` + shownText("a.step_name") + `, ` + shownText("a.kind") + `, ` + shownText("a.status") + `,
	` + shownWait("a.context") + `, NULL::jsonb, ` + shownError("a.error") + `, ` + shownText("a.child_workflow_run_id") + `, a.started_at, a.finished_at, a.created_at, a.updated_at
FROM ` + idTable + ` run
CROSS JOIN LATERAL (
	SELECT *
	FROM {schema}.step_attempts
	WHERE namespace_id = run.namespace_id AND workflow_run_id = run.id
	ORDER BY created_at DESC, id DESC
	LIMIT $3
) a
ORDER BY a.workflow_run_id, a.created_at, a.id`

// StepSummaries counts the step attempts of the runs and returns the newest few
// of each. A run without any is absent from the map.
func (s *Store) StepSummaries(ctx context.Context, runIDs []string, newest int) (map[string]openworkflow.StepSummary, error) {
	summaries := make(map[string]openworkflow.StepSummary, len(runIDs))
	if runIDs = storableIDs(runIDs); len(runIDs) == 0 {
		return summaries, nil
	}
	var b sqlBatch
	b.collect(func(row pgx.CollectableRow) error {
		var id string
		var sum openworkflow.StepSummary
		err := row.Scan(&id, &sum.Running, &sum.Completed, &sum.Failed, &sum.Names)
		summaries[id] = sum
		return err
	}, s.sql(countStepsSQL), s.namespace, runIDs)
	b.collect(func(row pgx.CollectableRow) error {
		a, err := scanStep(row)
		sum := summaries[a.WorkflowRunID]
		sum.Newest = append(sum.Newest, a)
		summaries[a.WorkflowRunID] = sum
		return err
	}, s.sql(newestStepsSQL), s.namespace, runIDs, newest)
	if err := s.send(ctx, &b); err != nil {
		return nil, Classify(err)
	}
	return summaries, nil
}
