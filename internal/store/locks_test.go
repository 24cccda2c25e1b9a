package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// prompt is how soon calls must return that do not wait for a locked row. A call that waits
// returns only when the test ends the lock.
const prompt = time.Minute

// lockRun locks a run, as the session of an administrator does, until unlock is called.
func (f *fixture) lockRun(id string) (unlock func()) {
	f.t.Helper()
	tx, err := connect(f.t, f.url).Begin(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := tx.Exec(f.t.Context(), `SELECT FROM openworkflow.workflow_runs WHERE id = $1 FOR UPDATE`, id); err != nil {
		f.t.Fatal(err)
	}
	return func() {
		if err := tx.Commit(f.t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			f.t.Error(err)
		}
	}
}

// startMany creates and claims n runs.
func (f *fixture) startMany(n int) []openworkflow.Lease {
	f.t.Helper()
	f.create(n)
	var leases []openworkflow.Lease
	for _, run := range f.claim(n) {
		leases = append(leases, leaseOf(run))
	}
	return leases
}

func TestHeartbeat_P2_ALockedRunCostsTheOthersNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	leases := f.startMany(10)
	locked := leases[3]
	unlock := f.lockRun(locked.RunID)
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()

	states, err := f.Heartbeat(ctx, leases, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range states {
		if want := state.Lease != locked; state.Held != want || state.Locked == want {
			t.Errorf("%+v, want held %v, locked %v", state, want, !want)
		}
	}

	// Alone, it waits for the lock.
	alone := make(chan store.LeaseState, 1)
	go func() {
		states, err := f.Heartbeat(ctx, []openworkflow.Lease{locked}, time.Hour)
		if err != nil || len(states) != 1 {
			t.Errorf("Heartbeat: %v, %v", states, err)
			states = []store.LeaseState{{}}
		}
		alone <- states[0]
	}()
	f.awaitBlocked(1)
	f.exec(`SELECT pg_sleep(0.3)`) // longer than lock_timeout
	unlock()
	if state := <-alone; !state.Held || state.Locked {
		t.Errorf("after the lock: %+v, want it held", state)
	}
	f.expect(locked.RunID, "available_at > now() + interval '50 minutes'", "true")
}

func TestHeartbeat_P2_AloneItReportsALockThatDoesNotEnd(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	defer f.lockRun(l.RunID)()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // it tries for nine tenths of that
	defer cancel()
	states, err := f.Heartbeat(ctx, []openworkflow.Lease{l}, time.Hour)
	if err != nil || !states[0].Locked || states[0].Held {
		t.Errorf("%+v, %v, want it locked", states, err)
	}
}

func TestApply_P2_ALockedRunDelaysOnlyItsOwnWrites(t *testing.T) {
	t.Parallel()
	f := setup(t)
	leases := f.startMany(10)
	locked := leases[4]
	unlock := f.lockRun(locked.RunID)
	due := f.create(1)[0]
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()
	var batch store.Batch
	for i, l := range leases {
		batch.Steps = append(batch.Steps, step(l, "a", completed, `1`))
		if i%2 == 0 {
			batch.Runs = append(batch.Runs, ending(l, store.RunComplete))
		}
	}
	claim := request(5)
	batch.Claim = &claim

	result, err := f.ApplyAndClaim(ctx, batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range batch.Steps {
		if got := result.Steps[i]; errors.Is(got, store.ErrLocked) != (w.Lease == locked) || got != nil && w.Lease != locked {
			t.Errorf("step %d: %v", i, got)
		}
	}
	for i, w := range batch.Runs {
		if got := result.Runs[i]; errors.Is(got, store.ErrLocked) != (w.Lease == locked) || got != nil && w.Lease != locked {
			t.Errorf("run %d: %v", i, got)
		}
	}
	f.expect(locked.RunID, "status", "running")
	f.expect(due, "status", "pending")

	own := store.Batch{Steps: batch.Steps[4:5], Runs: batch.Runs[2:3], NoWait: true}
	if result, err := f.ApplyAndClaim(ctx, own); err != nil || !errors.Is(result.Steps[0], store.ErrLocked) || !errors.Is(result.Runs[0], store.ErrLocked) {
		t.Errorf("again while it is locked: %+v, %v", result, err)
	}
	unlock()
	if result, err := f.ApplyAndClaim(ctx, own); err != nil || result.Steps[0] != nil || result.Runs[0] != nil {
		t.Errorf("after the lock: %+v, %v", result, err)
	}
	f.expect(locked.RunID, "status", "completed")
}

// TestApply_P2_ALockedParentDelaysOnlyItsChildren: the end of a child wakes its parent.
func TestApply_P2_ALockedParentDelaysOnlyItsChildren(t *testing.T) {
	t.Parallel()
	f := setup(t)
	leases := f.startMany(4)
	parent, child, other := leases[0], leases[1], leases[2]
	f.child(parent, child.RunID)
	f.must(nil, []store.RunWrite{ending(parent, store.RunPark)})
	unlock := f.lockRun(parent.RunID)
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()
	batch := store.Batch{Runs: []store.RunWrite{ending(child, store.RunComplete), ending(other, store.RunComplete)}}
	result, err := f.ApplyAndClaim(ctx, batch)
	if err != nil || !errors.Is(result.Runs[0], store.ErrLocked) || result.Runs[1] != nil {
		t.Fatalf("%+v, %v, want only the child to be locked", result, err)
	}
	unlock()
	if result, err := f.ApplyAndClaim(ctx, store.Batch{Runs: batch.Runs[:1]}); err != nil || result.Runs[0] != nil {
		t.Errorf("after the lock: %+v, %v", result, err)
	}
	f.expect(parent.RunID, "available_at <= now()", "true")
}

func TestSweeps_P3_ALockedRunDelaysNoOther(t *testing.T) {
	t.Parallel()
	f := setup(t)
	leases := f.startMany(5)
	f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now()`)
	expired := leases[2].RunID
	unlock := f.lockRun(expired)
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()
	if failed, err := f.FailExpired(ctx, 10); err != nil || len(failed) != 4 {
		t.Errorf("FailExpired: %v, %v, want four", failed, err)
	}
	unlock()
	if failed, err := f.FailExpired(ctx, 10); err != nil || len(failed) != 1 {
		t.Errorf("FailExpired after the lock: %v, %v, want one", failed, err)
	}

	leases = f.startMany(5)
	held := leases[2].RunID
	unlock = f.lockRun(held)
	if released, err := f.ReleaseLeases(ctx, store.ReleaseRequest{PodUID: "pod"}); err != nil || len(released) != 4 {
		t.Errorf("ReleaseLeases: %v, %v, want four", released, err)
	}
	unlock()
	if released, err := f.ReleaseLeases(ctx, store.ReleaseRequest{PodUID: "pod"}); err != nil || len(released) != 1 {
		t.Errorf("ReleaseLeases after the lock: %v, %v, want one", released, err)
	}
}

func TestCancelRuns_P3_ALockedRunDelaysNoOther(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(8)
	unlock := f.lockRun(ids[3])
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	if _, err := f.CancelRuns(ctx, ids); !errors.Is(err, store.ErrLocked) {
		t.Errorf("CancelRuns: %v, want %v", err, store.ErrLocked)
	}
	for i, id := range ids {
		f.expect(id, "status", map[bool]string{true: "pending", false: "canceled"}[i == 3])
	}
	unlock()
	statuses, err := f.CancelRuns(t.Context(), ids)
	if err != nil || len(statuses) != 8 || statuses[ids[3]] != openworkflow.RunCanceled {
		t.Errorf("CancelRuns after the lock: %v, %v", statuses, err)
	}
}

func TestCreateRuns_P3_AHeldKeyDelaysNoOther(t *testing.T) {
	t.Parallel()
	f := setup(t)
	keyed := func(key string) store.NewRun {
		return store.NewRun{ID: openworkflow.NewID(), WorkflowName: "wf", IdempotencyKey: &key}
	}
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := f.CreateRunsIn(t.Context(), tx, []store.NewRun{keyed("held")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()
	created, err := f.CreateRuns(ctx, []store.NewRun{keyed("a"), keyed("b"), keyed("held"), keyed("c"), {WorkflowName: "wf"}})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range created {
		if held := i == 2; errors.Is(c.Err, store.ErrLocked) != held || c.Inserted == held {
			t.Errorf("run %d: %+v", i, c)
		}
	}
}

func TestCreateRuns_P9_ManyLocksDelayACallBySeconds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	tx, err := connect(t, f.url).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var runs []store.NewRun
	var scopes []string
	for n := range 200 {
		key := fmt.Sprint("held-", n)
		runs = append(runs, store.NewRun{WorkflowName: "w", IdempotencyKey: &key})
		scopes = append(scopes, openworkflow.IdempotencyScope(store.DefaultNamespaceID, "w", key))
	}
	runs = append(runs, store.NewRun{WorkflowName: "w", IdempotencyKey: new("free")})
	if _, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended(scope, 0)) FROM unnest($1::text[]) scope`, scopes); err != nil {
		t.Fatal(err)
	}
	check := func(what string, runs []store.NewRun, created int) {
		t.Helper()
		began := time.Now()
		results, err := f.CreateRuns(t.Context(), runs)
		if took := time.Since(began); err != nil || took > 15*time.Second { // with a wait for each lock it is 20 s and more
			t.Errorf("%s: %v after %v", what, err, took)
		}
		for _, r := range results {
			if r.Inserted {
				created--
			} else if !errors.Is(r.Err, store.ErrLocked) {
				t.Errorf("%s: %+v", what, r)
			}
		}
		if created != 0 {
			t.Errorf("%s: %d runs are missing", what, created)
		}
	}
	check("keys", runs, 1)
	if _, err := tx.Exec(t.Context(), `LOCK TABLE openworkflow.workflow_runs IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	check("table", make([]store.NewRun, 60), 0)
}
