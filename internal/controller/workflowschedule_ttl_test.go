package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
	"github.com/openworkflow-operator/operator/internal/store"
)

// TestAccountedFor: a run whose object may go has an outcome in the status of its schedule.
func TestAccountedFor(t *testing.T) {
	t.Parallel()
	seen := seenSchedule(func(s *wfs) { s.Spec.Backfills = []v1alpha1.Backfill{{Name: "past"}, {Name: "new"}} })
	s := seen.Schedule
	name := func(hours int, backfill string) string {
		suffix := backfill
		if backfill != "" && backfill != schedulespec.Manual {
			suffix = schedulespec.BackfillSuffix(backfill)
		}
		return schedulespec.RunName(s.Name, noon.Add(time.Duration(hours)*time.Hour), suffix)
	}
	until := metav1.Time{Time: noon}
	s.Status.DecidedUntil, s.Status.Active = &until, []string{name(-1, "")}
	s.Status.Starting = &v1alpha1.StartingSlot{Time: &metav1.Time{Time: noon.Add(-2 * time.Hour)}, Run: name(-2, "")}
	s.Status.Backfills = []v1alpha1.BackfillStatus{
		{Name: "past", State: v1alpha1.BackfillRunning, DecidedUntil: &until, Starting: []string{name(-1, "past")}, Active: []string{name(-2, "past")}},
		{Name: "done", State: v1alpha1.BackfillCompleted, DecidedUntil: &until},
	}
	for name, want := range map[string]bool{
		name(-3, ""): true, name(-2, ""): false, name(-1, ""): false, name(0, ""): true, name(1, ""): false,
		name(-3, "past"): true, name(-2, "past"): false, name(-1, "past"): false, name(1, "past"): false,
		name(-1, "done"): true, name(1, "done"): true,
		name(-1, "new"):              false, // the status is older than the run
		name(-1, "removed"):          true,
		name(1, schedulespec.Manual): true, "renamed": true,
	} {
		if got := accountedFor(s, name); got != want {
			t.Errorf("that %s is accounted for is %t", name, got)
		}
	}
}

// expiring creates the Backend "default", whose objects are deleted when their runs have ended.
func (w *world) expiring() *v1alpha1.Backend {
	w.t.Helper()
	w.secret("db", w.URL)
	b := newBackend()
	b.Spec.Retention.ObjectTTLSecondsAfterFinished = new(int32(0))
	w.create(b)
	return b
}

// rowsNamed returns how many runs each name of an object has had.
func (w *world) rowsNamed(db *store.Store) map[string]int {
	w.t.Helper()
	page, err := db.ListRuns(context.Background(), store.RunFilter{}, store.Page{Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	names := map[string]int{}
	for _, row := range page.Runs {
		var c openworkflow.RunContext
		if err := json.Unmarshal(row.Context, &c); err != nil {
			w.t.Fatal(err)
		}
		if c.Kubernetes != nil {
			names[c.Kubernetes.Name]++
		}
	}
	return names
}

// ahead makes a manager's clock be ahead.
func ahead(d time.Duration) func(*managerOptions) {
	return func(o *managerOptions) { o.Clock = offClock{fastClock{time.Now(), 1}, d} }
}

// TestSchedule_P6_ABackfillWithoutObjectsStartsEachSlotOnce: the object of a run that has ended may be
// gone before anybody has looked, unless it is kept until the schedule has.
func TestSchedule_P6_ABackfillWithoutObjectsStartsEachSlotOnce(t *testing.T) {
	w := newWorld(t)
	first := w.start()
	w.awaitBackend(w.expiring(), v1alpha1.ReasonConnected)
	db := w.store()
	var work counted
	w.workOn(db, work.definition(0))
	s := newSchedule("past", backfilled(v1alpha1.Backfill{Name: "day", StartAt: hour(0), EndAt: hour(39)}))
	w.create(s)
	b := w.awaitBackfill(s, "day", v1alpha1.BackfillCompleted)
	if n := work.executed.Load(); n != 40 || b.Started != 40 || b.Completed != 40 || b.Canceled > 0 {
		t.Errorf("%d runs were executed, the backfill is %+v", n, b)
	}
	first.halt()
	w.start(ahead(2 * settleTime))
	eventually(t, func() error {
		if runs := w.runsOf(s); len(runs) > 0 {
			return fmt.Errorf("%d objects are still there", len(runs))
		}
		return nil
	})
	for name, n := range w.rowsNamed(db) {
		if n != 1 {
			t.Errorf("%s was started %d times", name, n)
		}
	}
}

// TestSchedule_P6_ASlotWithoutObjectStartsOnce: a manager dies after it has created the run of a slot,
// which ends before the next manager has seen it.
func TestSchedule_P6_ASlotWithoutObjectStartsOnce(t *testing.T) {
	w := newWorld(t)
	w.expiring()
	s := newSchedule("minutely", func(s *wfs) { s.Spec.CatchUp = "All" })
	w.create(s)
	first := s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC()
	clockAt := func(at time.Time) func(*managerOptions) {
		return func(o *managerOptions) { o.Clock, o.Intervals.Schedule = fastClock{at, 0}, 20*time.Millisecond }
	}
	reached := make(chan struct{})
	stopped := w.start(clockAt(first), stopping("before the status", reached))
	receive(t, reached)
	db := w.store()
	var work counted
	w.workOn(db, work.definition(0))
	run := &run{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: schedulespec.RunName(s.Name, first, "")}}
	gone := func(o client.Object) bool {
		return apierrors.IsNotFound(w.Get(context.Background(), client.ObjectKeyFromObject(o), o))
	}
	eventually(t, func() error {
		if !gone(run) && !run.Status.State.Terminal() {
			return fmt.Errorf("the run is %s", run.Status.State)
		}
		return nil
	})
	witness := newTestRun("witness") // once it is gone, the manager has looked at the run of the slot
	w.create(witness)
	eventually(t, func() error {
		if !gone(witness) {
			return errors.New("the witness is still there")
		}
		return nil
	})
	stopped.halt()

	later := first.Add(5 * time.Minute)
	w.start(clockAt(later))
	w.awaitSchedule(s, func(s *wfs) error {
		if s.Status.LastSuccessfulTime == nil || s.Status.DecidedUntil.Time.Before(later) || len(s.Status.Active) > 0 {
			return errors.New("not all runs count")
		}
		return nil
	})
	if n := w.rowsNamed(db)[run.Name]; n != 1 {
		t.Errorf("the slot has started %d times", n)
	}
	eventually(t, func() error {
		if !gone(run) {
			return errors.New("the object is still there")
		}
		return nil
	})
}

// TestSchedule_ADeletedScheduleKeepsNoRuns: nothing but the garbage collector, which tests do not have,
// is there to delete them else.
func TestSchedule_ADeletedScheduleKeepsNoRuns(t *testing.T) {
	w := newWorld(t)
	first := w.start()
	w.awaitBackend(w.expiring(), v1alpha1.ReasonConnected)
	db := w.store()
	s := newSchedule("past", backfilled(v1alpha1.Backfill{Name: "one", StartAt: hour(0), EndAt: hour(0)}))
	w.create(s)
	_, run := w.awaitOpenRun(s, time.Time{})
	end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunComplete})
	w.awaitBackfill(s, "one", v1alpha1.BackfillCompleted)
	fetch(w, run) // it is young
	first.halt()
	if err := w.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.awaitGone(run)
}
