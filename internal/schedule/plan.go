package schedule

import (
	"math"
	"slices"
	"time"
)

// Reason is what happened to a slot.
type Reason string

const (
	// Started means that the run of the slot was created.
	Started Reason = "Started"
	// Buffered means that the slot waits for the end of an open run.
	Buffered Reason = "Buffered"
	// SkippedOverlap means that a run was open, or a slot buffered, and the policy forbids another.
	SkippedOverlap Reason = "SkippedOverlap"
	// SkippedSuspended means that the schedule was suspended, or paused after failures.
	SkippedSuspended Reason = "SkippedSuspended"
	// SkippedGap means that the time of day did not exist on that day.
	SkippedGap Reason = "SkippedGap"
	// Missed means that the slot could not be started in time.
	Missed Reason = "Missed"
	// Coalesced means that a later slot was started in its place.
	Coalesced Reason = "Coalesced"
)

// Overlap says what happens to a slot while a run of an earlier one is open.
type Overlap string

const (
	// OverlapAllow means that it starts.
	OverlapAllow Overlap = "Allow"
	// OverlapForbid means that it is skipped.
	OverlapForbid Overlap = "Forbid"
	// OverlapReplace means that the open runs are canceled, and that it starts once they have ended.
	OverlapReplace Overlap = "Replace"
	// OverlapBufferOne means that it starts once the open run has ended; later ones are skipped.
	OverlapBufferOne Overlap = "BufferOne"
)

// CatchUp says what happens to slots during which no manager was there.
type CatchUp string

const (
	// CatchUpNone means that slots are missed that cannot be started within OnTime.
	CatchUpNone CatchUp = "None"
	// CatchUpLatest means that the last of them starts.
	CatchUpLatest CatchUp = "Latest"
	// CatchUpAll means that all start.
	CatchUpAll CatchUp = "All"
)

const (
	// OnTime is how late a slot may start with CatchUpNone: another replica of the manager takes over
	// within that time.
	OnTime = time.Minute
	// MaxOpen is how many runs of a schedule may be open. While they are, later slots wait.
	MaxOpen = 100
	// MaxOutcomes is how many outcomes are kept that are stored elsewhere, too.
	MaxOutcomes = 10
	// MaxUnstored is how many outcomes are kept until they are stored elsewhere.
	MaxUnstored = 100
	// maxDecisions bounds the work of one planner.
	maxDecisions = 200
	// maxCount bounds how far slots are counted that one outcome stands for.
	maxCount = 10000
)

// Policy says which slots start.
type Policy struct {
	Overlap Overlap
	CatchUp CatchUp
	// Deadline is how late a slot may start. Zero means no bound.
	Deadline time.Duration
	// Jitter is the longest delay of a slot.
	Jitter time.Duration
	// Suspend keeps slots from starting.
	Suspend bool
	// PauseAfterFailures is the number of failures in a row that do so too. Zero means none.
	PauseAfterFailures int
}

// Outcome is what happened to a slot, or to several that follow each other.
type Outcome struct {
	Slot   time.Time
	Reason Reason
	// Until is the last of several slots, and Count their number, up to 10000. Else they are zero.
	Until time.Time
	Count int
	// Run is the name of the run that was started, or of the object that has this name instead.
	Run string
	// Message says why a slot was missed, if that is no matter of time.
	Message string
}

// State is what is known of a schedule's slots from one plan to the next.
type State struct {
	// DecidedUntil is the time up to which each slot has an outcome.
	DecidedUntil time.Time
	// PausedSince is when slots ceased to start. Zero while they do.
	PausedSince time.Time
	// Buffered is a slot that waits for the end of open runs. Zero if none does.
	Buffered time.Time
	// Starting is a slot of which it was decided that it starts, and whose run may not exist yet.
	// Zero if there is none.
	Starting time.Time
	// Failures is the number of runs that have failed in a row.
	Failures int
	// Outcomes are the newest ones, oldest first.
	Outcomes []Outcome
}

// Planner decides about the slots of one schedule at one time. Call Next, start the run of the
// slot, call Started, and so on until there is none. Then State is to be stored, and Wake is when to
// plan again. A slot whose start has failed stays undecided.
//
// If NeedsIntent says so, call Intend and store State before the run is started, and start it only
// if nobody else has stored another State meanwhile: which slots start depends on which runs are
// open, and two planners that do not know of each other must not both decide that.
type Planner struct {
	Timing *Timing
	Policy Policy
	// UID is that of the schedule, on which the jitter depends.
	UID   string
	State State
	Now   time.Time
	// AlwaysIntends makes NeedsIntent say so for each slot.
	AlwaysIntends bool
	// Open is the number of open runs.
	Open int
	// Existing are the slots whose runs were created before, in order. A manager may have died, or
	// another may have been faster, before the state said so.
	Existing []time.Time
	// Wake is when something is to be decided next, zero if that depends on no time.
	Wake time.Time
	// Waiting is true if a slot is due, and waits because MaxOpen runs are open.
	Waiting bool
	// Decided is how many slots had each outcome since the planner began.
	Decided map[Reason]int
	// Unstored is how many of the newest outcomes in State are stored nowhere else. They stay there, up
	// to MaxUnstored; the planner counts those that it adds or changes.
	Unstored int

	decisions int
	// latest is the last slot that due was asked for, and latestDue the answer.
	latest, latestDue time.Time
}

// Next returns the next slot whose run is to be started now.
func (p *Planner) Next() (time.Time, bool) {
	p.Wake, p.Waiting = time.Time{}, false
	if !p.State.Starting.IsZero() {
		return p.State.Starting, true
	}
	if existing, ok := p.beforePause(); ok {
		return existing, true
	}
	if p.paused() {
		return time.Time{}, false
	}
	for ; p.decisions < maxDecisions; p.decisions++ {
		if ready, ok := p.fromBuffer(); ok {
			return ready, true
		}
		s, ok := p.Timing.next(p.State.DecidedUntil.Unix(), true)
		if !ok {
			return time.Time{}, false
		}
		if due := p.due(at(s.at)); due.After(p.Now) {
			p.wakeAt(due)
			return time.Time{}, false
		}
		if start := p.decide(s); start || p.Waiting {
			return at(s.at), start
		}
	}
	p.Wake = p.Now
	return time.Time{}, false
}

// NeedsIntent reports whether the state has to say that a slot starts before its run is created.
func (p *Planner) NeedsIntent(slot time.Time) bool {
	return (p.AlwaysIntends || p.Policy.Overlap != OverlapAllow) && !slot.Equal(p.State.Starting) && !p.exists(slot)
}

// Intend says that the run of a slot that Next has returned is about to be created.
func (p *Planner) Intend(slot time.Time) { p.State.Starting = slot }

// Started says that the run of a slot that Next has returned exists.
func (p *Planner) Started(slot time.Time, run string) {
	p.Open++
	p.decided(slot)
	p.record(Outcome{Slot: slot, Reason: Started, Run: run})
}

// Conflict says that the run of a slot that Next has returned can never be started, because its name
// is taken.
func (p *Planner) Conflict(slot time.Time, run, why string) {
	p.decided(slot)
	p.record(Outcome{Slot: slot, Reason: Missed, Run: run, Message: why})
}

func (p *Planner) decided(slot time.Time) {
	if slot.Equal(p.State.Starting) {
		p.State.Starting = time.Time{}
	}
	if slot.Equal(p.State.Buffered) {
		p.State.Buffered = time.Time{}
	}
	if slot.After(p.State.DecidedUntil) {
		p.State.DecidedUntil = slot
	}
}

// Lateness is the time since a slot was due.
func (p *Planner) Lateness(slot, now time.Time) time.Duration { return now.Sub(p.due(slot)) }

// due returns when a slot starts: after its own jitter, and not before an earlier slot. So it depends on
// nothing but the times of the slots, and is never later than the slot and the longest jitter.
func (p *Planner) due(slot time.Time) time.Time {
	due := p.jittered(slot)
	if p.Policy.Jitter <= 0 {
		return due
	}
	from := due.Add(-p.Policy.Jitter) // slots up to this one are due by then
	if p.latest.Before(slot) && p.latest.After(from) {
		from, due = p.latest, later(due, p.latestDue)
	}
	for _, earlier := range p.Timing.Between(from, slot, math.MaxInt) {
		due = later(due, p.jittered(earlier))
	}
	p.latest, p.latestDue = slot, due
	return due
}

// jittered returns a slot with its own delay.
func (p *Planner) jittered(slot time.Time) time.Time {
	return slot.Add(Jitter(p.UID, slot, p.Policy.Jitter))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (p *Planner) wakeAt(t time.Time) {
	if p.Wake.IsZero() || t.Before(p.Wake) {
		p.Wake = t
	}
}

// beforePause returns a slot whose run exists, though the schedule is or was paused: it was started
// before that. Those before it were decided then, too, and only how is not known.
func (p *Planner) beforePause() (time.Time, bool) {
	if !p.isPaused() && p.State.PausedSince.IsZero() {
		return time.Time{}, false
	}
	for _, slot := range p.Existing {
		if slot.After(p.State.DecidedUntil) && !slot.After(p.Now) {
			reason := SkippedOverlap
			if p.Policy.CatchUp == CatchUpLatest {
				reason = Coalesced
			}
			p.skip(slot.Add(-time.Second), reason)
			return slot, true
		}
	}
	return time.Time{}, false
}

// Hold takes note of a pause, or of its end, at a time at which no slot can be started for another reason.
// So the slots after the pause are none of it. Those before it that could not be started are.
func (p *Planner) Hold() {
	starting := p.State.Starting
	if !p.isPaused() && !p.State.PausedSince.IsZero() && starting.After(p.State.DecidedUntil) {
		p.State.DecidedUntil = starting // it was decided before, and is started once that is possible
	}
	p.paused()
}

func (p *Planner) isPaused() bool { return p.Policy.Suspend || p.FailedTooOften() }

// paused reports whether no slot starts now. The slots of a pause have their outcome at its end.
func (p *Planner) paused() bool {
	s := &p.State
	if p.isPaused() {
		if s.PausedSince.IsZero() {
			s.PausedSince = p.Now
		}
		if !s.Buffered.IsZero() {
			p.record(Outcome{Slot: s.Buffered, Reason: SkippedSuspended})
			s.Buffered = time.Time{}
		}
		return true
	}
	if !s.PausedSince.IsZero() {
		s.PausedSince = time.Time{}
		p.skip(p.Now, SkippedSuspended)
		if s.DecidedUntil.Before(p.Now) {
			s.DecidedUntil = p.Now
		}
	}
	return false
}

// FailedTooOften reports whether the schedule is paused after failures.
func (p *Planner) FailedTooOften() bool {
	return p.Policy.PauseAfterFailures > 0 && p.State.Failures >= p.Policy.PauseAfterFailures
}

// fromBuffer returns the buffered slot if its run may start.
func (p *Planner) fromBuffer() (time.Time, bool) {
	buffered := p.State.Buffered
	if buffered.IsZero() {
		return buffered, false
	}
	if p.Policy.Deadline > 0 {
		last := p.due(buffered).Add(p.Policy.Deadline)
		if p.Now.After(last) {
			p.State.Buffered = time.Time{}
			p.record(Outcome{Slot: buffered, Reason: Missed, Message: "the run before it did not end within startingDeadlineSeconds"})
			return buffered, false
		}
		p.wakeAt(last.Add(time.Second))
	}
	return buffered, p.Open == 0 || p.exists(buffered)
}

func (p *Planner) exists(slot time.Time) bool {
	_, found := slices.BinarySearchFunc(p.Existing, slot, time.Time.Compare)
	return found
}

// decide decides about a slot that is due, or about several. It returns whether the slot starts.
func (p *Planner) decide(s slot) bool {
	slot := at(s.at)
	switch {
	case s.skipped:
		p.decided(slot)
		p.record(Outcome{Slot: slot, Reason: SkippedGap})
		return false
	case p.exists(slot):
		return true
	case p.tooLate(slot), p.coalesced(slot):
		return false
	}
	return p.overlaps(slot)
}

// tooLate gives the slots their outcome that can no longer start.
func (p *Planner) tooLate(slot time.Time) bool {
	deadline := p.Policy.Deadline
	if p.Policy.CatchUp == CatchUpNone && (deadline == 0 || deadline > OnTime) {
		deadline = OnTime
	}
	if deadline == 0 || !p.Now.After(p.due(slot).Add(deadline)) {
		return false
	}
	if last, ok := p.lastDue(slot, p.Now.Add(-deadline-1)); ok {
		slot = last
	}
	p.skip(slot, Missed)
	return true
}

// coalesced gives the slots their outcome in whose place a later one starts. Slots that are due together,
// because they have waited for the jitter of an earlier one, all start unless they are late.
func (p *Planner) coalesced(slot time.Time) bool {
	if p.Policy.CatchUp != CatchUpLatest || p.Now.Before(p.due(slot).Add(OnTime)) {
		return false
	}
	last, ok := p.lastDue(slot, p.Now)
	if !ok {
		return false
	}
	until := slot
	if late, ok := p.lastDue(slot, p.Now.Add(-OnTime)); ok {
		until = late
	}
	if until.Equal(last) {
		until = last.Add(-time.Second)
	}
	p.skip(until, Coalesced)
	return true
}

// overlaps decides about a slot by the open runs.
func (p *Planner) overlaps(slot time.Time) bool {
	s := &p.State
	if p.Open == 0 && s.Buffered.IsZero() {
		return true
	}
	switch p.Policy.Overlap {
	case OverlapAllow:
		p.Waiting = p.Open >= MaxOpen
		if p.Waiting && p.Policy.Deadline > 0 {
			p.wakeAt(p.due(slot).Add(p.Policy.Deadline + time.Second))
		}
		return !p.Waiting
	case OverlapReplace:
		if !s.Buffered.IsZero() {
			p.record(Outcome{Slot: s.Buffered, Reason: SkippedOverlap})
			s.Buffered = time.Time{}
		}
		if last, ok := p.lastDue(slot, p.Now); ok { // the newest one replaces
			p.skip(last.Add(-time.Second), SkippedOverlap)
			return false
		}
	case OverlapBufferOne:
		if !s.Buffered.IsZero() {
			p.skipDue(slot)
			return false
		}
	default:
		p.skipDue(slot)
		return false
	}
	p.decided(slot)
	s.Buffered = slot
	p.record(Outcome{Slot: slot, Reason: Buffered})
	return false
}

// skipDue skips a slot, and with it all others that are due while the run is open.
func (p *Planner) skipDue(slot time.Time) {
	if last, ok := p.lastDue(slot, p.Now); ok {
		slot = last
	}
	p.skip(slot, SkippedOverlap)
}

// lastDue returns the last slot after one that is due that is due by a time, false if there is none. It
// asks for the jitter of those within the longest one, which are 1440 at most.
func (p *Planner) lastDue(slot, by time.Time) (time.Time, bool) {
	sure := by.Add(-p.Policy.Jitter) // slots up to this one are due by then
	last, ok := p.Timing.Last(slot, sure)
	for _, next := range p.Timing.Between(later(slot, sure), by, math.MaxInt) {
		if p.jittered(next).After(by) {
			break
		}
		last, ok = next, true
	}
	return last, ok
}

// skip gives all undecided slots up to a time one outcome.
func (p *Planner) skip(until time.Time, reason Reason) {
	first, ok := p.Timing.Next(p.State.DecidedUntil)
	if !ok || first.After(until) {
		return
	}
	o := Outcome{Slot: first, Reason: reason}
	last, _ := p.Timing.Last(p.State.DecidedUntil, until)
	if last.After(first) {
		o.Until, o.Count = last, len(p.Timing.Between(p.State.DecidedUntil, last, maxCount))
	}
	p.decided(last)
	p.record(o)
}

// record adds an outcome. One that a slot has already is replaced, and equal ones that follow each
// other become one.
func (p *Planner) record(o Outcome) {
	if p.Decided == nil {
		p.Decided = map[Reason]int{}
	}
	p.Decided[o.Reason] += max(o.Count, 1)
	list := slices.Clone(p.State.Outcomes)
	known := slices.IndexFunc(list, func(other Outcome) bool { return other.Reason == Buffered && other.Slot.Equal(o.Slot) })
	last := len(list) - 1
	before := p.Unstored
	p.Unstored = max(p.Unstored, 1)
	switch {
	case known >= 0:
		list[known] = o
		p.Unstored = max(p.Unstored, len(list)-known)
	case last >= 0 && list[last].joins(o):
		joined := &list[last]
		joined.Count = min(max(joined.Count, 1)+max(o.Count, 1), maxCount)
		joined.Until = o.Slot
		if !o.Until.IsZero() {
			joined.Until = o.Until
		}
	default:
		list = append(list, o)
		p.Unstored = min(before+1, len(list))
	}
	p.State.Outcomes = list[max(0, len(list)-max(MaxOutcomes, min(p.Unstored, MaxUnstored))):]
}

// joins reports whether one outcome may stand for the slots of another, which follows it.
func (o Outcome) joins(next Outcome) bool {
	return o.Reason == next.Reason && o.Message == next.Message && next.Slot.After(o.Slot) &&
		o.Run == "" && next.Run == "" && o.Reason != Buffered
}
