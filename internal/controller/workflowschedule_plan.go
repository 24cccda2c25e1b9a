package controller

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/schedule"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

// scheduleSeen is what a schedule's plan is made from.
type scheduleSeen struct {
	Schedule *v1alpha1.WorkflowSchedule
	// Runs are the WorkflowRuns that it owns. Of a schedule with runs InDatabase they are those that its
	// status names, by their ids.
	Runs []v1alpha1.WorkflowRun
	Now  time.Time
	// Unstored is how many outcomes in the status are stored nowhere else.
	Unstored int
	// Reason and Message say why the database could not be asked, if it was to be.
	Reason, Message string
}

// schedulePlan is what is to happen to a schedule. Slots start one by one: see schedule.Planner.
type schedulePlan struct {
	seen scheduleSeen
	// planner is nil if no slot can start until the spec is changed, or the database is there again.
	planner *schedule.Planner
	// holder is the planner that takes note of pauses then, nil if there is none.
	holder *schedule.Planner
	// status has what does not depend on the slots that start now.
	status v1alpha1.WorkflowScheduleStatus
	// reason and message say what is wrong, if anything is.
	reason, message string
	// active are the runs that are open or whose end is not in the status yet.
	active []string
	// lookedUp are the runs of lookups that exist.
	lookedUp []v1alpha1.WorkflowRun
}

// planSchedule settles the runs that have ended, and prepares the decisions about slots.
func planSchedule(seen scheduleSeen) *schedulePlan {
	s := seen.Schedule
	p := &schedulePlan{seen: seen, status: *s.Status.DeepCopy()}
	p.status.ObservedGeneration = s.Generation
	if p.seen.Reason != "" {
		p.wait()
		return p
	}
	p.settle()
	if text := s.Unreadable.SpecMessage(); text != "" {
		p.reason, p.message = v1alpha1.ReasonUnreadable, text
		return p
	}
	planner, err := p.newPlanner()
	if err != nil {
		p.reason, p.message = v1alpha1.ReasonInvalidSchedule, "correct spec.schedules or spec.timeZone: "+err.Error()
	} else if _, err := schedulespec.Run(s, seen.Now, ""); err != nil {
		p.reason, p.message = v1alpha1.ReasonInvalidRunTemplate, err.Error()
	}
	if p.reason != "" {
		p.hold(planner)
		return p
	}
	p.planner = planner
	return p
}

// newPlanner returns the planner of the slots. With an error it knows only their state.
func (p *schedulePlan) newPlanner() (*schedule.Planner, error) {
	s := p.seen.Schedule
	timing, err := schedule.NewTiming(schedulespec.Timing(&s.Spec))
	return &schedule.Planner{
		Timing: timing, Policy: policyOf(&s.Spec), UID: string(s.UID), State: p.state(), Now: p.seen.Now,
		Open: len(p.active), Existing: p.existing(), AlwaysIntends: schedulespec.IsInDatabase(s),
		Unstored: p.seen.Unstored,
	}, err
}

// hold takes what depends on the spec alone into the status, while no slot can start: a pause and its end,
// and a change of the times.
func (p *schedulePlan) hold(planner *schedule.Planner) {
	if planner.Timing != nil {
		planner.Hold()
		p.holder = planner
	}
	p.store(planner.State)
}

// timingHash returns a hash of when the slots of a schedule are.
func timingHash(spec *v1alpha1.WorkflowScheduleSpec) string {
	o := schedulespec.Timing(spec)
	start := o.StartAt.Unix()
	if o.StartAt.Nanosecond() > 0 { // slots are whole seconds: the first one is later
		start++
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %d %d", o.Expressions, o.Zone,
		cmp.Or(o.Gap, schedule.GapRunAfter), cmp.Or(o.Fold, schedule.FoldFirst), start, o.EndAt.Unix()))
	return hex.EncodeToString(sum[:8])
}

// policyOf returns which slots of a schedule start.
func policyOf(spec *v1alpha1.WorkflowScheduleSpec) schedule.Policy {
	return schedule.Policy{
		Overlap:            schedule.Overlap(cmp.Or(spec.OverlapPolicy, string(schedule.OverlapAllow))),
		CatchUp:            schedule.CatchUp(cmp.Or(spec.CatchUp, string(schedule.CatchUpLatest))),
		Deadline:           time.Duration(ptr.Deref(spec.StartingDeadlineSeconds, 0)) * time.Second,
		Jitter:             time.Duration(ptr.Deref(spec.JitterSeconds, 0)) * time.Second,
		Suspend:            ptr.Deref(spec.Suspend, false),
		PauseAfterFailures: int(ptr.Deref(spec.PauseAfterFailures, 0)),
	}
}

// settle takes the runs that have ended since the last status into the new one.
func (p *schedulePlan) settle() {
	runs := make(map[string]*v1alpha1.WorkflowRun, len(p.seen.Runs))
	for i := range p.seen.Runs {
		runs[p.seen.Runs[i].Name] = &p.seen.Runs[i]
	}
	var ended []*v1alpha1.WorkflowRun
	for _, name := range p.status.Active {
		if run := runs[name]; run != nil && run.Status.State.Terminal() && !p.isBackfilled(name) {
			ended = append(ended, run)
		}
	}
	slices.SortFunc(ended, func(a, b *v1alpha1.WorkflowRun) int {
		return cmp.Or(timeOf(a.Status.FinishedAt).Compare(timeOf(b.Status.FinishedAt)), strings.Compare(a.Name, b.Name))
	})
	failures := p.failures()
	for _, run := range ended {
		switch run.Status.State {
		case v1alpha1.RunFailed:
			failures++
		case v1alpha1.RunCompleted:
			failures = 0
			p.status.LastSuccessfulTime = run.Status.FinishedAt
		default: // a canceled run says nothing
		}
	}
	p.setFailures(failures)
	p.active = nil
	for name, run := range runs {
		if !run.Status.State.Terminal() && !p.isBackfilled(name) {
			p.active = append(p.active, name)
		}
	}
}

// failures returns how many runs have failed in a row before those that have ended since. A change of
// the spec ends the pause.
func (p *schedulePlan) failures() int32 {
	failures := ptr.Deref(p.status.Failures, 0)
	if limit := ptr.Deref(p.seen.Schedule.Spec.PauseAfterFailures, 0); p.changed() && limit > 0 && failures >= limit {
		return 0
	}
	return failures
}

func (p *schedulePlan) setFailures(failures int32) {
	p.status.Failures = nil
	if failures > 0 {
		p.status.Failures = &failures
	}
}

// wait keeps what is known, as long as the database cannot be asked. The slots of that time are
// caught up later, but those of a suspension, and those before a change of the times.
func (p *schedulePlan) wait() {
	p.reason, p.message = p.seen.Reason, p.seen.Message
	p.setFailures(p.failures())
	p.active = slices.Clone(p.status.Active)
	planner, _ := p.newPlanner() // what is wrong with the times is said once the database is there
	p.hold(planner)
}

// expectedRuns returns the runs that a status names as open, or as being created.
func expectedRuns(status *v1alpha1.WorkflowScheduleStatus) []string {
	names := slices.Clone(status.Active)
	for i := range status.Backfills {
		names = slices.Concat(names, status.Backfills[i].Active, status.Backfills[i].Starting)
	}
	return names
}

// isBackfilled reports whether a run was started by a backfill. Other slots do not wait for it. An id in
// the database that is not that of a slot itself is one of a backfill, which may be in the spec no more.
func (p *schedulePlan) isBackfilled(run string) bool {
	_, suffix, ok := schedulespec.ParseName(p.seen.Schedule, run)
	if schedulespec.IsInDatabase(p.seen.Schedule) {
		return !ok || suffix != ""
	}
	return ok && suffix != "" && suffix != schedulespec.Manual
}

// changed reports whether the spec was changed since the last status.
func (p *schedulePlan) changed() bool {
	return p.seen.Schedule.Status.ObservedGeneration != p.seen.Schedule.Generation
}

// existing returns the slots of the runs that the schedule owns, in order.
func (p *schedulePlan) existing() (slots []time.Time) {
	for i := range p.seen.Runs {
		if slot, suffix, ok := schedulespec.ParseName(p.seen.Schedule, p.seen.Runs[i].Name); ok && suffix == "" {
			slots = append(slots, slot)
		}
	}
	slices.SortFunc(slots, time.Time.Compare)
	return slots
}

// state returns what the status says of the slots. Slots before the creation of the object, or
// before a change of when they are, never start: nobody asked for them then.
func (p *schedulePlan) state() schedule.State {
	status := &p.status
	state := schedule.State{
		DecidedUntil: timeOf(status.DecidedUntil), PausedSince: timeOf(status.PausedSince),
		Buffered: timeOf(status.BufferedTime), Failures: int(ptr.Deref(status.Failures, 0)),
	}
	if status.Starting != nil {
		state.Starting = timeOf(status.Starting.Time)
	}
	for _, o := range status.Outcomes {
		state.Outcomes = append(state.Outcomes, schedule.Outcome{
			Slot: timeOf(o.Time), Reason: schedule.Reason(o.Reason), Until: timeOf(o.Until), Count: int(o.Count), Run: o.Run, Message: o.Message,
		})
	}
	hash := timingHash(&p.seen.Schedule.Spec)
	switch {
	case status.DecidedUntil == nil:
		state.DecidedUntil = p.seen.Schedule.CreationTimestamp.Time
	case status.TimingHash != hash && state.DecidedUntil.Before(p.seen.Now):
		state.DecidedUntil = p.seen.Now
	}
	status.TimingHash = hash
	return state
}

// store takes what is known of the slots into the status.
func (p *schedulePlan) store(state schedule.State) {
	status := &p.status
	status.DecidedUntil, status.PausedSince, status.BufferedTime = optionalTime(state.DecidedUntil), optionalTime(state.PausedSince), optionalTime(state.Buffered)
	status.Starting = nil
	if !state.Starting.IsZero() {
		status.Starting = &v1alpha1.StartingSlot{Time: optionalTime(state.Starting), Run: schedulespec.NameOf(p.seen.Schedule, state.Starting, "")}
	}
	status.Outcomes = nil
	for _, o := range state.Outcomes {
		status.Outcomes = append(status.Outcomes, v1alpha1.SlotOutcome{
			Time: optionalTime(o.Slot), Reason: string(o.Reason), Until: optionalTime(o.Until), Count: int32(o.Count), Run: o.Run, Message: o.Message,
		})
		if o.Reason == schedule.Started && o.Slot.After(timeOf(status.LastScheduleTime)) {
			status.LastScheduleTime = optionalTime(o.Slot)
		}
	}
}

// finish returns the status after the slots have started that are due.
func (p *schedulePlan) finish() v1alpha1.WorkflowScheduleStatus {
	p.status.NextScheduleTime = nil
	if p.planner != nil {
		p.store(p.planner.State)
		if next, ok := p.planner.Timing.Next(p.planner.State.DecidedUntil); ok && p.planner.State.PausedSince.IsZero() {
			p.status.NextScheduleTime = optionalTime(next)
		}
	}
	slices.Sort(p.active)
	p.status.Active = slices.Compact(slices.Clone(p.active))
	p.status.Active = p.status.Active[:min(len(p.status.Active), 2*schedule.MaxOpen)]
	p.conditions()
	return *p.status.DeepCopy()
}

// explain returns the reason and the message of the Ready condition.
func (p *schedulePlan) explain() (reason, message string) {
	if p.reason != "" || p.planner == nil {
		return p.reason, p.message
	}
	state := &p.planner.State
	var last schedule.Outcome
	if n := len(state.Outcomes); n > 0 {
		last = state.Outcomes[n-1]
	}
	switch {
	case p.planner.FailedTooOften():
		return v1alpha1.ReasonPausedAfterFailures, fmt.Sprintf(
			"the last %d runs have failed: correct the cause, then change the spec, for example spec.runTemplate, or set spec.suspend to true and back", state.Failures)
	case p.planner.Policy.Suspend:
		return v1alpha1.ReasonSuspended, "suspended; set spec.suspend to false to go on"
	case last.Reason == schedule.Missed && last.Run != "":
		return v1alpha1.ReasonNameConflict, last.Message
	case p.planner.Waiting:
		return v1alpha1.ReasonTooManyOpenRuns, fmt.Sprintf(
			"a slot is due and waits: %d runs of this schedule are open; deploy more workers, or choose another spec.overlapPolicy", p.planner.Open)
	case p.status.NextScheduleTime == nil && state.Buffered.IsZero():
		return v1alpha1.ReasonNoMoreSlots, "the last slot has passed; spec.endAt says so"
	default:
		return v1alpha1.ReasonActive, "starts runs when they are due"
	}
}

// conditions sets the conditions of the status, which follow from the reason.
func (p *schedulePlan) conditions() {
	set := conditionSetter(&p.status.Conditions, p.seen.Schedule.Generation, p.seen.Now)
	ready, progresses := true, false
	reason, message := p.explain()
	switch reason {
	case v1alpha1.ReasonActive, v1alpha1.ReasonSuspended, v1alpha1.ReasonNoMoreSlots:
	case v1alpha1.ReasonStartFailed, v1alpha1.ReasonTooManyOpenRuns, v1alpha1.ReasonBackendNotFound, v1alpha1.ReasonBackendNotReady:
		ready, progresses = false, true
	default:
		ready = false
	}
	set(v1alpha1.ConditionReady, ready, reason, message)
	set.only(v1alpha1.ConditionReconciling, progresses, reason, message)
	set.only(v1alpha1.ConditionStalled, !ready && !progresses, reason, message)
}

// replaced returns the open runs that are to be canceled, because a later slot waits for their end.
// The status has said so before: it is what decides, also after a crash.
func (p *schedulePlan) replaced() (runs []*v1alpha1.WorkflowRun) {
	buffered := p.status.BufferedTime
	if buffered == nil || p.seen.Schedule.Spec.OverlapPolicy != string(schedule.OverlapReplace) {
		return nil
	}
	for i := range p.seen.Runs {
		run := &p.seen.Runs[i]
		if !run.Status.State.Terminal() && !ptr.Deref(run.Spec.Cancel, false) && !p.isBackfilled(run.Name) && run.Name < schedulespec.NameOf(p.seen.Schedule, buffered.Time, "") {
			runs = append(runs, run)
		}
	}
	return runs
}

// beyondHistory returns ended runs that are more than the limits say, the oldest first, without those
// that expire anyway. Those that were created just now stay; again is the time until that is over.
func (p *schedulePlan) beyondHistory() (runs []*v1alpha1.WorkflowRun, again time.Duration) {
	spec := &p.seen.Schedule.Spec
	uncounted := map[string]bool{} // their end is not in the status yet
	for _, name := range expectedRuns(&p.status) {
		uncounted[name] = true
	}
	newest := slices.SortedFunc(func(yield func(*v1alpha1.WorkflowRun) bool) {
		for i := range p.seen.Runs {
			run := &p.seen.Runs[i]
			if run.Status.State.Terminal() && run.Spec.TTLSecondsAfterFinished == nil && !uncounted[run.Name] && !yield(run) {
				return
			}
		}
	}, func(a, b *v1alpha1.WorkflowRun) int { return strings.Compare(b.Name, a.Name) })
	kept := map[bool]int{}
	limits := map[bool]int{
		false: int(ptr.Deref(spec.SuccessfulRunsHistoryLimit, 3)), true: int(ptr.Deref(spec.FailedRunsHistoryLimit, 3)),
	}
	again = math.MaxInt64
	for _, run := range newest {
		failed := run.Status.State == v1alpha1.RunFailed
		if kept[failed]++; kept[failed] <= limits[failed] {
			continue
		}
		if young := settleTime - p.seen.Now.Sub(run.CreationTimestamp.Time); young > 0 {
			again = min(again, young)
		} else {
			runs = append(runs, run)
		}
	}
	slices.Reverse(runs)
	return runs, again
}

// timeOf returns a time, zero if there is none, and optionalTime is its inverse, in whole seconds.
func timeOf(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

func optionalTime(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return &metav1.Time{Time: t.UTC().Truncate(time.Second)}
}
