package controller

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

// seenSchedule returns a schedule with a slot at each hour, created at midnight, as it is at noon.
func seenSchedule(changes ...func(*wfs)) scheduleSeen {
	s := newSchedule("hourly", changes...)
	s.UID, s.Generation, s.CreationTimestamp = "uid", 1, metav1.Time{Time: noon.Truncate(24 * time.Hour)}
	if len(s.Spec.Schedules) == 1 && s.Spec.Schedules[0] == "* * * * *" {
		s.Spec.Schedules[0] = "@hourly"
	}
	return scheduleSeen{Schedule: s, Now: noon}
}

// ownedRun returns the run of a slot, in a state.
func ownedRun(s *wfs, slot time.Time, state v1alpha1.RunState) v1alpha1.WorkflowRun {
	run, err := schedulespec.Run(s, slot, "")
	if err != nil {
		panic(err)
	}
	run.Status.State = state
	if state.Terminal() {
		run.Status.FinishedAt = &metav1.Time{Time: slot.Add(time.Minute)}
	}
	return *run
}

// finishPlan starts all slots that are due.
func finishPlan(p *schedulePlan) v1alpha1.WorkflowScheduleStatus {
	if p.planner != nil {
		for slot, ok := p.planner.Next(); ok; slot, ok = p.planner.Next() {
			p.started(slot, schedulespec.RunName(p.seen.Schedule.Name, slot, ""), true)
		}
	}
	return p.finish()
}

func TestPlanSchedule_StartsNothingFromBeforeIt(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) { s.Spec.CatchUp = "All"; s.Spec.Schedules = []string{"0 */6 * * *"} })
	status := finishPlan(planSchedule(seen))
	if got, want := status.Active, []string{"hourly-" + noon.Format("20060102") + "-060000", "hourly-" + noon.Format("20060102") + "-120000"}; !slices.Equal(got, want) {
		t.Errorf("active are %v, want %v", got, want)
	}
	seen.Schedule.Status, seen.Schedule.Generation = status, 2
	seen.Schedule.Spec.Schedules = []string{"*/5 * * * *"} // had 12 slots in the hour before
	seen.Now = noon.Add(time.Hour + time.Minute)
	if status = finishPlan(planSchedule(seen)); len(status.Active) != 0 || !status.NextScheduleTime.Time.Equal(noon.Add(65*time.Minute)) {
		t.Errorf("after a change of the times, active are %v, the next slot is %s", status.Active, status.NextScheduleTime)
	}
}

func TestPlanSchedule_CountsFailuresInARow(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		states   []v1alpha1.RunState
		failures int32
		reason   string
	}{
		"two":               {[]v1alpha1.RunState{v1alpha1.RunFailed, v1alpha1.RunFailed}, 2, v1alpha1.ReasonPausedAfterFailures},
		"a success between": {[]v1alpha1.RunState{v1alpha1.RunFailed, v1alpha1.RunCompleted, v1alpha1.RunFailed}, 1, v1alpha1.ReasonActive},
		"a cancel between":  {[]v1alpha1.RunState{v1alpha1.RunFailed, v1alpha1.RunCanceled, v1alpha1.RunFailed}, 2, v1alpha1.ReasonPausedAfterFailures},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := seenSchedule(func(s *wfs) { s.Spec.PauseAfterFailures = new(int32(2)) })
			s := seen.Schedule
			s.Status.DecidedUntil, s.Status.TimingHash, s.Status.ObservedGeneration = &metav1.Time{Time: noon}, timingHash(&s.Spec), 1
			for i, state := range test.states {
				run := ownedRun(s, noon.Add(time.Duration(i-9)*time.Hour), state)
				seen.Runs, s.Status.Active = append([]v1alpha1.WorkflowRun{run}, seen.Runs...), append(s.Status.Active, run.Name)
			}
			status := finishPlan(planSchedule(seen))
			if *status.Failures != test.failures || conditionReason(status.Conditions) != test.reason || len(status.Active) != 0 {
				t.Errorf("status is %+v", status)
			}
			s.Status = status
			if again := finishPlan(planSchedule(seen)); *again.Failures != test.failures {
				t.Errorf("planned again, %d failures", *again.Failures)
			}
			s.Generation++
			if changed := finishPlan(planSchedule(seen)); conditionReason(changed.Conditions) != v1alpha1.ReasonActive {
				t.Errorf("after a change of the spec, status is %+v", changed)
			}
		})
	}
}

// TestPlanSchedule_ReplacesOnlyOlderRuns: a manager whose cache of schedules is behind that of runs
// must not cancel the run that has replaced the others.
func TestPlanSchedule_ReplacesOnlyOlderRuns(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) { s.Spec.OverlapPolicy = "Replace" })
	s := seen.Schedule
	s.Status.DecidedUntil, s.Status.TimingHash, s.Status.ObservedGeneration = &metav1.Time{Time: noon}, timingHash(&s.Spec), 1
	s.Status.BufferedTime = &metav1.Time{Time: noon.Add(-time.Hour)}
	seen.Runs = []v1alpha1.WorkflowRun{ownedRun(s, noon.Add(-2*time.Hour), v1alpha1.RunRunning), ownedRun(s, noon, v1alpha1.RunPending)}
	plan := planSchedule(seen)
	finishPlan(plan)
	if got := plan.replaced(); len(got) != 1 || got[0].Name != seen.Runs[0].Name {
		t.Errorf("replaced are %v", got)
	}
}

// finishBackfills plans again and again, as if each run completed at once, until nothing is to be done.
func finishBackfills(t *testing.T, seen *scheduleSeen) []v1alpha1.BackfillStatus {
	t.Helper()
	for range 100 {
		plan := planSchedule(*seen)
		finishPlan(plan)
		work := plan.planBackfills()
		seen.Schedule.Status = plan.finish()
		if work == nil || work.waits {
			return seen.Schedule.Status.Backfills
		}
		for _, name := range work.names {
			slot, suffix, _ := schedulespec.ParseName(seen.Schedule, name)
			run, err := schedulespec.Run(seen.Schedule, slot, suffix)
			if err != nil {
				t.Fatal(err)
			}
			run.Status.State = v1alpha1.RunCompleted
			seen.Runs = append(seen.Runs, *run)
		}
	}
	t.Fatal("it does not end")
	return nil
}

// TestPlanBackfills_EndWithAFraction: a status has whole seconds.
func TestPlanBackfills_EndWithAFraction(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) {
		s.Spec.StartAt = &metav1.Time{Time: noon.AddDate(1, 0, 0)}
		s.Spec.Backfills = []v1alpha1.Backfill{
			{Name: "fraction", StartAt: &metav1.Time{Time: noon.Add(-5*time.Hour + time.Millisecond)}, EndAt: &metav1.Time{Time: noon.Add(-time.Millisecond)}},
			{Name: "empty", StartAt: &metav1.Time{Time: noon.Add(-time.Hour + time.Millisecond)}, EndAt: &metav1.Time{Time: noon.Add(-time.Hour + 2*time.Millisecond)}},
			{Name: "next", StartAt: &metav1.Time{Time: noon.Add(-9 * time.Hour)}, EndAt: &metav1.Time{Time: noon.Add(-8 * time.Hour)}},
		}
	})
	for i, b := range finishBackfills(t, &seen) {
		if want := []int32{4, 0, 2}[i]; b.State != v1alpha1.BackfillCompleted || b.Completed != want || b.Slots != want {
			t.Errorf("the backfill is %+v, want %d slots", b, want)
		}
	}
}

// TestPlanBackfills_WaitForAClockThatIsBehind: a request may be a moment ahead of the manager's clock, and
// one that has started stays valid, however far the clock of the next manager is behind.
func TestPlanBackfills_WaitForAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) {
		s.Spec.StartAt = &metav1.Time{Time: noon.AddDate(1, 0, 0)}
		s.Spec.Backfills = []v1alpha1.Backfill{{Name: "ahead", StartAt: &metav1.Time{Time: noon.Add(-5 * time.Hour)}, EndAt: &metav1.Time{Time: noon}}}
	})
	for _, step := range []struct {
		behind time.Duration
		end    bool
		want   string
	}{
		{2 * time.Minute, true, "Waiting waits until endAt 2030-01-02T12:00:00Z has passed, 0 started"},
		{0, false, "Running , 6 started"},
		{time.Hour, true, "Waiting waits until endAt 2030-01-02T12:00:00Z has passed, 6 started"},
		{0, true, "Completed , 6 started"},
	} {
		seen.Now = noon.Add(-step.behind)
		if step.end {
			finishBackfills(t, &seen)
		} else {
			plan := planSchedule(seen)
			finishPlan(plan)
			plan.planBackfills()
			seen.Schedule.Status = plan.finish()
		}
		b := seen.Schedule.Status.Backfills[0]
		if got := fmt.Sprintf("%s %s, %d started", b.State, b.Message, b.Started); got != step.want {
			t.Errorf("%s behind, it is %q, want %q", step.behind, got, step.want)
		}
	}
	seen.Schedule.Status.Backfills, seen.Now = nil, noon.Add(-schedulespec.Patience-time.Second)
	if b := finishBackfills(t, &seen)[0]; b.State != v1alpha1.BackfillInvalid {
		t.Errorf("the backfill is %+v", b)
	}
}

// TestPlanBackfills_ADryRunReadsRowsInPortions: its progress is in the status, and while the schedule is
// suspended nothing is read.
func TestPlanBackfills_ADryRunReadsRowsInPortions(t *testing.T) {
	t.Parallel()
	const all, every = 5000, 7 // each seventh slot has a run
	from := noon.AddDate(0, 0, -10)
	seen := seenSchedule(inDatabase, func(s *wfs) {
		s.Spec.Schedules, s.Spec.StartAt = []string{"* * * * *", "* * * * *"}, &metav1.Time{Time: noon.AddDate(1, 0, 0)}
		s.Spec.Backfills = []v1alpha1.Backfill{
			{Name: "dry", StartAt: &metav1.Time{Time: from}, EndAt: &metav1.Time{Time: from.Add((all - 1) * time.Minute)}, DryRun: new(true)},
			{Name: "a", StartAt: &metav1.Time{Time: from}, EndAt: &metav1.Time{Time: from}}, {Name: "b", StartAt: &metav1.Time{Time: from}, EndAt: &metav1.Time{Time: from}},
		}
	})
	s, exists, read := seen.Schedule, map[string]bool{}, 0
	for i := 0; i < all; i += every {
		exists[schedulespec.NameOf(s, from.Add(time.Duration(i)*time.Minute), "")] = true
	}
	look := func() v1alpha1.BackfillStatus {
		plan := planSchedule(seen)
		finishPlan(plan)
		ids := plan.lookups()
		if read += len(ids); len(ids) > 2000 {
			t.Fatalf("%d rows are read at once", len(ids))
		}
		for _, id := range ids {
			if exists[id] {
				plan.lookedUp = append(plan.lookedUp, v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: id}})
			}
		}
		plan.planBackfills()
		s.Status = plan.finish()
		return s.Status.Backfills[0]
	}
	first := look()
	if want := "dry run: 666 of 5000 slots are counted"; first.State != v1alpha1.BackfillRunning || first.Message != want {
		t.Errorf("after one look, it is %+v, want %q", first, want)
	}
	before := read
	s.Spec.Suspend = new(true)
	if held := look(); read != before || held.State != v1alpha1.BackfillWaiting || held.Started != first.Started {
		t.Errorf("while suspended, %d rows are read, and it is %+v", read-before, held)
	}
	s.Spec.Suspend = nil
	b, looks := look(), 2
	for ; b.State == v1alpha1.BackfillRunning; looks++ {
		b = look()
	}
	if want := "dry run: 4285 of 5000 slots would start"; b.State != v1alpha1.BackfillCompleted || b.Message != want || b.Skipped != 715 || b.DecidedUntil != nil || looks != 8 || read != 3*all {
		t.Errorf("after %d looks and %d rows, it is %+v, want %q", looks, read, b, want)
	}
}

// TestPlanBackfills_ReadNoRowsWhileNothingCanStart: as many runs are open as may be.
func TestPlanBackfills_ReadNoRowsWhileNothingCanStart(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(inDatabase, func(s *wfs) {
		s.Spec.StartAt = &metav1.Time{Time: noon.AddDate(1, 0, 0)}
		s.Spec.Backfills = []v1alpha1.Backfill{{Name: "past", StartAt: &metav1.Time{Time: noon.AddDate(0, 0, -2)}, EndAt: &metav1.Time{Time: noon}, MaxParallel: 1}}
	})
	s := seen.Schedule
	if ids := planSchedule(seen).lookups(); len(ids) != 49 {
		t.Errorf("%d rows are read, want one for each slot", len(ids))
	}
	run, err := schedulespec.Run(s, noon.AddDate(0, 0, -2), schedulespec.BackfillSuffix("past"))
	if err != nil {
		t.Fatal(err)
	}
	s.Status.Backfills = []v1alpha1.BackfillStatus{{
		Name: "past", State: v1alpha1.BackfillRunning, StartedAt: &metav1.Time{Time: noon}, DecidedUntil: &metav1.Time{Time: noon.AddDate(0, 0, -2)}, Active: []string{run.Name},
	}}
	seen.Runs = []v1alpha1.WorkflowRun{*run}
	if ids := planSchedule(seen).lookups(); len(ids) > 0 {
		t.Errorf("while its run is open, %d rows are read", len(ids))
	}
	seen.Runs[0].Status.State = v1alpha1.RunCompleted
	if ids := planSchedule(seen).lookups(); len(ids) != 48 {
		t.Errorf("after that, %d rows are read", len(ids))
	}
}

// TestTimingHash_ChangesWithTheFirstSlot: a fraction of startAt is one second.
func TestTimingHash_ChangesWithTheFirstSlot(t *testing.T) {
	t.Parallel()
	hash := func(start, end time.Duration) string {
		return timingHash(&seenSchedule(func(s *wfs) {
			s.Spec.StartAt, s.Spec.EndAt = &metav1.Time{Time: noon.Add(start)}, &metav1.Time{Time: noon.Add(time.Hour + end)}
		}).Schedule.Spec)
	}
	if hash(0, 0) == hash(time.Millisecond, 0) || hash(time.Millisecond, 0) != hash(time.Second, 0) || hash(0, 0) != hash(0, time.Millisecond) || hash(0, 0) == hash(0, time.Second) {
		t.Error("the hash of other slots is the same, or that of the same slots another")
	}
}

// TestPlanSchedule_ARemovedBackfillLeavesItsRunsAlone: no slot waits for them or replaces them, and their
// failures do not count.
func TestPlanSchedule_ARemovedBackfillLeavesItsRunsAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*wfs){"Objects": func(*wfs) {}, "InDatabase": inDatabase} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := seenSchedule(change, func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.PauseAfterFailures = "Replace", new(int32(1)) })
			s := seen.Schedule
			backfilled := func(hours int, state v1alpha1.RunState) v1alpha1.WorkflowRun {
				run, err := schedulespec.Run(s, noon.Add(time.Duration(hours)*time.Hour), schedulespec.BackfillSuffix("removed"))
				if err != nil {
					t.Fatal(err)
				}
				run.Status.State = state
				return *run
			}
			seen.Runs = []v1alpha1.WorkflowRun{ownedRun(s, noon.Add(-2*time.Hour), v1alpha1.RunRunning), backfilled(-3, v1alpha1.RunRunning), backfilled(-4, v1alpha1.RunFailed)}
			s.Status.DecidedUntil, s.Status.TimingHash, s.Status.ObservedGeneration = &metav1.Time{Time: noon}, timingHash(&s.Spec), 1
			s.Status.BufferedTime = &metav1.Time{Time: noon}
			s.Status.Active = []string{seen.Runs[0].Name, seen.Runs[2].Name} // as an earlier release has taken them
			s.Status.Backfills = []v1alpha1.BackfillStatus{{Name: "removed", State: v1alpha1.BackfillRunning, Active: []string{seen.Runs[1].Name}}}
			plan := planSchedule(seen)
			status := finishPlan(plan)
			if got := plan.replaced(); len(got) != 1 || got[0].Name != seen.Runs[0].Name {
				t.Errorf("replaced are %v", got)
			}
			if !slices.Equal(status.Active, []string{seen.Runs[0].Name}) || status.Failures != nil {
				t.Errorf("active are %v, failures %v", status.Active, status.Failures)
			}
		})
	}
}

func TestPlanSchedule_KeepsTheNewestOfEachKind(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) {
		s.Spec.SuccessfulRunsHistoryLimit, s.Spec.FailedRunsHistoryLimit, s.Spec.Suspend = new(int32(2)), new(int32(1)), new(true)
	})
	seen.Schedule.Status.DecidedUntil, seen.Schedule.Status.TimingHash = &metav1.Time{Time: noon}, timingHash(&seen.Schedule.Spec)
	for i := range 12 {
		state := []v1alpha1.RunState{v1alpha1.RunCompleted, v1alpha1.RunFailed, v1alpha1.RunPending}[i%3]
		seen.Runs = append(seen.Runs, ownedRun(seen.Schedule, noon.Add(time.Duration(i)*time.Hour), state))
	}
	plan := planSchedule(seen)
	finishPlan(plan)
	var hours []string
	ended, again := plan.beyondHistory()
	if again != math.MaxInt64 {
		t.Errorf("more are beyond it in %s", again)
	}
	for _, run := range ended {
		hours = append(hours, fmt.Sprintf("%s %s", run.Name[len(run.Name)-6:][:2], run.Status.State))
	}
	if want := []string{"12 Completed", "13 Failed", "15 Completed", "16 Failed", "19 Failed"}; !slices.Equal(hours, want) {
		t.Errorf("to delete are %v, want %v", hours, want)
	}
	for i := range seen.Runs { // another manager may be about to create one that is deleted
		seen.Runs[i].CreationTimestamp = metav1.Time{Time: noon.Add(-time.Duration(i) * 20 * time.Second)}
	}
	if ended, again := planSchedule(seen).beyondHistory(); len(ended) != 3 || again != 40*time.Second {
		t.Errorf("%d are to be deleted, and more in %s", len(ended), again)
	}
}

// TestPlanSchedule_ChangesWhileNothingCanStart: the slots after a suspension, or after a change of the
// times, are caught up once the Backend is ready, or the template is valid.
func TestPlanSchedule_ChangesWhileNothingCanStart(t *testing.T) {
	t.Parallel()
	suspend := func(s *wfs) { s.Spec.Suspend = new(true) }
	resume := func(s *wfs) { s.Spec.Suspend = nil }
	type change struct {
		at     string
		change func(*wfs)
	}
	for name, test := range map[string]struct {
		starting string
		changes  []change
		want     string
	}{
		"suspended": {"", []change{{"07:30", suspend}, {"08:30", resume}}, "Started 06:00, SkippedSuspended 07:00-08:00, Started 09:00, Started 10:00, Started 11:00"},
		"twice": {"", []change{{"07:30", suspend}, {"08:30", resume}, {"09:30", suspend}, {"10:30", resume}},
			"Started 06:00, SkippedSuspended 07:00-10:00, Started 11:00"},
		"a slot was starting": {"07:00", []change{{"07:30", suspend}, {"08:30", resume}},
			"Started 06:00, SkippedSuspended 08:00, Started 07:00, Started 09:00, Started 10:00, Started 11:00"},
		"other times":      {"", []change{{"08:45", func(s *wfs) { s.Spec.Schedules = []string{"30 * * * *"} }}}, "Started 06:00, Started 09:30, Started 10:30, Started 11:30"},
		"still suspended":  {"", []change{{"07:30", suspend}}, "Started 06:00"},
		"nothing happened": {"", nil, "Started 06:00, Started 07:00, Started 08:00, Started 09:00, Started 10:00, Started 11:00"},
	} {
		for _, runs := range []string{"InDatabase", "Objects"} {
			t.Run(name+", "+runs, func(t *testing.T) {
				t.Parallel()
				seen := seenSchedule(func(s *wfs) { s.Spec.CatchUp, s.Spec.Schedules = "All", []string{"0 6-23 * * *"} })
				s := seen.Schedule
				at := func(text string) time.Time {
					offset, err := time.Parse("15:04", text)
					if err != nil {
						t.Fatal(err)
					}
					return noon.Add(-12 * time.Hour).Add(offset.Sub(offset.Truncate(24 * time.Hour)))
				}
				plan := func(clock string) {
					seen.Now = at(clock)
					s.Status = finishPlan(planSchedule(seen))
				}
				plan("06:10")
				if test.starting != "" {
					s.Status.Starting = &v1alpha1.StartingSlot{Time: &metav1.Time{Time: at(test.starting)}}
				}
				if runs == schedulespec.InDatabase {
					inDatabase(s)
					seen.Reason, seen.Message = v1alpha1.ReasonBackendNotReady, "away"
				} else {
					s.Spec.RunTemplate.ScheduledTimeField, s.Spec.RunTemplate.Input = "at", &apiextensionsv1.JSON{Raw: []byte(`[]`)}
				}
				plan("06:20")
				for _, c := range test.changes {
					c.change(s)
					s.Generation++
					plan(c.at)
					plan(c.at)
				}
				seen.Reason, s.Spec.RunTemplate.ScheduledTimeField = "", ""
				plan("11:45")
				var got []string
				for _, o := range s.Status.Outcomes {
					one := o.Reason + " " + o.Time.UTC().Format("15:04")
					if o.Until != nil {
						one += "-" + o.Until.UTC().Format("15:04")
					}
					got = append(got, one)
				}
				if got := strings.Join(got, ", "); got != test.want {
					t.Errorf("outcomes are %s\nwant         %s", got, test.want)
				}
			})
		}
	}
}

// TestPlanSchedule_NothingDueChangesNothing: planning again writes no status.
func TestPlanSchedule_NothingDueChangesNothing(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) { s.Spec.TimeZone, s.Spec.JitterSeconds = "Europe/Berlin", new(int32(60)) })
	first := finishPlan(planSchedule(seen))
	seen.Schedule.Status = first
	seen.Now = noon.Add(10 * time.Minute) // the slot of noon has started by now
	seen.Schedule.Status = finishPlan(planSchedule(seen))
	second := finishPlan(planSchedule(seen))
	seen.Schedule.Status = second
	seen.Now = noon.Add(20 * time.Minute)
	plan := planSchedule(seen)
	if third := finishPlan(plan); fmt.Sprintf("%+v", third) != fmt.Sprintf("%+v", second) {
		t.Errorf("status changes from\n%+v to\n%+v", second, third)
	}
	if !meta.IsStatusConditionTrue(second.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("status is %+v", second)
	}
}

// BenchmarkPlanSchedule is what a look at a schedule costs at which nothing is due.
func BenchmarkPlanSchedule(b *testing.B) {
	seen := seenSchedule(func(s *wfs) { s.Spec.TimeZone = "Europe/Berlin" })
	seen.Schedule.Status = finishPlan(planSchedule(seen))
	for b.Loop() {
		finishPlan(planSchedule(seen))
	}
}
