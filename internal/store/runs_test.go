package store_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestCancelRuns_R125(t *testing.T) {
	t.Parallel()
	f := setup(t)
	pending := f.create(1, func(r *store.NewRun) { r.AvailableAt = ptr(time.Now().Add(time.Hour)) })[0]
	active, parked, done, sleeping := f.start(), f.start(), f.start(), f.start()
	running := step(active, "a", running, "")
	f.must([]store.StepWrite{running}, []store.RunWrite{ending(parked, store.RunPark), ending(done, store.RunComplete)})
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'sleeping' WHERE id = $1`, sleeping.RunID)

	for range 2 { // canceled twice is canceled
		got, err := f.CancelRuns(t.Context(), []string{pending, active.RunID, parked.RunID, done.RunID, sleeping.RunID, "missing"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]openworkflow.RunStatus{
			pending: "canceled", active.RunID: "canceled", parked.RunID: "canceled", sleeping.RunID: "canceled", done.RunID: "completed",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("statuses differ (-want +got):\n%s", diff)
		}
	}
	f.expect(active.RunID, "worker_id", "NULL")
	f.expect(active.RunID, "available_at", "NULL")
	f.expect(active.RunID, "finished_at = updated_at", "true")
	f.expect(active.RunID, "started_at IS NULL", "false")
	f.expectStep(running.Attempt.ID, "status", "running") // R126
}

func TestFailExpired_R44(t *testing.T) {
	t.Parallel()
	f := setup(t)
	expire := func(id string) {
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() - interval '1 second' WHERE id = $1`, id)
	}
	active, parked, done := f.start(), f.start(), f.start()
	f.must(nil, []store.RunWrite{ending(parked, store.RunPark), ending(done, store.RunComplete)})
	pending := f.create(1)[0]
	suspended := f.create(1, func(r *store.NewRun) { r.Suspended = true })[0]
	for _, id := range []string{pending, active.RunID, parked.RunID, suspended, done.RunID} {
		expire(id)
	}
	later := f.create(1, func(r *store.NewRun) { r.DeadlineAt = ptr(time.Now().Add(time.Hour)) })[0]

	var got []string
	for {
		failed, err := f.FailExpired(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, failed...); len(failed) < 3 {
			break
		}
	}

	slices.Sort(got)
	want := []string{pending, active.RunID, parked.RunID, suspended}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("failed runs differ (-want +got):\n%s", diff)
	}
	for expression, want := range map[string]string{
		"status": "failed", "worker_id": "NULL", "available_at": "NULL", "finished_at = updated_at": "true",
		"started_at IS NULL": "false", "error": `{"message": "Workflow run deadline exceeded"}`,
	} {
		f.expect(active.RunID, expression, want)
	}
	f.expect(done.RunID, "status", "completed")
	f.expect(later, "status", "pending")
}

// family is a parent that waits for a child that a worker executes.
func (f *fixture) family() (parent, child openworkflow.Lease) {
	f.t.Helper()
	parent, child = f.start(), f.start()
	f.child(parent, child.RunID)
	return parent, child
}

// childEnds are the ways in which a child's run ends.
var childEnds = map[string]func(f *fixture, child openworkflow.Lease){
	"completes": func(f *fixture, child openworkflow.Lease) {
		f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	},
	"fails": func(f *fixture, child openworkflow.Lease) {
		f.must(nil, []store.RunWrite{ending(child, store.RunFail)})
	},
	"is canceled": func(f *fixture, child openworkflow.Lease) {
		if _, err := f.CancelRuns(f.t.Context(), []string{child.RunID}); err != nil {
			f.t.Fatal(err)
		}
	},
	"passes its deadline": func(f *fixture, child openworkflow.Lease) {
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE id = $1`, child.RunID)
		if _, err := f.FailExpired(f.t.Context(), 10); err != nil {
			f.t.Fatal(err)
		}
	},
}

func TestWake_R82_AChildsEndMakesItsParentDue(t *testing.T) {
	t.Parallel()
	for name, end := range childEnds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			parent, child := f.family()
			f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
			f.expect(parent.RunID, "available_at > now()", "true")

			end(f, child)

			f.expect(parent.RunID, "available_at <= now()", "true")
			if runs := f.claim(1); len(runs) != 1 || runs[0].ID != parent.RunID {
				t.Errorf("claimed %+v, want the parent", runs)
			}
		})
	}
}

func TestWake_R82_NotAnActiveParentNorARetry(t *testing.T) {
	t.Parallel()
	f := setup(t)
	parent, child := f.family()
	lease := f.value(`SELECT available_at FROM openworkflow.workflow_runs WHERE id = $1`, parent.RunID)
	f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	f.expect(parent.RunID, "available_at::text", lease)

	parent, child = f.family()
	f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
	f.must(nil, []store.RunWrite{ending(child, store.RunRetry)})
	f.expect(parent.RunID, "available_at > now()", "true")
}

func TestWake_ASuspendedParentIsDueWhenItResumes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	parent, child := f.family()
	f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
	f.suspend(parent.RunID)
	f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	f.expect(parent.RunID, "available_at", "NULL")
	f.resume(parent.RunID)
	f.expect(parent.RunID, "available_at <= now()", "true")
}

func TestPark_R83_AfterWhatItWaitsForHasCome(t *testing.T) {
	t.Parallel()
	for name, end := range childEnds {
		t.Run("the child "+name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			parent, child := f.family()
			end(f, child) // while the parent is active
			f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
			f.expect(parent.RunID, "available_at <= now()", "true")
		})
	}
	t.Run("a signal", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		l := f.start()
		wait := step(l, "s", running, "")
		wait.Attempt.Kind = openworkflow.KindSignalWait
		f.must([]store.StepWrite{wait}, nil)
		f.exec(`INSERT INTO openworkflow.workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id)
VALUES ('default', 'd', 's', $1, $2)`, l.RunID, wait.Attempt.ID)
		f.must(nil, []store.RunWrite{ending(l, store.RunPark)})
		f.expect(l.RunID, "available_at <= now()", "true")
	})
	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		f := setup(t)
		parent, _ := f.family()
		f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
		f.expect(parent.RunID, "available_at > now()", "true")
	})
}

// TestPark_P3_RacesWithTheChildsEnd: however the two meet, the parent is due.
func TestPark_P3_RacesWithTheChildsEnd(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for range 40 {
		parent, child := f.family()
		done := make(chan error, 2)
		for _, w := range []store.RunWrite{ending(parent, store.RunPark), ending(child, store.RunComplete)} {
			go func() {
				_, errs, err := f.Apply(t.Context(), nil, []store.RunWrite{w})
				if err == nil {
					err = errs[0]
				}
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		f.expect(parent.RunID, "available_at <= now()", "true")
		f.exec(`UPDATE openworkflow.workflow_runs SET available_at = NULL`)
	}
}

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
	f.expect(due, "num_nulls(suspended_at, resume_at)", "2")
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
	if ids, err := f.ReleaseLeases(t.Context(), "pod", ""); err != nil || len(ids) != 1 {
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
		got, err := f.ReleaseLeases(t.Context(), uid, except)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
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

func TestOpenObjectRuns(t *testing.T) {
	t.Parallel()
	f := setup(t)
	object := func(uid, cluster string) json.RawMessage {
		raw, err := json.Marshal(openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
			Cluster: cluster, Namespace: "ns", Name: "run", UID: uid,
		}})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var runs []store.NewRun
	var want []store.ObjectRun
	for i := range 7 {
		id := fmt.Sprintf("uid-%d", i)
		runs = append(runs, store.NewRun{ID: id, WorkflowName: "wf", Context: object(id, "c")})
		want = append(want, store.ObjectRun{RunID: id, Object: openworkflow.ObjectRef{Cluster: "c", Namespace: "ns", Name: "run", UID: id}})
	}
	runs = append(runs,
		store.NewRun{ID: "uid-elsewhere", WorkflowName: "wf", Context: object("uid-elsewhere", "other")},
		store.NewRun{ID: "uid-attached", WorkflowName: "wf", Context: object("another-uid", "c")},
		store.NewRun{ID: "uid-plain", WorkflowName: "wf"},
		store.NewRun{ID: "uid-scalar", WorkflowName: "wf", Context: json.RawMessage(`"kubernetes"`)},
		store.NewRun{ID: "uid-ended", WorkflowName: "wf", Context: object("uid-ended", "c")},
	)
	if _, err := f.CreateRuns(t.Context(), runs); err != nil {
		t.Fatal(err)
	}
	if _, err := f.CancelRuns(t.Context(), []string{"uid-ended"}); err != nil {
		t.Fatal(err)
	}

	var got []store.ObjectRun
	after := ""
	for {
		page, err := f.OpenObjectRuns(t.Context(), "c", after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, page...); len(page) < 3 {
			break
		}
		after = page[2].RunID
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("runs differ (-want +got):\n%s", diff)
	}
}

func TestStepSummaries(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, b := f.start(), f.start()
	f.must([]store.StepWrite{
		step(a, "x", failed, `{"message":"1"}`), step(a, "x", failed, `{"message":"2"}`), step(a, "x", completed, `1`),
		step(a, "y", completed, `2`), step(a, "z", running, ""), step(b, "x", completed, `1`),
	}, nil)
	f.exec(`UPDATE openworkflow.step_attempts SET status = 'succeeded' WHERE step_name = 'y'`) // R41

	sums, err := f.StepSummaries(t.Context(), []string{a.RunID, b.RunID, a.RunID, "missing"}, 3)
	if err != nil {
		t.Fatal(err)
	}

	type short struct {
		Running, Completed, Failed, Names int
		Newest                            string
	}
	got := map[string]short{}
	for id, s := range sums {
		newest := ""
		for _, step := range s.Newest {
			newest += step.StepName
			if step.Output != nil {
				t.Errorf("%s has an output", step.StepName)
			}
		}
		got[id] = short{s.Running, s.Completed, s.Failed, s.Names, newest}
	}
	want := map[string]short{a.RunID: {1, 2, 2, 3, "xyz"}, b.RunID: {0, 1, 0, 1, "x"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("summaries differ (-want +got):\n%s", diff)
	}
}

func TestWorkers(t *testing.T) {
	t.Parallel()
	f := setup(t)
	save := func(w store.Worker) {
		t.Helper()
		if err := f.SaveWorker(t.Context(), w); err != nil {
			t.Fatal(err)
		}
	}
	list := func(within time.Duration) []store.Worker {
		t.Helper()
		workers, err := f.Workers(t.Context(), within)
		if err != nil {
			t.Fatal(err)
		}
		for i := range workers {
			if age := time.Since(workers[i].SeenAt); age > time.Minute || age < -time.Minute {
				t.Errorf("seen %v ago", age)
			}
			workers[i].SeenAt = time.Time{}
		}
		return workers
	}
	one := store.Worker{PodUID: "u1", Process: "p1", PodName: "pod-1", Pool: "pool", Workflows: []openworkflow.Definition{
		{Name: "wf"}, {Name: "wf", Version: ptr("2")}, {Name: "empty", Version: ptr("")},
	}}
	two := store.Worker{PodUID: "u2", Process: "p1", PodName: "pod-2", Pool: "pool"}
	save(two)
	save(one)
	if diff := cmp.Diff([]store.Worker{one, two}, list(time.Minute)); diff != "" {
		t.Errorf("workers differ (-want +got):\n%s", diff)
	}

	restarted := one
	restarted.Process = "p2"
	save(restarted)
	save(restarted)
	if diff := cmp.Diff([]store.Worker{restarted, two}, list(time.Minute)); diff != "" {
		t.Errorf("workers after a restart differ (-want +got):\n%s", diff)
	}

	f.exec(`UPDATE openworkflow.operator_workers SET seen_at = now() - interval '2 minutes' WHERE pod_uid = 'u2'`)
	if diff := cmp.Diff([]store.Worker{restarted}, list(time.Minute)); diff != "" {
		t.Errorf("workers seen lately differ (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := f.RemoveWorker(t.Context(), "u1", "p2"); err != nil {
			t.Fatal(err)
		}
	}
	if workers := list(time.Minute); len(workers) != 0 {
		t.Errorf("workers after removal: %v", workers)
	}
	f.exec(`UPDATE openworkflow.operator_workers SET seen_at = now() - interval '2 days'`)
	save(one)
	if n := f.value(`SELECT count(*) FROM openworkflow.operator_workers`); n != "1" {
		t.Errorf("%s rows, want the forgotten one gone", n)
	}
}
