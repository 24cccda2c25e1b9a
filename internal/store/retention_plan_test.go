package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// historyID is the id of a run of populateHistory.
func historyID(i int) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", i) }

// populateHistory fills the tables with n ended runs, one second apart, the last of which
// ended now. Each has two steps, of which one has received a signal. Every tenth was started
// by the one before. Every tenth holds a key.
func (f *fixture) populateHistory(n int) {
	f.t.Helper()
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.exec(`ALTER TABLE openworkflow.step_attempts SET (autovacuum_enabled = off)`)
	f.exec(`ALTER TABLE openworkflow.workflow_signals SET (autovacuum_enabled = off)`)
	f.exec(`SET session_replication_role = replica`) // without looking up each foreign key
	f.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, idempotency_key,
	parent_step_attempt_namespace_id, parent_step_attempt_id, finished_at, created_at, updated_at)
SELECT 'default', '00000000-0000-7000-8000-' || lpad(i::text, 12, '0'), 'wf', (ARRAY['completed', 'failed', 'canceled'])[i % 3 + 1], '{}', 1,
	CASE WHEN i % 10 = 5 THEN 'key-' || i WHEN i % 10 = 0 THEN '__workflow:default:wait-' || i - 1 END,
	CASE WHEN i % 10 = 0 THEN 'default' END, CASE WHEN i % 10 = 0 THEN 'wait-' || i - 1 END, at, at, at
FROM generate_series(1, $1::int) i, LATERAL (SELECT now() - ($1 - i) * interval '1 s' AS at) at`, n)
	f.exec(`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, created_at, updated_at,
	child_workflow_run_namespace_id, child_workflow_run_id)
SELECT r.namespace_id, k.prefix || i, r.id, 'a', k.kind, 'completed', '{}', r.created_at, r.created_at,
	CASE WHEN k.kind = 'workflow' THEN 'default' END,
	CASE WHEN k.kind = 'workflow' THEN '00000000-0000-7000-8000-' || lpad((i + 1)::text, 12, '0') END
FROM (SELECT *, right(id, 12)::int AS i FROM openworkflow.workflow_runs) r
CROSS JOIN LATERAL (VALUES ('wait-', CASE WHEN i % 10 = 9 THEN 'workflow' ELSE 'function' END), ('receive-', 'signal-wait')) k (prefix, kind)`)
	f.exec(`
INSERT INTO openworkflow.workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id, created_at)
SELECT namespace_id, md5(id), 'go', workflow_run_id, id, created_at FROM openworkflow.step_attempts WHERE kind = 'signal-wait'`)
	f.exec(`RESET session_replication_role`)
}

// TestPlans_RetentionReadsWhatItRemoves: neither a query nor a removal costs more for a long
// history, and a query costs nothing when no run is old enough.
func TestPlans_RetentionReadsWhatItRemoves(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const history, n = 30_000, 100
	f.populateHistory(history)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = historyID(i + 500)
	}
	f.analyzedOrNot(func() {
		for name, c := range map[string]struct {
			sql   string
			args  []any
			index string
		}{
			"sizes":         {f.SizesSQL(), []any{"default", ids}, "step_attempts_workflow_run"},
			"lock":          {f.LockEndedSQL(), []any{"default", time.Hour, nil, ids}, "workflow_runs_parent_step_idx"},
			"deliveries":    {f.RemoveDeliveriesSQL(), []any{"default", ids, nil}, "workflow_signals_step_attempt_idx"},
			"runs":          {f.RemoveRunsSQL(), []any{"default", ids}, "workflow_runs_pkey"},
			"archive sizes": {f.ArchiveSizesSQL(), []any{"default", ids, 1000}, "step_attempts_workflow_run"},
			"archive lines": {f.ArchiveLinesSQL(), []any{"default", ids, 1000}, "step_attempts_workflow_run"},
			"archive index": {f.IndexArchiveSQL(), []any{"default", "a", ids}, "workflow_runs_pkey"},
			"strays":        {f.StrayDeliveriesSQL(), []any{"default", time.Hour, nil, "5", n}, "workflow_signals_pkey"},
		} {
			most := 2 * n
			if strings.HasPrefix(name, "archive") {
				most = 3 * n // a run and its two attempts
			}
			f.expectCost(name, f.explain(c.sql, c.args...), c.index, most)
		}
		f.expectCost("nothing is due", f.explain(f.EndedRunsSQL(), "default", 24*time.Hour, nil, time.Time{}, "", n), "Index Scan Backward", 4)
	})
	// A history of an hour or more was analyzed.
	for name, after := range map[string]int{"from the beginning": 0, "from the middle": history / 2} {
		at := time.Time{}
		if after > 0 {
			at = time.Now().Add(-(history - time.Duration(after)) * time.Second)
		}
		f.expectCost("a look "+name, f.explain(f.EndedRunsSQL(), "default", time.Hour, nil, at, "", n),
			"workflow_runs_status_created_at_desc_idx", 4*n)
	}
}
