package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// deaf is a workflow with functions that ignore their context until they are let go.
type deaf struct {
	*workflow.Workflow[string, any]
	calls calls
	begun chan string
	goOn  chan struct{}
}

func newDeaf() *deaf {
	w := &deaf{begun: make(chan string, 100), goOn: make(chan struct{})}
	block := func(name string) { // until goOn
		w.calls.add(name)
		w.begun <- name
		<-w.goOn
	}
	function := func(ctx context.Context) (string, error) {
		block(workflow.Info(ctx).ID)
		return "late", nil
	}
	kinds := map[string]func(ctx context.Context) (any, error){
		"run": func(ctx context.Context) (any, error) { return step.Run(ctx, "deaf", function) },
		"go":  func(ctx context.Context) (any, error) { return step.Go(ctx, "deaf", function).Await() },
		"go, not awaited": func(ctx context.Context) (any, error) {
			step.Go(ctx, "deaf", function)
			return nil, nil
		},
		"retried": func(ctx context.Context) (any, error) {
			return step.Run(ctx, "deaf", function, step.Retry(workflow.RetryPolicy{MaximumAttempts: 5}))
		},
		"map": func(ctx context.Context) (any, error) {
			return step.Map(ctx, "deaf", []int{1, 2, 3}, 2, func(ctx context.Context, _ int) (string, error) { return function(ctx) })
		},
		"workflow": func(ctx context.Context) (any, error) {
			block(workflow.Info(ctx).ID)
			return "late", nil
		},
		"select": func(ctx context.Context) (any, error) {
			slow, timer := step.Go(ctx, "deaf", function), step.GoSleep(ctx, "timer", 24*time.Hour)
			return step.Select(ctx, "first", timer, slow)
		},
		"deferred": func(ctx context.Context) (any, error) {
			defer block(workflow.Info(ctx).ID)
			return nil, step.Sleep(ctx, "nap", 24*time.Hour)
		},
	}
	w.Workflow = workflow.Define("deaf", func(ctx context.Context, kind string) (any, error) {
		result, err := kinds[kind](ctx)
		if err != nil {
			return nil, err
		}
		return step.Run(ctx, "after", func(context.Context) (any, error) {
			w.calls.add("after")
			return result, nil
		})
	})
	return w
}

var quick = workflow.Define("quick", func(ctx context.Context, n int) (int, error) {
	return step.Run(ctx, "once", func(context.Context) (int, error) { return n, nil })
})

// On a real database, with the real times: two runs hold both slots, and are canceled.
func TestStuckSteps_P3_OtherRunsAreExecuted(t *testing.T) {
	b := newBench(t)
	w := newDeaf()
	t.Cleanup(sync.OnceFunc(func() { close(w.goOn) }))
	var log lines
	b.work(runner.Options{Concurrency: 2, Pool: "pool", Logger: slog.New(slog.NewJSONHandler(&log, nil))}, w, quick)
	stuck := []string{b.start(w, `"run"`), b.start(w, `"go"`)}
	for range stuck {
		receive(t, w.begun, "the functions that ignore their context")
	}
	third := b.start(quick, `3`)
	if _, err := b.store.CancelRuns(t.Context(), stuck); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(third); got != `3` {
		t.Errorf("the third run returned %s", got)
	}
	b.awaitWorker(func(w store.Worker) bool { return w.StuckSteps == 2 && !w.Blocked })
	for _, id := range stuck {
		var line struct {
			Level, Run, Step, Cause string
			Functions               int
			For                     time.Duration
			SlotLent                bool
		}
		if err := json.Unmarshal([]byte(log.with("do not return", id)), &line); err != nil {
			t.Fatalf("%v in the log:\n%s", err, log.String())
		}
		if line.Level != "WARN" || line.Run != id || line.Step != "deaf" || line.Functions != 1 || line.For < 10*time.Second ||
			!line.SlotLent || line.Cause != workflow.ErrCanceled.Error() {
			t.Errorf("the log has %+v", line)
		}
	}
}

// awaitWorker waits until the only worker has announced itself as asked.
func (b *bench) awaitWorker(ok func(store.Worker) bool) {
	b.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(time.Minute); ; <-ticker.C {
		workers, err := b.store.Workers(b.Context(), time.Hour)
		if err == nil && len(workers) == 1 && ok(workers[0]) {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("gave up waiting for the announcement; there are %+v (%v)", workers, err)
		}
	}
}

// skipping is a runner on a store in memory, in a bubble of package synctest: it waits for
// nothing.
type skipping struct {
	*testing.T
	store  *memstore.Store
	runner *runner.Runner
	log    lines
	w      *deaf
	ended  chan struct{} // closed when Run has returned
	drain  func()
}

func newSkipping(t *testing.T, concurrency int) *skipping {
	t.Helper()
	s := &skipping{T: t, w: newDeaf(), ended: make(chan struct{})}
	definitions := definitions(s.w, quick)
	s.store = memstore.New(definitions[0].Definition, definitions[1].Definition)
	r, err := runner.New(s.store, definitions, runner.Options{
		Concurrency: concurrency, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.runner, s.drain = r, r.Drain
	go func() {
		defer close(s.ended)
		if err := r.Run(context.Background(), 20*time.Second); err != nil {
			t.Error(err)
		}
	}()
	return s
}

// end lets all functions return and stops the runner.
func (s *skipping) end() {
	select {
	case <-s.w.goOn:
	default:
		close(s.w.goOn)
	}
	s.drain()
	<-s.ended
}

func (s *skipping) start(w workflow.Definition, input string) string {
	s.Helper()
	created, err := s.store.CreateRuns(s.Context(), []store.NewRun{
		{ID: openworkflow.NewID(), WorkflowName: w.Name(), Input: json.RawMessage(input)},
	})
	if err != nil || created[0].Err != nil {
		s.Fatalf("create run: %v %v", err, created)
	}
	if err := s.store.Notify(s.Context()); err != nil {
		s.Fatal(err)
	}
	return created[0].RunID
}

// begun reports how many runs have begun to block since the last call.
func (s *skipping) begun() int {
	synctest.Wait()
	n := 0
	for {
		select {
		case <-s.w.begun:
			n++
		default:
			return n
		}
	}
}

func (s *skipping) cancel(ids ...string) {
	s.Helper()
	if _, err := s.store.CancelRuns(s.Context(), ids); err != nil {
		s.Fatal(err)
	}
}

func (s *skipping) status(id string) openworkflow.RunStatus {
	s.Helper()
	runs, err := s.store.GetRuns(s.Context(), []string{id})
	if err != nil {
		s.Fatal(err)
	}
	return runs[id].Status
}

// worker returns the announcement of the worker.
func (s *skipping) worker() store.Worker {
	s.Helper()
	workers, err := s.store.Workers(s.Context(), time.Hour)
	if err != nil || len(workers) != 1 {
		s.Fatalf("workers: %+v, %v", workers, err)
	}
	return workers[0]
}

// past lets a time of the synctest bubble's clock pass, which costs none, in which everything that is to
// happen after a cancel has happened.
func past() { time.Sleep(30 * time.Second); synctest.Wait() }

// Whatever blocks: it stops no other run, it is counted, what it returns later is not stored, and
// nothing that follows it is executed.
func TestStuckSteps_P2_WhateverBlocksIsLeftBehind(t *testing.T) {
	t.Parallel()
	for kind, functions := range map[string]int{
		"run": 1, "go": 1, "go, not awaited": 1, "retried": 1, "map": 2, "workflow": 1, "select": 1,
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSkipping(t, 1)
				defer s.end()
				id := s.start(s.w, `"`+kind+`"`)
				if n := s.begun(); n != functions {
					t.Fatalf("%d functions began, want %d", n, functions)
				}
				other := s.start(quick, `1`)
				s.cancel(id)
				past()
				if got := s.status(other); got != openworkflow.RunCompleted {
					t.Fatalf("the other run is %s\n%s", got, s.log.String())
				}
				if w := s.worker(); w.StuckSteps != functions || w.Blocked {
					t.Errorf("the worker announces %d stuck functions, blocked %v, want %d", w.StuckSteps, w.Blocked, functions)
				}
				before, followed := s.attempts(id), s.w.calls.of("after")
				close(s.w.goOn)
				past()
				if w := s.worker(); w.StuckSteps != 0 {
					t.Errorf("the worker still announces %d stuck functions", w.StuckSteps)
				}
				if after := s.attempts(id); after != before {
					t.Errorf("the run has the attempts %s, want %s", after, before)
				}
				if n := s.w.calls.of("after"); n != followed {
					t.Errorf("the step after was called %d times, want %d", n, followed)
				}
				if s.log.with("have returned", id) == "" {
					t.Errorf("the log does not say that the functions have returned:\n%s", s.log.String())
				}
			})
		})
	}
}

func (s *skipping) attempts(id string) string {
	s.Helper()
	steps, err := s.store.LoadSteps(s.Context(), []string{id})
	if err != nil {
		s.Fatal(err)
	}
	text := ""
	for _, a := range steps[id] {
		text += fmt.Sprintf("%s %s; ", a.StepName, a.Status)
	}
	return text
}

// A deferred function blocks when a run parks. The run is not this worker's any more, and sleeps
// on.
func TestStuckSteps_P3_DeferredFunctionsHoldNoSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSkipping(t, 1)
		defer s.end()
		id := s.start(s.w, `"deferred"`)
		s.begun()
		other := s.start(quick, `1`)
		past()
		if got := s.status(other); got != openworkflow.RunCompleted {
			t.Errorf("the other run is %s", got)
		}
		if w := s.worker(); w.StuckSteps != 1 || s.status(id) != openworkflow.RunRunning && s.status(id) != openworkflow.RunSleeping {
			t.Errorf("the worker announces %d stuck functions, and the run is %s", w.StuckSteps, s.status(id))
		}
	})
}

// At most as many slots are lent as there are. Then the worker claims nothing and says so, until
// a function returns.
func TestStuckSteps_P3_SlotsAreLentWithinABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slots = 3
		s := newSkipping(t, slots)
		defer s.end()
		var ids []string
		for range 3 * slots {
			ids = append(ids, s.start(s.w, `"run"`))
		}
		begun := 0
		for range 5 {
			n := s.begun()
			if begun += n; n > slots {
				t.Errorf("%d runs began at once, want at most %d", n, slots)
			}
			s.cancelRunning(ids)
			past()
		}
		if begun != 2*slots {
			t.Errorf("%d runs began, want %d", begun, 2*slots)
		}
		if w := s.worker(); w.StuckSteps != 2*slots || !w.Blocked || s.runner.Ready() {
			t.Errorf("the worker announces %d stuck functions, blocked %v, and is ready: %v", w.StuckSteps, w.Blocked, s.runner.Ready())
		}
		if got := s.log.count("Stopped claiming runs"); got != 1 {
			t.Errorf("the log says %d times that nothing is claimed:\n%s", got, s.log.String())
		}
		s.w.goOn <- struct{}{} // one returns
		past()
		if n := s.begun(); n != 1 || !s.runner.Ready() || s.worker().Blocked {
			t.Errorf("after one has returned %d runs began, and the worker is ready: %v", n, s.runner.Ready())
		}
		s.cancelRunning(ids)
		close(s.w.goOn)
		past()
		if w := s.worker(); w.StuckSteps != 0 || w.Blocked {
			t.Errorf("the worker announces %d stuck functions, blocked %v", w.StuckSteps, w.Blocked)
		}
		s.begun()
		again := s.start(quick, `1`)
		past()
		if got := s.status(again); got != openworkflow.RunCompleted {
			t.Errorf("a run that comes later is %s", got)
		}
	})
}

// cancelRunning cancels those of the runs that are executed.
func (s *skipping) cancelRunning(ids []string) {
	s.Helper()
	runs, err := s.store.GetRuns(s.Context(), ids)
	if err != nil {
		s.Fatal(err)
	}
	for id, run := range runs {
		if run.Status == openworkflow.RunRunning {
			s.cancel(id)
		}
	}
}

// The bound holds too for runs that end by their deadline: their end is a write, with which the
// next runs are claimed.
func TestStuckSteps_R101_DeadlinesLendNoMoreSlots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slots = 2
		s := newSkipping(t, slots)
		defer s.end()
		start := s.store.Now()
		for i := range 4 * slots { // each is executed in the minute before its deadline
			deadline := start.Add(time.Duration(1+i/slots) * time.Minute)
			created, err := s.store.CreateRuns(t.Context(), []store.NewRun{
				{ID: openworkflow.NewID(), WorkflowName: s.w.Name(), Input: json.RawMessage(`"run"`), DeadlineAt: &deadline},
			})
			if err != nil || created[0].Err != nil {
				t.Fatal(err, created)
			}
		}
		if err := s.store.Notify(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun := 0
		for range 10 {
			begun += s.begun()
			past()
		}
		if begun != 2*slots {
			t.Errorf("%d runs began, want %d", begun, 2*slots)
		}
	})
}

// One line when a function is given up, then fewer and fewer.
func TestStuckSteps_P3_AreLoggedAtGrowingIntervals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSkipping(t, 1)
		defer s.end()
		id := s.start(s.w, `"run"`)
		s.begun()
		s.cancel(id)
		for _, want := range []struct {
			after time.Duration
			least int
			most  int
		}{{30 * time.Second, 1, 1}, {5 * time.Minute, 2, 4}, {time.Hour, 6, 8}, {6 * time.Hour, 12, 17}} {
			time.Sleep(want.after) // of the bubble's clock
			synctest.Wait()
			if n := s.log.count("do not return"); n < want.least || n > want.most {
				t.Errorf("%s later the log has %d lines, want %d to %d", want.after, n, want.least, want.most)
			}
		}
	})
}

// A drain does not wait for functions that were left behind, and hands the other runs back.
func TestStuckSteps_P6_ADrainDoesNotWaitForThem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSkipping(t, 2)
		defer s.end()
		id := s.start(s.w, `"run"`)
		s.begun()
		s.cancel(id)
		past()
		begun := time.Now()
		s.drain()
		<-s.ended
		if took := time.Since(begun); took > time.Second {
			t.Errorf("the drain took %s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := newSkipping(t, 2)
		defer s.end()
		id := s.start(s.w, `"run"`)
		s.begun()
		begun := time.Now()
		s.drain()
		<-s.ended
		if took := time.Since(begun); took > 25*time.Second { // 20 s of grace
			t.Errorf("the drain took %s", took)
		}
		runs, err := s.store.GetRuns(t.Context(), []string{id})
		if err != nil || runs[id].WorkerID != nil {
			t.Errorf("the run is held by %v: %v", runs[id].WorkerID, err)
		}
	})
}

// A function whose run is still this worker's may take as long as it likes.
func TestStuckSteps_P1_LongStepsAreNotStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSkipping(t, 1)
		defer s.end()
		id := s.start(s.w, `"go, not awaited"`)
		s.begun()
		time.Sleep(2 * time.Hour) // of the bubble's clock
		if w := s.worker(); w.StuckSteps != 0 || s.status(id) != openworkflow.RunRunning {
			t.Errorf("the worker announces %d stuck functions; the run is %s", w.StuckSteps, s.status(id))
		}
		close(s.w.goOn)
		past()
		if got := s.status(id); got != openworkflow.RunCompleted || s.w.calls.of(id) != 1 {
			t.Errorf("the run is %s after %d calls", got, s.w.calls.of(id))
		}
	})
}
