package schedule

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"
)

// midnight is the time at which the schedules of the tests begin: all slots until then are decided.
var midnight = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

// planned is a schedule whose runs the test ends.
type planned struct {
	t       *testing.T
	timing  *Timing
	policy  Policy
	state   State
	open    map[string]bool // by the time of the slot
	started []string
	plans   int
	last    *Planner
	// unstored is that of the next planner.
	unstored int
}

func newPlanned(t *testing.T, expression string, policy Policy) *planned {
	t.Helper()
	timing, err := NewTiming(Options{Expressions: []string{expression}})
	if err != nil {
		t.Fatal(err)
	}
	return &planned{t: t, timing: timing, policy: policy, state: State{DecidedUntil: midnight}, open: map[string]bool{}}
}

// clock is a time of the first day, and text its inverse.
func clock(text string) time.Time {
	at, err := time.Parse("15:04", text)
	if err != nil {
		panic(err)
	}
	return midnight.Add(at.Sub(at.Truncate(24 * time.Hour)))
}

func text(at time.Time) string { return at.Format("15:04") }

// at plans at a time, and again for as long as a planner says so.
func (p *planned) at(now time.Time) {
	p.t.Helper()
	for {
		p.plans++
		p.last = &Planner{Timing: p.timing, Policy: p.policy, UID: "uid", State: p.state, Now: now, Open: len(p.open), Unstored: p.unstored}
		for slot, ok := p.last.Next(); ok; slot, ok = p.last.Next() {
			p.started = append(p.started, text(slot))
			p.open[text(slot)] = true
			p.last.Started(slot, "run")
		}
		p.state = p.last.State
		if !p.last.Wake.Equal(now) {
			return
		}
	}
}

func (p *planned) end() { p.open = map[string]bool{} }

// outcomes is a text such as "Started 01:00, Missed 02:00-04:00 x3".
func (p *planned) outcomes() string {
	var list []string
	for _, o := range p.state.Outcomes {
		one := string(o.Reason) + " " + text(o.Slot)
		if o.Count > 0 {
			one += fmt.Sprintf("-%s x%d", text(o.Until), o.Count)
		}
		list = append(list, one)
	}
	return strings.Join(list, ", ")
}

func (p *planned) want(outcomes string) {
	p.t.Helper()
	if got := p.outcomes(); got != outcomes {
		p.t.Errorf("outcomes are %s\nwant         %s", got, outcomes)
	}
}

// TestPlanner_OverlapPolicies: a run of 01:00 is open until after 03:00.
func TestPlanner_OverlapPolicies(t *testing.T) {
	t.Parallel()
	for policy, want := range map[Overlap]string{
		OverlapAllow:     "Started 01:00, Started 02:00, Started 03:00",
		OverlapForbid:    "Started 01:00, SkippedOverlap 02:00-03:00 x2",
		OverlapReplace:   "Started 01:00, SkippedOverlap 02:00, Started 03:00",
		OverlapBufferOne: "Started 01:00, Started 02:00, SkippedOverlap 03:00",
	} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			p := newPlanned(t, "@hourly", Policy{Overlap: policy, CatchUp: CatchUpLatest})
			for _, at := range []string{"01:00", "02:00", "03:00"} {
				p.at(clock(at))
				if !p.last.Wake.Equal(clock(at).Add(time.Hour)) {
					t.Errorf("at %s, it wakes at %s", at, p.last.Wake)
				}
			}
			p.end()
			p.at(clock("03:10"))
			p.want(want)
		})
	}
}

// TestPlanner_CatchUp: no manager was there from 01:30 to 05:30.
func TestPlanner_CatchUp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		policy Policy
		want   string
	}{
		"none":   {Policy{CatchUp: CatchUpNone}, "Started 01:00, Missed 02:00-05:00 x4"},
		"latest": {Policy{CatchUp: CatchUpLatest}, "Started 01:00, Coalesced 02:00-04:00 x3, Started 05:00"},
		"all":    {Policy{CatchUp: CatchUpAll}, "Started 01:00, Started 02:00, Started 03:00, Started 04:00, Started 05:00"},
		"all within two hours": {
			Policy{CatchUp: CatchUpAll, Deadline: 2 * time.Hour}, "Started 01:00, Missed 02:00-03:00 x2, Started 04:00, Started 05:00",
		},
		"latest within ten minutes": {Policy{CatchUp: CatchUpLatest, Deadline: 10 * time.Minute}, "Started 01:00, Missed 02:00-05:00 x4"},
		"all, forbid":               {Policy{CatchUp: CatchUpAll, Overlap: OverlapForbid}, "Started 01:00, Started 02:00, SkippedOverlap 03:00-05:00 x3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.policy.Overlap == "" {
				test.policy.Overlap = OverlapAllow
			}
			p := newPlanned(t, "@hourly", test.policy)
			p.at(clock("01:00"))
			p.end()
			p.at(clock("05:30"))
			p.want(test.want)
		})
	}
}

func TestPlanner_CatchUpNoneToleratesATakeover(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpNone, Overlap: OverlapAllow})
	p.at(clock("01:00").Add(59 * time.Second))
	p.want("Started 01:00")
}

// TestPlanner_SuspendedSlotsAreNeverCaughtUp: neither those of a suspension nor of a pause after
// failures, whatever catch-up says.
func TestPlanner_SuspendedSlotsAreNeverCaughtUp(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpAll, Overlap: OverlapBufferOne, PauseAfterFailures: 2})
	p.at(clock("01:00"))
	p.at(clock("02:00")) // is buffered
	p.policy.Suspend = true
	p.at(clock("02:30"))
	if !p.last.Wake.IsZero() {
		t.Errorf("a suspended schedule wakes at %s", p.last.Wake)
	}
	p.end()
	p.at(clock("05:30"))
	p.policy.Suspend = false
	p.at(clock("05:40"))
	p.want("Started 01:00, SkippedSuspended 02:00-05:00 x4")
	p.at(clock("06:00"))
	p.end()
	p.state.Failures = 2
	p.at(clock("07:00"))
	p.state.Failures = 0
	p.at(clock("08:30"))
	p.at(clock("09:00"))
	p.want("Started 01:00, SkippedSuspended 02:00-05:00 x4, Started 06:00, SkippedSuspended 07:00-08:00 x2, Started 09:00")
}

// TestPlanner_ABufferedSlotHasADeadline: it does not wait for ever, and the planner wakes for that.
func TestPlanner_ABufferedSlotHasADeadline(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpAll, Overlap: OverlapBufferOne, Deadline: 5 * time.Minute})
	p.at(clock("01:00"))
	p.at(clock("02:00"))
	if want := clock("02:05").Add(time.Second); !p.last.Wake.Equal(want) {
		t.Errorf("it wakes at %s, want %s", p.last.Wake, want)
	}
	p.at(p.last.Wake)
	p.want("Started 01:00, Missed 02:00")
}

func TestPlanner_WaitsWhileTooManyRunsAreOpen(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "* * * * *", Policy{CatchUp: CatchUpAll, Overlap: OverlapAllow})
	p.at(clock("03:00"))
	if len(p.started) != MaxOpen || !p.last.Waiting || !p.last.Wake.IsZero() {
		t.Fatalf("%d have started, waiting %t, wakes at %s", len(p.started), p.last.Waiting, p.last.Wake)
	}
	p.end()
	p.at(clock("03:00"))
	if len(p.started) != 180 || p.started[100] != "01:41" || p.last.Waiting {
		t.Errorf("%d have started after that: %s", len(p.started), p.started)
	}
}

// TestPlanner_ARunThatExistsIsNotItsOwnOverlap: a manager has died after it had created the run, and
// before the status said so.
func TestPlanner_ARunThatExistsIsNotItsOwnOverlap(t *testing.T) {
	t.Parallel()
	for _, policy := range []Overlap{OverlapForbid, OverlapReplace, OverlapBufferOne, OverlapAllow} {
		p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpLatest, Overlap: policy})
		planner := &Planner{
			Timing: p.timing, Policy: p.policy, State: p.state, Now: clock("01:00"), Open: 1,
			Existing: []time.Time{clock("01:00")},
		}
		if slot, ok := planner.Next(); !ok || text(slot) != "01:00" {
			t.Errorf("%s: the next slot is %s, %t", policy, slot, ok)
		}
	}
}

// TestPlanner_ARunThatExistsIsNoPartOfAPause: it was created before the pause, and the state does not
// say so yet.
func TestPlanner_ARunThatExistsIsNoPartOfAPause(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpAll, Overlap: OverlapForbid, Suspend: true})
	planner := &Planner{Timing: p.timing, Policy: p.policy, State: p.state, Now: clock("03:30"), Existing: []time.Time{clock("02:00")}}
	slot, ok := planner.Next()
	if !ok || text(slot) != "02:00" {
		t.Fatalf("the next slot is %s, %t", slot, ok)
	}
	planner.Started(slot, "run")
	if slot, ok := planner.Next(); ok {
		t.Errorf("then, the slot of %s starts", slot)
	}
	p.state, p.policy.Suspend = planner.State, false
	p.at(clock("04:30"))
	p.want("SkippedOverlap 01:00, Started 02:00, SkippedSuspended 03:00-04:00 x2")
}

// TestPlanner_AYearAwayIsBoundedWork: at a cadence of a minute, for every policy.
func TestPlanner_AYearAwayIsBoundedWork(t *testing.T) {
	t.Parallel()
	now := midnight.AddDate(1, 0, 0)
	for _, overlap := range []Overlap{OverlapForbid, OverlapReplace, OverlapBufferOne, OverlapAllow} {
		for _, catchUp := range []CatchUp{CatchUpNone, CatchUpLatest, CatchUpAll} {
			p := newPlanned(t, "* * * * *", Policy{CatchUp: catchUp, Overlap: overlap})
			p.open["an old one"] = true
			p.at(now)
			if p.plans > 2 || len(p.started) > MaxOpen {
				t.Errorf("%s, %s: %d plans, %d started", overlap, catchUp, p.plans, len(p.started))
			}
			if overlap != OverlapAllow && p.state.DecidedUntil.Before(now) {
				t.Errorf("%s, %s: decided until %s: %s", overlap, catchUp, p.state.DecidedUntil, p.outcomes())
			}
		}
	}
}

func TestPlanner_GapsAreShown(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpAll, Overlap: OverlapForbid})
	timing, err := NewTiming(Options{Expressions: []string{"30 2 * * *"}, Zone: "Europe/Berlin", Gap: GapSkip})
	if err != nil {
		t.Fatal(err)
	}
	p.timing, p.state.DecidedUntil = timing, time.Date(2027, 3, 27, 12, 0, 0, 0, time.UTC)
	p.at(time.Date(2027, 3, 29, 12, 0, 0, 0, time.UTC))
	p.want("SkippedGap 01:00, Started 00:30")
}

// TestPlanner_KeepsWhatIsStoredNowhereElse: and of the others the newest ten.
func TestPlanner_KeepsWhatIsStoredNowhereElse(t *testing.T) {
	t.Parallel()
	p := newPlanned(t, "@hourly", Policy{CatchUp: CatchUpAll, Overlap: OverlapAllow})
	for _, step := range []struct {
		at       string
		unstored int
		first    string
		count    int
	}{
		{"14:00", 0, "01:00", 14}, // all are new
		{"15:00", 14, "01:00", 15},
		{"16:00", 0, "07:00", MaxOutcomes},
		{"17:00", 3, "08:00", MaxOutcomes},
		{"23:00", 10, "08:00", 16},
	} {
		p.unstored = step.unstored
		p.at(clock(step.at))
		if list := p.state.Outcomes; len(list) != step.count || text(list[0].Slot) != step.first || text(list[len(list)-1].Slot) != step.at {
			t.Errorf("at %s: outcomes are %s", step.at, p.outcomes())
		}
		p.end()
	}
	p = newPlanned(t, "* * * * *", Policy{CatchUp: CatchUpAll, Overlap: OverlapAllow})
	for range 4 { // while the database is away
		p.unstored = len(p.state.Outcomes)
		p.at(p.state.DecidedUntil.Add(30 * time.Minute))
		p.end()
	}
	if list := p.state.Outcomes; len(list) != MaxUnstored || text(list[MaxUnstored-1].Slot) != "02:00" {
		t.Errorf("outcomes are %s", p.outcomes())
	}
}

// TestPlanner_KeepsABufferedSlotThatHasStarted: the outcome that has changed is stored nowhere else.
func TestPlanner_KeepsABufferedSlotThatHasStarted(t *testing.T) {
	t.Parallel()
	list := []Outcome{{Slot: clock("01:00"), Reason: Started}, {Slot: clock("02:00"), Reason: Buffered}, {Slot: clock("03:00"), Reason: SkippedOverlap}}
	p := Planner{State: State{Outcomes: list}}
	if p.record(Outcome{Slot: clock("02:00"), Reason: Started}); p.Unstored != 2 {
		t.Errorf("%d outcomes are not stored, want 2", p.Unstored)
	}
	p = Planner{State: State{Outcomes: list}}
	if p.record(Outcome{Slot: clock("04:00"), Reason: SkippedOverlap}); p.Unstored != 1 || len(p.State.Outcomes) != 3 {
		t.Errorf("%d outcomes are not stored, want the one that grew; outcomes are %+v", p.Unstored, p.State.Outcomes)
	}
}

// TestPlanner_JitterKeepsTheOrder: a slot starts at its own time, and not before an earlier slot. That
// makes it neither late nor coalesced: a manager is always there.
func TestPlanner_JitterKeepsTheOrder(t *testing.T) {
	t.Parallel()
	const most = 10 * time.Minute
	for name, policy := range map[string]Policy{
		"all": {CatchUp: CatchUpAll}, "latest": {CatchUp: CatchUpLatest}, "none": {CatchUp: CatchUpNone},
		"all within ten seconds": {CatchUp: CatchUpAll, Deadline: 10 * time.Second}, "latest within ten seconds": {CatchUp: CatchUpLatest, Deadline: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			policy.Overlap, policy.Jitter = OverlapAllow, most
			p := newPlanned(t, "* * * * *", policy)
			due := midnight
			for now := midnight; now.Before(clock("01:00")); now = now.Add(10 * time.Second) {
				before := len(p.started)
				p.at(now)
				for _, slot := range p.started[before:] {
					due = later(due, clock(slot).Add(Jitter("uid", clock(slot), most)))
					if due.After(now) || now.Sub(due) > 10*time.Second && now.Sub(midnight) > most {
						t.Errorf("%s starts at %s, and is due at %s", slot, now, due)
					}
				}
				p.end()
			}
			for i, slot := range p.started {
				if want := text(midnight.Add(time.Duration(i+1) * time.Minute)); slot != want {
					t.Fatalf("slot %d is %s, want %s; outcomes are %s", i, slot, want, p.outcomes())
				}
			}
			if len(p.started) < 45 {
				t.Errorf("%d slots have started within an hour", len(p.started))
			}
		})
	}
}

// TestPlanner_JitterWithoutAManager: no manager was there from 00:30 to 01:30. Slots that are due together
// with the last one are as late as it is.
func TestPlanner_JitterWithoutAManager(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		policy Policy
		reason Reason
	}{
		"latest": {Policy{CatchUp: CatchUpLatest}, Coalesced}, "none": {Policy{CatchUp: CatchUpNone}, Missed},
		"forbid": {Policy{CatchUp: CatchUpAll, Overlap: OverlapForbid}, SkippedOverlap},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.policy.Jitter, test.policy.Overlap = 10*time.Minute, cmp.Or(test.policy.Overlap, OverlapAllow)
			p := newPlanned(t, "* * * * *", test.policy)
			p.at(clock("00:30"))
			p.end()
			before, decided := len(p.started), p.state.DecidedUntil
			now := clock("01:30")
			p.at(now)
			due, onTime, last := midnight, 0, time.Time{}
			for slot := midnight; !slot.After(now); slot = slot.Add(time.Minute) {
				if due = later(due, slot.Add(Jitter("uid", slot, 10*time.Minute))); due.After(now) {
					break
				}
				if last = slot; !due.Before(now.Add(-OnTime)) {
					onTime++
				}
			}
			if !p.state.DecidedUntil.Equal(last) {
				t.Errorf("decided until %s, want %s, the last that is due", p.state.DecidedUntil, last)
			}
			missed := 0
			for _, o := range p.state.Outcomes {
				if o.Reason == test.reason {
					missed += max(o.Count, 1)
				}
			}
			started := len(p.started) - before
			if all := int(last.Sub(decided) / time.Minute); started+missed < all || missed == 0 || started > max(1, onTime) {
				t.Errorf("%d of %d slots have started, %d were due within a minute; outcomes are %s", started, all, onTime, p.outcomes())
			}
		})
	}
}

// TestPlanner_JitterOfADayIsBoundedWork: at a cadence of a minute, after a year without a manager.
func TestPlanner_JitterOfADayIsBoundedWork(t *testing.T) {
	t.Parallel()
	for _, catchUp := range []CatchUp{CatchUpNone, CatchUpLatest} {
		p := newPlanned(t, "* * * * *", Policy{CatchUp: catchUp, Overlap: OverlapAllow, Jitter: 24 * time.Hour})
		now := midnight.AddDate(1, 0, 0)
		if p.at(now); p.plans > 1 || p.last.decisions > 3 || p.state.DecidedUntil.Before(now.Add(-24*time.Hour)) {
			t.Errorf("%s: %d plans, the last with %d decisions, decided until %s", catchUp, p.plans, p.last.decisions, p.state.DecidedUntil)
		}
	}
}

// BenchmarkPlanner_JitterOfADay is what a look costs at which nothing is due.
func BenchmarkPlanner_JitterOfADay(b *testing.B) {
	timing, err := NewTiming(Options{Expressions: []string{"* * * * *"}, Zone: "Europe/Berlin"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p := Planner{Timing: timing, Policy: Policy{Overlap: OverlapAllow, CatchUp: CatchUpLatest, Jitter: 24 * time.Hour}, State: State{DecidedUntil: midnight}, Now: midnight}
		p.Next()
	}
}
