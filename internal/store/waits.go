package store

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// WaitResult is the result of a step attempt that waits.
type WaitResult struct {
	// Child is the run that has ended, nil for a signal. ID, Status, Output, Error and
	// FinishedAt are set.
	Child *openworkflow.Run
	// Data is a signal's payload, nil for none.
	Data json.RawMessage
}

// waitResultsSQL reads primary keys and workflow_signals_step_attempt_idx.
const waitResultsSQL = `
SELECT a.id, c.id, coalesce(c.status, ''), c.output, c.error, c.finished_at, d.data
FROM ` + idTable + ` ids
JOIN {schema}.step_attempts a USING (namespace_id, id)
LEFT JOIN {schema}.workflow_runs c
	ON a.kind = 'workflow' AND c.namespace_id = a.child_workflow_run_namespace_id AND c.id = a.child_workflow_run_id
LEFT JOIN {schema}.workflow_signals d
	ON a.kind = 'signal-wait' AND d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id
WHERE a.status = 'running'
	AND (c.status IN (` + endedStatuses + `) OR d.id IS NOT NULL)`

// WaitResults returns, by attempt, the results of those waits that have one: the child has
// ended (R98d), or a signal was delivered (R99c). Attempts that still wait, and those that do
// not wait, are absent.
func (s *Store) WaitResults(ctx context.Context, attemptIDs []string) (map[string]WaitResult, error) {
	results := make(map[string]WaitResult, len(attemptIDs))
	if attemptIDs = storableIDs(attemptIDs); len(attemptIDs) == 0 {
		return results, nil
	}
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var id string
		var childID *string
		var child openworkflow.Run
		var result WaitResult
		err := row.Scan(&id, &childID, &child.Status, (*jsonColumn)(&child.Output), (*jsonColumn)(&child.Error), &child.FinishedAt,
			(*jsonColumn)(&result.Data))
		if childID != nil {
			child.ID = *childID
			result.Child = &child
		}
		results[id] = result
		return err
	}, s.sql(waitResultsSQL), s.namespace, attemptIDs)
	if err != nil {
		return nil, Classify(err)
	}
	return results, nil
}
