package store

import (
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// cursorsFixture reads ranges by a clock of its own.
type cursorsFixture struct {
	t *testing.T
	c claimCursors
	// now is the clock of this process; the server's is ahead of it.
	now   time.Time
	ahead time.Duration
	keys  []openworkflow.DefinitionKey
}

func newCursorsFixture(t *testing.T, workflows ...string) *cursorsFixture {
	f := &cursorsFixture{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ahead: 5 * time.Minute}
	for _, name := range workflows {
		f.keys = append(f.keys, openworkflow.Definition{Name: name}.Key())
	}
	return f
}

// claimed is what a claim finds: the latest due times, by range, and whether that is all that it asked for.
type claimed struct {
	maxDue              map[rangeKey]time.Time
	gotAll, gotAllAgain bool
}

// claim reads the ranges, which takes fromStart or fromCursors, and returns whether they were read
// from the start and whether they are to be read again.
func (f *cursorsFixture) claim(found claimed, fromStart, fromCursors time.Duration) (wasFromStart, lookAgain bool) {
	f.t.Helper()
	began := f.now
	_, _, wasFromStart = f.c.positions(f.keys, began)
	took := fromCursors
	if wasFromStart {
		took = fromStart
	}
	f.now = began.Add(took)
	read := rangesRead{
		keys: f.keys, maxDue: found.maxDue, gotAll: found.gotAll, gotAllAgain: found.gotAllAgain,
		fromStart: wasFromStart, began: began, ended: f.now,
	}
	if len(found.maxDue) > 0 {
		read.at = f.now.Add(f.ahead)
	}
	return wasFromStart, f.c.advance(read)
}

func (f *cursorsFixture) key(i int, again bool) rangeKey { return rangeKey{f.keys[i], again} }

// share is the part of a minute that reads from the start take, with one claim each 10 ms.
func (f *cursorsFixture) share(found claimed, fromStart, fromCursors time.Duration) float64 {
	f.t.Helper()
	for range 10 { // it learns
		f.claim(found, fromStart, fromCursors)
	}
	began, starts := f.now, time.Duration(0)
	for f.now.Sub(began) < time.Minute {
		if was, _ := f.claim(found, fromStart, fromCursors); was {
			starts += fromStart
		}
		f.now = f.now.Add(10 * time.Millisecond)
	}
	return starts.Seconds() / f.now.Sub(began).Seconds()
}

// TestClaimCursors_P6_ReadsFromTheStartTakeASmallShare: with entries that cannot be removed, a read
// from the start takes ever longer.
func TestClaimCursors_P6_ReadsFromTheStartTakeASmallShare(t *testing.T) {
	f := newCursorsFixture(t, "a")
	due := map[rangeKey]time.Time{f.key(0, false): f.now.Add(f.ahead)}
	for name, found := range map[string]claimed{
		"more is due":       {maxDue: due, gotAll: true},
		"that is all":       {maxDue: due},
		"nothing more came": {},
	} {
		t.Run(name, func(t *testing.T) {
			f := newCursorsFixture(t, "a")
			f.claim(claimed{maxDue: due}, time.Millisecond, time.Millisecond)
			if got := f.share(found, 100*time.Millisecond, time.Millisecond); got > 0.06 || got == 0 {
				t.Errorf("reads from the start take %.3f of the time, want up to 0.06 and not none", got)
			}
			// Very long ones still come each maxStartPause.
			if got := f.share(found, 400*time.Millisecond, time.Millisecond); got > 0.1 || got == 0 {
				t.Errorf("long reads from the start take %.3f of the time, want up to 0.1 and not none", got)
			}
		})
	}
}

// TestClaimCursors_P2_ADatabaseThatIsFarAwayIsNoReasonForAPause: all claims take long there, and not those from
// the start alone.
func TestClaimCursors_P2_ADatabaseThatIsFarAwayIsNoReasonForAPause(t *testing.T) {
	f := newCursorsFixture(t, "a")
	const far = 40 * time.Millisecond
	found := claimed{maxDue: map[rangeKey]time.Time{f.key(0, false): f.now.Add(f.ahead)}}
	for i := range 100 {
		was, again := f.claim(found, far+10*time.Millisecond, far)
		if !was && !again {
			t.Fatalf("claim %d left out what became due behind the cursors", i)
		}
	}
}

// TestClaimCursors_P2_WhatBecameDueBehindThemIsFound: as long as reads from the start are cheap, each claim that
// found less is followed by one, and they come at least each maxCursorAge.
func TestClaimCursors_P2_WhatBecameDueBehindThemIsFound(t *testing.T) {
	f := newCursorsFixture(t, "a")
	due := func() map[rangeKey]time.Time {
		return map[rangeKey]time.Time{f.key(0, false): f.now.Add(f.ahead)}
	}
	const quick = time.Millisecond
	f.claim(claimed{maxDue: due(), gotAll: true}, quick, quick)
	for range 100 {
		last := f.c.startedAt
		was, again := f.claim(claimed{maxDue: due(), gotAll: true}, quick, quick)
		if again || !was && f.now.Sub(last) > maxCursorAge+2*quick {
			t.Fatalf("look again %v, and the last read from the start is %v ago", again, f.now.Sub(last))
		}
		if !was {
			_, again = f.claim(claimed{maxDue: due()}, quick, quick)
			if was, _ := f.claim(claimed{}, quick, quick); !again || !was {
				t.Fatalf("after less than it asked for: look again %v, from the start %v", again, was)
			}
			f.claim(claimed{maxDue: due(), gotAll: true}, quick, quick)
		}
		f.now = f.now.Add(20 * time.Millisecond)
	}
}

// TestClaimCursors_P2_OnlyWhatWasReadIsLeftBehind holds where cursors are after a claim.
func TestClaimCursors_P2_OnlyWhatWasReadIsLeftBehind(t *testing.T) {
	f := newCursorsFixture(t, "a", "b", "c")
	server := f.now.Add(f.ahead + time.Second) // at the end of the claim
	end := server.Add(-cursorMargin)
	early := server.Add(-time.Hour)
	tests := map[string]struct {
		found claimed
		want  map[rangeKey]time.Time
	}{
		"all were exhausted": {
			claimed{maxDue: map[rangeKey]time.Time{f.key(1, false): early}},
			map[rangeKey]time.Time{
				f.key(0, false): end, f.key(1, false): end, f.key(2, false): end,
				f.key(0, true): end, f.key(1, true): end, f.key(2, true): end,
			},
		},
		"new runs are left, none is due again": {
			claimed{maxDue: map[rangeKey]time.Time{f.key(1, false): early}, gotAll: true},
			map[rangeKey]time.Time{
				f.key(0, false): end, f.key(1, false): early,
				f.key(0, true): end, f.key(1, true): end, f.key(2, true): end,
			},
		},
		"nothing was claimed": {claimed{}, map[rangeKey]time.Time{}},
		"some of both are left": {
			claimed{
				maxDue: map[rangeKey]time.Time{f.key(0, false): early, f.key(1, true): early},
				gotAll: true, gotAllAgain: true,
			},
			map[rangeKey]time.Time{f.key(0, false): early, f.key(0, true): end, f.key(1, true): early},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := newCursorsFixture(t, "a", "b", "c")
			f.c.starts = [4]time.Duration{time.Second, time.Second, time.Second, time.Second}
			f.claim(tc.found, time.Second, 0)
			if len(f.c.ranges) != len(tc.want) {
				t.Errorf("%d cursors, want %d: %v", len(f.c.ranges), len(tc.want), f.c.ranges)
			}
			for key, want := range tc.want {
				if got := f.c.ranges[key]; !got.Equal(want) {
					t.Errorf("cursor of %v is %v, want %v", key, got, want)
				}
			}
		})
	}
}
