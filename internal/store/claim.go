package store

import (
	"context"
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
	// GivenBack asks, instead of for what is due, for runs that a worker of OpenWorkflow
	// has claimed and given back because it does not have their workflow (R62). The time
	// for which they are put off concerns only those who do not have it either.
	GivenBack bool
}

// claimSQL takes due runs and leases each to a worker id of its own (R42, R43).
//
// New runs and those due again (retakes, wakes, resumptions) are ordered index ranges,
// one of operator_runs_pending_idx and one of operator_runs_due_again_idx for each
// workflow that is served, read from the front: no backlog is sorted, none of other
// workflows is walked past, no history is read. Neither kind starves the other: the
// first $6 rows are for those due again, the next for new runs, and what is left over
// for either. The workflows come in the order in which they are given, which the caller
// changes from claim to claim. Each range is read as far as its rows are taken, so
// exactly the claimed rows are locked, and a claimer that skips locked rows never skips
// one that stays unclaimed.
//
// FOR NO KEY UPDATE lets inserts of step attempts, which take a key share of their run,
// pass.
const claimSQL = `
WITH served AS MATERIALIZED (
	SELECT s.workflow_name, s.version FROM unnest($2::text[], $3::text[]) s (workflow_name, version)
), due_again AS MATERIALIZED (
	SELECT r.id
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id FROM {schema}.workflow_runs r WHERE {due_again} {ordered}
	) r
	LIMIT $6
), pending AS MATERIALIZED (
	SELECT r.id
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id FROM {schema}.workflow_runs r WHERE {pending} {ordered}
	) r
	LIMIT cardinality($4::text[]) - (SELECT count(*) FROM due_again)
), more_due_again AS MATERIALIZED (
	SELECT r.id
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id FROM {schema}.workflow_runs r
		WHERE {due_again} AND r.id <> ALL (ARRAY(SELECT id FROM due_again)) {ordered}
	) r
	LIMIT cardinality($4::text[]) - (SELECT count(*) FROM due_again) - (SELECT count(*) FROM pending)
), chosen AS (
	SELECT $1::text AS namespace_id, c.id, row_number() OVER () AS n
	FROM (SELECT id FROM due_again UNION ALL SELECT id FROM pending UNION ALL SELECT id FROM more_due_again) c
)
` + leaseChosen

// claimGivenBackSQL takes runs that were given back (R62). None is made due for it: a
// worker of OpenWorkflow, which would give it back once more, never sees it. The range of
// operator_runs_given_back_idx for each workflow that is served is read from the front,
// as by claimSQL.
const claimGivenBackSQL = `
WITH served AS MATERIALIZED (
	SELECT s.workflow_name, s.version, s.refusal FROM unnest($2::text[], $3::text[], $6::text[]) s (workflow_name, version, refusal)
), given_back AS MATERIALIZED (
	SELECT r.id
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = $1 AND r.status = 'pending' AND {served}
			AND r.available_at IS NOT NULL
			AND r.error ->> 'message' LIKE 'Workflow "%is not registered' AND r.error ->> 'message' = s.refusal
		ORDER BY r.created_at
		LIMIT cardinality($4::text[])
		FOR NO KEY UPDATE SKIP LOCKED
	) r
	LIMIT cardinality($4::text[])
), chosen AS (
	SELECT $1::text AS namespace_id, g.id, row_number() OVER () AS n FROM given_back g
)
` + leaseChosen

// leaseChosen leases the chosen runs.
const leaseChosen = `UPDATE {schema}.workflow_runs r
SET status       = 'running',
	attempts     = r.attempts + 1,
	worker_id    = w.worker_id,
	available_at = now() + $5::interval,
	started_at   = coalesce(r.started_at, now()),
	updated_at   = now()
FROM chosen c
JOIN unnest($4::text[]) WITH ORDINALITY w (worker_id, n) USING (n)
WHERE r.namespace_id = c.namespace_id AND r.id = c.id
RETURNING {run}`

// ofServed is what all branches ask of a run of the workflow s besides its status and
// when it is due. The coalesced version is the indexes' (R61: exact, so no version is not
// the empty one).
const ofServed = `r.workflow_name = s.workflow_name
		AND coalesce(r.version, '') = coalesce(s.version, '') AND (r.version IS NULL) = (s.version IS NULL)
		AND r.suspended_at IS NULL
		AND (r.deadline_at IS NULL OR r.deadline_at > now())`

// claims fills in the repetitions of claimSQL and claimGivenBackSQL.
var claims = strings.NewReplacer(
	"{due_again}", "r.namespace_id = $1 AND r.status IN ('running', 'sleeping') AND r.available_at <= now() AND "+ofServed,
	"{pending}", "r.namespace_id = $1 AND r.status = 'pending' AND r.available_at <= now() AND "+ofServed,
	"{served}", ofServed,
	"{ordered}", `
		ORDER BY r.available_at, r.created_at
		LIMIT cardinality($4::text[])
		FOR NO KEY UPDATE SKIP LOCKED`,
	"{run}", runColumns,
)

var (
	claimTemplate          = claims.Replace(claimSQL)
	claimGivenBackTemplate = claims.Replace(claimGivenBackSQL)
)

// Claim leases due runs to the request's worker ids and returns them, in no
// order. It returns fewer than asked for when no more are due, and never one
// that another claimer is taking. Runs past their deadline, suspended, or of a
// workflow that is not served stay untouched.
func (s *Store) Claim(ctx context.Context, r ClaimRequest) ([]openworkflow.Run, error) {
	if len(r.WorkerIDs) == 0 || len(r.Served) == 0 {
		return nil, nil
	}
	turn := int(s.turn.Load())
	if !r.GivenBack {
		turn = int(s.turn.Add(1))
	}
	// Each workflow is the first one in turn, else a busy one would starve the others.
	names, versions, refusals := make([]string, len(r.Served)), make([]*string, len(r.Served)), make([]string, len(r.Served))
	for i := range r.Served {
		d := r.Served[(i+turn)%len(r.Served)]
		names[i], versions[i], refusals[i] = d.Name, d.Version, d.Refusal()
	}
	if r.GivenBack {
		return s.lease(ctx, claimGivenBackTemplate, s.namespace, names, versions, r.WorkerIDs, r.Lease, refusals)
	}
	// An odd slot goes to each branch in turn, else a worker that frees one slot
	// at a time would always serve the same one.
	share := (len(r.WorkerIDs) + turn%2) / 2
	return s.lease(ctx, claimTemplate, s.namespace, names, versions, r.WorkerIDs, r.Lease, share)
}

// lease executes a claim.
func (s *Store) lease(ctx context.Context, claim string, args ...any) ([]openworkflow.Run, error) {
	var runs []openworkflow.Run
	err := s.each(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRun(row)
		runs = append(runs, run)
		return err
	}, s.sql(claim), args...)
	if err != nil {
		return nil, Classify(err)
	}
	return runs, nil
}
