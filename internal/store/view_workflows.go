package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

const (
	// MaxWorkflows bounds the workflows of an answer of Workflows.
	MaxWorkflows = 100
	// MaxBacklog bounds each count of runs in it.
	MaxBacklog = 1000
	// endedSample is how many ended runs are read of each workflow and status, newest first.
	endedSample = 300
	// maxLeases bounds the leases that are counted.
	maxLeases = 10_000
)

// WorkflowView is what the runs of one workflow and version do. Counts of open runs end at
// MaxBacklog.
type WorkflowView struct {
	Workflow openworkflow.Definition
	// Runnable runs could be claimed now, and OldestDue is since when the first of them could be.
	Runnable  int
	OldestDue *time.Time
	// Running runs are held by workers whose lease has not ended. Waiting ones are due later. Suspended ones include those
	// that have no time at which they are due.
	Running, Waiting, Suspended int
	// Completed, Failed and Canceled runs have ended within Span; failed ones that were forked since are left out. It is shorter than asked for when
	// so many have ended that only the newest were read.
	Completed, Failed, Canceled int
	Span                        time.Duration
}

// definitionsSQL walks from one workflow and version to the next in the index of a claim.
func definitionsSQL(statuses string) string {
	return `
WITH RECURSIVE seen AS (
	(
		SELECT r.workflow_name, coalesce(r.version, '') AS version, 1 AS n
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id || '' = $1 AND ` + statuses + `
		ORDER BY r.workflow_name, coalesce(r.version, '')
		LIMIT 1
	)
	UNION ALL
	SELECT next.workflow_name, next.version, s.n + 1
	FROM seen s
	CROSS JOIN LATERAL (
		SELECT r.workflow_name, coalesce(r.version, '') AS version
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id || '' = $1 AND ` + statuses + ` AND (r.workflow_name, coalesce(r.version, '')) > (s.workflow_name, s.version)
		ORDER BY r.workflow_name, coalesce(r.version, '')
		LIMIT 1
	) next
	WHERE s.n < $2
)
SELECT workflow_name, version FROM seen`
}

var newDefinitionsSQL, againDefinitionsSQL = definitionsSQL(`r.status = 'pending'`), definitionsSQL(`r.status IN ('running', 'sleeping')`)

// leasesByWorkflowSQL reads operator_runs_lease_idx, whose size is bounded by the workers' slots. The
// coalesce and the order keep the planner from OpenWorkflow's index of running runs by available_at,
// which has those that wait, too.
const leasesByWorkflowSQL = `
SELECT l.workflow_name, l.version, count(*)
FROM (
	SELECT r.workflow_name, r.version
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status = 'running' AND r.worker_id IS NOT NULL AND coalesce(r.available_at, '-infinity') > now()
	ORDER BY r.worker_id USING ~<~
	LIMIT $2
) l
GROUP BY l.workflow_name, l.version`

// endedNamesSQL reads the newest runs in workflow_runs_status_created_at_desc_idx.
const endedNamesSQL = `
SELECT DISTINCT e.workflow_name, e.version
FROM unnest(ARRAY['completed', 'failed', 'canceled']) s (status)
CROSS JOIN LATERAL (
	SELECT r.workflow_name, r.version
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status = s.status
	ORDER BY r.created_at DESC
	LIMIT $2
) e`

// backlogSQL counts the front of ranges of operator_runs_new_idx and operator_runs_again_idx.
var backlogSQL = strings.NewReplacer(
	"{new_due}", newDueFrom("'-infinity'"), "{again_due}", againDueFrom("'-infinity'"),
	"{new_later}", laterOf(`r.status = 'pending'`, `r.available_at > now()`),
	"{again_later}", laterOf(`r.status IN ('running', 'sleeping')`, `r.available_at > now() AND r.worker_id IS NULL`),
	"{new_never}", laterOf(`r.status = 'pending'`, `r.available_at IS NULL`),
	"{again_never}", laterOf(`r.status IN ('running', 'sleeping')`, `r.available_at IS NULL`),
).Replace(`
SELECT s.n,
	(SELECT count(*) FROM (SELECT FROM {schema}.workflow_runs r WHERE {new_due} LIMIT $4) x),
	(SELECT count(*) FROM (SELECT FROM {schema}.workflow_runs r WHERE {again_due} LIMIT $4) x),
	least(
		(SELECT r.available_at FROM {schema}.workflow_runs r WHERE {new_due} ORDER BY r.available_at, r.created_at LIMIT 1),
		(SELECT r.available_at FROM {schema}.workflow_runs r WHERE {again_due} ORDER BY r.available_at, r.created_at LIMIT 1)
	),
	(SELECT count(*) FROM (SELECT FROM {schema}.workflow_runs r WHERE {new_later} LIMIT $4) x),
	(SELECT count(*) FROM (SELECT FROM {schema}.workflow_runs r WHERE {again_later} LIMIT $4) x),
	(SELECT count(*) FROM (SELECT FROM {schema}.workflow_runs r WHERE {new_never} LIMIT $4) x),
	(SELECT count(*) FROM (SELECT FROM {schema}.workflow_runs r WHERE {again_never} LIMIT $4) x)
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY s (workflow_name, version, n)`)

// laterOf says that the run r is of the workflow s and not due.
func laterOf(status, due string) string {
	return `r.namespace_id || '' = $1 AND ` + status + ` AND r.workflow_name = s.workflow_name
		AND coalesce(r.version, '') = coalesce(s.version, '') AND (r.version IS NULL) = (s.version IS NULL) AND ` + due
}

// endedSQL reads, of each workflow and status, the newest runs in
// workflow_runs_workflow_name_status_created_at_desc_idx. No index has the order of ends. So where
// more runs have ended than are read, those that were created since the oldest of them are
// counted, and the time since then is the span.
// A failed run that has been retried does not count as one: its retry does.
var endedSQL = `
WITH ended AS MATERIALIZED (
	SELECT n.name, e.version, e.status, e.created_at, e.finished_at, e.superseded,
		count(*) OVER part >= $3 AS cut, min(e.created_at) OVER part AS oldest
	FROM unnest($2::text[]) n (name)
	CROSS JOIN unnest(ARRAY['completed', 'failed', 'canceled']) s (status)
	CROSS JOIN LATERAL (
		SELECT r.version, r.status, r.created_at, r.finished_at, ` + configText("r", configSupersededBy) + ` IS NOT NULL AS superseded
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = $1 AND r.workflow_name = n.name AND r.status = s.status
		ORDER BY r.created_at DESC
		LIMIT $3
	) e
	WINDOW part AS (PARTITION BY n.name, s.status)
), since AS (
	SELECT name, greatest(now() - $4::interval, max(oldest) FILTER (WHERE cut)) AS at,
		coalesce(max(oldest) FILTER (WHERE cut) > now() - $4::interval, false) AS sampled
	FROM ended
	GROUP BY name
)
SELECT e.name, e.version, now() - s.at,
	count(*) FILTER (WHERE e.status = 'completed'), count(*) FILTER (WHERE e.status = 'failed' AND NOT e.superseded), count(*) FILTER (WHERE e.status = 'canceled')
FROM ended e
JOIN since s USING (name)
WHERE CASE WHEN s.sampled THEN e.created_at ELSE e.finished_at END >= s.at
GROUP BY e.name, e.version, s.at`

// Workflows returns what the runs of each workflow do: of those that have open runs, that have
// ended lately, and that are served. It returns MaxWorkflows at most, and whether there may be
// more. It counts no history: ends are those within the window at most.
func (v *View) Workflows(ctx context.Context, served []openworkflow.Definition, window time.Duration) (views []WorkflowView, more bool, err error) {
	found := &workflowSet{at: map[openworkflow.DefinitionKey]int{}}
	for _, d := range served {
		if storableID(d.Name) && (d.Version == nil || storableID(*d.Version)) { // a pool's spec may list any text
			found.view(d)
		}
	}
	s := v.store
	coalesced := func(row pgx.CollectableRow) error {
		var name, version string
		err := row.Scan(&name, &version)
		if version == "" { // of no version, or of the empty one, which hardly exists
			found.view(openworkflow.Definition{Name: name})
		} else {
			found.view(openworkflow.Definition{Name: name, Version: &version})
		}
		return err
	}
	err = v.readAll(ctx, func(b *sqlBatch) {
		b.collect(coalesced, s.sql(newDefinitionsSQL), s.namespace, MaxWorkflows)
		b.collect(coalesced, s.sql(againDefinitionsSQL), s.namespace, MaxWorkflows)
		b.collect(func(row pgx.CollectableRow) error {
			var d openworkflow.Definition
			var n int
			err := row.Scan(&d.Name, &d.Version, &n)
			if view := found.view(d); view != nil {
				view.Running = n
			}
			return err
		}, s.sql(leasesByWorkflowSQL), s.namespace, maxLeases)
		b.collect(func(row pgx.CollectableRow) error {
			var d openworkflow.Definition
			err := row.Scan(&d.Name, &d.Version)
			found.view(d)
			return err
		}, s.sql(endedNamesSQL), s.namespace, endedSample)
	})
	if err == nil {
		err = v.countWorkflows(ctx, found, window)
	}
	return found.views, found.more, Classify(err)
}

func (v *View) countWorkflows(ctx context.Context, found *workflowSet, window time.Duration) error {
	var names, distinct []string
	var versions []*string
	for i := range found.views {
		d := found.views[i].Workflow
		names, versions = append(names, d.Name), append(versions, d.Version)
		found.views[i].Span = window
	}
	distinct = slices.Clone(names)
	slices.Sort(distinct)
	distinct = slices.Compact(distinct)
	s := v.store
	return v.readAll(ctx, func(b *sqlBatch) {
		b.collect(func(row pgx.CollectableRow) error {
			var n int
			var fresh, again, freshLater, againLater, freshNever, againNever int
			var oldest *time.Time
			if err := row.Scan(&n, &fresh, &again, &oldest, &freshLater, &againLater, &freshNever, &againNever); err != nil {
				return err
			}
			view := &found.views[n-1]
			view.Runnable, view.OldestDue = min(fresh+again, MaxBacklog), oldest
			view.Waiting, view.Suspended = min(freshLater+againLater, MaxBacklog), min(freshNever+againNever, MaxBacklog)
			return nil
		}, s.sql(backlogSQL), s.namespace, names, versions, MaxBacklog)
		b.collect(func(row pgx.CollectableRow) error {
			var d openworkflow.Definition
			var span time.Duration
			var completed, failed, canceled int
			if err := row.Scan(&d.Name, &d.Version, &span, &completed, &failed, &canceled); err != nil {
				return err
			}
			if view := found.view(d); view != nil {
				view.Span, view.Completed, view.Failed, view.Canceled = span, completed, failed, canceled
			}
			return nil
		}, s.sql(endedSQL), s.namespace, distinct, endedSample, window)
	})
}

// workflowSet collects workflows up to MaxWorkflows.
type workflowSet struct {
	views []WorkflowView
	at    map[openworkflow.DefinitionKey]int
	more  bool
}

// view returns the view of a workflow, nil if there are too many.
func (s *workflowSet) view(d openworkflow.Definition) *WorkflowView {
	if i, ok := s.at[d.Key()]; ok {
		return &s.views[i]
	}
	if len(s.views) == MaxWorkflows {
		s.more = true
		return nil
	}
	s.at[d.Key()] = len(s.views)
	s.views = append(s.views, WorkflowView{Workflow: d})
	return &s.views[len(s.views)-1]
}
