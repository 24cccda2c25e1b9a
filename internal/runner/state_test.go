package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// state returns what a run has published, "" for nothing.
func (b *bench) state(id string) string {
	b.Helper()
	published, err := b.store.View(time.Minute).Published(b.Context(), id)
	if err != nil {
		b.Fatal(err)
	}
	if published == nil {
		return ""
	}
	return string(published.State)
}

// batches counts the calls of ApplyAndClaim that write.
type batches struct {
	runner.Store
	mu     sync.Mutex
	writes int
	states []string
}

func (s *batches) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	s.mu.Lock()
	if len(batch.Steps)+len(batch.Runs) > 0 {
		s.writes++
	}
	for _, w := range batch.Steps {
		if w.State != nil {
			s.states = append(s.states, string(w.State.State))
		}
	}
	for _, w := range batch.Runs {
		if w.State != nil {
			s.states = append(s.states, string(w.State.State))
		}
	}
	s.mu.Unlock()
	return s.Store.ApplyAndClaim(ctx, batch)
}

// SetState makes no write of its own, and of many states the last one is sent. A run that publishes
// none sends none.
func TestSetState_CostsNoTransaction(t *testing.T) {
	b := newBench(t)
	for _, n := range []int{0, 100} {
		s := &batches{Store: b.store}
		w := workflow.Define("publishes", func(ctx context.Context, _ any) (string, error) {
			for i := range n {
				if err := workflow.SetState(ctx, i); err != nil {
					return "", err
				}
			}
			return "done", nil
		})
		_, stop := b.workOn(s, runner.Options{}, w)
		id := b.start(w, "null")
		b.completed(id)
		stop()
		want, sent := "", 0
		if n > 0 {
			want, sent = "99", 1
		}
		if got := b.state(id); got != want || len(s.states) != sent || s.writes != 1 {
			t.Errorf("%d states: the state is %s, %v were sent in %d writes", n, got, s.states, s.writes)
		}
	}
}

// The state can be read while no worker executes the run, and while a step takes long.
func TestSetState_IsReadWhileTheRunWaits(t *testing.T) {
	b := newBench(t)
	goOn := make(chan struct{})
	w := workflow.Define("waits", func(ctx context.Context, _ any) (string, error) {
		if err := workflow.SetState(ctx, "before the long step"); err != nil {
			return "", err
		}
		if _, err := step.Run(ctx, "long", func(ctx context.Context) (any, error) {
			select {
			case <-goOn:
			case <-ctx.Done():
			}
			return nil, ctx.Err()
		}); err != nil {
			return "", err
		}
		if err := workflow.SetState(ctx, "waiting"); err != nil {
			return "", err
		}
		got, _, err := step.WaitForSignal[string](ctx, "go")
		return got, err
	})
	_, stop := b.work(runner.Options{}, w)
	id := b.start(w, "null")
	deadline := time.Now().Add(time.Minute)
	for got := ""; got != `"before the long step"`; got = b.state(id) {
		if time.Now().After(deadline) {
			t.Fatalf("while the step is executing, the state is %s", got)
		}
	}
	close(goOn)
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Parked() })
	stop()
	if got := b.state(id); got != `"waiting"` {
		t.Errorf("while it waits, the state is %s", got)
	}
}

// A replay calls SetState for everything that was published before, and publishes none of it: between
// its passes, and whatever fails in them, the state never goes back.
func TestSetState_AReplayPublishesNothingOlder(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("replays", func(ctx context.Context, _ any) (string, error) {
		for i := range 10 {
			if err := workflow.SetState(ctx, i); err != nil {
				return "", err
			}
			if err := step.Sleep(ctx, "nap", time.Millisecond); err != nil {
				return "", err
			}
		}
		return "done", nil
	})
	b.work(runner.Options{}, w)
	id := b.start(w, "null")
	last := -1
	for {
		run, err := b.store.GetRuns(t.Context(), []string{id})
		if err != nil {
			t.Fatal(err)
		}
		var now int
		if text := b.state(id); text != "" {
			if _, err := fmt.Sscan(text, &now); err != nil || now < last {
				t.Fatalf("the state goes back from %d to %s (%v)", last, text, err)
			}
			last = now
		}
		if run[id].Status.Terminal() {
			break
		}
	}
	if b.completed(id); last != 9 {
		t.Errorf("the last state is %d", last)
	}
}

// A state that the database refuses fails nothing else: it is left out, and a step whose result
// traveled with it is not called again. SetState refuses such a value, so it is published past it.
func TestSetState_P1_AnUnstorableStateRepeatsNoStep(t *testing.T) {
	b := newBench(t)
	var seen calls
	publish := func(ctx context.Context, state string) {
		if state == "bad" {
			state = "\"caf\xe9\""
		}
		durable.ExecutionFrom(ctx).SetState(json.RawMessage(state))
	}
	w := workflow.Define("publishes", func(ctx context.Context, in []string) (string, error) {
		publish(ctx, in[0])
		receipt, err := step.Run(ctx, "charge", func(ctx context.Context) (string, error) {
			seen.add("charge " + workflow.Info(ctx).ID)
			return "receipt", nil
		})
		if err != nil {
			return "", err
		}
		publish(ctx, in[1])
		if in[2] == "fails" {
			return "", errors.New("refused by the bank")
		}
		return receipt, nil
	})
	b.work(runner.Options{}, w)
	for _, input := range []string{
		`["bad", "\"good\"", "completes"]`, `["\"good\"", "bad", "completes"]`, `["bad", "bad", "completes"]`,
		`["\"good\"", "bad", "fails"]`, `["bad", "bad", "fails"]`,
	} {
		id := b.start(w, input)
		run := b.result(id)
		if strings.Contains(input, "fails") {
			if got := openworkflow.DecodeError(run.Error); run.Status != openworkflow.RunFailed || got.Message != "refused by the bank" {
				t.Errorf("%s: the run is %s with %+v", input, run.Status, got)
			}
		} else if run.Status != openworkflow.RunCompleted || string(run.Output) != `"receipt"` {
			t.Errorf("%s: the run is %s with %s %s", input, run.Status, run.Output, run.Error)
		}
		if n := seen.of("charge " + id); n != 1 || run.Attempts != 1 {
			t.Errorf("%s: charged %d times in %d executions", input, n, run.Attempts)
		}
	}
}
