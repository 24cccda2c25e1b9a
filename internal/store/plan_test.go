package store_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// populate fills the tables with a history of 20,000 finished runs with a step
// each, a backlog, and runs that wait.
func (f *fixture) populate() {
	f.t.Helper()
	const runs = `
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, context, attempts, worker_id,
	available_at, deadline_at, created_at, updated_at)
SELECT 'default', $1 || i, $7, $2, '{}', jsonb_build_object('kubernetes', jsonb_build_object('cluster', 'c', 'uid', $1 || i)), $3,
	CASE WHEN $5 THEN 'pod' || i % 50 || '.p.' || i END,
	now() + $4::interval + (hashtext(i::text) % 100000) * interval '1 ms', now() + interval '1 day', now(), now()
FROM generate_series(1, $6::int) i`
	for _, kind := range []struct {
		prefix, status string
		attempts       int
		due            time.Duration
		leased         bool
		n              int
		workflow       string
	}{
		{"done-", "completed", 1, 0, true, 20_000, "wf"},
		{"pending-", "pending", 0, -time.Hour, false, 5_000, "wf"},
		{"due-", "running", 1, -time.Hour, false, 500, "wf"},
		{"parked-", "running", 1, time.Hour, false, 5_000, "wf"},
		{"active-", "running", 1, time.Hour, true, 500, "wf"},
		{"unserved-", "pending", 0, -2 * time.Hour, false, 5_000, "nobody's"},
		{"unserved-due-", "running", 1, -2 * time.Hour, false, 5_000, "nobody's"},
	} {
		f.exec(runs, kind.prefix, kind.status, kind.attempts, kind.due, kind.leased, kind.n, kind.workflow)
	}
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = NULL WHERE status = 'completed'`)
	f.exec(`
INSERT INTO openworkflow.step_attempts (
	namespace_id, id, workflow_run_id, step_name, kind, status, config, started_at, created_at, updated_at
)
SELECT namespace_id, 'step-' || id, id, 'a', 'function', 'completed', '{}', now(), now(), now() FROM openworkflow.workflow_runs`)
}

// explain runs a statement as a Store's connections do, rolls it back, and returns its plan.
func (f *fixture) explain(sql string, args ...any) string {
	f.t.Helper()
	tx, err := f.db.Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(f.t.Context()) }()
	for _, preparation := range []string{store.PlanOnceSQL, `PREPARE explained AS ` + sql} {
		if _, err := tx.Exec(f.t.Context(), preparation, pgx.QueryExecModeSimpleProtocol); err != nil {
			f.t.Fatal(err)
		}
	}
	defer f.exec(`DEALLOCATE explained`)
	placeholders := make([]string, len(args))
	for i := range args {
		placeholders[i] = fmt.Sprintf("$%d", i+1)
	}
	rows, err := tx.Query(f.t.Context(),
		`EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS) EXECUTE explained(`+strings.Join(placeholders, ", ")+`)`,
		append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err != nil {
		f.t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

var readRows = regexp.MustCompile(`workflow_runs r.*actual rows=(\d+) loops=(\d+)|Rows Removed by Filter: (\d+)`)

// sortsBacklog finds a sort by the claim's order of runs. The few chosen runs may be sorted
// for a join.
var sortsBacklog = regexp.MustCompile(`Sort Key:.*available_at`)

func TestClaim_PlanReadsOnlyTheFrontOfOurIndexes(t *testing.T) {
	t.Parallel()
	for _, analyzed := range []bool{false, true} {
		t.Run(fmt.Sprint("analyzed=", analyzed), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
			f.populate()
			if analyzed {
				f.exec(`ANALYZE openworkflow.workflow_runs`)
			}
			for _, slots := range []int{1, 10, 100} {
				plan := f.explain(f.ClaimSQL(), "default", []string{"other", "wf"}, []*string{new("2"), nil},
					"pod.proc.", lease, 1, slots, slots/2, rangeStarts(2), rangeStarts(2))
				for _, index := range []string{"operator_runs_new_idx", "operator_runs_again_idx"} {
					if !strings.Contains(plan, "Index Scan using "+index) {
						t.Errorf("%d slots: %s is not used in order", slots, index)
					}
				}
				if sortsBacklog.MatchString(plan) || strings.Contains(plan, "Seq Scan on workflow_runs") ||
					strings.Contains(plan, "Bitmap") {
					t.Errorf("%d slots: the backlog is gathered or sorted", slots)
				}
				for _, m := range readRows.FindAllStringSubmatch(plan, -1) {
					for _, n := range m[1:] {
						if rows, _ := strconv.Atoi(n); rows > 2*slots+10 {
							t.Errorf("%d slots: read %d rows", slots, rows)
						}
					}
				}
				if t.Failed() {
					t.Fatalf("plan:\n%s", plan)
				}
			}
		})
	}
}

// TestClaim_PlanAtABacklogOfOthers: until the tables are analyzed, the planner assumes that
// hardly any run is pending, and that sorting them costs nothing.
func TestClaim_PlanAtABacklogOfOthers(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
SELECT 'default', i, 'nobody''s', 'pending', '{}', 0, now(), now(), now() FROM generate_series(1, 20000) i`)
	for name, plan := range map[string]string{
		"due": f.explain(f.ClaimSQL(),
			"default", []string{"wf"}, []*string{nil}, "pod.proc.", lease, 1, 10, 5, rangeStarts(1), rangeStarts(1)),
		"given back": f.explain(f.ClaimGivenBackSQL(),
			"default", []string{"wf"}, []*string{nil}, "pod.proc.", lease, 1, 10, []string{"no"}),
	} {
		for _, m := range readRows.FindAllStringSubmatch(plan, -1) {
			for _, n := range m[1:] {
				if rows, _ := strconv.Atoi(n); rows > 10 {
					t.Fatalf("%s: read %d rows of others:\n%s", name, rows, plan)
				}
			}
		}
	}
}

func TestPlans_NoStatementReadsTheHistory(t *testing.T) {
	t.Parallel()
	for _, analyzed := range []bool{false, true} {
		t.Run(fmt.Sprint("analyzed=", analyzed), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
			f.exec(`ALTER TABLE openworkflow.step_attempts SET (autovacuum_enabled = off)`)
			f.populate()
			if analyzed {
				f.exec(`ANALYZE openworkflow.workflow_runs, openworkflow.step_attempts`)
			}
			f.expectIndexes()
		})
	}
}

// TestPlans_AreMadeOnce: planning a batch, and the foreign keys of each of its rows, takes
// longer than executing it.
func TestPlans_AreMadeOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	s := open(t, store.Options{URL: f.url, ApplicationName: "planner", MaxConns: 1})
	ids := f.create(1)
	for range 10 {
		if _, err := s.GetRuns(t.Context(), ids); err != nil {
			t.Fatal(err)
		}
	}
	generic, custom, err := s.Plans(t.Context())
	if err != nil || custom != 0 || generic < 10 {
		t.Errorf("%d generic plans, %d custom ones, %v", generic, custom, err)
	}
}

// expectIndexes checks the plans of all statements but the claim.
func (f *fixture) expectIndexes() {
	f.t.Helper()
	ids := []string{"pending-1", "pending-2", "active-1"}
	ws := []string{"w1", "w2", "pod1.p.1"}
	nulls := make([]*string, 3)
	names := []string{"a", "b", "c"}
	kinds := []string{"function", "function", "function"}
	statuses := []string{"running", "completed", "failed"}
	times := make([]*time.Time, 3)
	elapsed := make([]time.Duration, 3)
	for name, c := range map[string]struct {
		sql  string
		args []any
		want string // the indexes that may serve it
	}{
		"given back": {
			f.ClaimGivenBackSQL(),
			[]any{
				"default", []string{"wf"}, make([]*string, 1), "pod.proc.", lease, 1, 3,
				[]string{"Workflow \"wf\" is not registered"},
			},
			"operator_runs_given_back_idx",
		},
		"release": {f.ReleaseSQL(), []any{"default", "pod7", "x", true, 5, openworkflow.DeathDelays()}, "operator_runs_lease_idx"},
		"takeover": {
			f.CountTakeoverSQL(), []any{"default", ids[2], ws[2], time.Now().Add(-time.Hour), 3, "manager.x.1"}, "workflow_runs_pkey",
		},
		"expired": {f.ExpiredSQL(), []any{"default", 10}, "operator_runs_deadline_idx"},
		"objects": {f.OpenObjectRunsSQL(), []any{"default", "c", "parked-2", 10}, "operator_runs_object_idx"},
		"steps": {
			f.StepsSQL(),
			[]any{"default", ids, ws, ids, names, kinds, statuses, nulls, nulls, nulls, elapsed},
			"workflow_runs_pkey",
		},
		"new steps": {
			f.NewStepsSQL(),
			[]any{"default", ids, ws, []string{"n1", "n2", "n3"}, names, kinds, statuses, nulls, nulls, nulls, elapsed},
			"workflow_runs_pkey",
		},
		"new step": {
			f.NewStepSQL(),
			[]any{"default", ids[0], ws[0], "n4", "a", "function", "running", nulls[0], nulls[0], nulls[0], time.Second},
			"workflow_runs_pkey",
		},
		"runs": {
			f.RunsSQL(),
			[]any{"default", ids, ws, []string{"park", "fail", "complete"}, times, nulls, nulls, times, make([]bool, 3)},
			"workflow_runs_pkey",
		},
		"completed":    {f.CompletedSQL(), []any{"default", ids, ws, []int{0, 1, 2}}, "workflow_runs_pkey"},
		"steps done":   {f.StepsDoneSQL(), []any{"default", ids, ws, ids, statuses}, "step_attempts_pkey"},
		"lock":         {f.LockRunsSQL(), []any{"default", ids, ids}, "workflow_runs_pkey"},
		"heartbeat":    {f.HeartbeatSQL(), []any{"default", ids, ws, lease}, "workflow_runs_pkey"},
		"load steps":   {f.LoadStepsSQL(), []any{"default", ids}, "step_attempts_workflow_run"},
		"newest":       {f.NewestStepsSQL(), []any{"default", ids, 3}, "step_attempts_workflow_run"},
		"wake":         {f.WakeParentsSQL(), []any{"default", ids}, "workflow_runs_pkey"},
		"children":     {f.ChildrenSQL(), []any{"default", ids}, "step_attempts_workflow_run"},
		"outcomes":     {f.OutcomesSQL(), []any{"default", ids}, "workflow_runs_pkey"},
		"suspend":      {f.SuspendSQL(), []any{"default", ids}, "workflow_runs_pkey"},
		"resume":       {f.ResumeSQL(), []any{"default", ids}, "workflow_runs_pkey"},
		"cancel":       {f.CancelSQL(), []any{"default", ids}, "workflow_runs_pkey"},
		"fail":         {f.FailExpiredSQL(), []any{"default", ids, "late"}, "workflow_runs_pkey"},
		"wait results": {f.WaitResultsSQL(), []any{"default", ids}, "step_attempts_pkey"},
		"keys": {
			f.KeyHoldersSQL(),
			[]any{"default", ids, names, names, make([]*time.Duration, 3)},
			"workflow_runs_workflow_name_idempotency_key_created_at_idx",
		},
	} {
		plan := f.explain(c.sql, c.args...)
		if strings.Contains(plan, "Seq Scan on workflow_runs") || strings.Contains(plan, "Seq Scan on step_attempts") ||
			!regexp.MustCompile(c.want).MatchString(plan) {
			f.t.Errorf("%s:\n%s", name, plan)
		}
		for _, m := range removed.FindAllStringSubmatch(plan, -1) {
			if n, _ := strconv.Atoi(m[1]); n > 10 {
				f.t.Errorf("%s reads %d rows for nothing:\n%s", name, n, plan)
			}
		}
	}
}

var removed = regexp.MustCompile(`Rows Removed by (?:Join )?Filter: (\d+)`)
