package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// columns describe a run's row after a write.
type columns struct {
	status, worker, due, started, finished, output, failure string
	attempts, failures                                      int
}

// columnsOf describes a row. Instants of a write at this moment are "ms" or "µs", by their
// precision.
func columnsOf(r *openworkflow.Run, l openworkflow.Lease) columns {
	c := columns{
		status: string(r.Status), attempts: r.Attempts, failures: r.Failures, output: string(r.Output), failure: string(r.Error),
		worker: "NULL", due: "NULL", started: "NULL", finished: "NULL",
	}
	if r.WorkerID != nil {
		c.worker = "another's"
		if *r.WorkerID == l.WorkerID {
			c.worker = "kept"
		}
	}
	if r.AvailableAt != nil {
		c.due = "later"
		if due(r) {
			c.due = "now"
		}
	}
	if r.StartedAt != nil {
		c.started = "set"
	}
	if r.FinishedAt != nil {
		c.finished = "set"
	}
	return c
}

// TestRunWrites_R42 follows the write matrix, on a run that has failed once before, and
// on one that is suspended as well.
func TestRunWrites_R42(t *testing.T) {
	open := columns{
		status: "running", worker: "NULL", started: "set", finished: "NULL", failure: `{"message": "first"}`, attempts: 2, failures: 1,
	}
	want := map[string]columns{"park": open, "release": open, "complete": open, "fail": open, "retry": open}
	for op, change := range map[string]func(c *columns){
		"park":    func(c *columns) { c.due = "later" },
		"release": func(c *columns) { c.due = "now" },
		"complete": func(c *columns) {
			c.status, c.worker, c.due, c.finished, c.output, c.failure = "completed", "kept", "NULL", "set", `{"done": true}`, ""
		},
		"fail": func(c *columns) {
			c.status, c.due, c.started, c.finished, c.failure, c.failures = "failed", "NULL", "NULL", "set", `{"message": "no"}`, 2
		},
		"retry": func(c *columns) {
			c.status, c.due, c.started, c.failure, c.failures = "pending", "later", "NULL", `{"message": "no"}`, 2
		},
	} {
		c := want[op]
		change(&c)
		want[op] = c
	}
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for op, c := range want {
			for _, suspended := range []bool{false, true} {
				l := b.start()
				b.mustRun(store.RunWrite{
					Lease: l, Op: store.RunRetry, At: time.Now().Add(-minute), Error: json.RawMessage(`{"message":"first"}`), Failure: true,
				})
				l = b.lease(l.RunID)
				if suspended {
					if n, err := b.SuspendRuns(t.Context(), []string{l.RunID}); err != nil || n != 1 {
						t.Fatalf("SuspendRuns: %d, %v", n, err)
					}
				}
				before := b.run(l.RunID)
				w := ending(l, ops[op])
				w.Failure = true
				b.mustRun(w)

				after, expected := b.run(l.RunID), c
				if suspended {
					expected.due = "NULL"
				}
				if got := columnsOf(after, l); got != expected {
					t.Errorf("%s, suspended %v: row is\n%+v, want\n%+v", op, suspended, got, expected)
				}
				if !after.UpdatedAt.After(before.UpdatedAt) {
					t.Errorf("%s: updated_at stays %v", op, after.UpdatedAt)
				}
				if suspended != (after.SuspendedAt != nil) {
					t.Errorf("%s: suspended_at is %v, suspended %v", op, after.SuspendedAt, suspended)
				}
			}
		}
	})
}

func TestRunWrites_R7_Precision(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		at := time.Now().Add(time.Hour).Truncate(time.Millisecond).Add(123 * time.Microsecond)

		created := b.run(b.create(1, func(n *store.NewRun) { n.AvailableAt, n.DeadlineAt = &at, &at })[0])
		for name, got := range map[string]time.Time{
			"created_at": created.CreatedAt, "available_at": *created.AvailableAt, "deadline_at": *created.DeadlineAt,
		} {
			if !got.Equal(got.Truncate(time.Millisecond)) {
				t.Errorf("%s is %v, want whole milliseconds", name, got)
			}
		}
		if !created.AvailableAt.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("available_at is %v, want %v cut off", created.AvailableAt, at)
		}

		l := b.start()
		b.mustRun(store.RunWrite{Lease: l, Op: store.RunPark, At: at})
		if got := b.run(l.RunID).AvailableAt; !got.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("a run parked until %v is due at %v", at, got)
		}
		l = b.start()
		b.mustRun(store.RunWrite{Lease: l, Op: store.RunFail, Error: json.RawMessage(`{}`), FinishedAt: at})
		if got := b.run(l.RunID).FinishedAt; !got.Equal(at.Truncate(time.Millisecond)) {
			t.Errorf("a run that failed at %v has finished at %v", at, got)
		}
		l = b.start()
		b.mustStep(function(l, "a", complete, `1`))
		a := b.steps(l.RunID)[0]
		if !a.CreatedAt.Equal(a.CreatedAt.Truncate(time.Millisecond)) {
			t.Errorf("created_at of an attempt is %v, want whole milliseconds", a.CreatedAt)
		}
	})
}

func TestRunWrites_OnlyACompletionMayBeRepeated(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for op, w := range ops {
			l := b.start()
			b.mustRun(ending(l, w))
			before := b.run(l.RunID)
			_, errs := b.apply(nil, []store.RunWrite{ending(l, w)})
			if repeated := errs[0] == nil; repeated != (op == "complete") || !repeated && !errors.Is(errs[0], store.ErrLeaseLost) {
				t.Errorf("%s again: %v", op, errs[0])
			}
			if diff := cmp.Diff(before, b.run(l.RunID)); diff != "" {
				t.Errorf("%s again changed the run:\n%s", op, diff)
			}
		}
	})
}

func TestRunWrites_TheFirstUnderALeaseCounts(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		_, errs := b.apply(nil, []store.RunWrite{ending(l, store.RunComplete), ending(l, store.RunFail)})
		if errs[0] != nil || !errors.Is(errs[1], store.ErrLeaseLost) {
			t.Errorf("results %v", errs)
		}
		if got := b.run(l.RunID).Status; got != openworkflow.RunCompleted {
			t.Errorf("run is %s", got)
		}
	})
}

func TestRunWrites_ZeroInstantsMeanNow(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for _, op := range []store.RunOp{store.RunPark, store.RunRetry, store.RunRelease} {
			l := b.start()
			b.mustRun(store.RunWrite{Lease: l, Op: op})
			b.lease(l.RunID)
		}
		l := b.start()
		b.mustRun(store.RunWrite{Lease: l, Op: store.RunFail})
		r := b.run(l.RunID)
		if r.FinishedAt == nil || r.FinishedAt.After(time.Now().Add(minute)) || !r.FinishedAt.Equal(r.FinishedAt.Truncate(time.Millisecond)) {
			t.Errorf("finished at %v, want now in whole milliseconds", r.FinishedAt)
		}
	})
}

func TestCreate_R50(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		past := time.Now().Add(-time.Hour)
		id := b.create(1, func(n *store.NewRun) {
			n.Input, n.Context, n.AvailableAt = json.RawMessage(`{"b":1,"a":[1.0,null]}`), json.RawMessage(`{"traceContext":{}}`), &past
		})[0]
		r := b.run(id)
		want := columns{status: "pending", worker: "NULL", due: "now", started: "NULL", finished: "NULL"}
		if got := columnsOf(r, openworkflow.Lease{}); got != want {
			t.Errorf("row is %+v, want %+v", got, want)
		}
		if string(r.Input) != `{"a": [1.0, null], "b": 1}` || string(r.Context) != `{"traceContext": {}}` {
			t.Errorf("input %s, context %s", r.Input, r.Context)
		}
		if r.NamespaceID != "default" || r.Version != nil || r.IdempotencyKey != nil || r.ParentStepAttemptID != nil {
			t.Errorf("row is %+v", r)
		}

		again, err := b.CreateRuns(t.Context(), []store.NewRun{{ID: id, WorkflowName: "other", Input: json.RawMessage(`7`)}})
		if err != nil || again[0] != (store.Created{RunID: id}) {
			t.Errorf("creating it again: %+v, %v", again, err)
		}
		if diff := cmp.Diff(r, b.run(id)); diff != "" {
			t.Errorf("creating it again changed it:\n%s", diff)
		}
		anonymous, err := b.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}})
		if err != nil || anonymous[0].RunID == "" || !anonymous[0].Inserted {
			t.Errorf("creating one without an id: %+v, %v", anonymous, err)
		}
	})
}

func TestCreate_R51_AKeyIsHeldByTheOldestRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		keyed := func(workflow, key string, window time.Duration) store.Created {
			t.Helper()
			created, err := b.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: workflow, IdempotencyKey: &key, KeyWindow: window}})
			if err != nil || created[0].Err != nil {
				t.Fatalf("CreateRuns: %+v, %v", created, err)
			}
			return created[0]
		}
		first := keyed("wf", "k", 0)
		if !first.Inserted {
			t.Fatalf("first: %+v", first)
		}
		if _, err := b.CancelRuns(t.Context(), []string{first.RunID}); err != nil {
			t.Fatal(err)
		}
		for _, window := range []time.Duration{0, time.Hour} {
			if got := keyed("wf", "k", window); got != (store.Created{RunID: first.RunID}) {
				t.Errorf("within %v: %+v, want the first run, although it has ended", window, got)
			}
		}
		if got := keyed("wf", "k", time.Nanosecond); !got.Inserted {
			t.Errorf("after the window: %+v, want a new run", got)
		}
		if got := keyed("other", "k", 0); !got.Inserted {
			t.Errorf("of another workflow: %+v, want a new run", got)
		}
		both, err := b.CreateRuns(t.Context(), []store.NewRun{
			{WorkflowName: "wf", IdempotencyKey: new("twice")}, {WorkflowName: "wf", IdempotencyKey: new("twice")},
		})
		if err != nil || !both[0].Inserted || both[1] != (store.Created{RunID: both[0].RunID}) {
			t.Errorf("one key twice in a call: %+v, %v", both, err)
		}
	})
}

func TestCreate_AFaultIsTheRunsOwn(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		created, err := b.CreateRuns(t.Context(), []store.NewRun{
			{WorkflowName: "wf"},
			{WorkflowName: "wf", Input: json.RawMessage(`"\u0000"`)},
			{WorkflowName: "wf", IdempotencyKey: new("k"), Input: json.RawMessage(`"\ud800"`)},
			{WorkflowName: "w\x00f"},
			{WorkflowName: "wf", IdempotencyKey: new("k")},
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range created {
			faulty := i > 0 && i < 4
			if faulty != errors.Is(c.Err, store.ErrInvalidJSON) || faulty == c.Inserted {
				t.Errorf("run %d: %+v", i, c)
			}
		}
	})
}

func TestSuspend_SetsARunAside(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		soon := later().Truncate(time.Millisecond)
		ids := b.create(1, func(n *store.NewRun) { n.AvailableAt = &soon })
		ids = append(ids, b.create(1, func(n *store.NewRun) { n.AvailableAt, n.Suspended = &soon, true })...)
		if n, err := b.SuspendRuns(t.Context(), append(ids, "missing")); err != nil || n != 1 {
			t.Errorf("suspended %d, %v, want the one that was not", n, err)
		}
		for _, id := range ids {
			if r := b.run(id); r.SuspendedAt == nil || r.AvailableAt != nil {
				t.Errorf("a suspended run is %+v", r)
			}
		}
		if n, err := b.ResumeRuns(t.Context(), append(ids, "missing")); err != nil || n != 2 {
			t.Errorf("resumed %d, %v", n, err)
		}
		for _, id := range ids {
			if r := b.run(id); r.SuspendedAt != nil || r.AvailableAt == nil || !r.AvailableAt.Equal(soon) {
				t.Errorf("a resumed run is %+v, want it due when it was", r)
			}
		}
	})
}

func TestCancel_R125(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		active, parked, done, failed := b.start(), b.start(), b.start(), b.start()
		pending := b.create(1)[0]
		b.mustStep(function(active, "a", running, ""))
		b.mustRun(ending(parked, store.RunPark))
		b.mustRun(ending(done, store.RunComplete))
		b.mustRun(ending(failed, store.RunFail))
		ids := []string{pending, active.RunID, parked.RunID, done.RunID, failed.RunID, "missing"}
		want := map[string]openworkflow.RunStatus{
			pending: "canceled", active.RunID: "canceled", parked.RunID: "canceled", done.RunID: "completed", failed.RunID: "failed",
		}
		for range 2 { // again changes nothing
			statuses, err := b.CancelRuns(t.Context(), ids)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, statuses); diff != "" {
				t.Errorf("statuses differ (-want +got):\n%s", diff)
			}
		}
		for _, id := range ids[:3] {
			r := b.run(id)
			if r.WorkerID != nil || r.AvailableAt != nil || r.FinishedAt == nil || r.Error != nil || (r.StartedAt == nil) != (id == pending) {
				t.Errorf("canceled run is %+v", r)
			}
		}
		if a := b.steps(active.RunID)[0]; a.Status != running {
			t.Errorf("the attempt of a canceled run is %s, want it left alone (R126)", a.Status)
		}
	})
}

func TestFailExpired_R44(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		passed := time.Now().Add(-minute)
		expired := b.create(3, func(n *store.NewRun) { n.DeadlineAt = &passed })
		open := b.create(1, func(n *store.NewRun) { n.DeadlineAt = new(later()) })[0]
		total := 0
		for _, want := range []int{2, 1, 0} {
			failed, err := b.FailExpired(t.Context(), 2)
			if err != nil || len(failed) != want {
				t.Errorf("failed %v, %v, want %d", failed, err, want)
			}
			total += len(failed)
		}
		for _, id := range expired {
			r := b.run(id)
			if r.Status != openworkflow.RunFailed || string(r.Error) != `{"message": "Workflow run deadline exceeded"}` ||
				r.AvailableAt != nil || r.FinishedAt == nil || r.Failures != 0 {
				t.Errorf("expired run is %+v", r)
			}
		}
		if r := b.run(open); r.Status != openworkflow.RunPending {
			t.Errorf("a run within its deadline is %s", r.Status)
		}
	})
}

func TestNotify_WakesListeners(t *testing.T) {
	// Only release and complete write with hints.
	release := func(b bench, l openworkflow.Lease) error {
		_, err := b.ApplyAndClaim(b.Context(), store.Batch{
			Runs:  []store.RunWrite{ending(l, store.RunRelease)},
			Hints: store.Hints{Due: true},
		})
		return err
	}
	complete := func(b bench, l openworkflow.Lease) error {
		_, err := b.ApplyAndClaim(b.Context(), store.Batch{
			Runs:  []store.RunWrite{ending(l, store.RunComplete)},
			Hints: store.Hints{Ends: true},
		})
		return err
	}
	onBoth(t, func(t *testing.T, s Store) {
		for name, of := range map[string]struct {
			listen func(context.Context, func()) error
			notify func(bench, openworkflow.Lease) error
		}{
			"notify":            {s.Listen, func(b bench, _ openworkflow.Lease) error { return b.Notify(b.Context()) }},
			"a run is created":  {s.Listen, func(b bench, _ openworkflow.Lease) error { b.create(1); return nil }},
			"a write makes due": {s.Listen, release},
			"notify of ends":    {s.ListenEnds, func(b bench, _ openworkflow.Lease) error { return b.NotifyEnds(b.Context()) }},
			"a write ends":      {s.ListenEnds, complete},
		} {
			t.Run(name, func(t *testing.T) {
				b := bench{t, s}
				l := b.lease(b.create(1)[0])
				wakes := make(chan struct{}, 100)
				done := make(chan error, 1)
				go func() { done <- of.listen(t.Context(), func() { wakes <- struct{}{} }) }()
				<-wakes // it listens
				if err := of.notify(b, l); err != nil {
					t.Fatalf("%v", err)
				}
				select {
				case <-wakes:
				case err := <-done:
					t.Errorf("stopped listening: %v", err)
				}
			})
		}
	})
}

func TestWorkers_OfAPodOnlyTheLastProcess(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		for _, w := range []store.Worker{
			{PodUID: "b", Process: "1", PodName: "pod-b", Pool: "p"},
			{PodUID: "a", Process: "1", PodName: "pod-a", Pool: "p", Workflows: served},
			{PodUID: "b", Process: "2", PodName: "pod-b", Pool: "p"},
		} {
			if _, err := s.SaveWorker(t.Context(), w, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		list := func() (found []string) {
			t.Helper()
			workers, err := s.Workers(t.Context(), time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range workers {
				found = append(found, fmt.Sprint(w.PodUID, w.Process, len(w.Workflows)))
			}
			return found
		}
		if diff := cmp.Diff([]string{"a11", "b20"}, list()); diff != "" {
			t.Errorf("workers differ (-want +got):\n%s", diff)
		}
		for _, process := range []string{"1", "2", "2"} {
			if err := s.RemoveWorker(t.Context(), "b", process); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"a11"}, list()); diff != "" {
			t.Errorf("workers differ (-want +got):\n%s", diff)
		}
	})
}

func TestSweep_HasItsTurnAtALowRate(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		passed := time.Now().Add(-minute)
		id := b.create(1, func(n *store.NewRun) { n.DeadlineAt = &passed })[0]
		swept, err := b.Sweep(t.Context(), time.Hour, 10)
		if err != nil || !swept.Ran || len(swept.Expired) != 1 || swept.Expired[0] != id || len(swept.Rescued) != 0 {
			t.Errorf("first sweep: %+v, %v", swept, err)
		}
		b.create(1, func(n *store.NewRun) { n.DeadlineAt = &passed })
		swept, err = b.Sweep(t.Context(), time.Hour, 10)
		if err != nil || swept.Ran || len(swept.Expired) != 0 {
			t.Errorf("second sweep: %+v, %v, want none", swept, err)
		}
		swept, err = b.Sweep(t.Context(), 0, 10)
		if err != nil || !swept.Ran || len(swept.Expired) != 1 {
			t.Errorf("third sweep: %+v, %v", swept, err)
		}
	})
}
