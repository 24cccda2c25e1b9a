package store

import "context"

// wakeParentsSQL makes due the parents that wait for the runs $2, which have ended (R82). It
// runs after lockRunsSQL and the ends, in a statement of its own, so it sees a parent that
// parked meanwhile. Primary keys.
var wakeParentsSQL = `
UPDATE {schema}.workflow_runs p
SET ` + makeDue("p") + `
FROM ` + idTable + ` child
JOIN {schema}.workflow_runs c USING (namespace_id, id)
JOIN {schema}.step_attempts a
	ON a.namespace_id = c.parent_step_attempt_namespace_id AND a.id = c.parent_step_attempt_id
WHERE CASE WHEN c.status IN ('completed', 'failed', 'canceled') THEN a.kind = 'workflow' AND a.status = 'running' ELSE false END
	AND a.child_workflow_run_namespace_id = c.namespace_id AND a.child_workflow_run_id = c.id
	AND p.namespace_id = a.namespace_id AND p.id = a.workflow_run_id
	AND ` + parked + `
	AND ` + notDue

// wakeParkedSQL makes due those of the parked runs $2 for which a child ended or a signal was
// delivered while they were executed (R83). It runs after the park's commit, because
// OpenWorkflow's workers do not wait for the lock of a parent that they see executed. It skips
// locked runs. It returns the ids that it found, and whether it made them due. Reads
// step_attempts_workflow_run_created_at_idx.
var wakeParkedSQL = `
WITH candidate AS MATERIALIZED (
	SELECT p.namespace_id, p.id
	FROM {schema}.workflow_runs p
	JOIN ` + idTable + ` ids USING (namespace_id, id)
	WHERE ` + parked + `
		AND ` + notDue + `
		AND EXISTS (
			SELECT
			FROM {schema}.step_attempts a
			WHERE a.namespace_id = p.namespace_id AND a.workflow_run_id = p.id AND ` + hasWaitResult + `
			OFFSET 0
		)
), free AS MATERIALIZED (
	SELECT p.namespace_id, p.id
	FROM candidate c
	JOIN {schema}.workflow_runs p USING (namespace_id, id)
	WHERE ` + parked + `
		AND ` + notDue + `
	FOR NO KEY UPDATE OF p SKIP LOCKED
), woken AS (
	UPDATE {schema}.workflow_runs p
	SET ` + makeDue("p") + `
	FROM free
	WHERE p.namespace_id = free.namespace_id AND p.id = free.id
)
SELECT c.id, c.id IN (SELECT id FROM free)
FROM candidate c`

// wakeParked makes the parked runs of a batch due if their wait has a result. It includes
// parks that report a lost lease, which may have succeeded in a call whose acknowledgement was
// lost. It notifies of those that it makes due: whatever resolved the wait sent its hint when
// the run could not be claimed. A run that stays locked is left to Sweep.
func (s *Store) wakeParked(ctx context.Context, runs []RunWrite) error {
	var parked []string
	for _, w := range runs {
		if w.Op == RunPark {
			parked = append(parked, w.RunID)
		}
	}
	if len(parked) == 0 {
		return nil
	}
	due, err := s.skipLocked(ctx, s.sql(wakeParkedSQL), s.namespace, parked)
	if err == nil && len(due) > 0 {
		_ = s.Notify(ctx) // without the hint, a poll finds them
	}
	return err
}
