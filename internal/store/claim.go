package store

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ClaimRequest asks for runs to execute.
type ClaimRequest struct {
	// Served lists what may be claimed, exact in name and version (R61).
	Served []openworkflow.Definition
	// WorkerIDs are the fencing tokens, one for each run to claim at most. None
	// may ever have been used before.
	WorkerIDs []string
	// Lease is how long the claims last without a heartbeat.
	Lease time.Duration
}

// claimSQL takes due runs and leases each to a worker id of its own (R42, R43).
//
// New runs and those due again (retakes, wakes, resumptions) are two ordered
// index ranges, operator_runs_pending_idx and operator_runs_due_again_idx, read
// from the front: no backlog is sorted, no history is read. Neither starves the
// other: the first $5 rows are for those due again, the next for new runs, and
// what is left over for either. Each branch's limit counts what the earlier ones
// took, so exactly the claimed rows are locked, and a claimer that skips locked
// rows never skips one that stays unclaimed.
//
// What is served is compared as one value in coalesce, of which the planner
// expects half of the rows: rather too many than too few, or it would gather and
// sort. FOR NO KEY UPDATE lets inserts of step attempts, which take a key share
// of their run, pass.
const claimSQL = `
WITH due_again AS MATERIALIZED (
	SELECT r.id
	FROM {schema}.workflow_runs r
	WHERE {due_again}
	ORDER BY r.available_at, r.created_at
	LIMIT $5
	FOR NO KEY UPDATE SKIP LOCKED
), pending AS MATERIALIZED (
	SELECT r.id
	FROM {schema}.workflow_runs r
	WHERE {pending}
	ORDER BY r.available_at, r.created_at
	LIMIT cardinality($3::text[]) - (SELECT count(*) FROM due_again)
	FOR NO KEY UPDATE SKIP LOCKED
), more_due_again AS MATERIALIZED (
	SELECT r.id
	FROM {schema}.workflow_runs r
	WHERE {due_again} AND r.id <> ALL (ARRAY(SELECT id FROM due_again))
	ORDER BY r.available_at, r.created_at
	LIMIT cardinality($3::text[]) - (SELECT count(*) FROM due_again) - (SELECT count(*) FROM pending)
	FOR NO KEY UPDATE SKIP LOCKED
), chosen AS (
	SELECT c.id, row_number() OVER () AS n
	FROM (SELECT id FROM due_again UNION ALL SELECT id FROM pending UNION ALL SELECT id FROM more_due_again) c
)
UPDATE {schema}.workflow_runs r
SET status       = 'running',
	attempts     = r.attempts + 1,
	worker_id    = w.worker_id,
	available_at = now() + $4::interval,
	started_at   = coalesce(r.started_at, now()),
	updated_at   = now()
FROM chosen c
JOIN unnest($3::text[]) WITH ORDINALITY w (worker_id, n) USING (n)
WHERE r.namespace_id = $1 AND r.id = c.id
RETURNING {run}`

// claimable is what both branches of claimSQL ask of a run besides its status.
const claimable = `r.available_at <= now()
		AND r.suspended_at IS NULL
		AND (r.deadline_at IS NULL OR r.deadline_at > now())
		AND coalesce(jsonb_build_array(r.workflow_name, r.version) = ANY ($2::text[]::jsonb[]), false)`

// claimTemplate is claimSQL with its repetitions filled in.
var claimTemplate = strings.NewReplacer(
	"{due_again}", "r.namespace_id = $1 AND r.status IN ('running', 'sleeping') AND "+claimable,
	"{pending}", "r.namespace_id = $1 AND r.status = 'pending' AND "+claimable,
	"{run}", runColumns,
).Replace(claimSQL)

// Claim leases due runs to the request's worker ids and returns them, in no
// order. It returns fewer than asked for when no more are due, and never one
// that another claimer is taking. Runs past their deadline, suspended, or of a
// workflow that is not served stay untouched.
func (s *Store) Claim(ctx context.Context, r ClaimRequest) ([]openworkflow.Run, error) {
	if len(r.WorkerIDs) == 0 || len(r.Served) == 0 {
		return nil, nil
	}
	definitions := make([]string, 0, len(r.Served))
	for _, d := range r.Served {
		definition, err := json.Marshal([]any{d.Name, d.Version})
		if err != nil {
			return nil, err
		}
		definitions = append(definitions, string(definition))
	}
	// An odd slot goes to each branch in turn, else a worker that frees one slot
	// at a time would always serve the same one.
	share := (len(r.WorkerIDs) + int(s.turn.Add(1)%2)) / 2

	runs := make([]openworkflow.Run, 0, len(r.WorkerIDs))
	err := s.each(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRun(row)
		runs = append(runs, run)
		return err
	}, s.sql(claimTemplate), s.namespace, definitions, r.WorkerIDs, r.Lease, share)
	if err != nil {
		return nil, Classify(err)
	}
	return runs, nil
}
