package store

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ClaimRequest asks for runs to execute.
type ClaimRequest struct {
	// Served lists the workflows whose runs may be claimed, exact in name and version (R61).
	Served []openworkflow.Definition
	// Max is how many runs to claim at most.
	Max int
	// WorkerIDPrefix and a number are the worker id of each claimed run, its fencing token:
	// First for one, First+1 for the next. None may ever have been used before.
	WorkerIDPrefix string
	First          int64
	// Lease is how long the claims last without a heartbeat.
	Lease time.Duration
	// GivenBack claims, instead of due runs, runs that an OpenWorkflow worker claimed and gave
	// back because it does not have their workflow (R62). Their later due time is for workers
	// that do not have it either.
	GivenBack bool
}

// claimSQL takes runnable runs (runnable.go) and leases each to a worker id of its own (R42, R43).
//
// New runs and those due again (retakes, wakes, resumptions) are ordered index ranges: for
// each served workflow one of operator_runs_new_idx and one of operator_runs_again_idx. A
// range is read from its start, or from a later position, see claimCursors. So a claim sorts
// no backlog, and reads neither runs of other workflows nor history.
//
// Neither kind starves the other: the first $8 rows are for runs due again, the next for new
// runs, and the rest for either. The workflows come in the order of the arguments, which the
// caller rotates from claim to claim.
//
// Each range is read only as far as its rows are claimed. So exactly the claimed rows are
// locked, and another claimer never skips a locked row that stays unclaimed. FOR NO KEY UPDATE
// does not block inserts of step attempts, which take a key share lock of their run.
const claimSQL = `
WITH served AS MATERIALIZED (
	SELECT s.* FROM unnest($2::text[], $3::text[], $9::timestamptz[], $10::timestamptz[])
		s (workflow_name, version, again_from, new_from)
), due_again AS MATERIALIZED (
	SELECT r.id, r.available_at
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id, r.available_at FROM {schema}.workflow_runs r WHERE {due_again} {ordered}
	) r
	LIMIT $8
), pending AS MATERIALIZED (
	SELECT r.id, r.available_at
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id, r.available_at FROM {schema}.workflow_runs r WHERE {pending} {ordered}
	) r
	LIMIT $7::int - (SELECT count(*) FROM due_again)
), more_due_again AS MATERIALIZED (
	SELECT r.id, r.available_at
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id, r.available_at FROM {schema}.workflow_runs r
		WHERE {due_again} AND r.id <> ALL (ARRAY(SELECT id FROM due_again)) {ordered}
	) r
	WHERE (SELECT count(*) FROM due_again) = $8 -- else there are no more
	LIMIT $7::int - (SELECT count(*) FROM due_again) - (SELECT count(*) FROM pending)
), chosen AS (
	SELECT $1::text AS namespace_id, c.*, row_number() OVER () AS n
	FROM (
		SELECT *, true AS again FROM due_again
		UNION ALL SELECT *, false FROM pending
		UNION ALL SELECT *, true FROM more_due_again
	) c
)
` + leaseChosen

// claimGivenBackSQL takes runs that were given back (R62). It leases them directly and never
// makes them due, so no OpenWorkflow worker sees them and gives them back again. It reads a
// range of operator_runs_given_back_idx for each served workflow from its start, as claimSQL
// does.
const claimGivenBackSQL = `
WITH served AS MATERIALIZED (
	SELECT s.workflow_name, s.version, s.refusal FROM unnest($2::text[], $3::text[], $8::text[]) s (workflow_name, version, refusal)
), given_back AS MATERIALIZED (
	SELECT r.id, r.available_at
	FROM served s CROSS JOIN LATERAL (
		SELECT r.id, r.available_at
		FROM {schema}.workflow_runs r
		WHERE {given_back}
		ORDER BY r.created_at
		LIMIT $7::int
		FOR NO KEY UPDATE SKIP LOCKED
	) r
	LIMIT $7::int
), chosen AS (
	SELECT $1::text AS namespace_id, g.*, false AS again, row_number() OVER () AS n FROM given_back g
)
` + leaseChosen

// leaseChosen leases the chosen runs. Both claims end with it.
const leaseChosen = `UPDATE {schema}.workflow_runs r
SET status       = 'running',
	attempts     = least(r.attempts, 2147483646) + 1, -- whoever may write rows may write the largest integer
	worker_id    = $4::text || ($6::bigint + c.n - 1),
	available_at = now() + $5::interval,
	started_at   = coalesce(r.started_at, now()),
	updated_at   = now()
FROM chosen c
WHERE r.namespace_id = c.namespace_id AND r.id = c.id
RETURNING {run}, c.again, c.available_at`

// claimReplacer fills in the parts that claimSQL and claimGivenBackSQL repeat. The order is also
// that of operator_runs_new_idx and operator_runs_again_idx, of claimCursors, and of package
// memstore: change all of them together.
var claimReplacer = strings.NewReplacer(
	"{due_again}", againDueFrom("s.again_from"),
	"{pending}", newDueFrom("s.new_from"),
	"{given_back}", isGivenBack,
	"{ordered}", `
		ORDER BY r.available_at, r.created_at
		LIMIT $7::int
		FOR NO KEY UPDATE SKIP LOCKED`,
	"{run}", runColumns,
)

var (
	claimTemplate          = claimReplacer.Replace(claimSQL)
	claimGivenBackTemplate = claimReplacer.Replace(claimGivenBackSQL)
)

// Claim leases due runs to worker ids of their own and returns them, in no order. It returns
// fewer than Max when no more are due, and never a run that another claimer is taking. It
// leaves alone runs that are past their deadline, suspended, or of a workflow that is not
// served. It may take two statements; if the second fails, it returns the runs of the first
// with the error.
func (s *Store) Claim(ctx context.Context, r ClaimRequest) ([]openworkflow.Run, error) {
	var runs []openworkflow.Run
	for {
		c := s.newClaim(&r)
		if c == nil {
			return runs, nil
		}
		var b sqlBatch
		c.queue(s, &b)
		if err := s.send(ctx, &b); err != nil {
			return runs, Classify(err)
		}
		runs = append(runs, c.runs...)
		if !c.advanceCursors(s) {
			return runs, nil
		}
		r.Max -= len(c.runs) // runs may have become due before the cursors
		r.First += int64(len(c.runs))
	}
}

// claim is the execution of one ClaimRequest.
type claim struct {
	*ClaimRequest
	number int
	runs   []openworkflow.Run
	// share is how many of the runs are those that are due again, if there are as many, and again
	// how many are.
	share, again int
	// keys are the workflows, and maxDue is the latest available_at that was claimed from each range.
	keys   []openworkflow.DefinitionKey
	maxDue map[rangeKey]time.Time
	// fromStart says that every range is read from its start.
	fromStart bool
	began     time.Time
}

// newClaim returns the claim for a request, nil for one that asks for nothing.
func (s *Store) newClaim(r *ClaimRequest) *claim {
	if r == nil || r.Max <= 0 || len(r.Served) == 0 {
		return nil
	}
	c := &claim{ClaimRequest: r, number: int(s.claimCount.Load()), maxDue: map[rangeKey]time.Time{}}
	if !r.GivenBack {
		c.number = int(s.claimCount.Add(1))
	}
	return c
}

// queue queues the statement.
func (c *claim) queue(s *Store, b *sqlBatch) {
	// Rotate the workflows, else a busy one would starve the others.
	n := len(c.Served)
	names, versions, refusals := make([]string, n), make([]*string, n), make([]string, n)
	c.keys = make([]openworkflow.DefinitionKey, n)
	for i := range c.Served {
		d := c.Served[(i+c.number)%n]
		names[i], versions[i], refusals[i], c.keys[i] = d.Name, d.Version, d.Refusal(), d.Key()
	}
	if c.GivenBack {
		b.collect(c.addRun, s.sql(claimGivenBackTemplate),
			s.namespace, names, versions, c.WorkerIDPrefix, c.Lease, c.First, c.Max, refusals)
		return
	}
	// The branches take turns with an odd slot, else a worker that frees one slot at a time
	// would always claim from the same one.
	c.share = (c.Max + c.number%2) / 2
	c.began = time.Now()
	var again, pending []pgtype.Timestamptz
	again, pending, c.fromStart = s.cursors.positions(c.keys, c.began)
	b.collect(c.addRun, s.sql(claimTemplate),
		s.namespace, names, versions, c.WorkerIDPrefix, c.Lease, c.First, c.Max, c.share, again, pending)
}

// addRun scans a claimed run.
func (c *claim) addRun(row pgx.CollectableRow) error {
	var key rangeKey
	var due time.Time
	run, err := scanRunAnd(row, &key.again, &due)
	if err != nil {
		return err
	}
	c.runs = append(c.runs, run)
	if key.again {
		c.again++
	}
	key.DefinitionKey = run.Definition().Key()
	if due.After(c.maxDue[key]) {
		c.maxDue[key] = due
	}
	return nil
}

// advanceCursors is called once the claim is committed. It reports whether more runs may be due, at
// the starts of ranges.
func (c *claim) advanceCursors(s *Store) (lookAgain bool) {
	if c.GivenBack {
		return false
	}
	read := rangesRead{
		keys: c.keys, maxDue: c.maxDue, fromStart: c.fromStart,
		gotAll: len(c.runs) == c.Max, gotAllAgain: c.again >= c.share, began: c.began, ended: time.Now(),
	}
	if len(c.runs) > 0 && c.runs[0].AvailableAt != nil {
		read.at = c.runs[0].AvailableAt.Add(-c.Lease) // the server's clock
	}
	return s.cursors.advance(read)
}
