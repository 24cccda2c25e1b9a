package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestChild_R98c_IsCreatedWithItsAttempt(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := child(l)
		w.Child.Version = new("2")
		b.mustStep(w)
		a, r := b.step(l.RunID, w.Attempt.ID), b.run(w.Child.ID)
		if a.Status != running || text(a.ChildWorkflowRunID) != w.Child.ID {
			t.Errorf("attempt is %+v, want it linked to %s", a, w.Child.ID)
		}
		if text(r.ParentStepAttemptID) != a.ID || text(r.IdempotencyKey) != "__workflow:default:"+a.ID || text(r.Version) != "2" ||
			string(r.Input) != `{"of": 1}` || r.DeadlineAt != nil || !due(r) || r.Status != openworkflow.RunPending {
			t.Errorf("child is %+v", r)
		}

		again := w
		again.Child = &store.NewRun{ID: openworkflow.NewID(), WorkflowName: "wf"}
		b.mustStep(w, again)
		if diff := cmp.Diff(a, b.step(l.RunID, w.Attempt.ID)); diff != "" {
			t.Errorf("the same write again changed the attempt:\n%s", diff)
		}
		if diff := cmp.Diff(r, b.run(w.Child.ID)); diff != "" {
			t.Errorf("the same write again changed the child:\n%s", diff)
		}
		if second, err := b.GetRuns(t.Context(), []string{again.Child.ID}); err != nil || len(second) != 0 {
			t.Errorf("a second child: %v, %v", second, err)
		}
	})
}

func TestChild_R98c_AnUnlinkedAttemptGetsTheRunThatHoldsItsKey(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		for _, exists := range []bool{false, true} {
			w := child(l)
			bare := w
			bare.Child = nil
			b.mustStep(bare)
			want := w.Child.ID
			if exists {
				want = b.create(1, func(n *store.NewRun) { n.IdempotencyKey = new("__workflow:default:" + w.Attempt.ID) })[0]
			}
			b.mustStep(w)
			if a := b.step(l.RunID, w.Attempt.ID); text(a.ChildWorkflowRunID) != want {
				t.Errorf("child exists %v: attempt is linked to %s, want %s", exists, text(a.ChildWorkflowRunID), want)
			}
		}
	})
}

// ends are the ways in which a child may end, and the result that the parent gets.
var ends = map[string]struct {
	end  func(b bench, child openworkflow.Lease)
	want openworkflow.Run
}{
	"completed": {
		func(b bench, child openworkflow.Lease) { b.mustRun(ending(child, store.RunComplete)) },
		openworkflow.Run{Status: openworkflow.RunCompleted, Output: json.RawMessage(`{"done": true}`)},
	},
	"failed": {
		func(b bench, child openworkflow.Lease) { b.mustRun(ending(child, store.RunFail)) },
		openworkflow.Run{Status: openworkflow.RunFailed, Error: json.RawMessage(`{"message": "no"}`)},
	},
	"canceled": {
		func(b bench, child openworkflow.Lease) {
			if _, err := b.CancelRuns(b.Context(), []string{child.RunID}); err != nil {
				b.Fatal(err)
			}
		},
		openworkflow.Run{Status: openworkflow.RunCanceled, Error: json.RawMessage(`{}`)}, // that of its retry
	},
}

func TestChild_R82_ItsEndWakesAParkedParent(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		for name, e := range ends {
			for _, suspended := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, suspended %t", name, suspended), func(t *testing.T) {
					b := bench{t, s}
					parent := b.start()
					w := child(parent)
					b.mustStep(w)
					b.mustRun(ending(parent, store.RunPark))
					if suspended {
						if _, err := b.SuspendRuns(t.Context(), []string{parent.RunID}); err != nil {
							t.Fatal(err)
						}
					}
					c := b.lease(w.Child.ID)
					if results, err := b.WaitResults(t.Context(), []string{w.Attempt.ID}); err != nil || len(results) != 0 {
						t.Errorf("before the end: %v, %v", results, err)
					}
					b.mustRun(store.RunWrite{Lease: c, Op: store.RunRetry, Error: json.RawMessage(`{}`)})
					if due(b.run(parent.RunID)) {
						t.Error("a retry of the child woke the parent")
					}
					c = b.lease(c.RunID)
					e.end(b, c)

					if suspended {
						if due(b.run(parent.RunID)) {
							t.Error("a suspended parent is due")
						}
						if _, err := b.ResumeRuns(t.Context(), []string{parent.RunID}); err != nil {
							t.Fatal(err)
						}
					}
					if r := b.run(parent.RunID); !due(r) || r.Status != openworkflow.RunRunning {
						t.Errorf("parent is %+v, want it due", r)
					}
					results, err := b.WaitResults(t.Context(), []string{w.Attempt.ID, "missing"})
					if err != nil {
						t.Fatal(err)
					}
					want := e.want
					want.ID, want.FinishedAt = c.RunID, b.run(c.RunID).FinishedAt
					if diff := cmp.Diff(map[string]store.WaitResult{w.Attempt.ID: {Child: &want}}, results); diff != "" {
						t.Errorf("results differ (-want +got):\n%s", diff)
					}
					parent = b.lease(parent.RunID)
					w.Lease = parent
					b.mustStep(ended(w, complete, `1`))
					b.mustRun(ending(parent, store.RunComplete))
				})
			}
		}
	})
}

func TestChild_R42_ItsEndLeavesOthersAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for name, op := range map[string]store.RunOp{"pending": store.RunRetry, "completed": store.RunComplete} {
			t.Run(name, func(t *testing.T) {
				b := bench{t, s}
				parent := b.start()
				w := child(parent)
				b.mustStep(w)
				b.mustRun(ending(parent, op))
				before := b.run(parent.RunID)
				b.mustRun(ending(b.lease(w.Child.ID), store.RunComplete))
				if diff := cmp.Diff(before, b.run(parent.RunID)); diff != "" {
					t.Errorf("the end of a child changed its parent:\n%s", diff)
				}
			})
		}

		active := b.start()
		w := child(active)
		b.mustStep(w)
		before := b.run(active.RunID)
		b.mustRun(ending(b.lease(w.Child.ID), store.RunComplete))
		if diff := cmp.Diff(before, b.run(active.RunID)); diff != "" {
			t.Errorf("the end of a child changed a parent that is active:\n%s", diff)
		}

		resolved := b.start()
		w = child(resolved)
		b.mustStep(w)
		b.mustStep(ended(w, fail, `{"message": "timed out"}`))
		b.mustRun(ending(resolved, store.RunPark))
		b.mustRun(ending(b.lease(w.Child.ID), store.RunComplete))
		if due(b.run(resolved.RunID)) {
			t.Error("the end of a child woke a parent that no longer waits for it")
		}
	})
}

func TestPark_R83_IsDueWhenWhatItWaitsForHasCome(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		for name, e := range ends {
			t.Run(name, func(t *testing.T) {
				b := bench{t, s}
				parent := b.start()
				w := child(parent)
				b.mustStep(w)
				e.end(b, b.lease(w.Child.ID))
				b.mustRun(ending(parent, store.RunPark))
				if !due(b.run(parent.RunID)) {
					t.Error("a run parked after the end of its child is not due")
				}
				b.mustRun(ending(b.lease(parent.RunID), store.RunComplete))
			})
		}

		l := b.start()
		w := wait(l, "s")
		b.mustStep(w)
		b.send("s", `1`)
		b.mustRun(ending(l, store.RunPark))
		if !due(b.run(l.RunID)) {
			t.Error("a run parked after its signal was delivered is not due")
		}
		l = b.lease(l.RunID)
		w.Lease = l
		b.mustStep(ended(w, complete, `{"data": 1}`))
		b.mustRun(ending(l, store.RunPark))
		if due(b.run(l.RunID)) {
			t.Error("a run parked after it had received its signal is due")
		}
		l = b.start()
		b.mustStep(wait(l, "t"))
		b.send("t", `1`)
		b.mustRun(ending(l, store.RunRetry))
		if due(b.run(l.RunID)) {
			t.Error("a run that was put off is due")
		}
	})
}

func TestPark_R83_OfWhatHasComeIsNotifiedOf(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		parent := b.start()
		w := child(parent)
		b.mustStep(w)
		b.mustRun(ending(b.lease(w.Child.ID), store.RunComplete))
		wakes := make(chan struct{}, 100)
		done := make(chan error, 1)
		go func() { done <- s.Listen(t.Context(), func() { wakes <- struct{}{} }) }()
		<-wakes // it listens
		b.mustRun(ending(parent, store.RunPark))
		select {
		case <-wakes:
		case err := <-done:
			t.Errorf("stopped listening: %v", err)
		case <-time.After(minute):
			t.Error("nobody was told of a parked run that is due")
		}
	})
}

// send sends a signal and returns the runs that received it.
func (b bench) send(name, data string) []string {
	b.Helper()
	ids, err := b.SendSignals(b.Context(), []store.Signal{{Name: name, Data: json.RawMessage(data)}})
	if err != nil {
		b.Fatal(err)
	}
	return ids[0]
}

func TestSignals_R104_ReachThoseThatWait(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		if got := b.send("s", `0`); len(got) != 0 {
			t.Errorf("a signal for nobody went to %v", got)
		}
		parked, pending, active, other := b.start(), b.start(), b.start(), b.start()
		waits := map[string]store.StepWrite{}
		for _, l := range []openworkflow.Lease{parked, pending, active} {
			waits[l.RunID] = wait(l, "s")
			b.mustStep(waits[l.RunID])
		}
		b.mustStep(wait(other, "t"))
		b.mustRun(ending(parked, store.RunPark))
		b.mustRun(ending(pending, store.RunRetry))
		before := b.run(active.RunID)

		got := map[string]bool{}
		for _, id := range b.send("s", `{"b":1,"a":2}`) {
			got[id] = true
		}
		if diff := cmp.Diff(map[string]bool{parked.RunID: true, pending.RunID: true, active.RunID: true}, got); diff != "" {
			t.Errorf("recipients differ (-want +got):\n%s", diff)
		}
		if !due(b.run(parked.RunID)) || !due(b.run(pending.RunID)) { // R107
			t.Error("a signal did not wake those who wait")
		}
		if diff := cmp.Diff(before, b.run(active.RunID)); diff != "" {
			t.Errorf("a signal changed an active run:\n%s", diff)
		}
		for id, w := range waits {
			results, err := b.WaitResults(t.Context(), []string{w.Attempt.ID})
			if err != nil || string(results[w.Attempt.ID].Data) != `{"a": 2, "b": 1}` || results[w.Attempt.ID].Child != nil {
				t.Errorf("run %s: results %+v, %v", id, results, err)
			}
		}
		if got := b.send("s", `2`); len(got) != 0 {
			t.Errorf("a second signal went to %v, who have one (R105)", got)
		}

		b.mustStep(ended(waits[active.RunID], complete, `{"data": 1}`))
		if results, err := b.WaitResults(t.Context(), []string{waits[active.RunID].Attempt.ID}); err != nil || len(results) != 0 {
			t.Errorf("for a wait that is over: %v, %v", results, err)
		}
		second := wait(active, "s")
		b.mustStep(second)
		if got := b.send("s", `null`); len(got) != 1 || got[0] != active.RunID {
			t.Errorf("the signal for a new wait went to %v", got)
		}
		results, err := b.WaitResults(t.Context(), []string{second.Attempt.ID})
		if a, ok := results[second.Attempt.ID]; err != nil || !ok || a.Data != nil || a.Child != nil {
			t.Errorf("a null payload arrives as %+v, %v", results, err)
		}
	})
}

func TestSignals_R105_AKeyDeliversOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		keyed := store.Signal{Name: "s", Data: json.RawMessage(`1`), IdempotencyKey: new("k")}
		send := func(signals ...store.Signal) [][]string {
			t.Helper()
			ids, err := b.SendSignals(t.Context(), signals)
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		if got := send(keyed)[0]; len(got) != 0 {
			t.Errorf("a signal for nobody went to %v", got)
		}
		first := b.start()
		w := wait(first, "s")
		b.mustStep(w)
		for range 2 {
			if got := send(keyed, keyed); len(got[0]) != 1 || len(got[1]) != 1 || got[0][0] != first.RunID || got[1][0] != first.RunID {
				t.Errorf("keyed signal went to %v, want %s", got, first.RunID)
			}
		}
		second := b.start()
		b.mustStep(wait(second, "s"))
		if got := send(keyed)[0]; len(got) != 1 || got[0] != first.RunID {
			t.Errorf("the same key went to %v", got)
		}
		other := keyed
		other.IdempotencyKey = new("other")
		if got := send(other)[0]; len(got) != 1 || got[0] != second.RunID {
			t.Errorf("another key went to %v, want %s", got, second.RunID)
		}
	})
}

func TestSignals_R106_ReachWaitsThatEndedRunsLeftBehind(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		b.mustStep(wait(l, "s"))
		b.mustRun(ending(l, store.RunFail))
		before := b.run(l.RunID)
		if got := b.send("s", `1`); len(got) != 1 || got[0] != l.RunID {
			t.Errorf("signal went to %v", got)
		}
		if diff := cmp.Diff(before, b.run(l.RunID)); diff != "" {
			t.Errorf("it changed a run that has ended:\n%s", diff)
		}
	})
}

func TestSignals_R23_AFaultyPayloadDeliversNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := wait(l, "s")
		b.mustStep(w)
		for _, signal := range []store.Signal{
			{Name: "s", Data: json.RawMessage(`"\u0000"`)}, {Name: "s\x00"}, {Name: "s", IdempotencyKey: new("\xff")},
		} {
			if _, err := b.SendSignals(t.Context(), []store.Signal{{Name: "s"}, signal}); !errors.Is(err, store.ErrInvalidJSON) {
				t.Errorf("%+v: %v, want it refused", signal, err)
			}
		}
		if results, err := b.WaitResults(t.Context(), []string{w.Attempt.ID}); err != nil || len(results) != 0 {
			t.Errorf("results: %v, %v", results, err)
		}
	})
}

func TestSendSignal_R99a_DeliversAndCompletesTheStep(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		receiver := b.start()
		w := wait(receiver, "s")
		b.mustStep(w)
		b.mustRun(ending(receiver, store.RunPark))
		sender := b.start()
		for _, known := range []bool{false, true} {
			name := map[bool]string{false: "send", true: "send:1"}[known]
			send := store.StepWrite{Lease: sender, Elapsed: time.Second, Attempt: openworkflow.StepAttempt{
				ID: openworkflow.NewID(), StepName: name, Kind: openworkflow.KindSignalSend, Status: running,
			}}
			if known { // begun by a TypeScript worker
				b.mustStep(send)
			}
			want := []string{receiver.RunID}
			if known { // nobody waits any more
				want = []string{}
			}
			for range 2 {
				ids, err := b.SendSignal(t.Context(), send, store.Signal{Name: "s", Data: json.RawMessage(`1`)})
				if err != nil || len(ids) != len(want) || len(ids) == 1 && ids[0] != want[0] {
					t.Errorf("%s went to %v, %v, want %v", name, ids, err, want)
				}
			}
			a := b.step(sender.RunID, send.Attempt.ID)
			output, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			if a.Status != complete || a.Kind != openworkflow.KindSignalSend || a.StepName != name || a.Context != nil ||
				string(a.Output) != `{"workflowRunIds": `+string(output)+`}` || a.FinishedAt == nil {
				t.Errorf("attempt is %+v", a)
			}
			if len(b.steps(sender.RunID)) != map[bool]int{false: 1, true: 2}[known] {
				t.Errorf("steps are %+v", b.steps(sender.RunID))
			}
		}
		if !due(b.run(receiver.RunID)) {
			t.Error("the receiver was not woken")
		}

		// The key keeps a step whose signal was sent, but not recorded, from sending again.
		b.mustStep(wait(b.start(), "s"))
		again := store.StepWrite{Lease: sender, Attempt: openworkflow.StepAttempt{ID: openworkflow.NewID(), StepName: "send"}}
		ids, err := b.SendSignal(t.Context(), again, store.Signal{Name: "s"})
		if err != nil || len(ids) != 1 || ids[0] != receiver.RunID {
			t.Errorf("the same step, in another attempt, went to %v, %v", ids, err)
		}

		bad := store.StepWrite{Lease: sender, Attempt: openworkflow.StepAttempt{ID: openworkflow.NewID(), StepName: "bad"}}
		if _, err := b.SendSignal(t.Context(), bad, store.Signal{Name: "s", Data: json.RawMessage(`"\u0000"`)}); !errors.Is(err, store.ErrInvalidJSON) {
			t.Errorf("a faulty payload: %v", err)
		}
		b.mustRun(ending(sender, store.RunPark))
		ids, err = b.SendSignal(t.Context(), again, store.Signal{Name: "s"})
		if err != nil || len(ids) != 1 {
			t.Errorf("repeated after the lease was lost: %v, %v", ids, err)
		}
	})
}
