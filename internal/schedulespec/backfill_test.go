package schedulespec

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// hourly returns a schedule with a slot at each hour, and a backfill of it from 6 to 11.
func hourly() (*v1alpha1.WorkflowSchedule, *v1alpha1.Backfill) {
	s := &v1alpha1.WorkflowSchedule{ObjectMeta: metav1.ObjectMeta{Name: "hourly"}}
	s.Spec.Schedules = []string{"@hourly"}
	s.Spec.StartAt = &metav1.Time{Time: noon} // bounds slots that are due, not those of the past
	return s, &v1alpha1.Backfill{Name: "morning", StartAt: at(6), EndAt: at(11)}
}

func at(hour int) *metav1.Time {
	return &metav1.Time{Time: noon.Truncate(24 * time.Hour).Add(time.Duration(hour) * time.Hour)}
}

// existing returns runs of the schedule.
func existing(states map[string]v1alpha1.RunState) (runs []v1alpha1.WorkflowRun) {
	for name, state := range states {
		run := v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: name}}
		run.Status.State = state
		runs = append(runs, run)
	}
	return runs
}

// walk returns the hours of all slots that start, in portions.
func walk(b *Backfill, request *v1alpha1.Backfill, portion int) (hours string, skipped int) {
	for after := request.StartAt.Add(-time.Second); after.Before(request.EndAt.Time); {
		slots, passed, until := b.Next(after, portion)
		for _, slot := range slots {
			hours += slot.Format(" 15")
		}
		after, skipped = until, skipped+passed
	}
	return strings.TrimSpace(hours), skipped
}

func TestBackfill_ReprocessSaysWhichSlotsStart(t *testing.T) {
	t.Parallel()
	s, request := hourly()
	name := func(hour int, suffix string) string { return RunName(s.Name, at(hour).Time, suffix) }
	runs := existing(map[string]v1alpha1.RunState{
		name(7, ""): v1alpha1.RunCompleted, name(8, ""): v1alpha1.RunFailed, name(9, ""): v1alpha1.RunRunning,
		name(10, ""): v1alpha1.RunFailed, name(10, BackfillSuffix("earlier")): v1alpha1.RunCompleted, // has succeeded since
		name(11, BackfillSuffix("morning")): v1alpha1.RunPending, // its own: the manager died before it said so
		name(6, Manual):                     v1alpha1.RunCompleted,
		"foreign-20260101-060000":           v1alpha1.RunCompleted,
	})
	for reprocess, want := range map[string]string{"": "06 11", "None": "06 11", "Failed": "06 08 11", "All": "06 07 08 09 10 11"} {
		for _, portion := range []int{1, 2, 100} {
			request.Reprocess = reprocess
			b, err := NewBackfill(s, request, runs, noon)
			if err != nil {
				t.Fatal(err)
			}
			got, skipped := walk(b, request, portion)
			slots, starts, err := b.Count()
			if got != want || skipped != 6-len(strings.Fields(want)) || slots != 6 || starts != len(strings.Fields(want)) || err != nil {
				t.Errorf("%q, %d at a time: starts %s, skips %d; counts %d of %d, %v", reprocess, portion, got, skipped, starts, slots, err)
			}
		}
	}
}

func TestBackfill_WaitsWithoutALimit(t *testing.T) {
	t.Parallel()
	s, request := hourly()
	b, err := NewBackfill(s, request, nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	if slots, skipped, until := b.Next(at(8).Time, 0); len(slots)+skipped > 0 || !until.Equal(at(8).Time) {
		t.Errorf("%v start, %d are skipped, until %s", slots, skipped, until)
	}
	if last, ok := b.Last(); !ok || !last.Equal(at(11).Time) {
		t.Errorf("the last slot is %s, %t", last, ok)
	}
}

// TestBackfill_FractionsOfASecond: slots are whole seconds, startAt and endAt need not be.
func TestBackfill_FractionsOfASecond(t *testing.T) {
	t.Parallel()
	s, request := hourly()
	for name, test := range map[string]struct {
		start, end time.Duration
		want       string
	}{
		"end after a slot":    {0, time.Millisecond, "06 07 08 09 10 11"},
		"end before a slot":   {0, -time.Millisecond, "06 07 08 09 10"},
		"start after a slot":  {time.Nanosecond, 0, "07 08 09 10 11"},
		"start before a slot": {-time.Nanosecond, time.Second - 1, "06 07 08 09 10 11"},
	} {
		changed := *request
		changed.StartAt, changed.EndAt = &metav1.Time{Time: at(6).Add(test.start)}, &metav1.Time{Time: at(11).Add(test.end)}
		b, err := NewBackfill(s, &changed, nil, noon)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		until := changed.StartAt.Add(-time.Second).Truncate(time.Second) // as a status has it
		for range 10 {
			var slots []time.Time
			slots, _, until = b.Next(until, 4)
			for _, slot := range slots {
				got = append(got, slot.Format("15"))
			}
			if until = until.Truncate(time.Second); !until.Before(b.End()) {
				break
			}
		}
		if strings.Join(got, " ") != test.want || until.Before(b.End()) {
			t.Errorf("%s: %v start, until %s, want %s until %s", name, got, until, test.want, b.End())
		}
	}
}

// TestBackfill_SkipsManySlotsInPortions: the work of one look is bounded.
func TestBackfill_SkipsManySlotsInPortions(t *testing.T) {
	t.Parallel()
	s, request := hourly()
	s.Spec.Schedules = []string{"* * * * *"}
	request.StartAt = &metav1.Time{Time: at(11).AddDate(0, 0, -4)}
	states := map[string]v1alpha1.RunState{}
	for slot := request.StartAt.Time; !slot.After(at(11).Time); slot = slot.Add(time.Minute) {
		states[RunName(s.Name, slot, "")] = v1alpha1.RunCompleted
	}
	b, err := NewBackfill(s, request, existing(states), noon)
	if err != nil {
		t.Fatal(err)
	}
	if _, skipped, _ := b.Next(request.StartAt.Add(-time.Second), 10); skipped != maxWalk {
		t.Errorf("one look skips %d slots", skipped)
	}
	if hours, skipped := walk(b, request, 10); hours != "" || skipped != len(states) {
		t.Errorf("%q start, %d of %d are skipped", hours, skipped, len(states))
	}
}

func TestBackfill_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s, request := hourly()
	request.EndAt = at(13)
	const future = "endAt 2026-01-01T13:00:00Z is in the future: a backfill is for slots that have passed; later ones start by themselves"
	if _, err := NewBackfill(s, request, nil, noon); err == nil || err.Error() != future {
		t.Errorf("the error is %v", err)
	}
	request.EndAt = at(11)
	request.StartAt = &metav1.Time{Time: at(11).AddDate(-1, 0, 0)}
	s.Spec.Schedules = []string{"* * * * *"}
	b, err := NewBackfill(s, request, nil, noon)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Count(); err == nil || err.Error() != "more than 100000 slots are between startAt and endAt: split the interval" {
		t.Errorf("the error is %v", err)
	}
	s.Spec.Schedules = []string{"61 * * * *"}
	if _, err := NewBackfill(s, request, nil, noon); err == nil || !strings.Contains(err.Error(), `"61" is no number from 0 to 59`) {
		t.Errorf("the error is %v", err)
	}
}
