package controller

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

var backfillSlots = flag.Int("backfill-slots", 100, "how many slots are backfilled beside a live schedule")

// hour is a time on the day that the tests backfill.
func hour(n int) *metav1.Time {
	return &metav1.Time{Time: time.Date(2020, 1, 1, n, 0, 0, 0, time.UTC)}
}

// backfilled is a schedule with a slot at each hour, of which none is due before 2099.
func backfilled(requests ...v1alpha1.Backfill) func(*wfs) {
	return func(s *wfs) {
		s.Spec.Schedules, s.Spec.Backfills = []string{"@hourly"}, requests
		s.Spec.StartAt = &metav1.Time{Time: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}
	}
}

// awaitBackfill waits until a backfill is in a state.
func (w *world) awaitBackfill(s *wfs, name string, state v1alpha1.BackfillState) (found v1alpha1.BackfillStatus) {
	w.t.Helper()
	w.awaitSchedule(s, func(s *wfs) error {
		for _, b := range s.Status.Backfills {
			if found = b; b.Name == name && b.State == state {
				return nil
			}
		}
		return fmt.Errorf("backfill %s is not %s", name, state)
	})
	return found
}

// counted is a workflow that counts its runs, and how many execute at once.
type counted struct{ executed, executing, most atomic.Int64 }

func (c *counted) definition(delay time.Duration) durable.Definition {
	return durable.DefinitionOf(workflow.Define("checkout", func(ctx context.Context, _ any) (any, error) {
		return step.Run(ctx, "work", func(ctx context.Context) (any, error) {
			for now := c.executing.Add(1); ; {
				if most := c.most.Load(); now <= most || c.most.CompareAndSwap(most, now) {
					break
				}
			}
			defer c.executing.Add(-1)
			defer c.executed.Add(1)
			select { // the work
			case <-time.After(delay):
			case <-ctx.Done():
			}
			return nil, nil
		})
	}))
}

// TestSchedule_P6_ABackfillStartsEachSlotOnce: two managers take themselves for the leader, and are
// replaced all the time.
func TestSchedule_P6_ABackfillStartsEachSlotOnce(t *testing.T) {
	w := newWorld(t)
	leader, other := w.start(), w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	var work counted
	w.workOn(w.store(), work.definition(20*time.Millisecond))
	s := newSchedule("past", backfilled(v1alpha1.Backfill{Name: "day", StartAt: hour(0), EndAt: hour(29), MaxParallel: 3}))
	w.create(s)
	for n := int64(1); n <= 2; n++ {
		eventually(t, func() error {
			if done := work.executed.Load(); done < 10*n {
				return fmt.Errorf("%d runs were executed", done)
			}
			return nil
		})
		leader.halt()
		leader, other = other, w.start()
	}
	b := w.awaitBackfill(s, "day", v1alpha1.BackfillCompleted)
	if b.Slots != 30 || b.Started != 30 || b.Completed != 30 || b.Skipped+b.Failed+b.Canceled != 0 || b.FinishedAt == nil || len(b.Active)+len(b.Starting) > 0 {
		t.Errorf("the backfill is %+v", b)
	}
	if n := work.executed.Load(); n != 30 || len(w.runsOf(s)) != 30 || work.most.Load() > 3 {
		t.Errorf("%d runs were executed, %d exist, %d at once", n, len(w.runsOf(s)), work.most.Load())
	}
	if s.Status.LastScheduleTime != nil || len(s.Status.Outcomes) > 0 || len(s.Status.Active) > 0 {
		t.Errorf("the slots of a backfill are taken for others: %+v", s.Status)
	}
	if run := w.runsOf(s)[hour(7).UTC()]; run == nil || run.Labels[v1alpha1.LabelBackfill] != "day" || !metav1.IsControlledBy(run, s) {
		t.Errorf("the run of a slot is %+v", run)
	}
}

// TestSchedule_BackfillsAreRequests: each is carried out once, in their order, and says what it did.
func TestSchedule_BackfillsAreRequests(t *testing.T) {
	w := newManagedWorld(t)
	var work counted
	w.awaitBackend(&v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "default"}}, v1alpha1.ReasonConnected)
	w.workOn(w.store(), work.definition(0))
	s := newSchedule("past", backfilled(
		v1alpha1.Backfill{Name: "first", StartAt: hour(0), EndAt: hour(4), OverlapPolicy: "Forbid"},
		v1alpha1.Backfill{Name: "rest", StartAt: hour(0), EndAt: hour(6)},
		v1alpha1.Backfill{Name: "again", StartAt: hour(0), EndAt: hour(6), Reprocess: "All"},
		v1alpha1.Backfill{Name: "dry", StartAt: hour(2), EndAt: hour(11), DryRun: new(true)},
		v1alpha1.Backfill{Name: "empty", StartAt: &metav1.Time{Time: hour(2).Add(time.Second)}, EndAt: &metav1.Time{Time: hour(2).Add(time.Minute)}},
		v1alpha1.Backfill{Name: "future", StartAt: hour(2), EndAt: &metav1.Time{Time: time.Date(2098, 1, 1, 0, 0, 0, 0, time.UTC)}},
	))
	w.create(s)
	w.awaitBackfill(s, "future", v1alpha1.BackfillInvalid)
	for i, want := range []string{
		"first Completed 5 5 0 5 ", "rest Completed 7 2 5 2 ", "again Completed 7 7 0 7 ", "dry Completed 10 5 5 0 dry run: 5 of 10 slots would start",
		"empty Completed 0 0 0 0 ", "future Invalid 0 0 0 0 endAt 2098-01-01T00:00:00Z is in the future: a backfill is for slots that have passed; later ones start by themselves",
	} {
		b := s.Status.Backfills[i]
		if got := fmt.Sprintf("%s %s %d %d %d %d %s", b.Name, b.State, b.Slots, b.Started, b.Skipped, b.Completed, b.Message); got != want {
			t.Errorf("backfill %d is %q, want %q", i, got, want)
		}
	}
	if n := work.executed.Load(); n != 14 {
		t.Errorf("%d runs were executed, want 14", n)
	}
	modify(w, s, func(s *wfs) { s.Spec.Backfills = s.Spec.Backfills[4:5] })
	w.awaitSchedule(s, func(s *wfs) error {
		if len(s.Status.Backfills) != 1 || s.Status.Backfills[0].Name != "empty" {
			return fmt.Errorf("there are %d backfills", len(s.Status.Backfills))
		}
		return nil
	})
}

// TestSchedule_ABackfillWaitsWhileSuspended: as all starts do.
func TestSchedule_ABackfillWaitsWhileSuspended(t *testing.T) {
	w := newManagedWorld(t)
	s := newSchedule("past", backfilled(v1alpha1.Backfill{Name: "one", StartAt: hour(0), EndAt: hour(0)}), func(s *wfs) { s.Spec.Suspend = new(true) })
	w.create(s)
	if b := w.awaitBackfill(s, "one", v1alpha1.BackfillWaiting); b.Message != "waits: the schedule is suspended" {
		t.Errorf("the message is %q", b.Message)
	}
	modify(w, s, func(s *wfs) { s.Spec.Suspend = nil })
	w.awaitBackfill(s, "one", v1alpha1.BackfillRunning)
	_, run := w.awaitOpenRun(s, time.Time{})
	modify(w, run, func(r *v1alpha1.WorkflowRun) { r.Spec.Cancel = new(true) })
	if b := w.awaitBackfill(s, "one", v1alpha1.BackfillCompleted); b.Canceled != 1 || b.Completed != 0 {
		t.Errorf("the backfill is %+v", b)
	}
}

// TestSchedule_P7_BadBackfills: what the API server refuses.
func TestSchedule_P7_BadBackfills(t *testing.T) {
	w := newWorld(t)
	good := v1alpha1.Backfill{Name: "good", StartAt: hour(1), EndAt: hour(2)}
	for name, test := range map[string]struct {
		change func(*v1alpha1.Backfill)
		want   string
	}{
		"name":     {func(b *v1alpha1.Backfill) { b.Name = "Good_one" }, "use lower-case letters, digits and -"},
		"no name":  {func(b *v1alpha1.Backfill) { b.Name = "" }, "spec.backfills[0].name: Required value"},
		"long":     {func(b *v1alpha1.Backfill) { b.Name = strings.Repeat("x", 64) }, "spec.backfills[0].name: Too long"},
		"no start": {func(b *v1alpha1.Backfill) { b.StartAt = nil }, "spec.backfills[0].startAt: Required value"},
		"no end":   {func(b *v1alpha1.Backfill) { b.EndAt = nil }, "spec.backfills[0].endAt: Required value"},
		"order":    {func(b *v1alpha1.Backfill) { b.EndAt = hour(0) }, "endAt is before startAt: no slot is between them; correct one of them"},
		"overlap":  {func(b *v1alpha1.Backfill) { b.OverlapPolicy = "Replace" }, `supported values: "Allow", "Forbid"`},
		"parallel": {func(b *v1alpha1.Backfill) { b.MaxParallel = 101 }, "spec.backfills[0].maxParallel"},
		"negative": {func(b *v1alpha1.Backfill) { b.MaxParallel = -1 }, "spec.backfills[0].maxParallel"},
		"process":  {func(b *v1alpha1.Backfill) { b.Reprocess = "Some" }, `supported values: "None", "Failed", "All"`},
	} {
		t.Run(name, func(t *testing.T) {
			request := good
			test.change(&request)
			s := newSchedule("refused", backfilled(request))
			s.Namespace = w.Namespace
			if err := w.Create(t.Context(), s); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the answer is %v, want %q", err, test.want)
			}
		})
	}
	s := newSchedule("twice", backfilled(good, good))
	s.Namespace = w.Namespace
	if err := w.Create(t.Context(), s); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "Duplicate value") {
		t.Errorf("two of one name: %v", err)
	}
	s = newSchedule("changed", backfilled(good))
	w.create(s)
	for name, change := range map[string]func(*v1alpha1.Backfill){
		"start": func(b *v1alpha1.Backfill) { b.StartAt = hour(0) }, "end": func(b *v1alpha1.Backfill) { b.EndAt = hour(3) },
		"process": func(b *v1alpha1.Backfill) { b.Reprocess = "All" }, "dry": func(b *v1alpha1.Backfill) { b.DryRun = new(true) },
	} {
		changed := s.DeepCopy()
		change(&changed.Spec.Backfills[0])
		if err := w.Update(t.Context(), changed); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a backfill is carried out once: add another one, with a new name") {
			t.Errorf("a change of %s: %v", name, err)
		}
	}
	modify(w, s, func(s *wfs) { s.Spec.Backfills[0].MaxParallel = 3 })
}

// timedCreates measures how late the runs of slots are created, by the clock of the manager.
type timedCreates struct {
	clock fastClock
	mu    sync.Mutex
	// since is when the schedule was created. Its clock began before the manager was started, and
	// earlier slots are due at once.
	since time.Time
	late  []time.Duration
}

// n returns how many have been created.
func (c *timedCreates) n() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.late)
}

func (c *timedCreates) newClient(config *rest.Config, o client.Options) (client.Client, error) {
	inner, err := client.NewWithWatch(config, o)
	if err != nil {
		return nil, err
	}
	return interceptor.NewClient(inner, interceptor.Funcs{
		Create: func(ctx context.Context, inner client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			err := inner.Create(ctx, o, opts...)
			if owner := metav1.GetControllerOf(o); owner != nil && err == nil {
				if slot, suffix, ok := schedulespec.ParseRunName(owner.Name, o.GetName()); ok && suffix == "" {
					c.mu.Lock()
					if slot.Before(c.since) {
						slot = c.since
					}
					c.late = append(c.late, c.clock.Since(slot)/c.clock.factor)
					c.mu.Unlock()
				}
			}
			return err
		},
	}), nil
}

// TestSchedule_ABackfillDelaysNoSlot: a minute takes three seconds, and each slot starts within two. The
// short form does not measure: it finds slots that wait for the backfill.
func TestSchedule_ABackfillDelaysNoSlot(t *testing.T) {
	w := newWorld(t)
	bound := 2 * time.Second
	if *backfillSlots < 1000 { // beside other tests, the machine may be busy
		bound = 20 * time.Second
	}
	creates := &timedCreates{clock: fastClock{time.Now(), 20}}
	w.start(func(o *managerOptions) { o.Clock, o.newClient = creates.clock, creates.newClient })
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	var work counted
	w.workOn(w.store(), work.definition(0))
	from := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	until := from.Add(time.Duration(*backfillSlots-1) * time.Minute)
	s := newSchedule("minutely", func(s *wfs) {
		s.Spec.CatchUp, s.Spec.SuccessfulRunsHistoryLimit = "All", new(int32(10))
		s.Spec.Backfills = []v1alpha1.Backfill{{Name: "past", StartAt: &metav1.Time{Time: from}, EndAt: &metav1.Time{Time: until}, MaxParallel: 100}}
	})
	creates.mu.Lock()
	creates.since = creates.clock.Now()
	creates.mu.Unlock()
	w.create(s)
	began := time.Now()
	eventuallyWithin(t, 2*time.Minute+time.Duration(*backfillSlots)*100*time.Millisecond, func() error {
		for _, b := range fetch(w, s).Status.Backfills {
			if b.State == v1alpha1.BackfillCompleted && creates.n() > 0 {
				return nil
			}
		}
		return fmt.Errorf("the backfill is %+v, %d slots were due", s.Status.Backfills, creates.n())
	})
	took := time.Since(began)
	if b := s.Status.Backfills[0]; int(b.Completed) != *backfillSlots || b.Started != b.Completed {
		t.Errorf("the backfill is %+v", b)
	}
	creates.mu.Lock()
	defer creates.mu.Unlock()
	latest := time.Duration(0)
	for _, late := range creates.late {
		latest = max(latest, late)
	}
	t.Logf("%d slots were backfilled in %s; meanwhile %d slots were due, the latest started after %s", *backfillSlots, took, len(creates.late), latest)
	if latest > bound {
		t.Errorf("%d slots were due, the latest started after %s", len(creates.late), latest)
	}
}
