package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// kept returns a signal that is kept for an hour.
func kept(name string, changes ...func(*store.KeptSignal)) store.KeptSignal {
	k := store.KeptSignal{ID: openworkflow.NewID(), Name: name, Data: json.RawMessage(`{"by": "ann"}`), ExpiresAt: later()}
	for _, change := range changes {
		change(&k)
	}
	return k
}

// keep keeps a signal, which must have this state then.
func (b bench) keep(k store.KeptSignal, want store.SignalState) store.SignalResult {
	b.Helper()
	result, err := b.KeepSignal(b.Context(), k)
	if err != nil || result.State != want {
		b.Fatalf("KeepSignal(%+v): %+v, %v, want state %s", k, result, err, want)
	}
	return result
}

// deliver delivers the signals that are due, and returns their ids.
func (b bench) deliver() []string {
	b.Helper()
	ids, next, err := b.DueSignals(b.Context(), openworkflow.Cursor{}, 100)
	if err != nil || next != (openworkflow.Cursor{}) {
		b.Fatalf("DueSignals: %v, %v, %v", ids, next, err)
	}
	for _, id := range ids {
		if _, err := b.DeliverKept(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

// park writes a wait and parks its run.
func (b bench) park(w store.StepWrite) store.StepWrite {
	b.Helper()
	b.mustStep(w)
	b.mustRun(ending(w.Lease, store.RunPark))
	return w
}

// received returns what a wait was sent, and whether it was.
func (b bench) received(w store.StepWrite) (data string, ok bool) {
	b.Helper()
	results, err := b.WaitResults(b.Context(), []string{w.Attempt.ID})
	if err != nil {
		b.Fatal(err)
	}
	result, ok := results[w.Attempt.ID]
	return string(result.Data), ok
}

func TestKeptSignal_IsDeliveredToTheFirstThatWaits(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		k := kept("approved")
		b.keep(k, store.SignalWaiting)
		if ids := b.deliver(); len(ids) != 0 {
			t.Errorf("due without a wait: %v", ids)
		}

		w := b.park(wait(b.start(), "approved"))
		if _, ok := b.received(w); ok {
			t.Error("delivered by nobody")
		}
		if diff := cmp.Diff([]string{k.ID}, b.deliver()); diff != "" {
			t.Errorf("due:\n%s", diff)
		}
		if data, ok := b.received(w); !ok || data != `{"by": "ann"}` {
			t.Errorf("received %q, %v", data, ok)
		}
		if !due(b.run(w.RunID)) {
			t.Error("the run is not due")
		}
		result := b.keep(k, store.SignalDelivered) // as after a crash before the status was written
		want := []store.SignalDelivery{{RunID: w.RunID, Step: "approved"}}
		if diff := cmp.Diff(want, result.Deliveries, cmpopts.IgnoreFields(store.SignalDelivery{}, "At")); diff != "" || result.Runs != 1 ||
			result.FinishedAt == nil {
			t.Errorf("result is %+v:\n%s", result, diff)
		}

		second := b.park(wait(b.start(), "approved"))
		b.keep(k, store.SignalDelivered)
		if _, ok := b.received(second); ok {
			t.Error("delivered twice")
		}
	})
}

func TestKeptSignal_R104_ReachesAllWhoWaitNow(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		waits := []store.StepWrite{b.park(wait(b.start(), "go")), b.park(wait(b.start(), "go"))}
		if result := b.keep(kept("go", func(k *store.KeptSignal) { k.ExpiresAt = time.Time{} }), store.SignalDelivered); result.Runs != 2 {
			t.Errorf("reached %d runs, want 2", result.Runs)
		}
		for _, w := range waits {
			if _, ok := b.received(w); !ok {
				t.Errorf("run %s has received nothing", w.RunID)
			}
		}
		now := kept("go", func(k *store.KeptSignal) { k.ExpiresAt = time.Time{} })
		b.keep(now, store.SignalUnreceived)
		w := b.park(wait(b.start(), "go"))
		b.keep(now, store.SignalUnreceived)
		if _, ok := b.received(w); ok {
			t.Error("a signal for those who wait now was kept")
		}
	})
}

func TestKeptSignal_ReachesOnlyItsTarget(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l, other := b.start(), b.start()
		first, second := wait(l, "go"), wait(l, "go")
		first.Attempt.StepName, second.Attempt.StepName = "go", "go:1"
		b.mustStep(first)
		b.mustStep(ended(first, complete, "null"))
		b.park(second)
		elsewhere := b.park(wait(other, "go"))
		b.keep(kept("go", func(k *store.KeptSignal) { k.RunID, k.Step = l.RunID, new("go") }), store.SignalWaiting)
		b.keep(kept("stop", func(k *store.KeptSignal) { k.RunID = l.RunID }), store.SignalWaiting)
		b.keep(kept("go", func(k *store.KeptSignal) { k.RunID = "no such run" }), store.SignalWaiting)
		if ids := b.deliver(); len(ids) != 0 {
			t.Errorf("due: %v", ids)
		}
		b.keep(kept("go", func(k *store.KeptSignal) { k.RunID, k.Step = l.RunID, new("go:1") }), store.SignalDelivered)
		if _, ok := b.received(second); !ok {
			t.Error("the target has received nothing")
		}
		if _, ok := b.received(elsewhere); ok {
			t.Error("another run has received the signal")
		}
	})
}

func TestKeptSignal_AKeyIsDeliveredOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		withKey := func(k *store.KeptSignal) { k.Key = "order-1" }
		first, second := kept("go", withKey), kept("go", withKey)
		b.keep(first, store.SignalWaiting)
		b.keep(second, store.SignalWaiting)
		w := b.park(wait(b.start(), "go"))
		b.park(wait(b.start(), "go:other"))
		if got := b.deliver(); len(got) != 2 {
			t.Errorf("due: %v, want both", got)
		}
		again := b.park(wait(b.start(), "go"))
		for _, k := range []store.KeptSignal{first, second, kept("go", withKey)} {
			if result := b.keep(k, store.SignalDelivered); result.Runs != 1 || result.Deliveries[0].RunID != w.RunID {
				t.Errorf("result is %+v, want run %s", result, w.RunID)
			}
		}
		sent, err := b.SendSignals(t.Context(), []store.Signal{{Name: "go", IdempotencyKey: new("order-1")}})
		if diff := cmp.Diff([][]string{{w.RunID}}, sent); err != nil || diff != "" {
			t.Errorf("a signal of the same key, sent otherwise: %v\n%s", err, diff)
		}
		if _, ok := b.received(again); ok {
			t.Error("the key was delivered twice")
		}
	})
}

func TestKeptSignal_Expires(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		w := b.park(wait(b.start(), "go"))
		k := kept("go", func(k *store.KeptSignal) { k.ExpiresAt = time.Now().Add(-minute) })
		b.keep(k, store.SignalExpired)
		if _, ok := b.received(w); ok {
			t.Error("an expired signal was delivered")
		}
		soon := kept("late", func(k *store.KeptSignal) { k.ExpiresAt = time.Now().Add(3 * time.Second) })
		b.keep(soon, store.SignalWaiting)
		sweep := time.NewTicker(20 * time.Millisecond) // as the manager looks: nothing tells of an expiry
		defer sweep.Stop()
		for end := time.Now().Add(minute); len(b.deliver()) == 0; <-sweep.C {
			if time.Now().After(end) {
				t.Fatal("the signal does not expire")
			}
		}
		b.keep(soon, store.SignalExpired)
	})
}

func TestKeptSignal_KnowsRunsThatEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		left := b.park(wait(l, "go"))
		if _, err := b.CancelRuns(t.Context(), []string{l.RunID}); err != nil {
			t.Fatal(err)
		}
		b.keep(kept("go", func(k *store.KeptSignal) { k.RunID = l.RunID }), store.SignalRunEnded)
		b.keep(kept("go"), store.SignalWaiting)
		if _, ok := b.received(left); ok {
			t.Error("the wait of a canceled run has swallowed a signal")
		}

		open := b.start()
		k := kept("stop", func(k *store.KeptSignal) { k.RunID = open.RunID })
		b.keep(k, store.SignalWaiting)
		b.mustRun(ending(open, store.RunComplete))
		if diff := cmp.Diff([]string{k.ID}, b.deliver()); diff != "" {
			t.Errorf("due after the end of the target:\n%s", diff)
		}
		b.keep(k, store.SignalRunEnded)

		// R106: a signal for those who wait now does not look at the run.
		if result := b.keep(kept("go", func(k *store.KeptSignal) { k.ExpiresAt = time.Time{} }), store.SignalDelivered); result.Runs != 1 {
			t.Errorf("reached %d runs, want 1", result.Runs)
		}
	})
}

func TestKeptSignal_CanBeWithdrawn(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		k, sent := kept("go"), kept("sent")
		b.keep(k, store.SignalWaiting)
		b.park(wait(b.start(), "sent"))
		b.keep(sent, store.SignalDelivered)
		if err := b.WithdrawSignals(t.Context(), []string{k.ID, sent.ID, "none", "\x00"}); err != nil {
			t.Fatal(err)
		}
		w := b.park(wait(b.start(), "go"))
		if ids := b.deliver(); len(ids) != 0 {
			t.Errorf("due: %v", ids)
		}
		if _, ok := b.received(w); ok {
			t.Error("a withdrawn signal was delivered")
		}
		if _, err := b.DeliverKept(t.Context(), k.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a withdrawn signal: %v, want %v", err, store.ErrNotFound)
		}
		b.keep(sent, store.SignalDelivered)
	})
}

func TestKeptSignal_P7_SaysWhatCannotBeStored(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for name, change := range map[string]func(*store.KeptSignal){
			"data with U+0000": func(k *store.KeptSignal) { k.Data = json.RawMessage(`"\u0000"`) },
			"malformed data":   func(k *store.KeptSignal) { k.Data = json.RawMessage(`{`) },
			"a name":           func(k *store.KeptSignal) { k.Name = "a\x00" },
			"a key":            func(k *store.KeptSignal) { k.Key = "a\xff" },
			"a step":           func(k *store.KeptSignal) { k.RunID, k.Step = "r", new("\x00") },
		} {
			k := kept("go", change)
			if _, err := b.KeepSignal(t.Context(), k); !errors.Is(err, store.ErrInvalidJSON) {
				t.Errorf("%s: %v, want %v", name, err, store.ErrInvalidJSON)
			}
			if _, err := b.DeliverKept(t.Context(), k.ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%s: it was kept: %v", name, err)
			}
		}
	})
}

// Two processes deliver, and one and another signal of a key, at the same time: one wins.
func TestKeptSignal_ConcurrentDeliveriesOfAKeyReachOneRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for i := range 20 {
			name := fmt.Sprintf("go-%d", i)
			first, second := b.park(wait(b.start(), name)), b.park(wait(b.start(), name))
			var sends sync.WaitGroup
			for _, w := range []store.StepWrite{first, second, first, second} {
				k := kept(name, func(k *store.KeptSignal) { k.RunID, k.Key = w.RunID, "key" })
				sends.Go(func() {
					if result, err := b.KeepSignal(b.Context(), k); err != nil || result.State != store.SignalDelivered || result.Runs != 1 {
						t.Errorf("KeepSignal: %+v, %v", result, err)
					}
				})
			}
			sends.Wait()
			_, toFirst := b.received(first)
			_, toSecond := b.received(second)
			if toFirst == toSecond {
				t.Fatalf("delivered to the first run: %v, to the second: %v; want one", toFirst, toSecond)
			}
		}
	})
}

// A wait begins while a signal is kept: after both, one look delivers it.
func TestKeptSignal_P3_RacesWithTheWait(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for i := range 20 {
			k := kept(fmt.Sprintf("go-%d", i))
			w := wait(b.start(), k.Name)
			var both sync.WaitGroup
			both.Go(func() {
				if _, err := b.KeepSignal(b.Context(), k); err != nil {
					t.Error(err)
				}
			})
			both.Go(func() {
				result, err := b.ApplyAndClaim(b.Context(), store.Batch{Steps: []store.StepWrite{w}, Runs: []store.RunWrite{ending(w.Lease, store.RunPark)}})
				if err != nil || errors.Join(append(result.Steps, result.Runs...)...) != nil {
					t.Errorf("park: %+v, %v", result, err)
				}
			})
			both.Wait()
			b.deliver()
			if _, ok := b.received(w); !ok || !due(b.run(w.RunID)) {
				t.Fatalf("try %d: received %v, run %+v", i, ok, b.run(w.RunID))
			}
		}
	})
}

func TestKeptSignal_PagesMeet(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		var want []string
		for i := range 5 {
			target := b.start()
			k := kept("go", func(k *store.KeptSignal) { k.RunID = target.RunID })
			want = append(want, k.ID)
			b.keep(k, store.SignalWaiting)
			b.keep(kept(fmt.Sprintf("other-%d", i)), store.SignalWaiting)
			b.mustRun(ending(target, store.RunComplete))
		}
		var got []string
		pages := 0
		for after := (openworkflow.Cursor{}); pages == 0 || after != (openworkflow.Cursor{}); pages++ {
			ids, next, err := b.DueSignals(t.Context(), after, 3)
			if err != nil || pages > 10 {
				t.Fatalf("page %d: %v", pages, err)
			}
			got, after = append(got, ids...), next
		}
		if diff := cmp.Diff(want, got); diff != "" || pages != 4 {
			t.Errorf("%d pages:\n%s", pages, diff)
		}
	})
}

func TestKeptSignal_P9_IsNoDecision(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		k := kept(openworkflow.ApprovalSignal(l.RunID, "pay"))
		if _, err := b.KeepSignal(t.Context(), k); !errors.Is(err, store.ErrReservedSignal) {
			t.Errorf("a signal with the name of an approval: %v, want %v", err, store.ErrReservedSignal)
		}
	})
}

func TestDueDecisions_FollowTheirSteps(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		asks, ended, open := b.start(), b.start(), b.start()
		b.park(ask(t, asks, "pay"))
		b.mustRun(ending(ended, store.RunComplete))
		due, err := b.DueDecisions(t.Context(), []store.ApprovalStep{
			{RunID: open.RunID, Step: "pay"}, {RunID: asks.RunID, Step: "pay"}, {RunID: asks.RunID, Step: "ship"},
			{RunID: ended.RunID, Step: "pay"}, {RunID: "none", Step: ""},
		})
		if diff := cmp.Diff([]int{1, 3}, due); err != nil || diff != "" {
			t.Errorf("due: %v\n%s", err, diff)
		}
		if due, err := b.DueDecisions(t.Context(), nil); err != nil || len(due) > 0 {
			t.Errorf("of no steps: %v, %v", due, err)
		}
	})
}

func TestListenWaits_HearsOfWaits(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		heard := wake.New()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var listening sync.WaitGroup
		listening.Go(func() { _ = b.ListenWaits(ctx, heard.Set) })
		defer listening.Wait()
		defer stop()
		<-heard // connected
		w := wait(b.start(), strings.Repeat("s", 100))
		if _, err := b.ApplyAndClaim(t.Context(), store.Batch{Steps: []store.StepWrite{w}, Hints: store.Hints{Waits: true}}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
		case <-time.After(minute):
			t.Fatal("no notification")
		}
	})
}
