package store

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// This file has the SQL that several statements have in common.

// idTable is the table of the ids $2, each once. Statements join it, including the namespace,
// instead of comparing with $1. Until the tables are first analyzed, the planner assumes that
// a constant namespace has one row in 200, and would read all of it instead of looking up ids.
const idTable = `(SELECT DISTINCT $1::text AS namespace_id, unnest($2::text[]) AS id)`

// maxIDBytes bounds the ids that are looked up. No longer one fits into an index.
const maxIDBytes = 64 << 10

// storableID reports whether a row can have the id. Postgres refuses a whole statement for
// one text that is no UTF-8 or contains U+0000.
func storableID(id string) bool {
	return len(id) <= maxIDBytes && utf8.ValidString(id) && strings.IndexByte(id, 0) < 0
}

// storableIDs leaves out the ids that no row can have. A statement for the ids of many callers
// then fails for none of them.
func storableIDs(ids []string) []string {
	if !slices.ContainsFunc(ids, func(id string) bool { return !storableID(id) }) {
		return ids
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !storableID(id) })
}

// The statuses of runs that have not ended and of those that have, as the elements of a
// list. OpenWorkflow's deprecated ones are included (R40, R170).
const (
	openStatuses  = `'pending', 'running', 'sleeping'`
	endedStatuses = `'completed', 'succeeded', 'failed', 'canceled'`
)

// isOpen says that the run has not ended. The CASE makes the planner find the run by its id.
// Without it, Postgres 18 walks all open runs by an index on the status until the tables are
// first analyzed.
func isOpen(run string) string {
	return `CASE WHEN ` + run + `.status IN (` + openStatuses + `) THEN true ELSE false END`
}

// heldBy is the fence of every write of a pass (R45, R46): the run r is executed under
// this worker id, an SQL expression. The CASE makes the planner find the run by its id.
// Without it, the planner may walk a partial index of all executed runs.
func heldBy(workerID string) string {
	return `CASE r.status WHEN 'running' THEN r.worker_id = ` + workerID + ` ELSE false END`
}

// makeDue is the part of a SET clause that makes a run due now (R42), or once it is
// resumed if it is suspended.
func makeDue(run string) string {
	return `available_at = CASE WHEN NOT ` + isSuspended(run) + ` THEN now() END,
	config       = CASE WHEN ` + isSuspended(run) + ` THEN ` + configOf(run) + ` || ` + timeEntry(configResumeAt, "now()") + ` ELSE ` + run + `.config END,
	updated_at   = now()`
}

// notDue says that a wake would make the run p due earlier (R42).
var notDue = `CASE
		WHEN NOT ` + isSuspended("p") + ` THEN p.available_at IS NULL OR p.available_at > now()
		ELSE coalesce(` + configTime("p", configResumeAt) + ` > now(), true)
	END`

// parked says that the run p has started and no worker executes it (R40). The CASE keeps the
// planner from reading the index of all runs that are due again instead of the ids.
const parked = `CASE p.status WHEN 'sleeping' THEN true WHEN 'running' THEN p.worker_id IS NULL ELSE false END`

// hasWaitResult says that the wait of the attempt a has a result: its child has ended, or a
// signal was delivered (R83). Until the tables are first analyzed, CASE and OFFSET 0 keep the
// planner from reading all waiting attempts, all children or all deliveries instead.
const hasWaitResult = `CASE
		WHEN a.status <> 'running' THEN false
		WHEN a.kind = 'workflow' THEN EXISTS (
			SELECT
			FROM {schema}.workflow_runs c
			WHERE c.namespace_id = a.child_workflow_run_namespace_id AND c.id = a.child_workflow_run_id
				AND c.status IN (` + endedStatuses + `)
			OFFSET 0
		)
		WHEN a.kind = 'signal-wait' THEN EXISTS (
			SELECT
			FROM {schema}.workflow_signals d
			WHERE d.namespace_id = a.namespace_id AND d.step_attempt_id = a.id
			OFFSET 0
		)
		ELSE false
	END`

// lockRunsSQL locks the runs $2 and the parents of the runs $3, in the order of their ids,
// before the transaction locks any other run. It locks a parent even while a worker executes
// it: a parent that parks at this moment is then either seen parked, or sees its child ended
// (R171). Primary keys.
const lockRunsSQL = `
SELECT
FROM {schema}.workflow_runs r
JOIN (
	SELECT $1::text AS namespace_id, unnest($2::text[]) AS id
	UNION
	SELECT a.namespace_id, a.workflow_run_id
	FROM (SELECT $1::text AS namespace_id, unnest($3::text[]) AS id) child
	JOIN {schema}.workflow_runs c USING (namespace_id, id)
	JOIN {schema}.step_attempts a
		ON a.namespace_id = c.parent_step_attempt_namespace_id AND a.id = c.parent_step_attempt_id
) l ON r.namespace_id = l.namespace_id AND r.id = l.id
ORDER BY r.id
FOR NO KEY UPDATE OF r`

// lockRunsNoWaitSQL is lockRunsSQL for transactions that are repeated: it waits for no lock.
const lockRunsNoWaitSQL = lockRunsSQL + ` NOWAIT`
