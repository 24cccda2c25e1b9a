package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// keepMany keeps signals that nobody waits for yet: for anybody, and for one run each, which waits
// for another signal.
func (f *fixture) keepMany(n int) {
	f.t.Helper()
	f.exec(`
INSERT INTO openworkflow.operator_signals (namespace_id, id, signal, key, run_id, state, expires_at, created_at)
SELECT 'default', 'kept-' || i, 'later-' || i, 'kept-' || i, CASE WHEN i % 2 = 0 THEN 'receiver-' || i END, 'waiting',
	now() + interval '1 hour', now() + i * interval '1 ms'
FROM generate_series(1, $1::int) i`, n)
}

// TestPlans_KeptSignalsAreFoundByIndex: what a look costs depends on the signals that are kept, not on
// the runs that wait.
func TestPlans_KeptSignalsAreFoundByIndex(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.populateWaits(20_000, 20_000)
	f.keepMany(200)
	f.exec(`UPDATE openworkflow.operator_signals SET signal = 'signal-1' WHERE id = 'kept-1'`)
	f.exec(`UPDATE openworkflow.operator_signals SET signal = 'signal-2' WHERE id = 'kept-2'`)
	f.analyzedOrNot(func() {
		for name, c := range map[string]struct {
			sql   string
			args  []any
			index string
		}{
			"due signals":          {f.DueSignalsSQL(), []any{"default", time.Time{}, "", 100}, "operator_signals_waiting_idx"},
			"receivers":            {f.KeptReceiversSQL(), []any{"default", "kept-1"}, "step_attempts_signal_wait_idx"},
			"receivers of a run":   {f.KeptReceiversSQL(), []any{"default", "kept-2"}, "step_attempts_workflow_run_"},
			"deliver":              {f.DeliverKeptSQL(), []any{"default", "kept-1"}, "step_attempts_signal_wait_idx"},
			"deliver to a run":     {f.DeliverKeptSQL(), []any{"default", "kept-2"}, "step_attempts_workflow_run_"},
			"what became of it":    {f.SettleSQL(), []any{"default", "kept-2"}, "workflow_signals_idempotency_idx"},
			"due decisions":        {f.DueDecisionsSQL(), []any{"default", []string{"receiver-1", "none"}, []string{"a", "b"}}, "workflow_runs_pkey"},
			"of one without a key": {f.SettleSQL(), []any{"default", "kept-3"}, "operator_signals_delivered_idx"},
		} {
			plan := f.explain(c.sql, c.args...)
			f.expectCost(name, plan, c.index, 1000)
			if name != "due signals" && strings.Contains(plan, "operator_signals_waiting_idx") {
				t.Errorf("%s reads all signals that wait:\n%s", name, plan)
			}
		}
	})
}

// TestKeptSignals_ALookIsCheap logs what it costs to look for those who wait for 10,000 kept signals.
func TestKeptSignals_ALookIsCheap(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.populateWaits(0, 10_000)
	f.keepMany(10_000)
	begin := time.Now()
	seen := 0
	for after := (openworkflow.Cursor{}); seen == 0 || after != (openworkflow.Cursor{}); seen++ {
		ids, next, err := f.DueSignals(t.Context(), after, 500)
		if err != nil || len(ids) > 0 {
			t.Fatalf("DueSignals: %v, %v", ids, err)
		}
		after = next
	}
	t.Logf("%d pages in %s", seen, time.Since(begin))
}

// TestRemoveSignals_KeepsChosenKeys: others go a week after they have finished.
func TestRemoveSignals_KeepsChosenKeys(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, age := range []string{"6 days", "8 days", "40 days"} {
		for _, s := range []struct{ state, key string }{
			{"waiting", "id"}, {"delivered", "id"}, {"delivered", "chosen"}, {"expired", "chosen"}, {"unreceived", "id"},
		} {
			id := fmt.Sprint(age, " ", s.state, " ", s.key)
			key := id
			if s.key == "chosen" {
				key = "chosen " + age
			}
			f.exec(`
INSERT INTO openworkflow.operator_signals (namespace_id, id, signal, key, state, expires_at, finished_at, created_at)
VALUES ('default', $1, 's', $2, $3, now() - $4::interval, now() - $4::interval, now() - $4::interval)`, id, key, s.state, age)
		}
	}
	remove := func(keyedAfter time.Duration) (left []string) {
		t.Helper()
		for after := ""; ; {
			next, _, err := f.RemoveSignals(t.Context(), keyedAfter, after, 4)
			if err != nil {
				t.Fatal(err)
			}
			if after = next; after == "" {
				break
			}
		}
		for _, age := range []string{"6 days", "8 days", "40 days"} {
			left = append(left, age+": "+f.value(`SELECT count(*)::text FROM openworkflow.operator_signals WHERE id LIKE '`+age+`%'`))
		}
		return left
	}
	if diff := cmp.Diff([]string{"6 days: 5", "8 days: 1", "40 days: 1"}, remove(0)); diff != "" {
		t.Errorf("keys are kept for ever:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"6 days: 5", "8 days: 1", "40 days: 0"}, remove(30*24*time.Hour)); diff != "" {
		t.Errorf("keys are kept for 30 days:\n%s", diff)
	}
}
