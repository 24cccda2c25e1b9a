package store

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// maxRunState bounds the state that is read, in bytes: workflows publish no longer ones. Whoever may
// write rows may write anything there.
const maxRunState = `16384`

// NewState is what the workflow of a run publishes about itself. It travels with a write of the run.
type NewState struct {
	// Sequence counts the states that an execution has published. A replay publishes the same ones
	// again, and the row keeps the one with the largest.
	Sequence int
	// State is JSON.
	State json.RawMessage
}

// stateWrite is a state under the lease of its run.
type stateWrite struct {
	openworkflow.Lease
	*NewState
}

// publishStatesSQL keeps the newest state of each run, under its lease (R45). It locks the runs in the
// order of their ids, unless an earlier statement of the batch has. Primary keys. A batch without
// states has no such statement.
var publishStatesSQL = `
INSERT INTO {schema}.operator_run_states AS s (namespace_id, run_id, sequence, state, updated_at)
SELECT w.namespace_id, w.run_id, w.sequence, w.state, now()
FROM (
	SELECT w.*
	FROM (
		SELECT $1::text AS namespace_id, w.*
		FROM unnest($2::text[], $3::text[], $4::int[], $5::text[]) w (run_id, worker_id, sequence, state)
		OFFSET 0 -- stays a table, see idTable
	) w
	JOIN {schema}.workflow_runs r ON r.namespace_id = w.namespace_id AND r.id = w.run_id
	WHERE ` + heldBy("w.worker_id") + `
	ORDER BY w.run_id
	FOR NO KEY UPDATE OF r
) w
ON CONFLICT (namespace_id, run_id) DO UPDATE
SET sequence   = excluded.sequence,
	state      = excluded.state,
	updated_at = excluded.updated_at
WHERE s.sequence < excluded.sequence`

// queueStates queues the states that travel with the writes of a batch. Queue it after the steps,
// and before the runs, whose writes end the leases.
func (s *Store) queueStates(b *sqlBatch, batch Batch) {
	var all []stateWrite
	for i := range batch.Steps {
		if w := &batch.Steps[i]; w.State != nil {
			all = append(all, stateWrite{w.Lease, w.State})
		}
	}
	for i := range batch.Runs {
		if w := &batch.Runs[i]; w.State != nil {
			all = append(all, stateWrite{w.Lease, w.State})
		}
	}
	if len(all) == 0 {
		return
	}
	// A statement can write a row only once.
	slices.SortStableFunc(all, func(a, b stateWrite) int {
		return cmp.Or(cmp.Compare(a.RunID, b.RunID), cmp.Compare(a.WorkerID, b.WorkerID), cmp.Compare(b.Sequence, a.Sequence))
	})
	all = slices.CompactFunc(all, func(a, b stateWrite) bool { return a.Lease == b.Lease })
	runIDs, workerIDs := make([]string, 0, len(all)), make([]string, 0, len(all))
	sequences, states := make([]int, 0, len(all)), make([]string, 0, len(all))
	for _, w := range all {
		runIDs, workerIDs = append(runIDs, w.RunID), append(workerIDs, w.WorkerID)
		sequences, states = append(sequences, w.Sequence), append(states, string(w.State))
	}
	b.Queue(s.sql(publishStatesSQL), s.namespace, runIDs, workerIDs, sequences, states)
}

// PublishedState is the newest state of a run.
type PublishedState struct {
	State     json.RawMessage
	UpdatedAt time.Time
}

// publishedSQL uses the primary key.
const publishedSQL = `
SELECT s.state, s.updated_at
FROM {schema}.operator_run_states s
WHERE s.namespace_id = $1 AND s.run_id = $2 AND octet_length(s.state) <= ` + maxRunState

// Published returns what a run has published, nil for nothing. What is no JSON counts as nothing.
func (v *View) Published(ctx context.Context, runID string) (*PublishedState, error) {
	if !storableID(runID) {
		return nil, nil
	}
	var found *PublishedState
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		var p PublishedState
		var text string
		if err := row.Scan(&text, &p.UpdatedAt); err != nil {
			return err
		}
		if p.State = json.RawMessage(text); json.Valid(p.State) {
			found = &p
		}
		return nil
	}, v.store.sql(publishedSQL), v.store.namespace, runID)
	return found, Classify(err)
}

// removeStatesSQL removes what the runs $2 have published. Primary key.
const removeStatesSQL = `
DELETE FROM {schema}.operator_run_states s
USING ` + idTable + ` ids
WHERE s.namespace_id = ids.namespace_id AND s.run_id = ids.id`
