package store_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func (f *fixture) suspend(ids ...string) int {
	f.t.Helper()
	n, err := f.SuspendRuns(f.t.Context(), ids)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fixture) resume(ids ...string) int {
	f.t.Helper()
	n, err := f.ResumeRuns(f.t.Context(), ids)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func TestSuspend_WhoeverHasNoWorkerIsNotClaimable(t *testing.T) {
	t.Parallel()
	f := setup(t)
	later := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	due := f.create(1)[0]
	future := f.create(1, func(r *store.NewRun) { r.AvailableAt = &later })[0]
	born := f.create(1, func(r *store.NewRun) { r.Suspended = true })[0]
	if n := f.suspend(due, future, born, "missing"); n != 2 {
		t.Errorf("suspended %d, want 2", n)
	}
	if n := f.suspend(due); n != 0 {
		t.Errorf("suspended %d again, want 0", n)
	}
	for _, id := range []string{due, future, born} {
		f.expect(id, "available_at", "NULL") // nor by OpenWorkflow's workers (R43)
		f.expect(id, "status", "pending")
	}
	if runs := f.claim(10); len(runs) != 0 {
		t.Errorf("claimed %+v", runs)
	}
	runs, err := f.GetRuns(t.Context(), []string{due})
	if err != nil || runs[due].SuspendedAt == nil {
		t.Errorf("GetRuns: %+v, %v, want it suspended", runs[due], err)
	}

	if n := f.resume(due, future, born); n != 3 {
		t.Errorf("resumed %d, want 3", n)
	}
	f.expect(future, "available_at > now() + interval '59 minutes'", "true")
	f.expect(due, "config", "{}")
	if runs := f.claim(10); len(runs) != 2 {
		t.Errorf("claimed %d, want 2", len(runs))
	}
	if n := f.resume(due); n != 0 {
		t.Errorf("resumed %d again, want 0", n)
	}
}

func TestSuspend_AnActiveRunKeepsItsLeaseUntilItEnds(t *testing.T) {
	t.Parallel()
	for name, op := range ops {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			if n := f.suspend(l.RunID); n != 1 {
				t.Fatalf("suspended %d, want 1", n)
			}
			states, err := f.Heartbeat(t.Context(), []openworkflow.Lease{l}, lease)
			if err != nil || !states[0].Held || !states[0].Suspended {
				t.Fatalf("Heartbeat: %+v, %v, want it held and suspended", states, err)
			}
			f.must([]store.StepWrite{step(l, "a", completed, `1`)}, []store.RunWrite{ending(l, op)})

			f.expect(l.RunID, "available_at", "NULL")
			if runs := f.claim(10); len(runs) != 0 {
				t.Errorf("claimed %+v", runs)
			}
			resumed := f.resume(l.RunID)
			if open := name != "complete" && name != "fail"; open != (resumed == 1) {
				t.Errorf("resumed %d after %s", resumed, name)
			}
			want := map[string]string{
				"park": "true", "retry": "true", "release": "false", "complete": "NULL", "fail": "NULL",
			}[name]
			f.expect(l.RunID, "available_at > now()", want)
		})
	}
}

func TestSuspend_ResumedBeforeTheHolderNoticed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	f.suspend(l.RunID)
	f.resume(l.RunID)
	f.expect(l.RunID, "worker_id", l.WorkerID)
	f.expect(l.RunID, "available_at > now()", "true")
	states, err := f.Heartbeat(t.Context(), []openworkflow.Lease{l}, lease)
	if err != nil || !states[0].Held || states[0].Suspended {
		t.Errorf("Heartbeat: %+v, %v", states, err)
	}
}

func TestSuspend_TheHolderDies(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	f.suspend(l.RunID)
	if ids, err := f.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: "pod"}); err != nil || len(ids) != 1 {
		t.Fatalf("ReleaseLeases: %v, %v", ids, err)
	}
	f.expect(l.RunID, "available_at", "NULL")
	f.resume(l.RunID)
	if runs := f.claim(1); len(runs) != 1 {
		t.Error("the resumed run was not claimed")
	}
}

func TestHeartbeat_R42_ExtendsWhatIsHeld(t *testing.T) {
	t.Parallel()
	f := setup(t)
	deadline := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	a := f.start(func(r *store.NewRun) { r.DeadlineAt = &deadline })
	b, c, d := f.start(), f.start(), f.start()
	f.steal(b.RunID)
	f.must(nil, []store.RunWrite{ending(c, store.RunComplete)})
	missing := openworkflow.Lease{RunID: "missing", WorkerID: "w"}

	states, err := f.Heartbeat(t.Context(), []openworkflow.Lease{d, c, missing, b, a, a}, 3*time.Hour)
	if err != nil {
		t.Fatal(err)
	}

	held := func(l openworkflow.Lease) store.LeaseState {
		return store.LeaseState{Lease: l, Held: true, Status: openworkflow.RunRunning}
	}
	dueA := held(a)
	dueA.DeadlineAt = &deadline
	want := []store.LeaseState{
		held(d), {Lease: c, Status: openworkflow.RunCompleted}, {Lease: missing}, {Lease: b, Status: openworkflow.RunRunning}, dueA, dueA,
	}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Errorf("states differ (-want +got):\n%s", diff)
	}
	f.expect(a.RunID, "available_at - updated_at", "03:00:00")
	f.expect(b.RunID, "available_at > now() + interval '2 hours'", "false")
	if states, err := f.Heartbeat(t.Context(), nil, lease); err != nil || len(states) != 0 {
		t.Errorf("no leases: %v, %v", states, err)
	}
}

func TestReleaseLeases(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var all []openworkflow.Lease
	for _, workerID := range []string{"uid.old.1", "uid.old.2", "uid.new.1", "uid.newer.1", "uid2.old.1", "ui.old.1", "UID.old.1", "%.old.1"} {
		l := f.start()
		f.exec(`UPDATE openworkflow.workflow_runs SET worker_id = $2 WHERE id = $1`, l.RunID, workerID)
		all = append(all, openworkflow.Lease{RunID: l.RunID, WorkerID: workerID})
	}
	release := func(uid, except string, want ...int) {
		t.Helper()
		released, err := f.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: uid, ExceptProcess: except})
		if err != nil {
			t.Fatal(err)
		}
		var got, ids []string
		for _, run := range released {
			got = append(got, run.ID)
		}
		for _, i := range want {
			ids = append(ids, all[i].RunID)
		}
		slices.Sort(got)
		slices.Sort(ids)
		if !slices.Equal(got, ids) {
			t.Errorf("ReleaseLeases(%s, %s) = %v, want %v", uid, except, got, ids)
		}
	}

	release("uid", "new", 0, 1, 3)
	f.expect(all[0].RunID, "worker_id", "NULL")
	f.expect(all[0].RunID, "status", "running")
	f.expect(all[0].RunID, "available_at = updated_at", "true")
	f.expect(all[2].RunID, "available_at > now()", "true")
	release("uid", "", 2)
	release("uid", "")
	release("%", "", 7)
	release("_", "")
	if runs := f.claim(10); len(runs) != 5 {
		t.Errorf("claimed %d, want the 5 released", len(runs))
	}
}
