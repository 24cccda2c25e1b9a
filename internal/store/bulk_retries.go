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

// The errors of CreateBulkRetry.
var (
	// ErrBulkRetryExists means that there is a request of this name.
	ErrBulkRetryExists = errors.New("bulk retry exists")
	// ErrTooManyBulkRetries means that MaxOpenBulkRetries requests have not ended.
	ErrTooManyBulkRetries = errors.New("too many bulk retries are open")
)

const (
	// MaxOpenBulkRetries is how many requests of a namespace may be open at once.
	MaxOpenBulkRetries = 10
	// MaxBulkRetries is how many are kept and read. The oldest that have ended are removed.
	MaxBulkRetries = 100
	// MaxBulkRate is the largest number of forks in a minute.
	MaxBulkRate = 6000
	// maxBulkFailures is how many failures a request keeps.
	maxBulkFailures = 5
)

// BulkSpec says which runs to fork, and how. It is stored as JSON.
type BulkSpec struct {
	// WorkflowName, Version and ErrorName select runs of a workflow, of a version ("" is the
	// unversioned one), and with an error of this name. Nil and empty mean all.
	WorkflowName string  `json:"workflowName,omitempty"`
	Version      *string `json:"version,omitempty"`
	ErrorName    string  `json:"errorName,omitempty"`
	// Failed and Canceled select runs that ended so.
	Failed   bool `json:"failed,omitempty"`
	Canceled bool `json:"canceled,omitempty"`
	// EndedFrom and EndedBefore bound the end of runs by the server's clock: from is included,
	// before is not. Zero means no bound. No run is selected that ended after the request.
	EndedFrom   time.Time `json:"endedFrom,omitzero"`
	EndedBefore time.Time `json:"endedBefore,omitzero"`

	// Step, LastFailed and RestartChildren are those of ForkRequest.
	Step            *string `json:"step,omitempty"`
	LastFailed      bool    `json:"lastFailed,omitempty"`
	RestartChildren bool    `json:"restartChildren,omitempty"`

	// PerMinute is the largest number of forks in a minute.
	PerMinute int `json:"perMinute"`
	// MaxRuns ends the request once it has made so many forks. 0 means never.
	MaxRuns int `json:"maxRuns,omitempty"`
}

// BulkState is the state of a BulkRetry.
type BulkState string

// States of requests.
const (
	BulkRunning   BulkState = "running"
	BulkSuspended BulkState = "suspended"
	BulkCompleted BulkState = "completed"
	BulkCanceled  BulkState = "canceled"
)

// Ended reports whether no more runs are forked.
func (s BulkState) Ended() bool { return s == BulkCompleted || s == BulkCanceled }

// BulkRetry is a request to fork all runs that it selects, and how far it has come.
type BulkRetry struct {
	Name string
	// UID identifies the request. The ids of forks follow from it.
	UID   string
	Spec  BulkSpec
	State BulkState
	// Matched is how many runs matched at the creation. More says that these are only the first.
	Matched int
	More    bool
	// Started, Skipped and Failed count runs that were forked, that somebody else had forked, and
	// that could not be forked. Failures are the first of the last.
	Started, Skipped, Failed int
	Failures                 []BulkFailure
	CreatedAt                time.Time
	FinishedAt               *time.Time
}

// BulkFailure says why a run could not be forked.
type BulkFailure struct {
	RunID   string `json:"runID"`
	Message string `json:"message"`
}

// ForkID returns the id of the request's fork of a run. It is always the same one, so a run that
// is met again is not forked again.
func (b *BulkRetry) ForkID(runID string) string {
	return openworkflow.DerivedID(b.CreatedAt, "bulk-retry", b.UID, runID)
}

// maxBulkJSON bounds the columns with JSON that are read, in bytes. Whoever may write rows may
// write anything there.
const maxBulkJSON = `16384`

// bulkColumns are the columns that scanBulkRetry reads, of an operator_bulk_retries called b.
const bulkColumns = `left(b.name, 253), left(b.uid, 64), b.state,
	CASE WHEN octet_length(b.spec::text) <= ` + maxBulkJSON + ` THEN b.spec END,
	b.matched, b.more, b.started, b.skipped, b.failed,
	CASE WHEN octet_length(b.failures::text) <= ` + maxBulkJSON + ` THEN b.failures END, b.created_at, b.finished_at`

// scanBulkRetry scans the columns, and more that follow them. A spec that is none of ours selects
// nothing.
func scanBulkRetry(row pgx.CollectableRow, more ...any) (b BulkRetry, err error) {
	var spec, failures json.RawMessage
	err = row.Scan(append([]any{&b.Name, &b.UID, &b.State, (*jsonColumn)(&spec), &b.Matched, &b.More, &b.Started, &b.Skipped, &b.Failed,
		(*jsonColumn)(&failures), &b.CreatedAt, &b.FinishedAt}, more...)...)
	if json.Unmarshal(spec, &b.Spec) != nil {
		b.Spec = BulkSpec{}
	}
	b.Spec.PerMinute = min(max(b.Spec.PerMinute, 1), MaxBulkRate)
	if json.Unmarshal(failures, &b.Failures) != nil {
		b.Failures = nil
	}
	b.Failures = b.Failures[:min(len(b.Failures), maxBulkFailures)]
	return b, err
}

// lockBulkSQL makes creations follow each other, so that their number is bounded. Sweeps go on
// meanwhile.
const lockBulkSQL = `LOCK TABLE {schema}.operator_bulk_retries IN SHARE UPDATE EXCLUSIVE MODE`

// trimBulkSQL removes the oldest requests that have ended, so that there is room for one more. It
// reads the namespace's requests.
const trimBulkSQL = `
DELETE FROM {schema}.operator_bulk_retries b
USING (
	SELECT o.namespace_id, o.name
	FROM {schema}.operator_bulk_retries o
	WHERE o.namespace_id = $1 AND o.state NOT IN ('running', 'suspended')
	ORDER BY o.created_at DESC, o.name
	OFFSET $2
) old
WHERE b.namespace_id = old.namespace_id AND b.name = old.name`

// createBulkSQL inserts a request unless too many are open. Its selection ends now.
const createBulkSQL = `
INSERT INTO {schema}.operator_bulk_retries (
	namespace_id, name, uid, spec, state, matched, more, ended_before, cursor_at, next_at, created_at, finished_at
)
SELECT $1, $2, $3, $4::text::jsonb, $5::text, $6, $7, least($8::timestamptz, now()), coalesce($9::timestamptz, '-infinity'), now(), now(),
	CASE WHEN $5 = 'canceled' THEN now() END
WHERE (
	SELECT count(*) FROM {schema}.operator_bulk_retries o WHERE o.namespace_id = $1 AND o.state IN ('running', 'suspended')
) < $10
ON CONFLICT (namespace_id, name) DO NOTHING`

// existsBulkSQL uses the primary key.
const existsBulkSQL = `
SELECT EXISTS (SELECT FROM {schema}.operator_bulk_retries b WHERE b.namespace_id = $1 AND b.name = $2)`

// CreateBulkRetry stores a request with its Name, Spec, State, Matched and More. Only runs that
// have ended before it are selected, so no fork of the request is. The error is
// ErrBulkRetryExists or ErrTooManyBulkRetries.
func (s *Store) CreateBulkRetry(ctx context.Context, b BulkRetry) error {
	spec, err := json.Marshal(b.Spec)
	if err != nil {
		return fmt.Errorf("encode bulk retry %q: %w", b.Name, err)
	}
	return Classify(repeat(ctx, func(int) error {
		return pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			var lock sqlBatch
			lock.waitForLocks(busyPatience)
			lock.Queue(s.sql(lockBulkSQL))
			lock.Queue(s.sql(trimBulkSQL), s.namespace, MaxBulkRetries-MaxOpenBulkRetries-1)
			if err := tx.SendBatch(ctx, &lock.Batch).Close(); err != nil {
				return err
			}
			inserted, err := tx.Exec(ctx, s.sql(createBulkSQL), s.namespace, b.Name, openworkflow.NewID(), string(spec), b.State,
				b.Matched, b.More, nullTime(b.Spec.EndedBefore), nullTime(b.Spec.EndedFrom), MaxOpenBulkRetries)
			if err != nil || inserted.RowsAffected() > 0 {
				return err
			}
			var exists bool
			if err := tx.QueryRow(ctx, s.sql(existsBulkSQL), s.namespace, b.Name).Scan(&exists); err != nil {
				return err
			}
			if exists {
				return fmt.Errorf("%w: %q", ErrBulkRetryExists, b.Name)
			}
			return fmt.Errorf("%w: %d", ErrTooManyBulkRetries, MaxOpenBulkRetries)
		})
	}))
}

// nullTime returns an instant as a statement's argument: NULL for none.
func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// bulkRetriesSQL uses the primary key.
const bulkRetriesSQL = `
SELECT ` + bulkColumns + `
FROM {schema}.operator_bulk_retries b
WHERE b.namespace_id = $1 AND ($2 = '' OR b.name = $2)
ORDER BY b.created_at DESC, b.name
LIMIT $3`

// BulkRetries returns the newest requests, newest first; with a name, the one of that name.
func (v *View) BulkRetries(ctx context.Context, name string) ([]BulkRetry, error) {
	if !storableID(name) {
		return nil, nil
	}
	var all []BulkRetry
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		b, err := scanBulkRetry(row)
		all = append(all, b)
		return err
	}, v.store.sql(bulkRetriesSQL), v.store.namespace, name, MaxBulkRetries)
	return all, Classify(err)
}

// changeBulkSQL changes the state of a request that has not ended. Primary key.
const changeBulkSQL = `
UPDATE {schema}.operator_bulk_retries b
SET state = $4, finished_at = CASE WHEN $4 = 'canceled' THEN now() END
WHERE b.namespace_id = $1 AND b.name = $2 AND b.uid = $3 AND b.state IN ('running', 'suspended')`

// ChangeBulkRetry suspends, resumes or cancels a request: forks that are being made go on, at most
// two seconds' worth. It reports false for one that has ended or does not exist.
func (s *Store) ChangeBulkRetry(ctx context.Context, name, uid string, state BulkState) (changed bool, err error) {
	tag, err := s.pool.Exec(ctx, s.sql(changeBulkSQL), s.namespace, name, uid, state)
	return tag.RowsAffected() > 0, Classify(err)
}

const deleteBulkSQL = `
DELETE FROM {schema}.operator_bulk_retries b WHERE b.namespace_id = $1 AND b.name = $2 AND b.uid = $3`

// DeleteBulkRetry removes a request, which ends it. The forks that it has made stay.
func (s *Store) DeleteBulkRetry(ctx context.Context, name, uid string) error {
	_, err := s.pool.Exec(ctx, s.sql(deleteBulkSQL), s.namespace, name, uid)
	return Classify(err)
}
