package store_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// populateWaits fills the tables with parked runs: parents that wait for one child each, every
// tenth of which has ended, and receivers that wait for a signal of their own.
func (f *fixture) populateWaits(parents, receivers int) {
	f.t.Helper()
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.exec(`ALTER TABLE openworkflow.step_attempts SET (autovacuum_enabled = off)`)
	f.exec(`SET session_replication_role = replica`) // without looking up each foreign key
	const runs = `
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
SELECT 'default', $1 || i, 'wf', CASE WHEN $2 AND i % 10 = 0 THEN 'completed' ELSE 'running' END, '{}', 1, now() + interval '1 hour', now(), now()
FROM generate_series(1, $3::int) i`
	f.exec(runs, "parent-", false, parents)
	f.exec(runs, "child-", true, parents)
	f.exec(runs, "receiver-", false, receivers)
	f.exec(`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config,
	child_workflow_run_namespace_id, child_workflow_run_id, created_at, updated_at)
SELECT 'default', 'wait-' || i, 'parent-' || i, 'a', 'workflow', 'running', '{}', 'default', 'child-' || i, now(), now()
FROM generate_series(1, $1::int) i`, parents)
	f.exec(`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, context, created_at, updated_at)
SELECT 'default', 'receive-' || i, 'receiver-' || i, 'a', 'signal-wait', 'running', '{}', jsonb_build_object('signal', 'signal-' || i), now(), now()
FROM generate_series(1, $1::int) i`, receivers)
	f.exec(`RESET session_replication_role`)
}

// analyzedOrNot runs a check before and after the tables are first analyzed.
func (f *fixture) analyzedOrNot(check func()) {
	f.t.Helper()
	check()
	if f.t.Failed() {
		f.t.Fatal("before the tables were analyzed")
	}
	f.exec(`ANALYZE openworkflow.workflow_runs, openworkflow.step_attempts, openworkflow.workflow_signals`)
	check()
}

var rowsOf = regexp.MustCompile(`actual rows=(\d+) loops=(\d+)`)

// expectCost checks that a plan uses an index, and that none of its nodes reads more
// than most rows.
func (f *fixture) expectCost(name, plan, index string, most int) {
	f.t.Helper()
	if !strings.Contains(plan, index) || strings.Contains(plan, "Seq Scan on workflow_runs") || strings.Contains(plan, "Seq Scan on step_attempts") {
		f.t.Errorf("%s:\n%s", name, plan)
	}
	for _, m := range removed.FindAllStringSubmatch(plan, -1) {
		if n, _ := strconv.Atoi(m[1]); n > most {
			f.t.Errorf("%s reads %d rows for nothing:\n%s", name, n, plan)
		}
	}
	for _, m := range rowsOf.FindAllStringSubmatch(plan, -1) {
		rows, _ := strconv.Atoi(m[1])
		if loops, _ := strconv.Atoi(m[2]); rows*loops > most {
			f.t.Errorf("%s reads %d rows:\n%s", name, rows*loops, plan)
		}
	}
}

// TestPlans_WaitsAreFoundByIndex: the cost of a signal, a wait result or a new child does not
// depend on the number of waiting runs.
func TestPlans_WaitsAreFoundByIndex(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.populateWaits(20_000, 20_000)
	f.exec(`UPDATE openworkflow.workflow_runs SET worker_id = 'w' WHERE id = 'parent-1'`)
	f.analyzedOrNot(func() {
		names := []string{"signal-1", "signal-20", "signal-300", "nobody"}
		nulls := make([]*string, len(names))
		attempts := []string{"wait-10", "wait-11", "receive-1", "receive-2"}
		for name, c := range map[string]struct {
			sql   string
			args  []any
			index string
		}{
			"receivers": {f.ReceiversSQL(), []any{"default", names}, "step_attempts_signal_wait_idx"},
			"deliver":   {f.DeliverSQL(), []any{"default", names, nulls, nulls}, "step_attempts_signal_wait_idx"},
			"deliver a step's": {
				f.DeliverStepSQL(), []any{"default", names, names, nulls, "parent-1", "w", "new"}, "step_attempts_signal_wait_idx",
			},
			"wake receivers": {f.WakeReceiversSQL(), []any{"default", names}, "step_attempts_signal_wait_idx"},
			"write send": {
				f.WriteSendSQL(), []any{"default", "parent-1", "w", "new", "tell", time.Second, "signal-1", new("k")}, "workflow_signals_idempotency_idx",
			},
			"wait results": {f.WaitResultsSQL(), []any{"default", attempts}, "step_attempts_pkey"},
			"lock child keys": {
				f.LockChildKeysSQL(), []any{"default", attempts, names}, "step_attempts_pkey",
			},
			"start children": {
				f.StartChildrenSQL(), []any{"default", []string{"parent-1"}, []string{"w"}, []string{"wait-1"}, []string{"new"},
					[]string{"child"}, nulls[:1], []string{"k"}, nulls[:1], nulls[:1]}, "step_attempts_pkey",
			},
			"wake parked": {f.WakeParkedSQL(), []any{"default", []string{"parent-10", "parent-11", "receiver-1"}}, "workflow_runs_pkey"},
		} {
			f.expectCost(name, f.explain(c.sql, c.args...), c.index, 1000)
		}
	})
}

// TestSignals_ManyAtOnce: 10,000 signals to as many runs are one call.
func TestSignals_ManyAtOnce(t *testing.T) {
	t.Parallel()
	const n = 10_000
	f := setup(t)
	f.populateWaits(0, n)
	signals := make([]store.Signal, n)
	for i := range signals {
		signals[i] = store.Signal{Name: fmt.Sprint("signal-", i+1), Data: []byte(`{"n":1}`), IdempotencyKey: new(openworkflow.NewID())}
	}
	for _, what := range []string{"sent", "sent again"} {
		begin := time.Now()
		got := f.send(signals...)
		t.Logf("%s in %s", what, time.Since(begin))
		for i, recipients := range got {
			if want := fmt.Sprint("receiver-", i+1); len(recipients) != 1 || recipients[0] != want {
				t.Fatalf("signal %d was %s to %v, want %s", i, what, recipients, want)
			}
		}
	}
	if woken := f.value(`SELECT count(*) FROM openworkflow.workflow_runs WHERE available_at <= now()`); woken != fmt.Sprint(n) {
		t.Errorf("%s runs woken, want %d", woken, n)
	}
}
