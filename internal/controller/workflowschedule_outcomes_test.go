package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/schedule"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

// storedSlots returns the outcomes of a schedule in the database, oldest first.
func (w *world) storedSlots(db *store.Store, s *wfs) []store.SlotOutcome {
	w.t.Helper()
	filter := store.SlotFilter{Cluster: "test-cluster", Namespace: w.Namespace, Schedule: s.Name, UID: string(s.UID)}
	page, err := db.View(time.Minute).Slots(context.Background(), filter, nil, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Reverse(page.Items)
	return page.Items
}

// awaitSlots waits until each minute of an interval has one stored outcome, and returns them by their
// slots.
func (w *world) awaitSlots(db *store.Store, s *wfs, first, last time.Time) map[time.Time]store.SlotOutcome {
	w.t.Helper()
	var by map[time.Time]store.SlotOutcome
	eventuallyWithin(w.t, time.Minute, func() error {
		by = map[time.Time]store.SlotOutcome{}
		for _, o := range w.storedSlots(db, s) {
			for slot := o.Slot.UTC(); !slot.After(o.Last); slot = slot.Add(time.Minute) {
				if other, ok := by[slot]; ok {
					return fmt.Errorf("the slot of %s has the outcomes %+v and %+v", slot, other, o)
				}
				by[slot] = o
			}
		}
		for slot := first; !slot.After(last); slot = slot.Add(time.Minute) {
			if _, ok := by[slot]; !ok {
				return fmt.Errorf("the slot of %s has no outcome; %d have one", slot, len(by))
			}
		}
		return nil
	})
	return by
}

// firstSlot is the first minute of a schedule.
func firstSlot(s *wfs) time.Time {
	return s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC()
}

// awaitDecided waits until the slots up to a time are decided.
func (w *world) awaitDecided(s *wfs, until time.Time) {
	w.t.Helper()
	w.awaitSchedule(s, func(s *wfs) error {
		if s.Status.DecidedUntil == nil || s.Status.DecidedUntil.Time.Before(until) {
			return fmt.Errorf("slots until %s are not decided", until)
		}
		return nil
	})
}

// stoodAt makes managers share a clock that stands.
func stoodAt(at time.Time) func(*managerOptions) {
	return func(o *managerOptions) { o.Clock, o.Intervals.Schedule = fastClock{at, 0}, 20*time.Millisecond }
}

// recordingStore is a store whose outcomes are recorded as a test wants.
type recordingStore struct {
	*store.Store
	record func(ctx context.Context, s *store.Store, outcomes []store.SlotOutcome, ttl time.Duration) error
}

func (s recordingStore) RecordSlots(ctx context.Context, outcomes []store.SlotOutcome, ttl time.Duration) error {
	return s.record(ctx, s.Store, outcomes, ttl)
}

// recording makes a manager record outcomes as a test wants.
func recording(record func(ctx context.Context, s *store.Store, outcomes []store.SlotOutcome, ttl time.Duration) error) func(*managerOptions) {
	return func(o *managerOptions) {
		o.Open = func(ctx context.Context, so store.Options) (backend.Store, error) {
			opened, err := store.Open(ctx, so)
			if err != nil {
				return nil, err
			}
			return recordingStore{opened, record}, nil
		}
	}
}

// TestScheduleOutcomes_P6_AStopBeforeTheyAreStoredLosesNone: a manager has started slots and written the
// status, and stops before it stores the outcomes. The next one starts more of them, and stores all.
func TestScheduleOutcomes_P6_AStopBeforeTheyAreStoredLosesNone(t *testing.T) {
	for _, runs := range []string{"Objects", schedulespec.InDatabase} {
		t.Run(runs, func(t *testing.T) {
			w := newWorld(t)
			b := w.backend()
			s := newSchedule("minutely", func(s *wfs) {
				if s.Spec.CatchUp = "All"; runs == schedulespec.InDatabase {
					inDatabase(s)
				}
			})
			w.create(s)
			reached := make(chan struct{})
			var once atomic.Bool
			first := firstSlot(s)
			stopped := w.start(stoodAt(first.Add(29*time.Minute)), recording(func(ctx context.Context, _ *store.Store, _ []store.SlotOutcome, _ time.Duration) error {
				if once.CompareAndSwap(false, true) {
					close(reached)
				}
				<-ctx.Done()
				return ctx.Err()
			}))
			w.awaitBackend(b, v1alpha1.ReasonConnected)
			w.awaitDecided(s, first.Add(29*time.Minute))
			receive(t, reached)
			stopped.halt()
			db := w.store()
			if stored := w.storedSlots(db, s); len(stored) > 0 || len(fetch(w, s).Status.Outcomes) != 30 {
				t.Fatalf("%d outcomes are stored, %d in the status", len(stored), len(s.Status.Outcomes))
			}
			w.start(stoodAt(first.Add(49 * time.Minute)))
			by := w.awaitSlots(db, s, first, first.Add(49*time.Minute))
			for slot, o := range by {
				if want := schedulespec.NameOf(s, slot, ""); o.Reason != "Started" || o.Run != want {
					t.Errorf("the slot of %s is %+v, want the run %s", slot, o, want)
				}
			}
			if len(by) != 50 {
				t.Errorf("%d slots have an outcome", len(by))
			}
		})
	}
}

// TestScheduleOutcomes_P6_AllAreStoredInTheEnd: of schedules whose slots are caught up, skipped and
// started, while managers come and go.
func TestScheduleOutcomes_P6_AllAreStoredInTheEnd(t *testing.T) {
	w := newWorld(t)
	sameClock := fast()
	w.start(sameClock)
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	db := w.store()
	schedules := []*wfs{
		newSchedule("all", func(s *wfs) { s.Spec.CatchUp = "All" }),
		newSchedule("forbid", func(s *wfs) { s.Spec.OverlapPolicy = "Forbid" }),
		newSchedule("rows", inDatabase, func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.CatchUp = "Replace", "All" }),
	}
	for _, s := range schedules {
		w.create(s)
	}
	for restart := 1; restart <= 3; restart++ {
		second := w.start(sameClock)
		for _, s := range schedules {
			w.awaitDecided(s, s.CreationTimestamp.Add(time.Duration(restart)*15*time.Minute))
		}
		second.halt()
	}
	for _, s := range schedules {
		until := fetch(w, s).Status.DecidedUntil.UTC()
		w.awaitSlots(db, s, firstSlot(s), until)
	}
	for slot := range w.runsOf(schedules[0]) { // a run is a slot that was started
		if o := w.awaitSlots(db, schedules[0], slot, slot)[slot]; o.Reason != "Started" {
			t.Errorf("the slot of %s has a run, and is %+v", slot, o)
		}
	}
}

// TestScheduleOutcomes_TheStatusKeepsThemWhileTheBackendIsAway: slots with objects start all the same, and
// their outcomes are stored when it is back.
func TestScheduleOutcomes_TheStatusKeepsThemWhileTheBackendIsAway(t *testing.T) {
	w := newWorld(t)
	b := w.backend()
	s := newSchedule("minutely", func(s *wfs) { s.Spec.CatchUp = "All" })
	w.create(s)
	first := firstSlot(s)
	away := errors.New("the database is away")
	var back atomic.Bool
	failing := recording(func(ctx context.Context, s *store.Store, outcomes []store.SlotOutcome, ttl time.Duration) error {
		if !back.Load() {
			return away
		}
		return s.RecordSlots(ctx, outcomes, ttl)
	})
	manager := w.start(stoodAt(first.Add(19*time.Minute)), failing)
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	w.awaitDecided(s, first.Add(19*time.Minute))
	manager.halt()
	w.start(stoodAt(first.Add(69*time.Minute)), failing)
	w.awaitDecided(s, first.Add(69*time.Minute))
	if n := len(s.Status.Outcomes); n != 70 {
		t.Errorf("%d outcomes are in the status", n)
	}
	db := w.store()
	if stored := w.storedSlots(db, s); len(stored) > 0 {
		t.Errorf("%d outcomes are stored", len(stored))
	}
	back.Store(true)
	if by := w.awaitSlots(db, s, first, first.Add(69*time.Minute)); len(by) != 70 {
		t.Errorf("%d slots have an outcome", len(by))
	}
}

// setClock is a clock that a test sets.
type setClock struct{ seconds *atomic.Int64 }

func (c setClock) Now() time.Time                  { return time.Unix(c.seconds.Load(), 0).UTC() }
func (c setClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// TestScheduleOutcomes_ManyAtOnceWaitForThoseBefore: more are caught up than a status holds, and none is
// lost. Once they are stored, the status has ten again.
func TestScheduleOutcomes_ManyAtOnceWaitForThoseBefore(t *testing.T) {
	w := newWorld(t)
	b := w.backend()
	s := newSchedule("minutely", func(s *wfs) { s.Spec.CatchUp = "All" })
	w.create(s)
	first, clock := firstSlot(s), setClock{new(atomic.Int64)}
	last := first.Add(149 * time.Minute)
	clock.seconds.Store(first.Unix())
	w.start(func(o *managerOptions) { o.Clock, o.Intervals.Schedule = clock, 20*time.Millisecond })
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	w.awaitDecided(s, first)
	db := w.store()
	w.workOn(db, durable.DefinitionOf(workflow.Define("checkout", func(context.Context, any) (any, error) { return nil, nil }))) // at most 100 may be open
	clock.seconds.Store(last.Unix())
	w.awaitDecided(s, last)
	w.awaitSlots(db, s, first, last)
	w.awaitSchedule(s, func(s *wfs) error {
		if n := len(s.Status.Outcomes); n != schedule.MaxOutcomes {
			clock.seconds.Add(60)
			return fmt.Errorf("the status has %d outcomes", n)
		}
		return nil
	})
}

// TestScheduleOutcomes_BufferedIsReplaced: by what becomes of the slot.
func TestScheduleOutcomes_BufferedIsReplaced(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.OverlapPolicy = "BufferOne" })
	w.create(s)
	w.awaitScheduleReason(s, v1alpha1.ReasonActive)
	db := w.store()
	w.awaitOpenRow(db, s, time.Time{})
	var buffered time.Time
	outcome := func(reason string) {
		t.Helper()
		eventuallyWithin(t, time.Minute, func() error {
			for _, o := range w.storedSlots(db, s) {
				if o.Reason == reason && (buffered.IsZero() || o.Slot.Equal(buffered)) {
					buffered = o.Slot
					return nil
				}
			}
			return fmt.Errorf("no slot is %s, of %s: %+v", reason, buffered, w.storedSlots(db, s))
		})
	}
	outcome("Buffered")
	end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunComplete})
	outcome("Started")
}

// TestScheduleOutcomes_GoAfterTheirTime: also those of schedules that are deleted.
func TestScheduleOutcomes_GoAfterTheirTime(t *testing.T) {
	w := newManagedWorld(t, startRetaining)
	b := &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "default"}}
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	db := w.store()
	now := time.Now().UTC().Truncate(time.Minute)
	s := newSchedule("deleted")
	s.UID = "deleted"
	var outcomes []store.SlotOutcome
	for _, ago := range []time.Duration{time.Hour, 48 * time.Hour, 29 * 24 * time.Hour, 31 * 24 * time.Hour} {
		outcomes = append(outcomes, store.SlotOutcome{
			Schedule: store.ScheduleKey{Cluster: "test-cluster", Namespace: w.Namespace, Name: s.Name, UID: string(s.UID)},
			Slot:     now.Add(-ago), Last: now.Add(-ago), Slots: 1, Reason: "Missed",
		})
	}
	if err := db.RecordSlots(t.Context(), outcomes, 10_000*time.Hour); err != nil {
		t.Fatal(err)
	}
	left := func(want int) {
		t.Helper()
		eventuallyWithin(t, time.Minute, func() error {
			if n := len(w.storedSlots(db, s)); n != want {
				return fmt.Errorf("%d outcomes are left, want %d", n, want)
			}
			return nil
		})
	}
	left(3)
	w.retain(fetch(w, b), v1alpha1.RunRetention{TTLSecondsAfterFinished: day})
	left(1)
}

// loggedSchedule returns a schedule with outcomes of a number of slots, of a uid.
func loggedSchedule(uid string, slots int) *wfs {
	s := newSchedule("s-" + uid)
	s.Namespace, s.UID = "team", types.UID(uid)
	for i := range slots {
		s.Status.Outcomes = append(s.Status.Outcomes, v1alpha1.SlotOutcome{Time: &metav1.Time{Time: noon.Add(time.Duration(i) * time.Minute)}, Reason: "Started"})
	}
	return s
}

// TestOutcomeLog_KnowsWhatIsStored: by what the status says, and the Backend.
func TestOutcomeLog_KnowsWhatIsStored(t *testing.T) {
	t.Parallel()
	l := newOutcomeLog(nil)
	s := loggedSchedule("1", 3)
	key := backendOf(s)
	b, release := l.use(key)
	defer release()
	l.seen(loggedSchedule("2", 0))
	if n := l.unstored(s); n != 3 || len(l.next(b, 10)) != 0 {
		t.Errorf("%d are not stored, %d wait", n, len(l.next(b, 10)))
	}
	l.seen(s)
	first := l.next(b, 10)
	later := loggedSchedule("1", 4)
	l.seen(later)
	l.settle(b, first, nil)
	if n, waiting := l.unstored(s), l.next(b, 10); n != 0 || l.unstored(later) != 4 || len(waiting) != 1 || len(waiting[0].outcomes) != 4 {
		t.Errorf("%d are not stored, these wait: %+v", n, waiting)
	}
	l.settle(b, l.next(b, 10), errors.New("away"))
	if l.unstored(later) != 4 || len(l.next(b, 10)) != 1 || l.room(later, schedule.MaxUnstored, true) != maxScheduleWrites {
		t.Error("what has failed counts as stored, or slots wait for it")
	}
	l.settle(b, l.next(b, 10), nil)
	l.seen(later)
	if l.unstored(later) != 0 || len(l.next(b, 10)) != 0 {
		t.Errorf("these wait again: %+v", l.next(b, 10))
	}
	for change, f := range map[string]func(*v1alpha1.SlotOutcome){
		"reason": func(o *v1alpha1.SlotOutcome) { o.Reason = "Missed" }, "count": func(o *v1alpha1.SlotOutcome) { o.Count = 2 },
		"until": func(o *v1alpha1.SlotOutcome) { o.Until = o.Time }, "run": func(o *v1alpha1.SlotOutcome) { o.Run = "r" },
		"message": func(o *v1alpha1.SlotOutcome) { o.Message = "r" }, "no time": func(o *v1alpha1.SlotOutcome) { o.Time = nil },
	} {
		changed := later.DeepCopy()
		if f(&changed.Status.Outcomes[2]); l.unstored(changed) != 4 {
			t.Errorf("with another %s it counts as stored", change)
		}
	}
	moved := later.DeepCopy()
	moved.Spec.RunTemplate.BackendRef.Name = "other"
	l.seen(moved)
	if other, forget := l.use(backendOf(moved)); len(l.next(other, 10)) != 1 || len(l.next(b, 10)) != 0 {
		t.Error("a schedule with another Backend does not wait there alone")
	} else {
		forget()
	}
}

// TestOutcomeLog_SlotsWaitOnlyWhileOthersAreBeingStored: with many in the status.
func TestOutcomeLog_SlotsWaitOnlyWhileOthersAreBeingStored(t *testing.T) {
	t.Parallel()
	l := newOutcomeLog(nil)
	s := loggedSchedule("1", 60)
	if room := l.room(s, 60, true); room != maxScheduleWrites {
		t.Errorf("without a sweep, room is %d", room)
	}
	_, release := l.use(backendOf(s))
	for unstored, want := range map[int]int{0: 50, 10: 40, 49: 1, 50: 0, 60: 0, 100: 0} {
		if room := l.room(s, unstored, true); room != want {
			t.Errorf("with %d that are not stored, room is %d, want %d", unstored, room, want)
		}
	}
	if room := l.room(s, 60, false); room != maxScheduleWrites {
		t.Errorf("while the Backend is not ready, room is %d", room)
	}
	release()
}

// TestOutcomeLog_P9_SchedulesThatAreGoneCostNothing: nor Backends that never come.
func TestOutcomeLog_P9_SchedulesThatAreGoneCostNothing(t *testing.T) {
	t.Parallel()
	l := newOutcomeLog(nil)
	s := loggedSchedule("1", 3)
	l.seen(s)
	l.gone(s) // no sweep: its Backend may never come
	if len(l.backends)+len(l.in)+len(l.stored) != 0 {
		t.Errorf("remembered are %+v", l)
	}
	b, release := l.use(backendOf(s))
	l.seen(s)
	l.gone(s)
	if waiting := l.next(b, 10); len(waiting) != 1 || len(waiting[0].outcomes) != 3 {
		t.Errorf("the last outcomes of a deleted schedule are %+v", waiting)
	}
	l.gone(s)
	l.settle(b, l.next(b, 10), nil)
	if len(l.in)+len(l.stored)+len(b.waiting)+b.deleted != 0 {
		t.Errorf("remembered are %+v", l)
	}
	for i := range 2 * maxDeletedOutcomes {
		s := loggedSchedule(fmt.Sprint("x", i), 1)
		l.seen(s)
		l.gone(s)
	}
	if len(b.waiting) != maxDeletedOutcomes {
		t.Errorf("%d deleted schedules are remembered", len(b.waiting))
	}
	for list := l.next(b, 30); len(list) > 0; list = l.next(b, 30) {
		l.settle(b, list, nil)
	}
	release()
	if len(l.backends)+len(l.in)+len(l.stored) != 0 {
		t.Errorf("remembered are %+v", l)
	}
}
