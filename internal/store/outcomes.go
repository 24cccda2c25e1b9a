package store

import (
	"context"
	"encoding/json"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Outcome is how a run ended.
type Outcome struct {
	// Status is completed, failed or canceled; empty for a run that does not exist.
	Status        openworkflow.RunStatus
	WorkflowName  string
	Output, Error json.RawMessage
}

// outcomesSQL reads the primary key, and the large columns only of runs that have ended.
const outcomesSQL = `
SELECT ids.id, coalesce(r.status, ''), coalesce(r.workflow_name, ''), r.output, r.error
FROM ` + idTable + ` ids
LEFT JOIN {schema}.workflow_runs r USING (namespace_id, id)
WHERE r.id IS NULL OR r.status IN (` + endedStatuses + `)`

// Outcomes returns how the runs ended. Open runs are absent. Runs that do not exist have an
// empty status.
func (s *Store) Outcomes(ctx context.Context, ids []string) (map[string]Outcome, error) {
	outcomes := make(map[string]Outcome)
	for _, id := range ids {
		if !storableID(id) {
			outcomes[id] = Outcome{}
		}
	}
	if ids = storableIDs(ids); len(ids) == 0 {
		return outcomes, nil
	}
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var id string
		var o Outcome
		err := row.Scan(&id, &o.Status, &o.WorkflowName, (*jsonColumn)(&o.Output), (*jsonColumn)(&o.Error))
		if o.Status == openworkflow.RunSucceeded {
			o.Status = openworkflow.RunCompleted
		}
		outcomes[id] = o
		return err
	}, s.sql(outcomesSQL), s.namespace, ids)
	if err != nil {
		return nil, Classify(err)
	}
	return outcomes, nil
}
