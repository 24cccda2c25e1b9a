package store_test

import (
	"fmt"
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

// The answer about workflows costs as much with a long history and backlog as with a short one.
func TestView_P9_PlansOfWorkflowsCountNoHistory(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.populate()
	f.exec(`UPDATE openworkflow.workflow_runs SET finished_at = now(), created_at = now() - (hashtext(id) % 1000000) * interval '1 ms' WHERE status = 'completed'`)
	f.exec(`VACUUM ANALYZE openworkflow.workflow_runs`)
	for name, q := range f.WorkflowsSQL("wf") {
		f.expectCost(name, f.explain(q[0].(string), q[1:]...), "Index", store.MaxBacklog+200)
	}
}

func TestView_WorkflowsCountUpToABound(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(3)
	f.create(1, func(r *store.NewRun) { r.AvailableAt = new(time.Now().Add(time.Hour)) })
	f.create(1, func(r *store.NewRun) { r.Suspended = true })
	f.create(2, func(r *store.NewRun) { r.WorkflowName, r.Version = "other", new("2") })
	f.claim(1)
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, finished_at, updated_at)
	SELECT 'default', 'done-' || i, CASE WHEN i % 400 = 0 THEN 'rare' ELSE 'busy' END, CASE WHEN i % 4 = 0 THEN 'failed' ELSE 'completed' END, '{}', 1,
		now() - i * interval '100 ms', now() - i * interval '90 ms', now()
	FROM generate_series(1, 4000) i`)
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
	SELECT 'default', 'many-' || i, 'many', 'pending', '{}', 0, now() - interval '1 minute', now(), now() FROM generate_series(1, 1500) i`)
	views, more, err := f.View(5*time.Second).Workflows(t.Context(), []openworkflow.Definition{{Name: "idle"}, {Name: "no\x00text"}, {Name: "no text", Version: new("\xff")}}, 5*time.Minute)
	if err != nil || more {
		t.Fatalf("Workflows: %v, more %v", err, more)
	}
	got := map[string]store.WorkflowView{}
	for _, v := range views {
		key := v.Workflow.Name
		if v.Workflow.Version != nil {
			key += "@" + *v.Workflow.Version
		}
		got[key] = v
	}
	if v := got["wf"]; v.Runnable != 2 || v.Running != 1 || v.Waiting != 1 || v.Suspended != 1 || v.OldestDue == nil {
		t.Errorf("wf: %+v", v)
	}
	if v := got["other@2"]; v.Runnable != 2 {
		t.Errorf("other@2: %+v", v)
	}
	if v, ok := got["idle"]; !ok || v.Runnable != 0 || v.OldestDue != nil {
		t.Errorf("idle: %+v", v)
	}
	if v := got["many"]; v.Runnable != store.MaxBacklog {
		t.Errorf("many: %+v, want %d runnable", v, store.MaxBacklog)
	}
	// 10 a second have ended, a quarter of them failed. The newest 300 that completed are from 40 s.
	if v := got["busy"]; v.Span >= 5*time.Minute || v.Span < 30*time.Second || v.Completed < 290 || v.Failed < 80 || v.Failed > 110 {
		t.Errorf("busy: %+v", v)
	}
	if v := got["rare"]; v.Span != 5*time.Minute || v.Failed < 7 || v.Failed > 9 || v.Completed != 0 {
		t.Errorf("rare: %+v", v)
	}
}

func TestView_DiagnoseNamesWhatHoldsBackVacuum(t *testing.T) {
	t.Parallel()
	f := setup(t)
	holder := connect(t, f.url+"&application_name=night-report")
	for _, sql := range []string{`BEGIN ISOLATION LEVEL REPEATABLE READ`, `SELECT count(*) FROM openworkflow.workflow_runs`} {
		if _, err := holder.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	d, err := f.View(5 * time.Second).Diagnose(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, h := range d.Holders {
		found = found || h.Kind == "session" && h.Application == "night-report" && h.Since != nil && h.Name == fmt.Sprint(holder.PgConn().PID())
	}
	if !found || d.Version < 130000 || d.Standby || d.MaxConnections == 0 || d.Connections == 0 || len(d.Missing) != 0 || len(d.Tables) != 4 || d.Roundtrip <= 0 {
		t.Errorf("diagnosis is %+v", d)
	}
	if d.Ahead.Abs() > d.Roundtrip+time.Second {
		t.Errorf("the clock of the server on this machine is ahead by %v", d.Ahead)
	}
}
