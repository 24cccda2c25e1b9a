package store

import (
	"context"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// cancelBatch bounds the runs that one transaction of CancelTree locks.
const cancelBatch = 1000

// childrenSQL returns the runs that step attempts of the runs $2 started. It finds children by
// the link in either row: a worker that died between its two writes left only one of them
// (R98c). The copied attempt of a fork leads to a child too, but the child has its parent's link to
// the attempt that started it, and is not the fork's. Reads step_attempts_workflow_run_created_at_idx, workflow_runs_parent_step_idx and
// the primary key.
const childrenSQL = `
WITH a AS MATERIALIZED (
	SELECT a.namespace_id, a.id, a.child_workflow_run_namespace_id, a.child_workflow_run_id
	FROM {schema}.step_attempts a
	JOIN ` + idTable + ` run ON a.namespace_id = run.namespace_id AND a.workflow_run_id = run.id
	WHERE a.kind = 'workflow'
)
SELECT c.id, c.status
FROM a
JOIN {schema}.workflow_runs c ON c.parent_step_attempt_namespace_id = a.namespace_id AND c.parent_step_attempt_id = a.id
UNION
SELECT c.id, c.status
FROM a
JOIN {schema}.workflow_runs c ON c.namespace_id = a.child_workflow_run_namespace_id AND c.id = a.child_workflow_run_id
WHERE c.parent_step_attempt_id IS NULL OR c.parent_step_attempt_id = a.id`

// CancelTree cancels the runs and all open runs below them: their children, the children of
// those, and so on, also below children that have ended. It cancels nothing below a given run
// that had completed or failed before. It returns the statuses of the given runs as CancelRuns
// does, and those of the runs that it canceled below them. The caller notifies.
//
// Levels are canceled from the top, each in transactions of its own. A canceled run's worker
// cannot start another child (R46), so the children that are read after the cancellation are
// all there are. A call that fails has canceled some levels, and may be repeated.
func (s *Store) CancelTree(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	statuses, err := s.cancelBatches(ctx, ids)
	if err != nil {
		return nil, err
	}
	var level []string
	seen := map[string]bool{}
	for id, status := range statuses {
		seen[id] = true
		if status == openworkflow.RunCanceled {
			level = append(level, id)
		}
	}
	for len(level) > 0 {
		slices.Sort(level)
		var children, open []string
		for batch := range slices.Chunk(level, cancelBatch) {
			err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
				var id string
				var status openworkflow.RunStatus
				if err := row.Scan(&id, &status); err != nil || seen[id] {
					return err
				}
				seen[id] = true
				children = append(children, id)
				if !status.Terminal() {
					open = append(open, id)
				}
				return nil
			}, s.sql(childrenSQL), s.namespace, batch)
			if err != nil {
				return nil, Classify(err)
			}
		}
		canceled, err := s.cancelBatches(ctx, open)
		if err != nil {
			return nil, err
		}
		maps.DeleteFunc(canceled, func(_ string, status openworkflow.RunStatus) bool { return status != openworkflow.RunCanceled })
		maps.Copy(statuses, canceled)
		level = children
	}
	return statuses, nil
}

func (s *Store) cancelBatches(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	statuses := make(map[string]openworkflow.RunStatus, len(ids))
	for batch := range slices.Chunk(ids, cancelBatch) {
		canceled, err := s.CancelRuns(ctx, batch)
		if err != nil {
			return nil, err
		}
		maps.Copy(statuses, canceled)
	}
	return statuses, nil
}
