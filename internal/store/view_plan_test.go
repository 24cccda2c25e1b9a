package store_test

import (
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// No filter makes a view read history, or all open runs, for one page.
func TestView_P9_PlansReadNoHistory(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.populate()
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = timestamptz '2026-01-01' + (hashtext(id) % 1000000) * interval '1 s'`)
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed' WHERE id LIKE 'done-%7'`)
	f.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config,
		child_workflow_run_namespace_id, child_workflow_run_id, created_at, updated_at)
	SELECT 'default', 'child-' || i, 'parked-1', 'c', 'workflow', 'running', '{}', 'default', 'done-' || i, now(), now() FROM generate_series(1, 50) i`)
	f.exec(`VACUUM ANALYZE openworkflow.workflow_runs, openworkflow.step_attempts`)
	const limit, tied = 100, 10
	middle := &openworkflow.Cursor{CreatedAt: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), ID: "x"}
	for name, test := range map[string]struct {
		filter store.ViewFilter
		most   int
	}{
		"all":                 {store.ViewFilter{}, limit + tied},
		"of a workflow":       {store.ViewFilter{WorkflowName: "wf"}, limit + tied},
		"pending":             {store.ViewFilter{States: []store.RunState{store.StatePending}}, 6000},       // those that are due
		"running":             {store.ViewFilter{States: []store.RunState{store.StateRunning}}, 500 + tied}, // all leases
		"waiting":             {store.ViewFilter{States: []store.RunState{store.StateWaiting}}, 400},
		"completed":           {store.ViewFilter{States: []store.RunState{store.StateCompleted}}, limit + tied},
		"failed of a name":    {store.ViewFilter{States: []store.RunState{store.StateFailed}, WorkflowName: "wf"}, limit + tied},
		"failed of no run":    {store.ViewFilter{States: []store.RunState{store.StateFailed}, WorkflowName: "none"}, limit + tied},
		"created in a window": {store.ViewFilter{CreatedFrom: middle.CreatedAt, CreatedBefore: middle.CreatedAt.Add(time.Hour)}, limit + 50 + tied},
		"children":            {store.ViewFilter{ParentRunID: "parked-1"}, limit + tied},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			for _, after := range []*openworkflow.Cursor{nil, middle} {
				sql, args := f.ViewRuns(test.filter, after, limit)
				plan := f.explain(sql, args...)
				f.expectCost(name, plan, "Index", test.most)
			}
		})
	}
}

// The statements that say why a run waits read a few rows by keys, and at most as many runs before
// it as are counted, however long the history and the backlog are.
func TestView_P9_PlansOfWhyReadByKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.exec(`ALTER TABLE openworkflow.step_attempts SET (autovacuum_enabled = off)`)
	f.populate()
	f.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, created_at, updated_at)
	SELECT 'default', 'wait-' || i, 'parked-1', 'c', 'signal-wait', CASE WHEN i % 2 = 0 THEN 'running' ELSE 'completed' END, '{}', now() + i * interval '1 ms', now()
	FROM generate_series(1, 5000) i`)
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			f.exec(`VACUUM ANALYZE openworkflow.workflow_runs, openworkflow.step_attempts`)
		}
		for name, q := range f.WhySQL("parked-1") {
			f.expectCost(name, f.explain(q[0].(string), q[1:]...), "Index", 1100)
		}
		fresh, again := f.QueuedBeforeSQL()
		for name, sql := range map[string]string{"operator_runs_new_idx": fresh, "operator_runs_again_idx": again} {
			plan := f.explain(sql, "default", "wf", nil, time.Now(), time.Now(), store.MaxAhead)
			f.expectCost(name, plan, name, store.MaxAhead+10)
		}
	}
}
