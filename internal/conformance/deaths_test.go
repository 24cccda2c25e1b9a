package conformance

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// die lets the worker of all leases die, and returns the counts of deaths by run.
func (b bench) die(request store.ReleaseRequest) map[string]int {
	b.Helper()
	request.PodUID = "pod"
	released, err := b.ReleaseLeases(b.Context(), request)
	if err != nil {
		b.Fatal(err)
	}
	deaths := map[string]int{}
	for _, r := range released {
		deaths[r.ID] = r.Deaths
	}
	return deaths
}

func TestDeaths_P3_CountWithoutProgressAndDelayTheRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		delays := []time.Duration{0, 0, 5 * time.Second, 15 * time.Second, 45 * time.Second, 45 * time.Second}
		for n := range delays { // a signal for each of these waits makes the run due
			b.mustStep(wait(l, fmt.Sprint("go-", n)))
		}
		for n, delay := range delays {
			b.mustStep(function(l, "killer", running, "")) // to begin a function is no progress
			if got := b.die(store.ReleaseRequest{Died: true})[l.RunID]; got != n+1 {
				t.Fatalf("death %d is counted as %d", n+1, got)
			}
			r := b.run(l.RunID)
			if r.Deaths != n+1 || r.DiedAt == nil || !r.DiedAt.Equal(r.UpdatedAt) || r.WorkerID != nil || r.Status != openworkflow.RunRunning {
				t.Errorf("after death %d the run is %+v", n+1, r)
			}
			if got := r.AvailableAt.Sub(r.UpdatedAt); got != delay {
				t.Errorf("after death %d the run is due in %v, want %v", n+1, got, delay)
			}
			if _, err := b.SendSignals(t.Context(), []store.Signal{{Name: fmt.Sprint("go-", n)}}); err != nil {
				t.Fatal(err)
			}
			l = b.lease(l.RunID)
			if r := b.run(l.RunID); r.Deaths != n+1 {
				t.Errorf("after a claim the run has %d deaths, want %d", r.Deaths, n+1)
			}
		}
	})
}

func TestDeaths_P3_ARunAtItsBoundIsDueAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		for n := range 3 {
			if n > 0 {
				l = b.lease(l.RunID) // no delay before
			}
			b.die(store.ReleaseRequest{Died: true, MaxDeaths: 3})
		}
		if r := b.run(l.RunID); r.Deaths != 3 || !r.AvailableAt.Equal(r.UpdatedAt) {
			t.Errorf("after the third of 3 deaths the run is %+v, want it due at once", r)
		}
	})
}

// A pod that is gone, a rollout, a lease that ran out and a run that was handed back say
// nothing about the run.
func TestDeaths_P6_OnlyThatOfAProcessCounts(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for name, lose := range losses {
			if slices.Contains([]string{"completed", "failed", "canceled"}, name) {
				continue
			}
			for _, before := range []int{0, 1} {
				l := b.expiring()
				for range before {
					b.die(store.ReleaseRequest{Died: true})
					l = b.leaseFor(l.RunID, -minute)
				}
				lose(b, l)
				if r := b.run(l.RunID); r.Deaths != before {
					t.Errorf("%s after %d deaths: the run has %d", name, before, r.Deaths)
				}
				if _, err := b.CancelRuns(t.Context(), []string{l.RunID}); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

func TestDeaths_P3_ProgressEndsTheRow(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for name, test := range map[string]struct {
			progress func(l openworkflow.Lease)
			want     int
		}{
			"none":                {func(openworkflow.Lease) {}, 3},
			"a function began":    {func(l openworkflow.Lease) { b.mustStep(function(l, "f", running, "")) }, 3},
			"a function returned": {func(l openworkflow.Lease) { b.mustStep(function(l, "f", complete, `1`)) }, 1},
			"a function failed":   {func(l openworkflow.Lease) { b.mustStep(function(l, "f", fail, `{"message":"no"}`)) }, 1},
			"a wait began":        {func(l openworkflow.Lease) { b.mustStep(wait(l, "s")) }, 1},
			"a child began":       {func(l openworkflow.Lease) { b.mustStep(child(l)) }, 1},
			"a sleep began": {func(l openworkflow.Lease) {
				w := function(l, "nap", running, "")
				w.Attempt.Kind = openworkflow.KindSleep
				b.mustStep(w)
			}, 1},
			"the workflow failed": {func(l openworkflow.Lease) {
				b.mustRun(store.RunWrite{Lease: l, Op: store.RunRetry, Error: json.RawMessage(`{"message":"no"}`), Failure: true})
				if r := b.run(l.RunID); r.Deaths != 0 || r.DiedAt != nil || r.Failures != 1 {
					t.Errorf("after its own failure the run has %d deaths, %d failures", r.Deaths, r.Failures)
				}
				b.lease(l.RunID)
			}, 1},
		} {
			l := b.start()
			b.mustStep(function(l, "earlier", complete, `1`), wait(l, "earlier"))
			for range 2 {
				b.die(store.ReleaseRequest{Died: true})
				l = b.lease(l.RunID)
			}
			test.progress(l)
			if got := b.die(store.ReleaseRequest{Died: true})[l.RunID]; got != test.want {
				t.Errorf("%s: the death is counted as %d, want %d", name, got, test.want)
			}
			if _, err := b.CancelRuns(t.Context(), []string{l.RunID}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestDeaths_ASuspendedRunKeepsItsDelay(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		for range 3 {
			if _, err := b.SuspendRuns(t.Context(), []string{l.RunID}); err != nil {
				t.Fatal(err)
			}
			b.die(store.ReleaseRequest{Died: true})
			r := b.run(l.RunID)
			if r.AvailableAt != nil || r.SuspendedAt == nil {
				t.Errorf("the run is due at %v", r.AvailableAt)
			}
			if _, err := b.ResumeRuns(t.Context(), []string{l.RunID}); err != nil {
				t.Fatal(err)
			}
			if r.Deaths < 3 {
				l = b.lease(l.RunID)
			}
		}
		if r := b.run(l.RunID); r.Deaths != 3 || !r.AvailableAt.Equal(r.DiedAt.Add(5*time.Second)) {
			t.Errorf("after the third death the resumed run is %+v", r)
		}
	})
}

// A run that is set aside is due later even if a wait of it is over: nobody claims it over and over.
func TestRunWrites_SetAsideIsNotWoken(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		b.mustStep(wait(l, "aside"))
		if _, err := b.SendSignals(t.Context(), []store.Signal{{Name: "aside"}}); err != nil {
			t.Fatal(err)
		}
		b.mustRun(store.RunWrite{Lease: l, Op: store.RunSetAside, At: later()})
		if r := b.run(l.RunID); !r.Parked() || due(r) {
			t.Errorf("row is %+v, want it due later", r)
		}
	})
}
