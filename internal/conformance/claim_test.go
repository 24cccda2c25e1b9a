package conformance

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestClaim_R43_TakesWhatIsDueAndServed(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		future, passed := later(), time.Now().Add(-minute)
		for _, change := range []func(n *store.NewRun){
			func(n *store.NewRun) { n.AvailableAt = &future },
			func(n *store.NewRun) { n.DeadlineAt = &passed },
			func(n *store.NewRun) { n.Suspended = true },
			func(n *store.NewRun) { n.WorkflowName = "other" },
			func(n *store.NewRun) { n.Version = new("1") },
		} {
			b.create(1, change)
		}
		id := b.create(1)[0]
		runs := b.claim(10, minute)
		if len(runs) != 1 || runs[0].ID != id {
			t.Fatalf("claimed %+v, want %s alone", runs, id)
		}
		want := columns{status: "running", worker: "kept", due: "later", started: "set", finished: "NULL", attempts: 1}
		if got := columnsOf(b.run(id), leaseOf(runs[0])); got != want {
			t.Errorf("row is %+v, want %+v", got, want)
		}
		if diff := cmp.Diff(&runs[0], b.run(id)); diff != "" {
			t.Errorf("Claim returned another row than is stored:\n%s", diff)
		}
		if again := b.claim(10, minute); len(again) != 0 {
			t.Errorf("claimed again: %+v", again)
		}
	})
}

// A run that OpenWorkflow's worker gave back is due later only for workers that do not have
// its workflow either.
func TestClaim_R62_TakesWhatWasGivenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		giveBack := func(err string) string {
			id := b.create(1)[0]
			b.mustRun(store.RunWrite{Lease: b.lease(id), Op: store.RunRetry, At: later(), Error: json.RawMessage(`{"message":` + err + `}`)})
			return id
		}
		const refused = `"Workflow \"wf\" is not registered"`
		first, second, suspended := giveBack(refused), giveBack(refused), giveBack(refused)
		giveBack(`"Workflow \"other\" is not registered"`) // an error of its own
		giveBack(`"no luck"`)
		if _, err := b.SuspendRuns(t.Context(), []string{suspended}); err != nil {
			t.Fatal(err)
		}
		b.create(1, func(n *store.NewRun) { n.AvailableAt = new(later()) })
		due := b.create(1)[0]

		for _, step := range []struct {
			what      string
			slots     int
			givenBack bool
			served    openworkflow.Definition
			want      []string
		}{
			{"of another version", 9, true, openworkflow.Definition{Name: "wf", Version: new("1")}, nil},
			{"the older one", 1, true, served[0], []string{first}},
			{"the other", 9, true, served[0], []string{second}},
			{"no more", 9, true, served[0], nil},
			{"what is due", 9, false, served[0], []string{due}},
		} {
			request := request(step.slots)
			request.Served, request.GivenBack = []openworkflow.Definition{step.served}, step.givenBack
			runs, err := b.Claim(t.Context(), *request)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range runs {
				got = append(got, r.ID)
			}
			if !slices.Equal(got, step.want) {
				t.Errorf("%s: claimed %v, want %v", step.what, got, step.want)
			}
		}
		if r := b.run(first); r.Status != openworkflow.RunRunning || r.Attempts != 2 || r.StartedAt == nil {
			t.Errorf("row is %+v", r)
		}
	})
}

func TestClaim_R48_ALeaseThatRanOutIsTakenOver(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		first := b.expiring()
		started := b.run(first.RunID).StartedAt
		second := b.lease(first.RunID)
		r := b.run(first.RunID)
		if r.Attempts != 2 || second.WorkerID == first.WorkerID || !r.StartedAt.Equal(*started) {
			t.Errorf("row is %+v", r)
		}
	})
}

func TestClaim_IsOrderedAndFair(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		var again []string
		b.create(4)
		for _, run := range b.claim(4, minute) {
			again = append(again, run.ID)
			b.mustRun(store.RunWrite{Lease: leaseOf(run), Op: store.RunPark, At: time.Now().Add(-minute)})
		}
		fresh := b.create(4)
		taken := map[string]bool{}
		for _, run := range b.claim(4, minute) {
			taken[run.ID] = true
		}
		count := func(ids []string) (n int) {
			for _, id := range ids {
				if taken[id] {
					n++
				}
			}
			return n
		}
		if count(again) != 2 || count(fresh) != 2 {
			t.Errorf("of 4 slots %d are for runs due again and %d for new ones, want 2 and 2", count(again), count(fresh))
		}
		for _, run := range b.claim(10, minute) {
			taken[run.ID] = true
		}
		if len(taken) != 8 {
			t.Errorf("claimed %d of 8", len(taken))
		}

		var order []string
		for i := range 3 {
			at := time.Now().Add(time.Duration(-i-1) * minute)
			order = append(b.create(1, func(n *store.NewRun) { n.AvailableAt = &at }), order...)
		}
		for i, want := range order {
			if got := b.claim(1, minute)[0].ID; got != want {
				t.Errorf("claim %d is %s, want %s, which was due before the others", i, got, want)
			}
		}
	})
}

func TestHeartbeat_R47(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		held, suspended := b.start(func(n *store.NewRun) { n.DeadlineAt = new(later()) }), b.start()
		lost := b.expiring()
		b.lease(lost.RunID)
		if _, err := b.SuspendRuns(t.Context(), []string{suspended.RunID}); err != nil {
			t.Fatal(err)
		}
		missing := openworkflow.Lease{RunID: openworkflow.NewID(), WorkerID: "w"}
		before := b.run(lost.RunID)
		states, err := b.Heartbeat(t.Context(), []openworkflow.Lease{held, lost, suspended, missing}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		deadline := b.run(held.RunID).DeadlineAt
		want := []store.LeaseState{
			{Lease: held, Held: true, Status: "running", DeadlineAt: deadline},
			{Lease: lost, Status: "running"},
			{Lease: suspended, Held: true, Status: "running", Suspended: true},
			{Lease: missing},
		}
		if diff := cmp.Diff(want, states); diff != "" {
			t.Errorf("states differ (-want +got):\n%s", diff)
		}
		if at := b.run(held.RunID).AvailableAt; at.Before(time.Now().Add(minute)) {
			t.Errorf("the lease ends at %v, want it extended", at)
		}
		if diff := cmp.Diff(before, b.run(lost.RunID)); diff != "" {
			t.Errorf("the heartbeat of a lost lease changed the run:\n%s", diff)
		}
	})
}

func TestReleaseLeases_OfAPodOrItsEarlierLife(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		b.create(5)
		of := map[string]string{}
		for _, worker := range []string{"uid.old.", "uid.new.", "uid2.old.", "uidx", "u%d.old."} {
			runs, err := b.Claim(t.Context(), store.ClaimRequest{Served: served, Max: 1, WorkerIDPrefix: worker, First: 1, Lease: minute})
			if err != nil || len(runs) != 1 {
				t.Fatalf("Claim: %v, %v", runs, err)
			}
			of[*runs[0].WorkerID] = runs[0].ID
		}
		released, err := b.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: "uid", ExceptProcess: "new"})
		if err != nil || len(released) != 1 || released[0].ID != of["uid.old.1"] {
			t.Errorf("released %v, %v, want those of the previous process", released, err)
		}
		if r := b.run(of["uid.old.1"]); !r.Parked() || !due(r) {
			t.Errorf("the released run is %+v, want it due", r)
		}
		released, err = b.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: "uid"})
		if err != nil || len(released) != 1 || released[0].ID != of["uid.new.1"] {
			t.Errorf("released %v, %v, want what is left of the pod's", released, err)
		}
	})
}
