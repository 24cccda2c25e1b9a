package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

var (
	day     = store.Retention{After: 24 * time.Hour}
	keyWeek = store.Retention{After: 24 * time.Hour, KeyedAfter: 7 * 24 * time.Hour}
)

// age sets back the clock of all rows.
func (f *fixture) age(by string) {
	f.t.Helper()
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = created_at - $1::interval, updated_at = updated_at - $1::interval,
	finished_at = finished_at - $1::interval`, by)
	f.exec(`UPDATE openworkflow.step_attempts SET created_at = created_at - $1::interval, updated_at = updated_at - $1::interval`, by)
	f.exec(`UPDATE openworkflow.workflow_signals SET created_at = created_at - $1::interval`, by)
}

// end completes the runs, whichever worker holds them.
func (f *fixture) end(ids ...string) {
	f.t.Helper()
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'completed', available_at = NULL, finished_at = now(), updated_at = now() WHERE id = ANY($1)`, ids)
}

// listEnded reads all ended runs, limit at a time, and returns those that may be removed.
func (f *fixture) listEnded(r store.Retention, limit int) []store.EndedRun {
	f.t.Helper()
	var all []store.EndedRun
	for after := (openworkflow.Cursor{}); ; {
		runs, next, err := f.EndedRuns(f.t.Context(), r, after, limit)
		if err != nil {
			f.t.Fatalf("EndedRuns: %v", err)
		}
		all = append(all, runs...)
		if next == (openworkflow.Cursor{}) {
			return all
		}
		after = next
	}
}

// remove removes those of the runs that may be removed.
func (f *fixture) remove(r store.Retention, ids ...string) store.Removed {
	f.t.Helper()
	var total store.Removed
	for len(ids) > 0 {
		removed, rest, err := f.RemoveRuns(f.t.Context(), r, ids)
		if err != nil || len(rest) >= len(ids) {
			f.t.Fatalf("RemoveRuns: %d of %d left, %v", len(rest), len(ids), err)
		}
		total.Runs += removed.Runs
		total.Deliveries += removed.Deliveries
		total.Archived += removed.Archived
		total.TooLarge += removed.TooLarge
		ids = rest
	}
	return total
}

// remaining returns those of the runs that exist.
func (f *fixture) remaining(ids ...string) []string {
	f.t.Helper()
	runs, err := f.GetRuns(f.t.Context(), ids)
	if err != nil {
		f.t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return runs[id] == nil })
}

func (f *fixture) expectRemaining(ids []string, want ...string) {
	f.t.Helper()
	if diff := cmp.Diff(want, f.remaining(ids...), cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("runs that are left (-want +got):\n%s", diff)
	}
}

func TestEndedRuns_WhoseTimeIsOver(t *testing.T) {
	t.Parallel()
	f := setup(t)
	completed := `status = 'completed'`
	for name, c := range map[string]struct {
		id, key string
		age     string // of the row, two days unless it says so
		change  string // of the row
		r       store.Retention
		due     bool
		keyed   bool
	}{
		"completed":                          {change: completed, due: true},
		"succeeded, of an old release":       {change: `status = 'succeeded'`, due: true},
		"failed":                             {change: `status = 'failed'`, due: true},
		"canceled":                           {change: `status = 'canceled'`, due: true},
		"ended lately":                       {age: "23 hours", change: completed},
		"began long ago, ended lately":       {change: `status = 'completed', updated_at = now() - interval '23 hours'`},
		"by a worker whose clock is behind":  {change: `status = 'failed', finished_at = '1970-01-01', updated_at = now()`},
		"by a worker whose clock is ahead":   {change: `status = 'failed', finished_at = '2970-01-01'`, due: true},
		"pending":                            {change: `available_at = NULL`},
		"running":                            {change: `status = 'running', worker_id = 'w'`},
		"parked":                             {change: `status = 'running', available_at = now() + interval '1 year'`},
		"sleeping":                           {change: `status = 'sleeping'`},
		"of a status that nobody knows":      {change: `status = 'paused'`},
		"with a key":                         {key: "k", change: completed},
		"with a key, after years":            {key: "k", age: "9 years", change: completed},
		"with a key, that ends later":        {key: "k", change: completed, r: keyWeek},
		"with a key, that has ended":         {key: "k", age: "8 days", change: completed, r: keyWeek, due: true, keyed: true},
		"with a key of another's child":      {key: "__workflow:other:a", age: "8 days", change: completed},
		"a child":                            {key: "__workflow:default:a", change: completed, due: true},
		"with an id that somebody chose":     {id: "order-1", change: completed, r: keyWeek},
		"with such an id, that has ended":    {id: "order-1", age: "8 days", change: completed, r: keyWeek, due: true, keyed: true},
		"with a UUID of another version":     {id: "6BA7B810-9DAD-11D1-80B4-00C04FD430C8", change: completed, due: true},
		"with something longer than a UUID":  {id: openworkflow.NewID() + "-2", change: completed},
		"without a key, a key may live long": {change: completed, r: keyWeek, due: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			f.exec(`TRUNCATE openworkflow.workflow_runs CASCADE`)
			id := f.create(1, func(r *store.NewRun) {
				if c.id != "" {
					r.ID = c.id
				}
				if c.key != "" {
					r.IdempotencyKey = &c.key
				}
			})[0]
			if c.age == "" {
				c.age = "2 days"
			}
			f.age(c.age)
			f.exec(`UPDATE openworkflow.workflow_runs SET ` + c.change)
			r := c.r
			if r == (store.Retention{}) {
				r = day
			}
			var want []store.EndedRun
			if c.due {
				want = []store.EndedRun{{ID: id, Keyed: c.keyed}}
			}
			if diff := cmp.Diff(want, f.listEnded(r, 10)); diff != "" {
				t.Errorf("ended runs (-want +got):\n%s", diff)
			}
			// RemoveRuns checks again.
			if removed := f.remove(r, id); removed.Runs == 1 != c.due {
				t.Errorf("removed is %t", !c.due)
			}
		})
	}
}

func TestEndedRuns_TellWhichObjectTheyMirror(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ref := openworkflow.ObjectRef{Cluster: "c", Namespace: "shop", Name: "order", UID: "u"}
	want := map[string]*openworkflow.ObjectRef{}
	for context, object := range map[string]*openworkflow.ObjectRef{
		``:                                     nil,
		`{"traceContext":{"traceparent":"t"}}`: nil,
		string(openworkflow.RunContext{Kubernetes: &ref}.Encode()):        &ref,
		`{"kubernetes":"of another shape"}`:                               {},
		`{"kubernetes":null}`:                                             nil,
		`{"kubernetes":{"cluster":"c","uid":7}}`:                          {},
		`{"kubernetes":{"cluster":"c"},"traceContext":{"traceparent":1}}`: {Cluster: "c"},
	} {
		id := f.create(1, func(r *store.NewRun) { r.Context = json.RawMessage(context) })[0]
		f.end(id)
		want[id] = object
	}
	f.age("2 days")
	got := map[string]*openworkflow.ObjectRef{}
	for _, run := range f.listEnded(day, 2) {
		got[run.ID] = run.Object
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestEndedRuns_ComePastThoseThatStay: a round reads each run once, even if runs before its
// cursor were removed, or many were created in the same millisecond.
func TestEndedRuns_ComePastThoseThatStay(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var want []string
	for i := range 10 {
		f.end(f.create(3, func(r *store.NewRun) { r.IdempotencyKey = new(r.ID) })...) // stay
		ids := f.create(4)
		f.exec(`UPDATE openworkflow.workflow_runs SET status = $2, available_at = NULL WHERE id = ANY($1)`, ids, []string{"completed", "failed", "canceled"}[i%3])
		want = append(want, ids...)
	}
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = '2026-01-01' WHERE id = ANY($1)`, want[8:24])
	f.age("2 days")
	for _, limit := range []int{3, 7, 1000} {
		var got []string
		for _, run := range f.listEnded(day, limit) {
			got = append(got, run.ID)
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("by %d (-want +got):\n%s", limit, diff)
		}
	}
	looks := 0
	for after := (openworkflow.Cursor{}); looks == 0 || after != (openworkflow.Cursor{}); looks++ {
		runs, next, err := f.EndedRuns(t.Context(), day, after, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, run := range runs {
			f.remove(day, run.ID)
		}
		after = next
	}
	if looks != 11 {
		t.Errorf("%d looks at 7 of 70 runs, want 11", looks)
	}
	f.expectRemaining(want)
	if n := f.count("workflow_runs"); n != "30" {
		t.Errorf("%s runs are left, want the 30 with keys", n)
	}
}

// TestRemoveRuns_R179_WithAllThatIsTheirs: OpenWorkflow has no retention, and deleting a
// run's row leaves its deliveries behind (R2).
func TestRemoveRuns_R179_WithAllThatIsTheirs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other := open(t, store.Options{URL: f.url, NamespaceID: "other"})
	gone, _ := f.waiter("go")
	stays, _ := f.waiter("go")
	f.send(store.Signal{Name: "go", Data: json.RawMessage(`1`)})
	l := f.start()
	f.must([]store.StepWrite{step(l, "a", completed, `1`), step(l, "b", failed, `{"message":"no"}`)}, []store.RunWrite{ending(l, store.RunFail)})
	ids := []string{gone, stays, l.RunID}
	if _, err := other.CreateRuns(t.Context(), []store.NewRun{{ID: gone, WorkflowName: "wf"}}); err != nil {
		t.Fatal(err)
	}
	f.end(ids...)
	f.age("2 days")

	if got, want := f.remove(day, gone, l.RunID, "absent"), (store.Removed{Runs: 2, Deliveries: 1}); got != want {
		t.Errorf("removed %+v, want %+v", got, want)
	}

	f.expectRemaining(ids, stays)
	for table, want := range map[string]string{
		"step_attempts":    "{" + stays + "}",
		"workflow_signals": "{" + stays + "}",
	} {
		if got := f.value(`SELECT array_agg(workflow_run_id) FROM openworkflow.` + table); got != want {
			t.Errorf("%s are of %s, want %s", table, got, want)
		}
	}
	if runs, err := other.GetRuns(t.Context(), ids); err != nil || len(runs) != 1 {
		t.Errorf("the other namespace has %d runs, %v, want its own", len(runs), err)
	}
}

// TestRemoveRuns_P1_AnOpenParentKeepsItsChildren, whose outcome it reads from their rows
// when it is executed again.
func TestRemoveRuns_P1_AnOpenParentKeepsItsChildren(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]string{
		"parked":                     ``,
		"pending":                    `UPDATE openworkflow.workflow_runs SET status = 'pending' WHERE workflow_name = 'wf'`,
		"executing":                  `UPDATE openworkflow.workflow_runs SET worker_id = 'w' WHERE workflow_name = 'wf'`,
		"sleeping":                   `UPDATE openworkflow.workflow_runs SET status = 'sleeping' WHERE workflow_name = 'wf'`,
		"unknown":                    `UPDATE openworkflow.workflow_runs SET status = 'paused' WHERE workflow_name = 'wf'`,
		"suspended":                  `UPDATE openworkflow.workflow_runs SET available_at = NULL, config = '{"openworkflow.dev/suspendedAt": 1}' WHERE workflow_name = 'wf'`,
		"linked by the child only":   `UPDATE openworkflow.step_attempts SET child_workflow_run_id = NULL, child_workflow_run_namespace_id = NULL`,
		"linked by the attempt only": `UPDATE openworkflow.workflow_runs SET parent_step_attempt_id = NULL, parent_step_attempt_namespace_id = NULL`,
		"and has the outcome":        `UPDATE openworkflow.step_attempts SET status = 'completed', output = '1'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			w := childStep(l, "a")
			f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
			ids := []string{l.RunID, w.Child.ID}
			f.end(w.Child.ID)
			f.age("2 days")
			if change != "" {
				f.exec(change)
			}
			if f.remove(day, ids...); !slices.Equal(f.remaining(ids...), ids) {
				t.Fatal("a child of an open run was removed")
			}
			f.end(l.RunID)
			f.exec(`UPDATE openworkflow.step_attempts SET status = 'completed'`)
			f.remove(day, ids...)
			f.expectRemaining(ids, l.RunID) // which has ended now
			f.age("2 days")
			f.remove(day, ids...)
			f.expectRemaining(ids)
		})
	}
}

// TestRemoveRuns_ChildrenGoFirst: removing a run that has children would write to their rows,
// which another process may have locked, and leave open ones without a parent.
func TestRemoveRuns_ChildrenGoFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := childStep(l, "a")
	f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
	ids := []string{l.RunID, w.Child.ID}
	f.end(l.RunID) // as a cancel does, which leaves children alone
	f.age("2 days")

	f.remove(day, ids...)
	f.expectRemaining(ids, ids...) // the child is open

	f.end(w.Child.ID)
	f.remove(day, ids...)
	f.expectRemaining(ids, ids...) // it has ended lately

	f.age("2 days")
	f.remove(day, ids...)
	f.expectRemaining(ids, l.RunID)
	f.remove(day, ids...)
	f.expectRemaining(ids)
}

// TestRemoveRuns_R105_KeysOfSignalsStay: a signal that is sent again with its key must not
// reach another run because its recipient was removed.
func TestRemoveRuns_R105_KeysOfSignalsStay(t *testing.T) {
	t.Parallel()
	f := setup(t)
	sender := f.start()
	f.must(nil, []store.RunWrite{ending(sender, store.RunPark)})
	for name, c := range map[string]struct {
		key   *string
		age   string
		r     store.Retention
		after func() // what happens before it is looked for as a stray
		stays bool
		stray bool
	}{
		"no key":                       {},
		"a key":                        {key: new("k"), age: "9 years", stays: true},
		"a key that ends later":        {key: new("k"), r: keyWeek, stays: true},
		"a key that has ended":         {key: new("k"), age: "8 days", r: keyWeek},
		"of a step, its run is gone":   {key: new("__signal:" + openworkflow.NewID() + ":tell")},
		"of a step, its run is open":   {key: new("__signal:" + sender.RunID + ":tell"), age: "9 years", stays: true},
		"a key, and then time goes by": {key: new("k"), r: keyWeek, after: func() { f.age("7 days") }, stays: true, stray: true},
		"of a step, whose run ends": {key: new("__signal:" + sender.RunID + ":tell:twice"), after: func() {
			f.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed' WHERE id = $1`, sender.RunID)
		}, stays: true, stray: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			f.exec(`DELETE FROM openworkflow.workflow_signals; DELETE FROM openworkflow.step_attempts`)
			f.exec(`UPDATE openworkflow.workflow_runs SET status = 'running' WHERE id = $1`, sender.RunID)
			run, _ := f.waiter("go")
			f.send(store.Signal{Name: "go", IdempotencyKey: c.key})
			f.end(run)
			if c.age == "" {
				c.age = "2 days"
			}
			f.age(c.age)
			r := c.r
			if r == (store.Retention{}) {
				r = day
			}

			if removed := f.remove(r, run); removed.Runs != 1 || removed.Deliveries == 1 == c.stays {
				t.Errorf("removed %+v, want the delivery to stay: %t", removed, c.stays)
			}

			late, _ := f.waiter("go")
			if c.stays {
				expectRecipients(t, f.send(store.Signal{Name: "go", IdempotencyKey: c.key}), []string{run})
			}
			f.end(late)
			if c.after != nil {
				c.after()
			}
			if _, n, err := f.RemoveStrayDeliveries(t.Context(), r, "", 10); err != nil || n == 1 != c.stray {
				t.Errorf("%d stray deliveries removed, %v, want one: %t", n, err, c.stray)
			}
		})
	}
}

func TestRemoveStrayDeliveries_OnlyOfRunsThatAreGone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var stay []string
	for i := range 20 {
		if _, attempt := f.waiter("go"); i%2 == 0 {
			stay = append(stay, attempt)
		}
	}
	f.send(store.Signal{Name: "go"})
	f.exec(`DELETE FROM openworkflow.workflow_runs r USING openworkflow.step_attempts a WHERE a.workflow_run_id = r.id AND a.id <> ALL($1)`, stay)
	round := func() (removed int) {
		after := ""
		for {
			next, n, err := f.RemoveStrayDeliveries(t.Context(), day, after, 3)
			if err != nil || next != "" && next <= after || n > 3 {
				t.Fatalf("%d removed, next %q after %q, %v", n, next, after, err)
			}
			removed += n
			if next == "" {
				return removed
			}
			after = next
		}
	}
	if n := round(); n != 0 {
		t.Errorf("%d new deliveries removed", n)
	}
	f.age("2 days")
	if n := round(); n != 10 {
		t.Errorf("%d deliveries removed, want 10", n)
	}
	slices.Sort(stay)
	if got := f.value(`SELECT array_agg(step_attempt_id ORDER BY step_attempt_id COLLATE "C") FROM openworkflow.workflow_signals`); got != "{"+strings.Join(stay, ",")+"}" {
		t.Errorf("deliveries of %s are left, want of %v", got, stay)
	}
}

// TestRemoveRuns_SmallTransactions: one transaction removes a bounded number of rows, however
// many the runs have.
func TestRemoveRuns_SmallTransactions(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(1300)
	f.exec(`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, created_at, updated_at)
SELECT 'default', run || '-' || i, run, 'a', 'function', 'completed', '{}', now(), now()
FROM unnest($1::text[], $2::int[]) r (run, n), generate_series(1, n) i`, ids[600:605], []int{2000, 2000, 2000, 6000, 1})
	f.end(ids...)
	f.age("2 days")
	var got []int
	for rest := ids; len(rest) > 0; {
		removed, next, err := f.RemoveRuns(t.Context(), day, rest)
		if err != nil || removed.Runs != len(rest)-len(next) {
			t.Fatalf("removed %+v of %d, %d left, %v", removed, len(rest), len(next), err)
		}
		got, rest = append(got, removed.Runs), next
	}
	if diff := cmp.Diff([]int{500, 102, 1, 1, 500, 196}, got); diff != "" {
		t.Errorf("runs by transaction (-want +got):\n%s", diff)
	}
	if runs, steps := f.count("workflow_runs"), f.count("step_attempts"); runs != "0" || steps != "0" {
		t.Errorf("%s runs and %s attempts are left", runs, steps)
	}
}

// TestRemoveRuns_WaitsForNobody: a run that another process has locked is left for later.
func TestRemoveRuns_WaitsForNobody(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(3)
	f.end(ids...)
	f.age("2 days")
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM openworkflow.workflow_runs WHERE id = $1 FOR KEY SHARE`, ids[1]); err != nil {
		t.Fatal(err)
	}
	f.remove(day, ids...)
	f.expectRemaining(ids, ids[1])
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.remove(day, ids...)
	f.expectRemaining(ids)
}

// TestRemoveRuns_NoDeadlocks lets two managers remove a history while workers start, end and
// signal runs. Stale workers write to runs that are being removed.
func TestRemoveRuns_NoDeadlocks(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const trees = 60
	var old []string
	var stale []openworkflow.Lease
	for i := range trees {
		l := f.start()
		w := childStep(l, "a")
		s := waitStep(l, fmt.Sprint("s", i%5))
		f.must([]store.StepWrite{w, s}, nil) // with a lease that its worker believes in
		old, stale = append(old, l.RunID, w.Child.ID), append(stale, l)
	}
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'canceled', worker_id = NULL, available_at = NULL, finished_at = now(), updated_at = now()`)
	f.age("2 days")

	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for range 20 {
				if _, _, err := f.RemoveRuns(t.Context(), day, old); err != nil {
					t.Errorf("RemoveRuns: %v", err)
				}
			}
		})
	}
	for w := range 3 {
		wg.Go(func() {
			for i := range trees {
				l := stale[(i*(2*w+1))%trees]
				if _, _, err := f.Apply(t.Context(), []store.StepWrite{step(l, "late", completed, `1`)}, []store.RunWrite{ending(l, store.RunFail)}); err != nil {
					t.Errorf("Apply: %v", err)
				}
				if _, err := f.SendSignals(t.Context(), []store.Signal{{Name: fmt.Sprint("s", i%5)}}); err != nil {
					t.Errorf("SendSignals: %v", err)
				}
				if _, err := f.CancelRuns(t.Context(), old[i:i+10]); err != nil {
					t.Errorf("CancelRuns: %v", err)
				}
			}
		})
	}
	open := f.create(5)
	wg.Wait()

	f.remove(day, old...)
	f.remove(day, old...)
	f.expectRemaining(old)
	f.expectRemaining(open, open...)
	if n := f.count("step_attempts"); n != "0" {
		t.Errorf("%s attempts are left", n)
	}
}
