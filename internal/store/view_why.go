package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

const (
	// whyAttempts is how many of a run's newest attempts are searched for those that wait, and
	// whyNewest how many are read.
	whyAttempts, whyNewest = 1000, 50
	// MaxWaits bounds the waits of a WhyView.
	MaxWaits = 20
	// MaxAhead bounds the runs that QueuedBefore counts.
	MaxAhead = 1000
)

// WhyView is what says why a run is in its state. Long texts are cut; input and steps' outputs are
// left out.
type WhyView struct {
	Run openworkflow.Run
	// Now is the server's time.
	Now time.Time
	// Waits are the attempts that have not ended, oldest first: at most MaxWaits of WaitCount,
	// which were found among the newest 1,000 attempts.
	Waits     []WaitView
	WaitCount int
	// Newest are the newest 50 attempts, oldest first.
	Newest []openworkflow.StepAttempt
}

// WaitView is an attempt that has not ended.
type WaitView struct {
	openworkflow.StepAttempt
	// Over says that its child has ended, or its signal was delivered.
	Over bool
}

// viewWhyRunSQL uses the primary key.
var viewWhyRunSQL = `
SELECT ` + shownRunColumns.Replace(runColumns) + `, now()
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.id = $2`

// viewWaitsSQL reads the end of step_attempts_workflow_run_created_at_idx, and for each wait
// primary keys and workflow_signals_step_attempt_idx.
var viewWaitsSQL = `
SELECT a.namespace_id, a.id, a.workflow_run_id, ` + shownText("a.step_name") + `, ` + shownText("a.kind") + `, ` + shownText("a.status") + `,
	` + shownWait("a.context") + `, NULL::jsonb, NULL::jsonb, a.child_workflow_run_id, a.started_at, a.finished_at, a.created_at, a.updated_at,
	` + hasWaitResult + `, a.n
FROM (
	SELECT n.*, count(*) OVER () AS n
	FROM (
		SELECT *
		FROM {schema}.step_attempts
		WHERE namespace_id = $1 AND workflow_run_id = $2
		ORDER BY created_at DESC -- the order of the index: of two that began in one millisecond either will do
		LIMIT $3
	) n
	WHERE n.status = 'running'
	ORDER BY n.created_at, n.id
	LIMIT $4
) a`

// viewNewestSQL reads the end of the same index.
var viewNewestSQL = `
SELECT a.namespace_id, a.id, a.workflow_run_id, ` + shownText("a.step_name") + `, ` + shownText("a.kind") + `, ` + shownText("a.status") + `,
	` + shownWait("a.context") + `, NULL::jsonb, ` + shownError("a.error") + `, a.child_workflow_run_id, a.started_at, a.finished_at, a.created_at, a.updated_at
FROM (
	SELECT *
	FROM {schema}.step_attempts
	WHERE namespace_id = $1 AND workflow_run_id = $2
	ORDER BY created_at DESC
	LIMIT $3
) a
ORDER BY a.created_at, a.id`

// Why returns what says why a run is in its state, nil if the run does not exist.
func (v *View) Why(ctx context.Context, id string) (*WhyView, error) {
	if !storableID(id) {
		return nil, nil
	}
	var why *WhyView
	err := v.readAll(ctx, func(b *sqlBatch) {
		b.collect(func(row pgx.CollectableRow) error {
			why = &WhyView{}
			var err error
			why.Run, err = scanRunAnd(row, &why.Now)
			return err
		}, v.store.sql(viewWhyRunSQL), v.store.namespace, id)
		b.collect(func(row pgx.CollectableRow) error {
			var over bool
			var n int
			a, err := scanStepAnd(row, &over, &n)
			if why != nil {
				why.Waits, why.WaitCount = append(why.Waits, WaitView{a, over}), n
			}
			return err
		}, v.store.sql(viewWaitsSQL), v.store.namespace, id, whyAttempts, MaxWaits)
		b.collect(func(row pgx.CollectableRow) error {
			a, err := scanStep(row)
			if why != nil {
				why.Newest = append(why.Newest, a)
			}
			return err
		}, v.store.sql(viewNewestSQL), v.store.namespace, id, whyNewest)
	})
	return why, Classify(err)
}

// queuedBeforeSQL reads the front of the index that a claim reads for the run, up to the limit.
func queuedBeforeSQL(part string) string {
	return `
SELECT count(*)
FROM (
	SELECT
	FROM unnest(ARRAY[$2::text], ARRAY[$3::text]) s (workflow_name, version)
	CROSS JOIN LATERAL (
		SELECT
		FROM {schema}.workflow_runs r
		WHERE ` + part + ` AND r.available_at <= $4::timestamptz AND (r.available_at, r.created_at) < ($4::timestamptz, $5::timestamptz)
		ORDER BY r.available_at, r.created_at
		LIMIT $6
	) earlier
) ahead`
}

var queuedNewSQL, queuedAgainSQL = queuedBeforeSQL(newDueFrom("'-infinity'")), queuedBeforeSQL(againDueFrom("'-infinity'"))

// QueuedBefore counts the runnable runs that claims take before this one, which is runnable: those
// of its workflow and kind (new, or due again) that were due earlier. It counts up to MaxAhead.
func (v *View) QueuedBefore(ctx context.Context, run *openworkflow.Run) (n int, err error) {
	if run.AvailableAt == nil {
		return 0, nil
	}
	sql := queuedAgainSQL
	if run.Status == openworkflow.RunPending {
		sql = queuedNewSQL
	}
	err = v.read(ctx, func(row pgx.CollectableRow) error { return row.Scan(&n) },
		v.store.sql(sql), v.store.namespace, run.WorkflowName, run.Version, *run.AvailableAt, run.CreatedAt, MaxAhead)
	return n, Classify(err)
}

// Workers is Store.Workers in a read-only transaction.
func (v *View) Workers(ctx context.Context, within time.Duration) (workers []Worker, err error) {
	err = v.read(ctx, func(row pgx.CollectableRow) error {
		w, err := scanWorker(row)
		workers = append(workers, w)
		return err
	}, v.store.sql(workersSQL), v.store.namespace, within, MaxWorkers, maxWorkersBytes)
	return workers, Classify(err)
}
