package schedulespec

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/schedule"
)

const (
	// MaxBackfill is the largest number of slots of one backfill.
	MaxBackfill = 100_000
	// maxWalk is how many slots are looked at for one portion, and maxLookups how many if the rows of
	// their runs have to be read. A dry run reads maxIDs rows for one portion, four statements.
	maxWalk, maxLookups, maxIDs = 2000, 100, 2000
	// Patience is how far in the future the end of a backfill may be, as clocks differ.
	Patience = 5 * time.Minute
)

// Backfill is what is to happen to the slots of a past interval. It is a value for one look at the
// runs.
type Backfill struct {
	request *v1alpha1.Backfill
	timing  *schedule.Timing
	runs    map[int64]v1alpha1.RunState
	walk    int
}

// NewBackfill prepares a backfill of a schedule that has these runs. It fails if the schedule cannot
// be understood or the interval ends later than Patience from now.
func NewBackfill(s *v1alpha1.WorkflowSchedule, request *v1alpha1.Backfill, runs []v1alpha1.WorkflowRun, now time.Time) (*Backfill, error) {
	if request.EndAt.After(now.Add(Patience)) {
		return nil, fmt.Errorf("endAt %s is in the future: a backfill is for slots that have passed; later ones start by themselves",
			request.EndAt.UTC().Format(time.RFC3339))
	}
	o := Timing(&s.Spec)
	o.StartAt, o.EndAt = request.StartAt.Time, request.EndAt.Time
	timing, err := schedule.NewTiming(o)
	if err != nil {
		return nil, err
	}
	b := &Backfill{request: request, timing: timing, runs: make(map[int64]v1alpha1.RunState, len(runs)), walk: portion(s, request)}
	own := BackfillSuffix(request.Name)
	for i := range runs {
		slot, suffix, ok := ParseName(s, runs[i].Name)
		if !ok || suffix == own || suffix == Manual {
			continue
		}
		if state, known := b.runs[slot.Unix()]; !known || state == v1alpha1.RunFailed {
			b.runs[slot.Unix()] = runs[i].Status.State
		}
	}
	return b, nil
}

// portion returns how many slots are looked at at once.
func portion(s *v1alpha1.WorkflowSchedule, request *v1alpha1.Backfill) int {
	isDryRun := ptr.Deref(request.DryRun, false)
	switch {
	case isDryRun && (!IsInDatabase(s) || request.Reprocess == "All"): // nothing is read
		return MaxBackfill + 1
	case isDryRun:
		return maxIDs / len(otherSuffixes(s, request))
	case IsInDatabase(s):
		return maxLookups
	default:
		return maxWalk
	}
}

// otherSuffixes returns those of the runs that may keep a slot of a backfill from starting.
func otherSuffixes(s *v1alpha1.WorkflowSchedule, request *v1alpha1.Backfill) []string {
	own := BackfillSuffix(request.Name)
	return slices.DeleteFunc(suffixes(s), func(suffix string) bool { return suffix == own })
}

// Count returns the number of slots, and how many of them start. It fails if there are too many.
func (b *Backfill) Count() (slots, starts int, err error) {
	all := b.timing.Between(b.request.StartAt.Add(-time.Second), b.request.EndAt.Time, MaxBackfill+1)
	if len(all) > MaxBackfill {
		return 0, 0, fmt.Errorf("more than %d slots are between startAt and endAt: split the interval", MaxBackfill)
	}
	for _, slot := range all {
		if b.starts(slot) {
			starts++
		}
	}
	return len(all), starts, nil
}

// Next returns up to limit slots that start, of those after another. All up to until are decided
// thereby, and skipped is how many of them do not start. When until is End, there are no more.
func (b *Backfill) Next(after time.Time, limit int) (slots []time.Time, skipped int, until time.Time) {
	if limit <= 0 {
		return nil, 0, after
	}
	walk := b.timing.Between(after, b.request.EndAt.Time, b.walk)
	for _, slot := range walk {
		if len(slots) == limit {
			return slots, skipped, until
		}
		until = slot
		if b.starts(slot) {
			slots = append(slots, slot)
		} else {
			skipped++
		}
	}
	if len(walk) < b.walk {
		until = b.End()
	}
	return slots, skipped, until
}

// Lookups returns what identifies the runs that NewBackfill has to know of to tell what Next returns
// after a slot. It is for schedules whose runs are in the database.
func Lookups(s *v1alpha1.WorkflowSchedule, request *v1alpha1.Backfill, after time.Time) (names []string) {
	b, err := NewBackfill(s, request, nil, request.EndAt.Time)
	if err != nil || request.Reprocess == "All" {
		return nil
	}
	others := otherSuffixes(s, request)
	for _, slot := range b.timing.Between(after, request.EndAt.Time, b.walk) {
		for _, suffix := range others {
			names = append(names, NameOf(s, slot, suffix))
		}
	}
	return names
}

// End returns the second that endAt is in. Once all slots up to it are decided, there are no more. A
// status has whole seconds, endAt may have a fraction.
func (b *Backfill) End() time.Time { return b.request.EndAt.Truncate(time.Second) }

// Last returns the last slot, false if there is none.
func (b *Backfill) Last() (time.Time, bool) {
	return b.timing.Last(b.request.StartAt.Add(-time.Second), b.request.EndAt.Time)
}

// starts reports whether a slot starts.
func (b *Backfill) starts(slot time.Time) bool {
	state, known := b.runs[slot.Unix()]
	switch {
	case !known, b.request.Reprocess == "All":
		return true
	case b.request.Reprocess == "Failed":
		return state == v1alpha1.RunFailed
	default:
		return false
	}
}
