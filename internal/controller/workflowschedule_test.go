package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

type wfs = v1alpha1.WorkflowSchedule

// fastClock is a clock that began with the system's, and is faster.
type fastClock struct {
	began  time.Time
	factor time.Duration
}

func (c fastClock) Now() time.Time                  { return c.began.Add(time.Since(c.began) * c.factor) }
func (c fastClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// offClock is a clock that is ahead of another one.
type offClock struct {
	fastClock
	ahead time.Duration
}

func (c offClock) Now() time.Time                  { return c.fastClock.Now().Add(c.ahead) }
func (c offClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

// fast makes managers share a clock whose minutes take a tenth of a second.
func fast() func(*managerOptions) {
	clock := fastClock{time.Now(), 600}
	return func(o *managerOptions) { o.Clock, o.Intervals.Schedule = clock, 20*time.Millisecond }
}

// newSchedule returns a schedule with a slot at each minute, not created yet.
func newSchedule(name string, changes ...func(*wfs)) *wfs {
	s := &wfs{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.WorkflowScheduleSpec{
			Schedules: []string{"* * * * *"}, RunTemplate: v1alpha1.RunTemplate{WorkflowName: "checkout"},
			SuccessfulRunsHistoryLimit: new(int32(1000)), FailedRunsHistoryLimit: new(int32(1000)),
		},
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

// awaitSchedule waits until check accepts a schedule.
func (w *world) awaitSchedule(s *wfs, check func(*wfs) error) {
	w.t.Helper()
	eventuallyWithin(w.t, time.Minute, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		if err := check(s); err != nil {
			return fmt.Errorf("%w; status is %+v", err, s.Status)
		}
		return nil
	})
}

// awaitScheduleReason waits for the reason of a schedule's Ready condition and returns its message.
func (w *world) awaitScheduleReason(s *wfs, reason string) (message string) {
	w.t.Helper()
	w.awaitSchedule(s, func(s *wfs) error {
		c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Reason != reason || s.Status.ObservedGeneration != s.Generation {
			return fmt.Errorf("reason is not %s", reason)
		}
		message = c.Message
		return nil
	})
	return message
}

// runsOf returns the runs of a schedule, by the times of their slots.
func (w *world) runsOf(s *wfs) map[time.Time]*v1alpha1.WorkflowRun {
	w.t.Helper()
	var list v1alpha1.WorkflowRunList
	if err := w.List(context.Background(), &list, client.InNamespace(w.Namespace), client.MatchingLabels{v1alpha1.LabelSchedule: s.Name}); err != nil {
		w.t.Fatal(err)
	}
	runs := map[time.Time]*v1alpha1.WorkflowRun{}
	for i := range list.Items {
		slot, err := time.Parse(time.RFC3339, list.Items[i].Annotations[v1alpha1.AnnotationScheduledAt])
		if err != nil {
			w.t.Fatal(err)
		}
		runs[slot] = &list.Items[i]
	}
	return runs
}

// awaitOpenRun waits for a run of a schedule that has a row, after a slot.
func (w *world) awaitOpenRun(s *wfs, after time.Time) (slot time.Time, run *v1alpha1.WorkflowRun) {
	w.t.Helper()
	eventuallyWithin(w.t, time.Minute, func() error {
		for at, candidate := range w.runsOf(s) {
			if at.After(after) && !candidate.Status.State.Terminal() && candidate.Status.RunID != "" {
				slot, run = at, candidate
				return nil
			}
		}
		return fmt.Errorf("no run is open after %s", after)
	})
	return slot, run
}

// workOn executes workflows until the test ends.
func (w *world) workOn(s *store.Store, definitions ...durable.Definition) {
	w.t.Helper()
	worker, err := runner.New(s, definitions, runner.Options{PodUID: "pod", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() { _ = worker.Run(ctx, time.Second) })
	w.t.Cleanup(func() {
		cancel()
		task.Wait()
	})
}

// TestSchedule_NoSlotIsLostOrDoubled: two managers that both take themselves for the leader, one of
// which stops and starts again and again.
func TestSchedule_NoSlotIsLostOrDoubled(t *testing.T) {
	w := newWorld(t)
	sameClock := fast()
	w.start(sameClock)
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	var executed atomic.Int64
	w.workOn(w.store(), durable.DefinitionOf(workflow.Define("checkout", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "count", func(context.Context) (int64, error) { return executed.Add(1), nil })
	})))
	schedules := make([]*wfs, 2)
	for i := range schedules {
		schedules[i] = newSchedule(fmt.Sprintf("minutely-%d", i), func(s *wfs) { s.Spec.CatchUp = "All" })
		w.create(schedules[i])
	}
	for restart := 1; restart <= 3; restart++ {
		second := w.start(sameClock)
		for _, s := range schedules {
			until := s.CreationTimestamp.Add(time.Duration(restart) * 12 * time.Minute)
			w.awaitSchedule(s, func(s *wfs) error {
				if s.Status.DecidedUntil == nil || s.Status.DecidedUntil.Time.Before(until) {
					return fmt.Errorf("slots until %s are not decided", until)
				}
				return nil
			})
		}
		second.halt()
	}
	runs := 0
	for _, s := range schedules {
		modify(w, s, func(s *wfs) { s.Spec.Suspend = new(true) })
		w.awaitScheduleReason(s, v1alpha1.ReasonSuspended)
		w.awaitSchedule(s, func(s *wfs) error {
			if len(s.Status.Active) > 0 {
				return fmt.Errorf("%d runs are open", len(s.Status.Active))
			}
			return nil
		})
		// The other manager may have created a run in the moment before it saw the suspension.
		var of map[time.Time]*v1alpha1.WorkflowRun
		eventuallyWithin(t, time.Minute, func() error {
			of = w.runsOf(fetch(w, s))
			first, last := s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC(), s.Status.LastScheduleTime.UTC()
			for slot := first; !slot.After(last); slot = slot.Add(time.Minute) {
				if of[slot] == nil {
					return fmt.Errorf("%s: the slot of %s is lost; outcomes are %+v", s.Name, slot, s.Status.Outcomes)
				}
			}
			if want := int(last.Sub(first)/time.Minute) + 1; len(of) != want || want < 36 {
				return fmt.Errorf("%s: there are %d runs, want %d; outcomes are %+v", s.Name, len(of), want, s.Status.Outcomes)
			}
			return nil
		})
		runs += len(of)
	}
	eventuallyWithin(t, time.Minute, func() error {
		if n := executed.Load(); n != int64(runs) {
			return fmt.Errorf("%d runs were executed, %d exist", n, runs)
		}
		return nil
	})
}

// TestSchedule_ReplaceCancelsAndThenStarts: the later run is created after the earlier one has ended.
func TestSchedule_ReplaceCancelsAndThenStarts(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", func(s *wfs) { s.Spec.OverlapPolicy = "Replace" })
	w.create(s)
	// A slot is due each tenth of a second, so the runs may be open for moments only.
	var first, second *run
	eventually(t, func() error {
		runs := w.runsOf(s)
		slots := slices.SortedFunc(maps.Keys(runs), time.Time.Compare)
		if len(slots) < 2 {
			return fmt.Errorf("%d runs exist", len(slots))
		}
		if first, second = runs[slots[0]], runs[slots[1]]; first.Status.State != v1alpha1.RunCanceled {
			return fmt.Errorf("the first run is %s", first.Status.State)
		}
		return nil
	})
	if finished := first.Status.FinishedAt.Truncate(time.Second); second.CreationTimestamp.Before(&metav1.Time{Time: finished}) {
		t.Errorf("the second run began at %s, the first one ended at %s", second.CreationTimestamp, first.Status.FinishedAt)
	}
}

// TestSchedule_BufferOneStartsWhenTheOpenRunEnds: also if that end is all that happens.
func TestSchedule_BufferOneStartsWhenTheOpenRunEnds(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", func(s *wfs) { s.Spec.OverlapPolicy = "BufferOne" })
	w.create(s)
	slot, first := w.awaitOpenRun(s, time.Time{})
	var buffered time.Time
	w.awaitSchedule(s, func(s *wfs) error {
		if s.Status.BufferedTime == nil {
			return fmt.Errorf("no slot is buffered")
		}
		buffered = s.Status.BufferedTime.UTC()
		return nil
	})
	modify(w, first, func(r *run) { r.Spec.Cancel = new(true) })
	next, _ := w.awaitOpenRun(s, slot)
	if !next.Equal(buffered) {
		t.Errorf("the slot of %s has started, want %s", next, buffered)
	}
}

// TestSchedule_SuspendedSlotsAreSkipped: resuming starts none of them, and a change of the times
// does not reach back.
func TestSchedule_SuspendedSlotsAreSkipped(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", func(s *wfs) { s.Spec.CatchUp, s.Spec.OverlapPolicy = "All", "Forbid" })
	w.create(s)
	_, first := w.awaitOpenRun(s, time.Time{})
	modify(w, s, func(s *wfs) { s.Spec.Suspend = new(true) })
	w.awaitScheduleReason(s, v1alpha1.ReasonSuspended)
	if s.Status.PausedSince == nil || s.Status.NextScheduleTime != nil || !meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("a suspended schedule has the status %+v", s.Status)
	}
	paused, before := s.Status.PausedSince.UTC(), len(w.runsOf(s))
	witness := newSchedule("witness")
	w.create(witness)
	w.awaitSchedule(witness, func(s *wfs) error {
		if s.Status.LastScheduleTime == nil || s.Status.LastScheduleTime.Time.Before(paused.Add(6*time.Minute)) {
			return fmt.Errorf("six minutes have not passed")
		}
		return nil
	})
	if n := len(w.runsOf(s)); n != before {
		t.Errorf("%d runs were started while suspended", n-before)
	}
	modify(w, first, func(r *run) { r.Spec.Cancel = new(true) })
	w.awaitSchedule(s, func(s *wfs) error {
		if len(s.Status.Active) > 0 {
			return fmt.Errorf("%s is open", s.Status.Active)
		}
		return nil
	})
	modify(w, s, func(s *wfs) { s.Spec.Suspend = nil })
	var resumed time.Time
	w.awaitSchedule(s, func(s *wfs) error {
		for _, o := range s.Status.Outcomes {
			if o.Reason == "SkippedSuspended" && o.Count >= 4 && !o.Until.Time.Before(paused.Add(4*time.Minute)) {
				resumed = o.Until.UTC()
				return nil
			}
		}
		return fmt.Errorf("no slots were skipped")
	})
	w.awaitOpenRun(s, resumed)
	for slot := range w.runsOf(s) {
		if slot.After(paused) && !slot.After(resumed) {
			t.Errorf("the slot of %s has started, though suspended from %s to %s", slot, paused, resumed)
		}
	}

	modify(w, s, func(s *wfs) { s.Spec.Schedules = []string{"*/2 * * * *", "1-59/2 * * * *"}; s.Spec.Suspend = new(true) })
	w.awaitScheduleReason(s, v1alpha1.ReasonSuspended)
	changed := s.Status.DecidedUntil.UTC()
	modify(w, s, func(s *wfs) { s.Spec.Schedules = []string{"0 0 1 1 *"}; s.Spec.Suspend = nil })
	w.awaitScheduleReason(s, v1alpha1.ReasonActive)
	if s.Status.DecidedUntil.UTC().Before(changed) || s.Status.NextScheduleTime.UTC().Format("01-02T15:04") != "01-01T00:00" {
		t.Errorf("after a change of the times, status is %+v", s.Status)
	}
}

// TestSchedule_RunsAreWhatTheTemplateSays: input, owner, and the slot's time in the input.
func TestSchedule_RunsAreWhatTheTemplateSays(t *testing.T) {
	w := newManagedWorld(t, fast())
	name := strings.Repeat("long.", 45) + "name" // 229 characters, label values have 63
	s := newSchedule(name, func(s *wfs) {
		s.Spec.RunTemplate = v1alpha1.RunTemplate{
			WorkflowName: "report", Version: "2", Input: &apiextensionsv1.JSON{Raw: []byte(`{"currency":"EUR","until":1}`)},
			ScheduledTimeField: "until", TimeoutSeconds: new(int64(3600)),
		}
		s.Spec.TimeZone = "Europe/Berlin"
	})
	w.create(s)
	w.awaitSchedule(s, func(s *wfs) error {
		if s.Status.LastScheduleTime == nil {
			return fmt.Errorf("no slot has started")
		}
		return nil
	})
	started := s.Status.Outcomes[slices.IndexFunc(s.Status.Outcomes, func(o v1alpha1.SlotOutcome) bool { return o.Reason == "Started" })]
	created := &run{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: started.Run}}
	fetch(w, created)
	slot := started.Time.UTC().Format(time.RFC3339)
	if got, want := string(created.Spec.Input.Raw), `{"currency":"EUR","until":"`+slot+`"}`; got != want {
		t.Errorf("input is %s, want %s", got, want)
	}
	if created.Spec.WorkflowName != "report" || created.Spec.Version != "2" || *created.Spec.TimeoutSeconds != 3600 || created.Spec.BackendRef.Name != "default" {
		t.Errorf("spec is %+v", created.Spec)
	}
	if !metav1.IsControlledBy(created, s) || created.Annotations[v1alpha1.AnnotationScheduledAt] != slot || created.Labels[v1alpha1.LabelSchedule] == "" {
		t.Errorf("metadata is %+v", created.ObjectMeta)
	}
	for _, managed := range fetch(w, s).ManagedFields {
		if managed.Manager == v1alpha1.FieldManager && managed.Subresource != "status" {
			t.Errorf("the manager owns fields of the schedule: %s", managed.FieldsV1)
		}
	}
}

// TestSchedule_PausesAfterFailures: until the spec is changed.
func TestSchedule_PausesAfterFailures(t *testing.T) {
	w := newManagedWorld(t, fast())
	s := newSchedule("minutely", func(s *wfs) {
		s.Spec.OverlapPolicy, s.Spec.PauseAfterFailures, s.Spec.FailedRunsHistoryLimit = "Forbid", new(int32(2)), new(int32(1))
	})
	w.create(s)
	w.awaitOpenRun(s, time.Time{})
	db := w.store()
	for range 2 {
		end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunFail, Error: json.RawMessage(`{"message":"broken"}`)})
	}
	message := w.awaitScheduleReason(s, v1alpha1.ReasonPausedAfterFailures)
	if want := "the last 2 runs have failed: correct the cause, then change the spec, for example spec.runTemplate, or set spec.suspend to true and back"; message != want {
		t.Errorf("message is %q", message)
	}
	if !meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionStalled) || *s.Status.Failures != 2 {
		t.Errorf("status is %+v", s.Status)
	}
	eventually(t, func() error {
		if n := len(w.runsOf(s)); n != 1 {
			return fmt.Errorf("%d runs are kept, want 1", n)
		}
		return nil
	})
	last := s.Status.LastScheduleTime.UTC()
	modify(w, s, func(s *wfs) { s.Spec.RunTemplate.Input = &apiextensionsv1.JSON{Raw: []byte(`"better"`)} })
	w.awaitOpenRun(s, last)
	end(t, db, claim(t, db, "pod"), store.RunWrite{Op: store.RunComplete})
	w.awaitSchedule(s, func(s *wfs) error {
		if s.Status.LastSuccessfulTime == nil || s.Status.Failures != nil {
			return fmt.Errorf("the success does not count")
		}
		return nil
	})
}

// TestSchedule_ANameThatIsTakenMissesItsSlot: and only that.
func TestSchedule_ANameThatIsTakenMissesItsSlot(t *testing.T) {
	w := newManagedWorld(t, fast())
	first := time.Now().Truncate(time.Minute).Add(time.Hour).UTC()
	s := newSchedule("taken", func(s *wfs) {
		s.Spec.StartAt, s.Spec.EndAt, s.Spec.CatchUp = &metav1.Time{Time: first}, &metav1.Time{Time: first.Add(5 * time.Minute)}, "All"
	})
	w.create(newTestRun(schedulespec.RunName(s.Name, first, "")), s)
	_, next := w.awaitOpenRun(s, first)
	w.awaitSchedule(s, func(s *wfs) error {
		for _, o := range s.Status.Outcomes {
			if o.Reason == "Missed" && o.Time.Time.Equal(first) && o.Message == "the slot of "+first.Format(time.RFC3339)+" was missed: a WorkflowRun "+
				o.Run+" exists that this schedule does not own; delete it, or rename the schedule" {
				return nil
			}
		}
		return fmt.Errorf("the first slot was not missed; %s has started", next.Name)
	})
	w.awaitScheduleReason(s, v1alpha1.ReasonNoMoreSlots)
}

// TestSchedule_BadInput: what the API server refuses, and what the manager says of the rest.
func TestSchedule_BadInput(t *testing.T) {
	w := newWorld(t)
	w.start()
	for name, test := range map[string]struct {
		change func(*wfs)
		want   string
	}{
		"seconds":    {func(s *wfs) { s.Spec.Schedules = []string{"0 0 0 * * *"} }, "give five fields (minute hour day-of-month month day-of-week)"},
		"every":      {func(s *wfs) { s.Spec.Schedules = []string{"@every 5m"} }, "give five fields"},
		"zone":       {func(s *wfs) { s.Spec.Schedules = []string{"TZ=UTC 0 0 * * *"} }, "the zone goes to timeZone"},
		"none":       {func(s *wfs) { s.Spec.Schedules = []string{} }, "spec.schedules"},
		"many":       {func(s *wfs) { s.Spec.Schedules = slices.Repeat([]string{"@daily"}, 17) }, "must have at most 16 items"},
		"local":      {func(s *wfs) { s.Spec.TimeZone = "Local" }, "Local is no time zone: name one, such as Europe/Berlin or UTC"},
		"policy":     {func(s *wfs) { s.Spec.OverlapPolicy = "Queue" }, `supported values: "Allow", "Forbid", "Replace", "BufferOne"`},
		"catch up":   {func(s *wfs) { s.Spec.CatchUp = "Some" }, `supported values: "None", "Latest", "All"`},
		"gap":        {func(s *wfs) { s.Spec.DaylightSaving = &v1alpha1.DaylightSaving{Gap: "Before"} }, `supported values: "RunAfter", "Skip"`},
		"fold":       {func(s *wfs) { s.Spec.DaylightSaving = &v1alpha1.DaylightSaving{Fold: "Never"} }, `supported values: "First", "Second", "Both"`},
		"deadline":   {func(s *wfs) { s.Spec.StartingDeadlineSeconds = new(int64(0)) }, "spec.startingDeadlineSeconds"},
		"jitter":     {func(s *wfs) { s.Spec.JitterSeconds = new(int32(86401)) }, "spec.jitterSeconds"},
		"failures":   {func(s *wfs) { s.Spec.PauseAfterFailures = new(int32(0)) }, "spec.pauseAfterFailures"},
		"history":    {func(s *wfs) { s.Spec.FailedRunsHistoryLimit = new(int32(-1)) }, "spec.failedRunsHistoryLimit"},
		"successes":  {func(s *wfs) { s.Spec.SuccessfulRunsHistoryLimit = new(int32(1001)) }, "spec.successfulRunsHistoryLimit"},
		"timeout":    {func(s *wfs) { s.Spec.RunTemplate.TimeoutSeconds = new(int64(0)) }, "spec.runTemplate.timeoutSeconds"},
		"no name":    {func(s *wfs) { s.Spec.RunTemplate = v1alpha1.RunTemplate{Version: "1"} }, "spec.runTemplate.workflowName: Required value"},
		"end before": {func(s *wfs) { s.Spec.StartAt, s.Spec.EndAt = january(2), january(1) }, "endAt is before startAt: no slot would ever start; correct one of them"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSchedule("refused", test.change)
			s.Namespace = w.Namespace
			if err := w.Create(t.Context(), s); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the answer is %v, want %q", err, test.want)
			}
		})
	}
	for name, test := range map[string]struct {
		change       func(*wfs)
		reason, want string
	}{
		"minute": {func(s *wfs) { s.Spec.Schedules = []string{"@daily", "61 * * * *"} }, v1alpha1.ReasonInvalidSchedule,
			`correct spec.schedules or spec.timeZone: expression "61 * * * *": minute "61": "61" is no number from 0 to 59`},
		"never": {func(s *wfs) { s.Spec.Schedules = []string{"0 0 30 2 *"} }, v1alpha1.ReasonInvalidSchedule,
			`correct spec.schedules or spec.timeZone: expression "0 0 30 2 *": it never happens: none of its months has a day 30`},
		"zone": {func(s *wfs) { s.Spec.TimeZone = "Europe/Nowhere" }, v1alpha1.ReasonInvalidSchedule,
			`correct spec.schedules or spec.timeZone: time zone "Europe/Nowhere" is unknown: give the name of an IANA zone, such as Europe/Berlin or UTC`},
		"input": {func(s *wfs) {
			s.Spec.RunTemplate.Input, s.Spec.RunTemplate.ScheduledTimeField = &apiextensionsv1.JSON{Raw: []byte(`[1]`)}, "at"
		}, v1alpha1.ReasonInvalidRunTemplate,
			`spec.runTemplate.scheduledTimeField adds "at" to the input, which is no JSON object: make spec.runTemplate.input an object, or remove scheduledTimeField`},
		"large": {func(s *wfs) {
			s.Spec.RunTemplate.Input = &apiextensionsv1.JSON{Raw: []byte(`"` + strings.Repeat("x", maxInput) + `"`)}
		}, v1alpha1.ReasonInvalidRunTemplate, "the input of a run has 1048578 bytes, the limit is 1048576: keep the data elsewhere and pass a reference to it"},
		"ended": {func(s *wfs) { s.Spec.EndAt = january(1) }, v1alpha1.ReasonNoMoreSlots, "the last slot has passed; spec.endAt says so"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			s := newSchedule(strings.ReplaceAll(name, " ", "-"), test.change)
			w.create(s)
			if message := w.awaitScheduleReason(s, test.reason); message != test.want {
				t.Errorf("message is %q, want %q", message, test.want)
			}
			if got, want := meta.IsStatusConditionTrue(s.Status.Conditions, v1alpha1.ConditionStalled), test.reason != v1alpha1.ReasonNoMoreSlots; got != want {
				t.Errorf("stalled is %t", got)
			}
			if test.reason == v1alpha1.ReasonInvalidSchedule { // the slots of the mistake are not caught up
				modify(w, s, func(s *wfs) { s.Spec.Schedules, s.Spec.TimeZone = []string{"@yearly"}, "" })
				w.awaitScheduleReason(s, v1alpha1.ReasonActive)
			}
		})
	}
}

func january(n int) *metav1.Time {
	return &metav1.Time{Time: time.Date(2020, 1, n, 0, 0, 0, 0, time.UTC)}
}

// TestPolicy_P9_WhoSchedulesRunsMayCreateThem: and the manager writes no other runs.
func TestPolicy_P9_WhoSchedulesRunsMayCreateThem(t *testing.T) {
	w := newWorld(t)
	group := []string{v1alpha1.GroupVersion.Group}
	may := func(resource string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{APIGroups: group, Resources: []string{resource}, Verbs: []string{"create", "get", "patch", "update"}}
	}
	stranger, author := w.as("stranger", may("workflowschedules")), w.as("author", may("workflowschedules"), may("workflowruns"))
	s := newSchedule("nightly")
	s.Namespace = w.Namespace
	awaitRefusal(t, "a WorkflowSchedule starts runs: stranger-"+w.Namespace+" needs the right to create WorkflowRuns in this namespace", func() error {
		return stranger.Create(t.Context(), s.DeepCopy())
	})
	awaitAllowed(t, func() error { return author.Create(t.Context(), s.DeepCopy()) })
	hidden := newSchedule("hidden", inDatabase)
	hidden.Namespace = w.Namespace
	awaitRefusal(t, "a WorkflowSchedule with runs InDatabase starts runs of the data API: author-"+w.Namespace+" needs the right to create runs of data.openworkflow.dev in this namespace",
		func() error { return author.Create(t.Context(), hidden.DeepCopy()) })
	reader := w.as("reader", may("workflowschedules"), rbacv1.PolicyRule{APIGroups: []string{"data.openworkflow.dev"}, Resources: []string{"runs"}, Verbs: []string{"create"}})
	awaitAllowed(t, func() error { return reader.Create(t.Context(), hidden.DeepCopy()) })
	suspend := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":true}}`))
	awaitRefusal(t, "needs the right to create WorkflowRuns", func() error { return stranger.Patch(t.Context(), s.DeepCopy(), suspend) })

	manager, err := client.New(cluster.manager, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	stray := newTestRun("stray", func(r *run) { r.Namespace = w.Namespace })
	awaitRefusal(t, "the manager may write only runs that a WorkflowSchedule owns", func() error { return manager.Create(t.Context(), stray.DeepCopy()) })
	w.create(stray)
	cancel := client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"cancel":true}}`))
	awaitRefusal(t, "the manager may write only runs that a WorkflowSchedule owns", func() error { return manager.Patch(t.Context(), stray.DeepCopy(), cancel) })
	fetch(w, s)
	owned, err := schedulespec.Run(s, time.Now(), "")
	if err != nil {
		t.Fatal(err)
	}
	awaitAllowed(t, func() error { return manager.Create(t.Context(), owned) })
	awaitRefusal(t, "the manager may only cancel a run that a WorkflowSchedule owns, or let it expire", func() error {
		return manager.Patch(t.Context(), owned.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"suspend":true}}`)))
	})
	awaitAllowed(t, func() error { return manager.Patch(t.Context(), owned.DeepCopy(), cancel) })
}
