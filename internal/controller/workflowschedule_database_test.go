package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// inDatabase makes a schedule start its runs without objects.
func inDatabase(s *wfs) {
	s.Spec.Runs, s.Spec.SuccessfulRunsHistoryLimit, s.Spec.FailedRunsHistoryLimit = schedulespec.InDatabase, nil, nil
}

// rowsOf returns the runs that a schedule has started in the database, by the times of their slots. It
// fails if a slot has two, or if there is a WorkflowRun.
func (w *world) rowsOf(db *store.Store, s *wfs) map[time.Time]openworkflow.Run {
	w.t.Helper()
	rows := map[time.Time]openworkflow.Run{}
	for after := ""; ; {
		page, err := db.ListRuns(context.Background(), store.RunFilter{}, store.Page{Limit: 1000, After: after})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, row := range page.Runs {
			var c openworkflow.RunContext
			if err := json.Unmarshal(row.Context, &c); err != nil || c.Schedule == nil || c.Schedule.UID != string(s.UID) {
				continue
			}
			slot, err := time.Parse(time.RFC3339, c.Schedule.ScheduledAt)
			if err != nil {
				w.t.Fatal(err)
			}
			if other, exists := rows[slot]; exists {
				w.t.Errorf("the slot of %s has the runs %s and %s", slot, other.ID, row.ID)
			}
			rows[slot] = row
		}
		if after = page.Next; after == "" {
			break
		}
	}
	if objects := w.runsOf(s); len(objects) > 0 {
		w.t.Errorf("%d WorkflowRuns exist", len(objects))
	}
	return rows
}

// awaitOpenRow waits for an open run of a schedule, after a slot.
func (w *world) awaitOpenRow(db *store.Store, s *wfs, after time.Time) (slot time.Time, found openworkflow.Run) {
	w.t.Helper()
	eventuallyWithin(w.t, time.Minute, func() error {
		for at, row := range w.rowsOf(db, s) {
			if at.After(after) && row.Status == openworkflow.RunPending {
				slot, found = at, row
				return nil
			}
		}
		return fmt.Errorf("no run is open after %s", after)
	})
	return slot, found
}

// TestScheduleInDatabase_P6_NoSlotIsLostOrDoubled: two managers that both take themselves for the leader,
// one of which stops and starts again and again.
func TestScheduleInDatabase_P6_NoSlotIsLostOrDoubled(t *testing.T) {
	w := newWorld(t)
	sameClock := fast()
	w.start(sameClock)
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	var executed atomic.Int64
	db := w.store()
	w.workOn(db, durable.DefinitionOf(workflow.Define("checkout", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "count", func(context.Context) (int64, error) { return executed.Add(1), nil })
	})))
	s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.CatchUp = "All" })
	w.create(s)
	for restart := 1; restart <= 3; restart++ {
		second := w.start(sameClock)
		until := s.CreationTimestamp.Add(time.Duration(restart) * 10 * time.Minute)
		w.awaitSchedule(s, func(s *wfs) error {
			if s.Status.DecidedUntil == nil || s.Status.DecidedUntil.Time.Before(until) {
				return fmt.Errorf("slots until %s are not decided", until)
			}
			return nil
		})
		second.halt()
	}
	modify(w, s, func(s *wfs) { s.Spec.Suspend = new(true) })
	w.awaitScheduleReason(s, v1alpha1.ReasonSuspended)
	w.awaitSchedule(s, func(s *wfs) error {
		if len(s.Status.Active) > 0 || s.Status.Starting != nil {
			return fmt.Errorf("%d runs are open", len(s.Status.Active))
		}
		return nil
	})
	rows := w.rowsOf(db, s)
	first, last := s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC(), s.Status.LastScheduleTime.UTC()
	for slot := first; !slot.After(last); slot = slot.Add(time.Minute) {
		if row := rows[slot]; row.ID != schedulespec.NameOf(s, slot, "") || row.Status != openworkflow.RunCompleted {
			t.Errorf("the run of the slot of %s is %+v", slot, row)
		}
	}
	if want := int(last.Sub(first)/time.Minute) + 1; len(rows) != want || int(executed.Load()) != want || want < 30 {
		t.Errorf("there are %d rows, %d runs were executed, want %d", len(rows), executed.Load(), want)
	}
	if s.Status.LastSuccessfulTime == nil {
		t.Errorf("no success counts: %+v", s.Status)
	}
}

// stopping is a manager that stops for ever at a moment of a start.
func stopping(at string, reached chan struct{}) func(*managerOptions) {
	var once atomic.Bool
	stop := func(ctx context.Context) error {
		if once.CompareAndSwap(false, true) {
			close(reached)
		}
		<-ctx.Done()
		return ctx.Err()
	}
	return func(o *managerOptions) {
		if at == "before the row" {
			o.Open = func(ctx context.Context, so store.Options) (backend.Store, error) {
				opened, err := store.Open(ctx, so)
				if err != nil {
					return nil, err
				}
				return stoppedCreates{opened, stop}, nil
			}
			return
		}
		o.newClient = func(config *rest.Config, co client.Options) (client.Client, error) {
			inner, err := client.NewWithWatch(config, co)
			if err != nil {
				return nil, err
			}
			return interceptor.NewClient(inner, interceptor.Funcs{
				SubResourcePatch: func(ctx context.Context, c client.Client, sub string, object client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
					if data, err := p.Data(object); err == nil && strings.Contains(string(data), `"reason":"Started"`) {
						return stop(ctx)
					}
					return c.SubResource(sub).Patch(ctx, object, p, opts...)
				},
			}), nil
		}
	}
}

// stoppedCreates is a store in which no run is created.
type stoppedCreates struct {
	*store.Store
	stop func(context.Context) error
}

func (s stoppedCreates) CreateRuns(ctx context.Context, _ []store.NewRun) ([]store.Created, error) {
	return nil, s.stop(ctx)
}

// TestScheduleInDatabase_P6_AStopInAStartCostsNoSlot: whichever manager comes next starts the slot that
// was decided, once, though it is too late for a slot that was not.
func TestScheduleInDatabase_P6_AStopInAStartCostsNoSlot(t *testing.T) {
	for _, at := range []string{"before the row", "before the status"} {
		for _, policy := range []string{"Allow", "Forbid"} {
			t.Run(at+", "+policy, func(t *testing.T) {
				w := newWorld(t)
				w.backend()
				s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.CatchUp = policy, "None" })
				w.create(s)
				first := s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC()
				clockAt := func(at time.Time) func(*managerOptions) {
					return func(o *managerOptions) { o.Clock, o.Intervals.Schedule = fastClock{at, 0}, 20*time.Millisecond }
				}
				reached := make(chan struct{})
				stopped := w.start(clockAt(first), stopping(at, reached))
				receive(t, reached)
				stopped.halt()
				fetch(w, s)
				if starting := s.Status.Starting; starting == nil || !starting.Time.Time.Equal(first) || starting.Run != schedulespec.NameOf(s, first, "") {
					t.Errorf("status.starting is %+v", starting)
				}
				later := first.Add(5 * time.Minute)
				w.start(clockAt(later))
				w.awaitSchedule(s, func(s *wfs) error {
					if s.Status.DecidedUntil.Time.Before(later) || s.Status.Starting != nil {
						return fmt.Errorf("slots until %s are not decided", later)
					}
					return nil
				})
				rows := w.rowsOf(w.store(), s)
				for slot := first; !slot.After(later); slot = slot.Add(time.Minute) {
					if _, exists := rows[slot]; exists != (slot.Equal(first) || policy == "Allow" && slot.After(first.Add(3*time.Minute))) {
						t.Errorf("that the slot of %s has a run is %t; outcomes are %+v", slot, exists, s.Status.Outcomes)
					}
				}
			})
		}
	}
}

// TestScheduleInDatabase_ForbidIsNeverViolated: by two managers, whose clocks differ.
func TestScheduleInDatabase_ForbidIsNeverViolated(t *testing.T) {
	w := newWorld(t)
	began := fastClock{time.Now(), 600}
	for _, ahead := range []time.Duration{0, 90 * time.Second} {
		w.start(func(o *managerOptions) { o.Clock, o.Intervals.Schedule = offClock{began, ahead}, 20*time.Millisecond })
	}
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	db := w.store()
	var c counted
	w.workOn(db, c.definition(300*time.Millisecond))
	s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.CatchUp = "Forbid", "All" })
	w.create(s)
	eventuallyWithin(t, time.Minute, func() error {
		if n := c.executed.Load(); n < 5 {
			return fmt.Errorf("%d runs were executed", n)
		}
		return nil
	})
	if n := c.most.Load(); n > 1 {
		t.Errorf("%d runs were open at once", n)
	}
	if fetch(w, s); !slices.ContainsFunc(s.Status.Outcomes, func(o v1alpha1.SlotOutcome) bool { return o.Reason == "SkippedOverlap" }) {
		t.Errorf("no slot was skipped: %+v", s.Status.Outcomes)
	}
}

// TestScheduleInDatabase_ReplaceAndBufferOneWaitForTheEnd: of a run, whose end no event announces.
func TestScheduleInDatabase_ReplaceAndBufferOneWaitForTheEnd(t *testing.T) {
	for _, policy := range []string{"Replace", "BufferOne"} {
		t.Run(policy, func(t *testing.T) {
			w := newManagedWorld(t, fast())
			s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.OverlapPolicy = policy })
			w.create(s)
			w.awaitBackend(&v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "default"}}, v1alpha1.ReasonConnected)
			db := w.store()
			slot, first := w.awaitOpenRow(db, s, time.Time{})
			if policy == "BufferOne" {
				w.awaitSchedule(s, func(s *wfs) error {
					if s.Status.BufferedTime == nil {
						return fmt.Errorf("no slot is buffered")
					}
					return nil
				})
				if n := len(w.rowsOf(db, s)); n != 1 {
					t.Errorf("%d runs exist while one is open", n)
				}
				end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunComplete})
			}
			_, second := w.awaitOpenRow(db, s, slot)
			ended, err := db.GetRuns(t.Context(), []string{first.ID})
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]openworkflow.RunStatus{"Replace": openworkflow.RunCanceled, "BufferOne": openworkflow.RunCompleted}[policy]
			if row := ended[first.ID]; row.Status != want || second.CreatedAt.Before(row.UpdatedAt.Truncate(time.Millisecond)) {
				t.Errorf("the first run is %s since %s, the second was created at %s", row.Status, row.UpdatedAt, second.CreatedAt)
			}
		})
	}
}

// TestScheduleInDatabase_PausesAfterFailures: which the rows say.
func TestScheduleInDatabase_PausesAfterFailures(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.PauseAfterFailures = "Forbid", new(int32(2)) })
	w.create(s)
	w.awaitScheduleReason(s, v1alpha1.ReasonActive)
	db := w.store()
	for range 2 {
		end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunFail, Error: json.RawMessage(`{"message":"broken"}`)})
	}
	w.awaitScheduleReason(s, v1alpha1.ReasonPausedAfterFailures)
	last := s.Status.LastScheduleTime.UTC()
	if n := len(w.rowsOf(db, s)); n != 2 || *s.Status.Failures != 2 {
		t.Errorf("%d runs exist, status is %+v", n, s.Status)
	}
	modify(w, s, func(s *wfs) { s.Spec.RunTemplate.Input = &apiextensionsv1.JSON{Raw: []byte(`"better"`)} })
	if _, row := w.awaitOpenRow(db, s, last); string(row.Input) != `"better"` {
		t.Errorf("the input is %s", row.Input)
	}
}

// TestScheduleInDatabase_WaitsForItsBackend: and catches up. The runs outlive the schedule.
func TestScheduleInDatabase_WaitsForItsBackend(t *testing.T) {
	w := newWorld(t)
	w.start(fast())
	s := newSchedule("minutely", inDatabase, func(s *wfs) { s.Spec.CatchUp, s.Spec.RunTemplate.TimeoutSeconds = "All", new(int64(3600)) })
	w.create(s)
	if message, want := w.awaitScheduleReason(s, v1alpha1.ReasonBackendNotFound), `Backend "default" does not exist in this namespace: create it, or name another in spec.backendRef`; message != want {
		t.Errorf("message is %q, want %q", message, want)
	}
	if !meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReconciling) || !s.Status.DecidedUntil.Equal(&s.CreationTimestamp) {
		t.Errorf("status is %+v", s.Status)
	}
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	w.awaitScheduleReason(s, v1alpha1.ReasonActive)
	db := w.store()
	first := s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC()
	var rows map[time.Time]openworkflow.Run
	eventuallyWithin(t, time.Minute, func() error {
		if rows = w.rowsOf(db, s); rows[first].ID == "" {
			return fmt.Errorf("the slot of %s has no run", first)
		}
		return nil
	})
	if row := rows[first]; row.DeadlineAt == nil || row.DeadlineAt.Sub(row.CreatedAt).Round(time.Second) != time.Hour {
		t.Errorf("the run is %+v", row)
	}
	if err := w.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	claim(t, db, "pod") // a run goes on
}

// TestScheduleInDatabase_BackfillsByRows: those that exist are skipped, or started again if they have
// failed.
func TestScheduleInDatabase_BackfillsByRows(t *testing.T) {
	w := newManagedWorld(t)
	s := newSchedule("past", inDatabase, backfilled(v1alpha1.Backfill{Name: "first", StartAt: hour(0), EndAt: hour(2)}))
	w.create(s)
	w.awaitSchedule(s, func(s *wfs) error {
		if len(s.Status.Backfills) == 0 || s.Status.Backfills[0].Started != 3 {
			return fmt.Errorf("no backfill has started")
		}
		return nil
	})
	db := w.store()
	for i := range 3 {
		write := store.RunWrite{Op: store.RunComplete}
		if i == 0 {
			write = store.RunWrite{Op: store.RunFail, Error: json.RawMessage(`{"message":"broken"}`)}
		}
		end(t, db, claim(t, db, "pod"), write)
	}
	if b := w.awaitBackfill(s, "first", v1alpha1.BackfillCompleted); b.Slots != 3 || b.Completed != 2 || b.Failed != 1 {
		t.Errorf("the backfill is %+v", b)
	}
	modify(w, s, func(s *wfs) {
		s.Spec.Backfills = append(s.Spec.Backfills, v1alpha1.Backfill{Name: "count", StartAt: hour(0), EndAt: hour(149), DryRun: new(true)},
			v1alpha1.Backfill{Name: "failed", StartAt: hour(0), EndAt: hour(2), Reprocess: "Failed"},
			v1alpha1.Backfill{Name: "none", StartAt: hour(1), EndAt: hour(2)})
	})
	if b := w.awaitBackfill(s, "count", v1alpha1.BackfillCompleted); b.Message != "dry run: 147 of 150 slots would start" {
		t.Errorf("the dry run is %+v", b)
	}
	end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunComplete})
	if b := w.awaitBackfill(s, "failed", v1alpha1.BackfillCompleted); b.Started != 1 || b.Skipped != 2 || b.Completed != 1 {
		t.Errorf("the second backfill is %+v", b)
	}
	if b := w.awaitBackfill(s, "none", v1alpha1.BackfillCompleted); b.Started != 0 || b.Skipped != 2 {
		t.Errorf("the third backfill is %+v", b)
	}
	if len(s.Status.Active) > 0 || s.Status.LastScheduleTime != nil {
		t.Errorf("the slots of backfills are taken for others: %+v", s.Status)
	}
}

// TestScheduleInDatabase_RunsOfARemovedBackfillGoOn: though a slot that is due replaces the run of another.
func TestScheduleInDatabase_RunsOfARemovedBackfillGoOn(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", inDatabase, func(s *wfs) {
		s.Spec.OverlapPolicy, s.Spec.Suspend = "Replace", new(true)
		s.Spec.Backfills = []v1alpha1.Backfill{{Name: "past", StartAt: hour(0), EndAt: &metav1.Time{Time: hour(0).Add(2 * time.Minute)}}}
	})
	w.create(s)
	w.awaitScheduleReason(s, v1alpha1.ReasonSuspended)
	modify(w, s, func(s *wfs) { s.Spec.Suspend = nil })
	var ids []string
	w.awaitSchedule(s, func(s *wfs) error {
		if len(s.Status.Backfills) == 0 || len(s.Status.Backfills[0].Active) < 3 {
			return fmt.Errorf("the backfill has not started")
		}
		ids = s.Status.Backfills[0].Active
		return nil
	})
	modify(w, s, func(s *wfs) { s.Spec.Backfills = nil })
	w.awaitSchedule(s, func(s *wfs) error {
		if len(s.Status.Backfills) > 0 {
			return fmt.Errorf("the backfill is not removed")
		}
		return nil
	})
	removed := timeOf(s.Status.LastScheduleTime)
	db := w.store()
	var replaced openworkflow.Run
	eventuallyWithin(t, time.Minute, func() error { // a slot has replaced another since
		for slot, row := range w.rowsOf(db, s) {
			if slot.After(removed) && row.Status == openworkflow.RunCanceled {
				replaced = row
				return nil
			}
		}
		return fmt.Errorf("no run was replaced since %s", removed)
	})
	rows, err := db.GetRuns(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if row := rows[id]; row.Status != openworkflow.RunPending {
			t.Errorf("run %s of the backfill is %s; %s was replaced", id, row.Status, replaced.ID)
		}
	}
	if fetch(w, s); slices.ContainsFunc(s.Status.Active, func(id string) bool { return slices.Contains(ids, id) }) {
		t.Errorf("active are %v, with runs of the backfill %v", s.Status.Active, ids)
	}
}

// TestScheduleInDatabase_P7_BadInput: what the API server refuses, and what the manager says of a value
// that no row holds.
func TestScheduleInDatabase_P7_BadInput(t *testing.T) {
	w := newManagedWorld(t, fast())
	refused := func(err error, want string) {
		t.Helper()
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("the answer is %v, want %q", err, want)
		}
	}
	s := newSchedule("refused", func(s *wfs) { s.Spec.Runs = "Nowhere" })
	s.Namespace = w.Namespace
	refused(w.Create(t.Context(), s), `supported values: "Objects", "InDatabase"`)
	s = newSchedule("refused", inDatabase, func(s *wfs) { s.Spec.FailedRunsHistoryLimit = new(int32(5)) })
	s.Namespace = w.Namespace
	refused(w.Create(t.Context(), s), "history limits are for WorkflowRuns: with runs InDatabase, spec.retention of the Backend says how long rows stay")
	s = newSchedule("stored", inDatabase, func(s *wfs) { s.Spec.RunTemplate.Input = &apiextensionsv1.JSON{Raw: []byte(`"\u0000"`)} })
	w.create(s)
	changed := s.DeepCopy()
	changed.Spec.Runs = "Objects"
	refused(w.Update(t.Context(), changed), "runs does not change: create another WorkflowSchedule, and delete this one")
	changed = s.DeepCopy()
	changed.Spec.RunTemplate.BackendRef.Name = "other"
	refused(w.Update(t.Context(), changed), "runTemplate.backendRef does not change with runs InDatabase, as open runs are there: create another WorkflowSchedule")

	if message := w.awaitScheduleReason(s, v1alpha1.ReasonInvalidRunTemplate); !strings.HasPrefix(message, "the database cannot store what spec.runTemplate becomes: ") {
		t.Errorf("message is %q", message)
	}
	modify(w, s, func(s *wfs) { s.Spec.RunTemplate.Input = nil })
	w.awaitScheduleReason(s, v1alpha1.ReasonActive)
	w.awaitOpenRow(w.store(), s, time.Time{})
}
