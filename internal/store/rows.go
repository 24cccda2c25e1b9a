package store

import (
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// runColumns are the columns that scanRun reads, of a workflow_runs called r. They are named,
// not starred, so that other releases may add columns.
var runColumns = `r.namespace_id, r.id, r.workflow_name, r.version, r.status, r.idempotency_key,
	r.context, r.input, r.output, r.error, r.attempts, r.parent_step_attempt_id, r.worker_id,
	r.available_at, r.deadline_at, r.started_at, r.finished_at, r.created_at, r.updated_at,
	` + configTime("r", configSuspendedAt) + `, ` + configCount("r", configFailures) + `,
	` + deathCount("r") + `, ` + configTime("r", configDiedAt) + `, ` +
	configText("r", configForkedFrom) + `, ` + configText("r", configForkStep) + `, ` + configText("r", configSupersededBy)

func scanRun(row pgx.CollectableRow) (openworkflow.Run, error) { return scanRunAnd(row) }

// scanRunAnd scans the run columns, and more that follow them.
func scanRunAnd(row pgx.CollectableRow, more ...any) (openworkflow.Run, error) {
	var r openworkflow.Run
	err := row.Scan(append([]any{&r.NamespaceID, &r.ID, &r.WorkflowName, &r.Version, &r.Status, &r.IdempotencyKey,
		(*jsonColumn)(&r.Context), (*jsonColumn)(&r.Input), (*jsonColumn)(&r.Output), (*jsonColumn)(&r.Error),
		&r.Attempts, &r.ParentStepAttemptID, &r.WorkerID,
		&r.AvailableAt, &r.DeadlineAt, &r.StartedAt, &r.FinishedAt, &r.CreatedAt, &r.UpdatedAt, &r.SuspendedAt, &r.Failures,
		&r.Deaths, &r.DiedAt, &r.ForkedFrom, &r.ForkStep, &r.SupersededBy}, more...)...)
	return r, err
}

// stepColumns are the columns that scanStep reads, of a step_attempts called a.
const stepColumns = `a.namespace_id, a.id, a.workflow_run_id, a.step_name, a.kind, a.status,
	a.context, a.output, a.error, a.child_workflow_run_id, a.started_at, a.finished_at, a.created_at, a.updated_at`

func scanStep(row pgx.CollectableRow) (openworkflow.StepAttempt, error) { return scanStepAnd(row) }

// scanStepAnd scans the step columns, and more that follow them.
func scanStepAnd(row pgx.CollectableRow, more ...any) (openworkflow.StepAttempt, error) {
	var a openworkflow.StepAttempt
	err := row.Scan(append([]any{&a.NamespaceID, &a.ID, &a.WorkflowRunID, &a.StepName, &a.Kind, &a.Status,
		(*jsonColumn)(&a.Context), (*jsonColumn)(&a.Output), (*jsonColumn)(&a.Error),
		&a.ChildWorkflowRunID, &a.StartedAt, &a.FinishedAt, &a.CreatedAt, &a.UpdatedAt}, more...)...)
	return a, err
}

// jsonColumn scans a jsonb column. SQL NULL and the JSON value null both become nil (R21).
type jsonColumn json.RawMessage

// ScanBytes implements pgtype.BytesScanner. It copies the bytes, which are valid only until
// the next row.
func (c *jsonColumn) ScanBytes(b []byte) error {
	*c = jsonColumn(openworkflow.Column(append(json.RawMessage(nil), b...)))
	return nil
}
