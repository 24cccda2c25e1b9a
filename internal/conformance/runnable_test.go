package conformance

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Runs are brought into many states by the methods that workers and clients call. What HoldOf
// says of each is what claims do.
func TestHoldOf_R43_AgreesWithClaim(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		soon := func(n *store.NewRun) { n.AvailableAt = new(later()) }
		passed := func(n *store.NewRun) { n.DeadlineAt = new(time.Now().Add(-minute)) }
		open := func(n *store.NewRun) { n.DeadlineAt = new(later()) }
		suspended := func(n *store.NewRun) { n.Suspended = true }
		versioned := func(n *store.NewRun) { n.Version = new("1") }
		want := map[string]store.Hold{}
		expect := func(hold store.Hold, id string) { want[id] = hold }

		// Each claim takes all that is due, so the leases come before the states that are due.
		leases := map[string]openworkflow.Lease{}
		for _, name := range []string{"executing", "stopping", "woken", "given back", "park", "retry", "complete", "fail", "release"} {
			leases[name] = b.start()
		}
		expect(store.NotHeld, b.expiring().RunID)
		expect(store.HoldLeased, leases["executing"].RunID)
		b.suspend(leases["stopping"].RunID)
		expect(store.HoldSuspended, leases["stopping"].RunID)
		for op, hold := range map[string]store.Hold{
			"park": store.HoldNotDue, "retry": store.HoldNotDue, "complete": store.HoldEnded, "fail": store.HoldEnded, "release": store.NotHeld,
		} {
			b.mustRun(ending(leases[op], ops[op]))
			expect(hold, leases[op].RunID)
		}
		w := ending(leases["woken"], store.RunPark)
		w.At = time.Now().Add(-minute)
		b.mustRun(w)
		expect(store.NotHeld, leases["woken"].RunID)
		w = ending(leases["given back"], store.RunRetry)
		w.Error = json.RawMessage(`{"message": "Workflow \"wf\" is not registered"}`)
		b.mustRun(w)
		expect(store.NotHeld, leases["given back"].RunID)
		canceled := b.create(1)[0]
		if _, err := b.CancelRuns(t.Context(), []string{canceled}); err != nil {
			t.Fatal(err)
		}
		expect(store.HoldEnded, canceled)
		for hold, changes := range map[store.Hold][]func(*store.NewRun){
			store.NotHeld: {open}, store.HoldNotDue: {soon}, store.HoldDeadline: {passed}, store.HoldSuspended: {suspended}, store.HoldUnserved: {versioned},
		} {
			for _, change := range changes {
				expect(hold, b.create(1, change)[0])
			}
		}
		resumed := b.create(1, suspended)[0]
		if _, err := b.ResumeRuns(t.Context(), []string{resumed}); err != nil {
			t.Fatal(err)
		}
		expect(store.NotHeld, resumed)

		keys := map[openworkflow.DefinitionKey]bool{served[0].Key(): true}
		got, runnable := map[string]store.Hold{}, map[string]bool{}
		for id, hold := range want {
			if hold == store.NotHeld {
				runnable[id] = true
			}
			got[id] = store.HoldOf(b.run(id), time.Now(), keys)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("HoldOf (-want +got):\n%s", diff)
		}
		claimed := map[string]bool{}
		for _, request := range []store.ClaimRequest{*request(100), *request(100)} {
			request.GivenBack = len(claimed) > 0
			runs, err := b.Claim(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			for i := range runs {
				claimed[runs[i].ID] = true
			}
		}
		if diff := cmp.Diff(runnable, claimed); diff != "" {
			t.Errorf("claimed (-want +got):\n%s", diff)
		}
	})
}

func (b bench) suspend(id string) {
	b.Helper()
	if n, err := b.SuspendRuns(b.Context(), []string{id}); err != nil || n != 1 {
		b.Fatalf("suspended %d runs, %v", n, err)
	}
}
