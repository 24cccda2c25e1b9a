package store

import (
	"context"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// KeyHolder is what a caller needs to know of the run that holds its idempotency key.
type KeyHolder struct {
	// SameRun is true when the holder has the workflow, the version and the input of the
	// caller's run.
	SameRun bool
	// Object is the Kubernetes object that the holder mirrors, nil if there is none.
	Object *openworkflow.ObjectRef
}

// keyHolderSQL reads the primary key and locks nothing. Postgres compares the inputs, as values
// and not as texts, because it alone knows how it stores numbers.
var keyHolderSQL = `
SELECT r.workflow_name = $3 AND r.version IS NOT DISTINCT FROM $4::text AND r.input IS NOT DISTINCT FROM $5::jsonb, ` + shownObject("r.context") + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.id = $2`

// KeyHolder compares a run with the one of this id, to which CreateRuns has attached it. It
// returns ErrNotFound if that does not exist any more.
func (s *Store) KeyHolder(ctx context.Context, id string, run NewRun) (KeyHolder, error) {
	var holder KeyHolder
	var row openworkflow.Run
	err := s.pool.QueryRow(ctx, s.sql(keyHolderSQL), s.namespace, id, run.WorkflowName, run.Version, jsonArg(run.Input)).
		Scan(&holder.SameRun, &row.Context)
	holder.Object = row.Object()
	return holder, Classify(err)
}
