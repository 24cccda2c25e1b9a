package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestSchedule_ForbidIsNeverViolated: two managers take themselves for the leader, the clock of one is
// ahead, both are replaced in turn, and slots are three times as often as runs end.
func TestSchedule_ForbidIsNeverViolated(t *testing.T) {
	for _, policy := range []string{"Forbid", "BufferOne"} {
		t.Run(policy, func(t *testing.T) {
			w := newWorld(t)
			began := fastClock{time.Now(), 600}
			clocked := func(ahead time.Duration) func(*managerOptions) {
				return func(o *managerOptions) {
					o.Clock, o.Intervals.Schedule = offClock{began, ahead}, 20*time.Millisecond
				}
			}
			leader, other := w.start(clocked(0)), w.start(clocked(90*time.Second))
			w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
			var executing, executed, overlaps atomic.Int64
			w.workOn(w.store(), durable.DefinitionOf(workflow.Define("checkout", func(ctx context.Context, _ any) (any, error) {
				return step.Run(ctx, "work", func(ctx context.Context) (any, error) {
					if executing.Add(1) > 1 {
						overlaps.Add(1)
					}
					defer executing.Add(-1)
					defer executed.Add(1)
					select { // the work
					case <-time.After(300 * time.Millisecond):
					case <-ctx.Done():
					}
					return nil, nil
				})
			})))
			s := newSchedule("minutely", func(s *wfs) { s.Spec.OverlapPolicy, s.Spec.CatchUp = policy, "All" })
			w.create(s)
			for restart := int64(1); restart <= 2; restart++ {
				eventuallyWithin(t, time.Minute, func() error {
					if n := executed.Load(); n < 4*restart {
						return fmt.Errorf("%d runs were executed", n)
					}
					return nil
				})
				leader.halt()
				leader, other = other, w.start(clocked(time.Duration(restart%2)*90*time.Second))
			}
			if n := overlaps.Load(); n > 0 {
				t.Errorf("%d runs overlapped an earlier one", n)
			}
			if fetch(w, s); !slices.ContainsFunc(s.Status.Outcomes, func(o v1alpha1.SlotOutcome) bool { return o.Reason == "SkippedOverlap" }) {
				t.Errorf("no slot was skipped: %+v", s.Status.Outcomes)
			}
		})
	}
}

// held is a manager's client that stops at one kind of call, once, until it is released.
type held struct {
	once                     sync.Once
	reached, release, passed chan struct{}
}

func newHeld() *held {
	return &held{reached: make(chan struct{}), release: make(chan struct{}), passed: make(chan struct{})}
}

// call makes a call, before which the first caller stops.
func (h *held) call(do func() error) error {
	holds := false
	h.once.Do(func() { holds = true })
	if !holds {
		return do()
	}
	close(h.reached)
	<-h.release
	defer close(h.passed)
	return do()
}

// at returns a client that stops before it creates a run or, else, before it writes the status of a
// schedule.
func (h *held) at(create bool) client.NewClientFunc {
	return func(config *rest.Config, o client.Options) (client.Client, error) {
		inner, err := client.NewWithWatch(config, o)
		if err != nil {
			return nil, err
		}
		return interceptor.NewClient(inner, interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
				if _, isRun := o.(*run); isRun && create {
					return h.call(func() error { return c.Create(ctx, o, opts...) })
				}
				return c.Create(ctx, o, opts...)
			},
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if _, isSchedule := o.(*wfs); isSchedule && !create {
					return h.call(func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			},
		}), nil
	}
}

// TestSchedule_P6_OfTwoLeadersOneDecides: one manager stops after it has decided to start a slot.
// Another one, which takes itself for the leader too, sees that slot and the next one due; then the
// first goes on.
func TestSchedule_P6_OfTwoLeadersOneDecides(t *testing.T) {
	for _, policy := range []string{"Forbid", "BufferOne", "Replace"} {
		for _, create := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, create %t", policy, create), func(t *testing.T) {
				w := newWorld(t)
				s := newSchedule("minutely", func(s *wfs) { s.Spec.OverlapPolicy = policy })
				w.create(s)
				first := s.CreationTimestamp.Truncate(time.Minute).Add(time.Minute).UTC()
				next := first.Add(time.Minute)
				clockAt := func(at time.Time) func(*managerOptions) {
					return func(o *managerOptions) { o.Clock, o.Intervals.Schedule = fastClock{at, 0}, 20*time.Millisecond }
				}
				h := newHeld()
				w.start(clockAt(first), func(o *managerOptions) { o.newClient = h.at(create) })
				receive(t, h.reached)
				w.start(clockAt(next))
				w.awaitSchedule(s, func(s *wfs) error {
					if s.Status.DecidedUntil == nil || s.Status.DecidedUntil.Time.Before(next) {
						return fmt.Errorf("the second manager has not decided")
					}
					return nil
				})
				close(h.release)
				receive(t, h.passed)
				// The second manager writes what it starts before it has started it.
				eventually(t, func() error {
					open := 0
					for slot, r := range w.runsOf(s) {
						if !r.Status.State.Terminal() && r.Spec.Cancel == nil {
							t.Logf("the run of %s is open", slot)
							open++
						}
					}
					if fetch(w, s); open > 1 {
						t.Fatalf("%d runs are open, status is %+v", open, s.Status)
					}
					if len(s.Status.Active) != 1 || s.Status.Starting != nil {
						return fmt.Errorf("%d runs are open, status is %+v", open, s.Status)
					}
					return nil
				})
			})
		}
	}
}

// receive waits until a channel is closed.
func receive(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(time.Minute):
		t.Fatal("nothing happens")
	}
}
