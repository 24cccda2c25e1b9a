package controller

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

var (
	manySchedules = flag.Int("schedules", 10, "how many schedules start runs each minute while managers are killed")
	manyCadence   = flag.Duration("schedule-minute", time.Second, "how long a minute of theirs takes")
	idleSchedules = flag.Int("idle-schedules", 2000, "how many idle schedules are looked at; from 100,000 on, what that costs is bounded")
)

// TestSchedule_P6_ManyLoseAndDoubleNoSlot: ten minutes of many schedules, in each of which the manager
// is stopped in what it does and another one starts.
func TestSchedule_P6_ManyLoseAndDoubleNoSlot(t *testing.T) {
	const minutes = 10
	w := newWorld(t)
	now := time.Now().Truncate(time.Second)
	first := now.Truncate(time.Minute).Add(2 * time.Minute).UTC()
	schedules := make([]*wfs, *manySchedules)
	var creating sync.WaitGroup
	parts := make(chan int)
	for range 8 {
		creating.Go(func() {
			for i := range parts {
				schedules[i] = newSchedule(fmt.Sprintf("minutely-%d", i), func(s *wfs) {
					s.Spec.CatchUp, s.Spec.StartAt, s.Spec.EndAt = "All", &metav1.Time{Time: first}, &metav1.Time{Time: first.Add((minutes - 1) * time.Minute)}
				})
				schedules[i].Namespace = w.Namespace
				if err := w.Create(t.Context(), schedules[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range schedules {
		parts <- i
	}
	close(parts)
	creating.Wait()

	clock := fastClock{time.Now(), time.Minute / *manyCadence}
	behind := offClock{clock, first.Add(-time.Minute).Sub(clock.began)} // a minute before the first slot
	began, kills := time.Now(), 0
	for clocked := func(o *managerOptions) { o.Clock, o.Intervals.Schedule = behind, time.Second }; behind.Now().Before(first.Add(minutes * time.Minute)); kills++ {
		m := w.start(clocked)
		select { // a minute of the life of a manager
		case <-time.After(*manyCadence):
		case <-t.Context().Done():
		}
		m.halt()
	}
	w.start(func(o *managerOptions) { o.Clock, o.Intervals.Schedule = behind, time.Second })
	eventuallyWithin(t, time.Minute+time.Duration(*manySchedules)*time.Second, func() error {
		for _, s := range schedules {
			if fetch(w, s); conditionReason(s.Status.Conditions) != v1alpha1.ReasonNoMoreSlots || s.Status.Starting != nil {
				return fmt.Errorf("%s is not done: %+v", s.Name, s.Status)
			}
		}
		return nil
	})
	for _, s := range schedules {
		runs := w.runsOf(s)
		for minute := range minutes {
			if slot := first.Add(time.Duration(minute) * time.Minute); runs[slot] == nil {
				t.Errorf("%s: the slot of %s is lost", s.Name, slot)
			}
		}
		started := 0
		for _, o := range s.Status.Outcomes {
			if o.Reason == "Started" {
				started++
			}
		}
		if len(runs) != minutes || started != minutes {
			t.Errorf("%s: %d runs exist, %d have the outcome Started: %+v", s.Name, len(runs), started, s.Status.Outcomes)
		}
	}
	t.Logf("%d schedules have started %d runs each in %s, with %d kills of the manager", len(schedules), minutes, time.Since(began), kills)
}

// cachedSchedules is a reader of schedules in memory, as the manager's cache is.
type cachedSchedules struct {
	client.Client
	schedules map[types.NamespacedName]*wfs
}

func (c cachedSchedules) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	c.schedules[key].DeepCopyInto(into.(*wfs)) //nolint:forcetypeassert // the test reads nothing else
	return nil
}

func (c cachedSchedules) List(context.Context, client.ObjectList, ...client.ListOption) error {
	return nil
}

// TestSchedule_IdleSchedulesCostLittle: 100,000 of them, each of which the manager looks at every 7.5
// minutes at most (the sleep of ten minutes less a quarter).
func TestSchedule_IdleSchedulesCostLittle(t *testing.T) {
	const oftenest = 450 * time.Second
	count := *idleSchedules
	before := heap()
	cache := cachedSchedules{schedules: make(map[types.NamespacedName]*wfs, count)}
	now := time.Date(2026, 1, 1, 12, 10, 0, 0, time.UTC)
	for i := range count {
		s := newSchedule(fmt.Sprintf("nightly-report-%d", i), func(s *wfs) {
			s.UID, s.Generation, s.Namespace = types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i)), 1, "shop"
			s.CreationTimestamp = metav1.Time{Time: now.AddDate(0, -1, 0)}
			s.Spec.Schedules, s.Spec.TimeZone = []string{"30 2 * * *"}, "Europe/Berlin"
		})
		s.Status.ObservedGeneration, s.Status.TimingHash, s.Status.DecidedUntil = 1, timingHash(&s.Spec), &metav1.Time{Time: now.Add(-10 * time.Hour)}
		for day := range 10 {
			slot := now.AddDate(0, 0, day-10)
			s.Status.Outcomes = append(s.Status.Outcomes, v1alpha1.SlotOutcome{Time: &metav1.Time{Time: slot}, Reason: "Started", Run: schedulespec.RunName(s.Name, slot, "")})
		}
		s.Status.LastScheduleTime = s.Status.Outcomes[9].Time
		s.Status = finishPlan(planSchedule(scheduleSeen{Schedule: s, Now: now}))
		cache.schedules[client.ObjectKeyFromObject(s)] = s
	}
	bytes := (heap() - before) / uint64(count)
	r := &WorkflowScheduleReconciler{Client: cache, Events: discard{}, Clock: fastClock{now, 0}, Check: 10 * time.Minute, outcomes: newOutcomeLog(nil), Backends: backend.NewRegistry()}
	began := processorTime(t)
	for key := range cache.schedules {
		if result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil || result.RequeueAfter < oftenest {
			t.Fatalf("a schedule that is idle: %+v, %v", result, err)
		}
	}
	look := (processorTime(t) - began) / time.Duration(count)
	share := float64(look*100_000) / float64(oftenest) * 100
	t.Logf("a schedule takes %d bytes in the cache, a look at it %s: 100,000 take %.1f %% of a core and %d MB", bytes, look, share, bytes*100_000>>20)
	if share > 5 && count >= 100_000 { // the short form does not measure: it finds looks that write or come too soon
		t.Errorf("100,000 schedules take %.1f %% of a core", share)
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// processorTime returns how long this process has computed.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
