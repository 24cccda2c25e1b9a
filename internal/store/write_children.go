package store

import (
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// child is a child run to create for a step attempt.
type child struct {
	*NewRun
	openworkflow.Lease
	attemptID string
	// key is the child's idempotency key, by which a child that another worker has created for
	// the attempt is found (R98c).
	key string
}

// childrenOf returns the children that the writes ask for, one for each attempt.
func (s *Store) childrenOf(steps []StepWrite) []child {
	var children []child
	seen := map[string]bool{}
	for _, w := range steps {
		if w.Child == nil || seen[w.Attempt.ID] {
			continue
		}
		seen[w.Attempt.ID] = true
		children = append(children, child{
			NewRun: w.Child, Lease: w.Lease, attemptID: w.Attempt.ID,
			key: openworkflow.ChildKey(s.namespace, w.Attempt.ID),
		})
	}
	return children
}

// lockChildKeysSQL takes the advisory locks (R52) of the keys of attempts that exist and have
// no child: an OpenWorkflow worker that lost its lease may be about to create it. Nobody else
// knows the id of a new attempt. It runs before the attempts are written. Primary key.
const lockChildKeysSQL = `
SELECT pg_advisory_xact_lock(k.lock)
FROM (
	SELECT DISTINCT hashtextextended(w.scope, 0) AS lock
	FROM (SELECT $1::text AS namespace_id, unnest($2::text[]) AS id, unnest($3::text[]) AS scope) w
	JOIN {schema}.step_attempts a USING (namespace_id, id)
	WHERE a.child_workflow_run_id IS NULL
	ORDER BY lock
) k`

// startChildrenSQL gives a child to each attempt that has none: the oldest run that holds the
// attempt's key or, if there is none, a new run (R98c). lockRunsSQL has locked the runs, and
// the attempts have been written. One statement links child and attempt both ways, because
// foreign keys are checked at its end. Primary keys, and
// workflow_runs_workflow_name_idempotency_key_created_at_idx.
var startChildrenSQL = `
WITH write AS MATERIALIZED (
	SELECT $1::text AS namespace_id, w.*
	FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[])
		w (run_id, worker_id, attempt_id, child_id, workflow_name, version, idempotency_key, context, input)
), missing AS MATERIALIZED (
	SELECT w.*, (
		SELECT c.id
		FROM {schema}.workflow_runs c
		WHERE c.namespace_id = w.namespace_id AND c.workflow_name = w.workflow_name AND c.idempotency_key = w.idempotency_key
		ORDER BY c.created_at, c.id
		LIMIT 1
	) AS holder_id
	FROM write w
	JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
	JOIN {schema}.step_attempts a ON a.namespace_id = w.namespace_id AND a.id = w.attempt_id
	WHERE ` + heldBy("w.worker_id") + `
		AND CASE a.kind WHEN 'workflow' THEN a.workflow_run_id = w.run_id AND a.child_workflow_run_id IS NULL ELSE false END
), created AS (
	INSERT INTO {schema}.workflow_runs (
		namespace_id, id, workflow_name, version, status, idempotency_key, config, context, input, attempts,
		parent_step_attempt_namespace_id, parent_step_attempt_id, available_at, created_at, updated_at
	)
	SELECT m.namespace_id, m.child_id, m.workflow_name, m.version, 'pending', m.idempotency_key, '{}', m.context::jsonb, m.input::jsonb, 0,
		m.namespace_id, m.attempt_id, now(), date_trunc('milliseconds', now()), now()
	FROM missing m
	WHERE m.holder_id IS NULL
)
UPDATE {schema}.step_attempts a
SET child_workflow_run_namespace_id = m.namespace_id,
	child_workflow_run_id           = coalesce(m.holder_id, m.child_id),
	updated_at                      = now()
FROM missing m
WHERE a.namespace_id = m.namespace_id AND a.id = m.attempt_id`

// queueChildKeys queues the advisory locks. Queue it before the attempts' writes.
func (s *Store) queueChildKeys(b *sqlBatch, children []child) {
	ids, scopes := make([]string, len(children)), make([]string, len(children))
	for i, c := range children {
		ids[i], scopes[i] = c.attemptID, openworkflow.IdempotencyScope(s.namespace, c.WorkflowName, c.key)
	}
	b.Queue(s.sql(lockChildKeysSQL), s.namespace, ids, scopes)
}

// queueChildren queues the creation of the children. Queue it after the attempts' writes.
func (s *Store) queueChildren(b *sqlBatch, children []child) {
	var runIDs, workerIDs, attemptIDs, ids, names, keys []string
	var versions, contexts, inputs []*string
	for _, c := range children {
		runIDs, workerIDs = append(runIDs, c.RunID), append(workerIDs, c.WorkerID)
		attemptIDs, ids = append(attemptIDs, c.attemptID), append(ids, c.ID)
		names, versions, keys = append(names, c.WorkflowName), append(versions, c.Version), append(keys, c.key)
		contexts, inputs = append(contexts, jsonArg(c.Context)), append(inputs, jsonArg(c.Input))
	}
	b.Queue(s.sql(startChildrenSQL), s.namespace, runIDs, workerIDs, attemptIDs, ids, names, versions, keys, contexts, inputs)
}
