package conformance

import (
	"slices"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// request asks for up to n runs.
func request(n int) *store.ClaimRequest {
	return &store.ClaimRequest{Served: served, Max: n, WorkerIDPrefix: "pod.proc." + openworkflow.NewID() + ".", First: 1, Lease: minute}
}

// A call that ends runs claims the next ones with them: those that are due already, and
// those that the ends make due.
func TestApplyAndClaim_TakesTheNextRunsWithTheEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		parent := b.lease(b.create(1)[0])
		start := child(parent)
		b.must([]store.StepWrite{start}, []store.RunWrite{{Lease: parent, Op: store.RunPark, At: later()}})
		l := b.lease(start.Child.ID)
		next := b.create(1)[0]

		result, err := b.ApplyAndClaim(b.Context(), store.Batch{
			Steps: []store.StepWrite{function(l, "last", complete, `1`)},
			Runs:  []store.RunWrite{ending(l, store.RunComplete)},
			Claim: request(5),
		})

		if err != nil || result.Steps[0] != nil || result.Runs[0] != nil {
			t.Fatalf("ApplyAndClaim: %+v, %v", result, err)
		}
		var ids []string
		for _, run := range result.Claimed {
			ids = append(ids, run.ID)
		}
		for _, want := range []string{parent.RunID, next} {
			if !slices.Contains(ids, want) {
				t.Errorf("claimed %v, without %s", ids, want)
			}
		}
		if len(ids) != 2 {
			t.Errorf("claimed %v, want two", ids)
		}
	})
}

// A refused write does not affect the claim, nor the other way round.
func TestApplyAndClaim_P2RefusedWritesTakeNothingAway(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		b.create(2)
		result, err := b.ApplyAndClaim(b.Context(), store.Batch{
			Runs:  []store.RunWrite{ending(openworkflow.Lease{RunID: "none", WorkerID: "nobody"}, store.RunComplete)},
			Claim: request(1),
		})
		if err != nil || len(result.Runs) != 1 || result.Runs[0] == nil || len(result.Claimed) != 1 {
			t.Errorf("ApplyAndClaim: %+v, %v; want one claim, and a refusal", result, err)
		}
	})
}

// New is only a hint: a write that is wrong about it, because an acknowledgement was lost,
// changes nothing and succeeds.
func TestApply_P1AnAttemptThatIsNotNewIsWrittenOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		b.create(1)
		l := leaseOf(b.claim(1, minute)[0])
		first, other := function(l, "a", complete, `1`), function(l, "b", complete, `2`)
		first.New, other.New = true, true
		b.mustStep(first)

		b.must([]store.StepWrite{first, other}, []store.RunWrite{ending(l, store.RunComplete)})

		if steps := b.steps(l.RunID); len(steps) != 2 {
			t.Errorf("%d attempts are stored, want 2", len(steps))
		}
		if run := b.run(l.RunID); run.Status != openworkflow.RunCompleted {
			t.Errorf("the run is %s", run.Status)
		}
	})
}
