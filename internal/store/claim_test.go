package store_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestClaim_R42_LeasesTheRun(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.create(1)[0]

	runs := f.claim(5)

	if len(runs) != 1 || runs[0].ID != id || runs[0].Attempts != 1 || runs[0].Status != openworkflow.RunRunning {
		t.Fatalf("claimed %+v", runs)
	}
	f.expect(id, "status", "running")
	f.expect(id, "worker_id", *runs[0].WorkerID)
	f.expect(id, "attempts", "1")
	f.expect(id, "available_at - updated_at", "00:01:00")
	f.expect(id, "started_at = updated_at", "true")
	if again := f.claim(5); len(again) != 0 {
		t.Errorf("claimed a leased run again: %+v", again)
	}
}

func TestClaim_R42_KeepsStartAndError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	started := f.value(`SELECT started_at FROM openworkflow.workflow_runs WHERE id = $1`, l.RunID)
	f.exec(`UPDATE openworkflow.workflow_runs SET error = '{"message":"earlier"}' WHERE id = $1`, l.RunID)

	f.steal(l.RunID)

	f.expect(l.RunID, "attempts", "2")
	f.expect(l.RunID, "started_at", started)
	f.expect(l.RunID, "error", `{"message": "earlier"}`)
}

func TestClaim_R61_OnlyWhatIsServed(t *testing.T) {
	t.Parallel()
	f := setup(t)
	v1 := f.create(1, func(r *store.NewRun) { r.Version = new("1") })[0]
	plain := f.create(1)[0]
	empty := f.create(1, func(r *store.NewRun) { r.Version = new("") })[0]
	f.create(1, func(r *store.NewRun) { r.WorkflowName = "other" })

	for name, c := range map[string]struct {
		served []openworkflow.Definition
		want   []string
	}{
		"another version": {[]openworkflow.Definition{{Name: "wf", Version: new("2")}}, nil},
		"the version":     {[]openworkflow.Definition{{Name: "wf", Version: new("1")}}, []string{v1}},
		"an empty one":    {[]openworkflow.Definition{{Name: "wf", Version: new("")}}, []string{empty}},
		"none":            {[]openworkflow.Definition{{Name: "wf"}, {Name: `x"y`}}, []string{plain}},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			var got []string
			for _, run := range f.claim(10, c.served...) {
				got = append(got, run.ID)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("claimed %v, want %v", got, c.want)
			}
		})
	}
}

func TestClaim_R43_LeavesWhatIsNotDue(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(1, func(r *store.NewRun) { r.AvailableAt = new(time.Now().Add(time.Hour)) })
	f.create(1, func(r *store.NewRun) { r.DeadlineAt = new(time.Now().Add(-time.Hour)) })
	f.create(1, func(r *store.NewRun) { r.Suspended = true })
	never := f.create(1)[0]
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = NULL WHERE id = $1`, never)
	due := f.create(1, func(r *store.NewRun) { r.DeadlineAt = new(time.Now().Add(time.Hour)) })[0]

	if runs := f.claim(10); len(runs) != 1 || runs[0].ID != due {
		t.Errorf("claimed %+v, want only %s", runs, due)
	}
}

func TestClaim_R48_TakesOverExpiredLeases(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() - interval '1 ms' WHERE id = $1`, l.RunID)

	runs := f.claim(1)

	if len(runs) != 1 || *runs[0].WorkerID == l.WorkerID {
		t.Fatalf("claimed %+v", runs)
	}
}

func TestClaim_LegacySleepingRunsAreDueAgain_R40(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.create(1)[0]
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'sleeping' WHERE id = $1`, id)
	if runs := f.claim(1); len(runs) != 1 || runs[0].Status != openworkflow.RunRunning {
		t.Errorf("claimed %+v", runs)
	}
}

func TestClaim_EachRunGetsAWorkerIDOfItsOwn_P2(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(20)
	seen := map[string]bool{}
	for _, run := range f.claim(30) {
		if seen[*run.WorkerID] {
			t.Errorf("worker id %s was given twice", *run.WorkerID)
		}
		seen[*run.WorkerID] = true
	}
	if len(seen) != 20 {
		t.Errorf("claimed %d runs, want 20", len(seen))
	}
}

func TestClaim_TheLongestDueComesFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	now := time.Now()
	late := f.create(1, func(r *store.NewRun) { r.AvailableAt = new(now.Add(-time.Minute)) })[0]
	early := f.create(1, func(r *store.NewRun) { r.AvailableAt = new(now.Add(-time.Hour)) })[0]
	if runs := f.claim(1); len(runs) != 1 || runs[0].ID != early {
		t.Errorf("claimed %+v first, want %s", runs, early)
	}
	if runs := f.claim(1); len(runs) != 1 || runs[0].ID != late {
		t.Errorf("claimed %+v second, want %s", runs, late)
	}
}

// backlog creates pending runs, and parked runs that are due.
func (f *fixture) backlog(pending, dueAgain int) {
	f.t.Helper()
	f.create(pending)
	for _, id := range f.create(dueAgain) {
		f.exec(`UPDATE openworkflow.workflow_runs SET status = 'running', attempts = 1 WHERE id = $1`, id)
	}
}

// branches counts claimed runs that were new and those that were due again.
func branches(runs []openworkflow.Run) (fresh, dueAgain int) {
	for _, run := range runs {
		if run.Attempts == 1 {
			fresh++
		} else {
			dueAgain++
		}
	}
	return fresh, dueAgain
}

func TestClaim_NeitherBranchStarvesTheOther(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pending, dueAgain, slots, calls int
		wantFresh, wantDueAgain         int
	}{
		{pending: 20, dueAgain: 20, slots: 10, calls: 1, wantFresh: 5, wantDueAgain: 5},
		{pending: 20, dueAgain: 20, slots: 1, calls: 10, wantFresh: 5, wantDueAgain: 5},
		{pending: 20, dueAgain: 20, slots: 3, calls: 4, wantFresh: 6, wantDueAgain: 6},
		{pending: 20, dueAgain: 0, slots: 10, calls: 1, wantFresh: 10, wantDueAgain: 0},
		{pending: 0, dueAgain: 20, slots: 10, calls: 1, wantFresh: 0, wantDueAgain: 10},
		{pending: 0, dueAgain: 20, slots: 1, calls: 4, wantFresh: 0, wantDueAgain: 4},
		{pending: 2, dueAgain: 20, slots: 10, calls: 1, wantFresh: 2, wantDueAgain: 8},
		{pending: 20, dueAgain: 2, slots: 10, calls: 1, wantFresh: 8, wantDueAgain: 2},
		{pending: 1, dueAgain: 1, slots: 10, calls: 1, wantFresh: 1, wantDueAgain: 1},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.backlog(c.pending, c.dueAgain)
			fresh, dueAgain := 0, 0
			for range c.calls {
				a, b := branches(f.claim(c.slots))
				fresh, dueAgain = fresh+a, dueAgain+b
			}
			if fresh != c.wantFresh || dueAgain != c.wantDueAgain {
				t.Errorf("claimed %d new and %d due again, want %d and %d", fresh, dueAgain, c.wantFresh, c.wantDueAgain)
			}
		})
	}
}

func TestClaim_ConcurrentClaimersNeverShareARun_P2(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.backlog(150, 150)

	var mu sync.Mutex
	claimed := map[string]int{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				runs, err := f.Claim(t.Context(), request(7))
				if err != nil {
					t.Errorf("Claim: %v", err)
					return
				}
				if len(runs) == 0 {
					return
				}
				mu.Lock()
				for _, run := range runs {
					claimed[run.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()

	for _, run := range f.claim(300) {
		claimed[run.ID]++ // what a claimer passed over because another held it for a moment
	}
	if len(claimed) != 300 {
		t.Errorf("%d runs were claimed, want 300", len(claimed))
	}
	for id, n := range claimed {
		if n > 1 {
			t.Errorf("run %s was claimed %d times", id, n)
		}
	}
}

// rangeStarts are the starts of n ranges.
func rangeStarts(n int) []pgtype.Timestamptz {
	starts := make([]pgtype.Timestamptz, n)
	for i := range starts {
		starts[i] = pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return starts
}

func TestClaim_SkipsWhatAnotherHolds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.backlog(2, 2)
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	// A claimer that has not committed takes the first of each branch, and no more.
	if _, err := tx.Exec(t.Context(), f.ClaimSQL(),
		"default", []string{"wf"}, []*string{nil}, "pod.proc.", lease, 1, 2, 1, rangeStarts(1), rangeStarts(1)); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	runs, err := f.Claim(ctx, request(4))
	if err != nil {
		t.Fatalf("Claim waited: %v", err)
	}
	if fresh, dueAgain := branches(runs); fresh != 1 || dueAgain != 1 {
		t.Errorf("claimed %d new and %d due again, want what the other left", fresh, dueAgain)
	}
}

func TestClaim_LocksOnlyWhatItTakes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.backlog(1, 1)
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), f.ClaimSQL(),
		"default", []string{"wf"}, []*string{nil}, "pod.proc.", lease, 1, 1, 1, rangeStarts(1), rangeStarts(1)); err != nil {
		t.Fatal(err)
	}
	if runs := f.claim(1); len(runs) != 1 {
		t.Errorf("claimed %d, want the one that the other claimer left", len(runs))
	}
}

// P3: while more runs are due than one claim takes, claims continue at their cursors. A run
// that became due before a cursor is found nevertheless.
func TestClaim_P3FindsWhatIsDueBehindTheFront(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(20)
	f.claim(2) // takes all that it asks for: the next claim begins here
	late := f.create(1, func(r *store.NewRun) { r.AvailableAt = new(time.Now().Add(-time.Hour)) })[0]

	claimed := map[string]bool{}
	for range 30 {
		for _, run := range f.claim(2) {
			claimed[run.ID] = true
		}
	}
	if len(claimed) != 19 || !claimed[late] {
		t.Errorf("claimed %d of 19 runs, the late one: %t", len(claimed), claimed[late])
	}
}

// TestClaim_P6_AnOpenTransactionMakesFewClaimsSlow: while anybody's transaction is open, Postgres
// removes no index entry of a run that was claimed since. Few claims read all of them.
func TestClaim_P6_AnOpenTransactionMakesFewClaimsSlow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	unlock := f.lockRun(f.create(1)[0])
	defer unlock()
	f.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
SELECT 'default', 'old-' || i, 'wf', 'pending', '{}', 0, now() - interval '1 hour', now(), now() FROM generate_series(1, 90000) i`)
	for _, status := range []string{"running", "completed"} {
		f.exec(`UPDATE openworkflow.workflow_runs SET status = $1 WHERE id LIKE 'old-%'`, status)
	}

	began := time.Now()
	const claims = 300
	for range claims {
		id := f.create(1)[0]
		if runs := f.claim(10); len(runs) != 1 || runs[0].ID != id {
			t.Fatalf("claimed %v, want the new run", runs)
		}
	}
	took, starts := time.Since(began), f.ClaimsFromStart()
	// Each costs more than 5 ms, and the pause after it is 20 times that.
	if most := int(took/(100*time.Millisecond)) + 8; starts > most {
		t.Errorf("%d of %d claims in %v read from the start, want at most %d", starts, claims, took, most)
	}
	t.Logf("%d of %d claims in %v read from the start", starts, claims, took)
}

// TestClaim_P9_ARunWithTheMostAttemptsStopsNoClaim: anybody who may write rows may write the
// largest integer, to which nothing can be added.
func TestClaim_P9_ARunWithTheMostAttemptsStopsNoClaim(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(2)
	f.exec(`UPDATE openworkflow.workflow_runs SET attempts = 2147483647 WHERE id = $1`, ids[0])

	if runs := f.claim(10); len(runs) != 2 {
		t.Errorf("claimed %d runs, want 2", len(runs))
	}
	f.expect(ids[0], "attempts", "2147483647")
	f.expect(ids[1], "attempts", "1")
}
