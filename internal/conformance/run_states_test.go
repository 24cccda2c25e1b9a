package conformance

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// state returns what a run has published, "" for nothing.
func (b bench) state(id string) string {
	b.Helper()
	switch s := b.Store.(type) {
	case *memstore.Store:
		return string(s.RunState(id))
	case *store.Store:
		published, err := s.View(time.Minute).Published(b.Context(), id)
		if err != nil {
			b.Fatal(err)
		}
		if published == nil {
			return ""
		}
		if time.Since(published.UpdatedAt).Abs() > time.Hour {
			b.Errorf("published at %v", published.UpdatedAt)
		}
		return string(published.State)
	default:
		b.Fatalf("store %T", s)
		return ""
	}
}

func publishes(n int, state string) *store.NewState {
	return &store.NewState{Sequence: n, State: json.RawMessage(state)}
}

func TestRunState_TravelsWithAWrite(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l, other := b.start(), b.start()
		first, second := function(l, "a", complete, `1`), function(other, "a", complete, `1`)
		first.New, first.State = true, publishes(1, `{"at":"a","text":"\u0000"}`)
		b.mustStep(first, second)
		if got := b.state(l.RunID); got != `{"at":"a","text":"\u0000"}` {
			t.Errorf("state is %s", got)
		}
		if got := b.state(other.RunID); got != "" {
			t.Errorf("state of the other run is %s", got)
		}
		end, park := ending(l, store.RunComplete), ending(other, store.RunPark)
		end.State, park.State = publishes(3, `"done"`), publishes(1, `"parked"`)
		b.must(nil, []store.RunWrite{end, park})
		if l, o := b.state(l.RunID), b.state(other.RunID); l != `"done"` || o != `"parked"` {
			t.Errorf("states are %s and %s", l, o)
		}
	})
}

func TestRunState_NothingOlderReplacesIt(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		write := func(name string, state *store.NewState) store.StepWrite {
			w := function(l, name, complete, `1`)
			w.State = state
			return w
		}
		b.mustStep(write("a", publishes(2, `2`)), write("b", publishes(1, `1`)), write("c", publishes(3, `3`)))
		if got := b.state(l.RunID); got != `3` {
			t.Errorf("of three in a batch the state is %s", got)
		}
		b.mustStep(write("d", publishes(2, `"replayed"`)), write("e", publishes(3, `"replayed"`)))
		if got := b.state(l.RunID); got != `3` {
			t.Errorf("after a replay the state is %s", got)
		}
		b.mustStep(write("f", publishes(4, `4`)))
		if got := b.state(l.RunID); got != `4` {
			t.Errorf("state is %s", got)
		}
	})
}

func TestRunState_P2_IsPublishedUnderTheLease(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		stranger := openworkflow.Lease{RunID: l.RunID, WorkerID: "stranger"}
		w, end := function(stranger, "a", complete, `1`), ending(stranger, store.RunComplete)
		w.State, end.State = publishes(1, `1`), publishes(2, `2`)
		if stepErrs, runErrs := b.apply([]store.StepWrite{w}, []store.RunWrite{end}); !errors.Is(stepErrs[0], store.ErrLeaseLost) || !errors.Is(runErrs[0], store.ErrLeaseLost) {
			t.Errorf("without the lease: %v, %v", stepErrs, runErrs)
		}
		if got := b.state(l.RunID); got != "" {
			t.Errorf("state is %s", got)
		}
	})
}

// A value that Postgres cannot store fails its own write only. The states of others get through.
func TestRunState_SurvivesAPoisonedNeighbour(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l, poisoned := b.start(), b.start()
		good, bad := function(l, "a", complete, `1`), function(poisoned, "a", complete, `"\u0000"`)
		good.State, bad.State = publishes(1, `1`), publishes(1, `1`)
		if stepErrs, _ := b.apply([]store.StepWrite{good, bad}, nil); stepErrs[0] != nil || !errors.Is(stepErrs[1], store.ErrInvalidJSON) {
			t.Fatalf("writes: %v", stepErrs)
		}
		if got := b.state(l.RunID); got != `1` {
			t.Errorf("state is %s", got)
		}
	})
}

// The state is text: U+0000 and what is not UTF-8 fail the write that carries them.
func TestRunState_P9_RefusesWhatNoTextCanHold(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for _, state := range []string{"\"caf\xe9\"", "\"a\x00b\""} {
			l := b.start()
			w, end := function(l, "a", complete, `1`), ending(l, store.RunComplete)
			w.State = publishes(1, state)
			stepErrs, runErrs := b.apply([]store.StepWrite{w}, []store.RunWrite{end})
			if !errors.Is(stepErrs[0], store.ErrInvalidJSON) || !errors.Is(runErrs[0], store.ErrInvalidJSON) {
				t.Errorf("%q with a step: %v, %v", state, stepErrs, runErrs)
			}
			end.State = publishes(1, state)
			if _, runErrs := b.apply(nil, []store.RunWrite{end}); !errors.Is(runErrs[0], store.ErrInvalidJSON) {
				t.Errorf("%q with the end of a run: %v", state, runErrs)
			}
			if got := b.state(l.RunID); got != "" {
				t.Errorf("state is %q", got)
			}
			w.State, end.State = nil, nil
			b.must([]store.StepWrite{w}, []store.RunWrite{end})
		}
	})
}
