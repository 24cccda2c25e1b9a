package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// countRunsSQL reads all of the namespace from an index that begins with its status.
const countRunsSQL = `
SELECT r.status, count(*)
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1
GROUP BY r.status`

// CountRuns counts the namespace's runs by status. The five statuses that are written are
// always in the map. A deprecated status counts as its successor, and unknown ones are left
// out (R133). The cost grows with the history.
func (s *Store) CountRuns(ctx context.Context) (map[openworkflow.RunStatus]int64, error) {
	counts := map[openworkflow.RunStatus]int64{
		openworkflow.RunPending: 0, openworkflow.RunRunning: 0, openworkflow.RunCompleted: 0,
		openworkflow.RunFailed: 0, openworkflow.RunCanceled: 0,
	}
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var status openworkflow.RunStatus
		var n int64
		if err := row.Scan(&status, &n); err != nil {
			return err
		}
		switch status {
		case openworkflow.RunSleeping:
			status = openworkflow.RunRunning
		case openworkflow.RunSucceeded:
			status = openworkflow.RunCompleted
		default:
		}
		if _, known := counts[status]; known {
			counts[status] += n
		}
		return nil
	}, s.sql(countRunsSQL), s.namespace)
	if err != nil {
		return nil, Classify(err)
	}
	return counts, nil
}
