package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

const (
	// bulkPage is the number of ended runs that are read at once, whether they match or not.
	bulkPage = 1000
	// bulkPreview is the number that a preview reads, and bulkSample how many of the matching it
	// names.
	bulkPreview, bulkSample = 20_000, 10
	// bulkLease is how long a claim of a request holds. A manager that dies delays it so long.
	bulkLease = 30 * time.Second
	// BulkBatch is how much time the forks of a batch are worth: a batch has rate × BulkBatch forks,
	// one at least.
	BulkBatch = 2 * time.Second
)

// BulkWork is a request that a caller has claimed, and its place in the history.
type BulkWork struct {
	BulkRetry
	// Cursor is the end and the id of the last run that was gone through.
	Cursor openworkflow.Cursor
	// Batch is how many forks may be made under this claim.
	Batch int

	holder      string
	endedBefore time.Time
}

// BulkSource is a run that a request selects.
type BulkSource struct {
	// Cursor has the run's id, and its end by the server's clock.
	openworkflow.Cursor
	// SupersededBy is the id of its newest fork, empty for none.
	SupersededBy string
}

// BulkSources is a page of a selection.
type BulkSources struct {
	// Matching are the runs to fork.
	Matching []BulkSource
	// Last is the place of the last run that was read, whether it matches or not.
	Last openworkflow.Cursor
	// Whole says that no runs follow.
	Whole bool
}

// claimBulkSQL claims the request that has waited longest of those that are due. It reads the
// namespace's requests, skips those that others hold, and waits for no lock.
const claimBulkSQL = `
UPDATE {schema}.operator_bulk_retries b
SET holder = $2, claimed_at = now(), next_at = now() + $3::interval
FROM (
	SELECT d.namespace_id, d.name
	FROM {schema}.operator_bulk_retries d
	WHERE d.namespace_id = $1 AND d.state = 'running' AND d.next_at <= now()
	ORDER BY d.next_at
	LIMIT 1
	FOR UPDATE SKIP LOCKED
) due
WHERE b.namespace_id = due.namespace_id AND b.name = due.name
RETURNING ` + bulkColumns + `, b.cursor_at, b.cursor_id, b.ended_before`

// ClaimBulkRetry returns a request whose next batch is due, for the caller alone while the claim
// holds; nil if there is none. Its forks are made with ForkID and Once, so a caller that dies in
// between, or works on after the claim, does not fork a run twice.
func (s *Store) ClaimBulkRetry(ctx context.Context) (*BulkWork, error) {
	work := BulkWork{holder: openworkflow.NewID()}
	rows, err := s.pool.Query(ctx, s.sql(claimBulkSQL), s.namespace, work.holder, bulkLease)
	if err != nil {
		return nil, Classify(err)
	}
	work.BulkRetry, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (BulkRetry, error) {
		return scanBulkRetry(row, &work.Cursor.CreatedAt, &work.Cursor.ID, &work.endedBefore)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, Classify(err)
	}
	work.Batch = max(1, int(BulkBatch*time.Duration(work.Spec.PerMinute)/time.Minute))
	if left := work.Spec.MaxRuns - work.Started; work.Spec.MaxRuns > 0 {
		work.Batch = max(0, min(work.Batch, left))
	}
	return &work, nil
}

// bulkMatches says that the spec selects the ended run r. A child is its parent's to start anew.
const bulkMatches = `(
			(r.status = 'failed' AND $6::bool OR r.status = 'canceled' AND $7::bool)
			AND ($8::text = '' OR r.workflow_name = $8)
			AND ($9::text IS NULL OR coalesce(r.version, '') = $9)
			AND ($10::text = '' OR coalesce(r.error ->> 'name', '') = $10)
			AND r.parent_step_attempt_id IS NULL
		)`

// bulkPageSQL reads the next $5 runs that failed or were canceled, of operator_runs_failed_idx in
// its order. $4 NULL means now.
var bulkPageSQL = `
	SELECT r.updated_at, r.id, ` + bulkMatches + ` AS matches, coalesce(` + configText("r", configSupersededBy) + `, '') AS superseded_by
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status IN ('failed', 'canceled')
		AND (r.updated_at, r.id) > ($2::timestamptz, $3::text) AND r.updated_at < coalesce($4::timestamptz, now())
	ORDER BY r.updated_at, r.id
	LIMIT $5`

// bulkPageArgs are the arguments of bulkPageSQL.
func (s *Store) bulkPageArgs(spec *BulkSpec, after openworkflow.Cursor, before time.Time, limit int) []any {
	return []any{s.namespace, after.CreatedAt, after.ID, nullTime(before), limit,
		spec.Failed, spec.Canceled, spec.WorkflowName, spec.Version, spec.ErrorName}
}

// BulkSources returns a page of the runs that the claimed request has not gone through.
func (s *Store) BulkSources(ctx context.Context, work *BulkWork) (page BulkSources, err error) {
	read := 0
	page.Last = work.Cursor
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var source BulkSource
		var matches bool
		if err := row.Scan(&source.CreatedAt, &source.ID, &matches, &source.SupersededBy); err != nil {
			return err
		}
		read++
		page.Last = source.Cursor
		if matches {
			page.Matching = append(page.Matching, source)
		}
		return nil
	}, s.sql(bulkPageSQL), s.bulkPageArgs(&work.Spec, work.Cursor, work.endedBefore, bulkPage)...)
	page.Whole = read < bulkPage
	return page, Classify(err)
}

// BulkProgress is what was done under a claim.
type BulkProgress struct {
	// Cursor is the place of the last run that was gone through.
	Cursor openworkflow.Cursor
	// Started, Skipped and Failed are added to those of the request.
	Started, Skipped int
	Failed           []BulkFailure
	// Done says that no run is left.
	Done bool
}

// advanceBulkSQL ends a claim. The next batch is due when the forks of this one are that old: $9
// after the claim. Primary key.
const advanceBulkSQL = `
UPDATE {schema}.operator_bulk_retries b
SET holder = NULL, cursor_at = $4, cursor_id = $5,
	started = b.started + $6, skipped = b.skipped + $7, failed = b.failed + $8,
	next_at = b.claimed_at + $9::interval, failures = $10::text::jsonb,
	state = CASE WHEN $11::bool AND b.state = 'running' THEN 'completed' ELSE b.state END,
	finished_at = CASE WHEN $11::bool AND b.state = 'running' THEN now() ELSE b.finished_at END
WHERE b.namespace_id = $1 AND b.name = $2 AND b.holder = $3`

// AdvanceBulkRetry stores the progress that was made under a claim, and gives the request back. A
// claim that was lost changes nothing: whoever has the request now goes through the same runs, and
// finds their forks.
func (s *Store) AdvanceBulkRetry(ctx context.Context, work *BulkWork, p BulkProgress) error {
	failures := append(append([]BulkFailure{}, work.Failures...), p.Failed...)
	encoded, err := json.Marshal(failures[:min(len(failures), maxBulkFailures)])
	if err != nil {
		return fmt.Errorf("encode failures of bulk retry %q: %w", work.Name, err)
	}
	interval := time.Duration(p.Started) * time.Minute / time.Duration(work.Spec.PerMinute)
	_, err = s.pool.Exec(ctx, s.sql(advanceBulkSQL), s.namespace, work.Name, work.holder, p.Cursor.CreatedAt, p.Cursor.ID,
		p.Started, p.Skipped, len(p.Failed), interval, string(encoded), p.Done)
	return Classify(err)
}

// BulkPreview says what a request would do.
type BulkPreview struct {
	// Matched is how many runs it would fork. More says that these are only the first.
	Matched int
	More    bool
	// Sample are the ids of the first of them.
	Sample []string
}

// bulkPreviewSQL counts what a bounded page has.
var bulkPreviewSQL = `
SELECT count(*), count(*) FILTER (WHERE matches AND superseded_by = ''),
	coalesce((array_agg(id ORDER BY updated_at, id) FILTER (WHERE matches AND superseded_by = ''))[1:` + fmt.Sprint(bulkSample) + `], '{}')
FROM (` + bulkPageSQL + `
) r`

// PreviewBulkRetry counts the runs that the spec selects now and that nobody has forked. It reads
// a bounded number of ended runs.
func (v *View) PreviewBulkRetry(ctx context.Context, spec *BulkSpec) (p BulkPreview, err error) {
	after := openworkflow.Cursor{CreatedAt: spec.EndedFrom}
	if after.CreatedAt.IsZero() {
		after.CreatedAt = earliest
	}
	err = v.read(ctx, func(row pgx.CollectableRow) error {
		var read int
		err := row.Scan(&read, &p.Matched, &p.Sample)
		p.More = read == bulkPreview
		return err
	}, v.store.sql(bulkPreviewSQL), v.store.bulkPageArgs(spec, after, spec.EndedBefore, bulkPreview)...)
	return p, Classify(err)
}
