package runner

import (
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// exitTimeout is how long the functions of a run may take to return after their context has
// ended, and the workflow's goroutine to end after its execution has.
const exitTimeout = 10 * time.Second

// stuckLogBackoff spaces out the log lines about a pass that stays stuck.
var stuckLogBackoff = backoff.Policy{First: time.Minute, Max: time.Hour}

// stuckPasses are the passes that were left behind: their run is over for this worker, and a
// function of theirs has not returned within exitTimeout. Nothing can end a goroutine from
// outside, so it stays. It can write nothing.
//
// The slot of a stuck pass is lent to another run. At most as many slots are lent as the worker
// has, so that the goroutines of at most twice as many runs exist:
//
//	lent = min(stuck, slots)    kept = stuck - lent    blocked: kept = slots
//
// A pass that keeps its slot reduces how many runs are executed. When all slots are kept, the
// worker claims nothing and is not ready until a function returns.
type stuckPasses struct {
	log   *slog.Logger
	slots int
	// functions returns the names of the steps of a pass whose functions are executing.
	functions func(e *execution) []string
	// changed is set when the announcement of the worker has to change.
	changed wake.Flag

	mu       sync.Mutex
	passes   map[*execution]struct{}
	watchers sync.WaitGroup
	stopped  bool // no more watchers start
}

// goroutines are those of an execution that have not ended. Each channel is closed when they
// have, and nil once that is known.
type goroutines struct {
	workflow, branches <-chan struct{}
	// since is when they should have ended, and cause why.
	since time.Time
	cause error
}

// errOver is the cause when the execution has ended by itself.
var errOver = errors.New("the execution is over; does a deferred function block?")

func (g goroutines) ended() bool { return g.workflow == nil && g.branches == nil }

// wait waits until some of the goroutines have ended, or stop is closed or wakes. It returns
// those that are left.
func (g goroutines) wait(wakes <-chan time.Time, stop <-chan struct{}) goroutines {
	select {
	case <-g.workflow:
		g.workflow = nil
	case <-g.branches:
		g.branches = nil
	case <-wakes:
	case <-stop:
	}
	return g
}

// leaveBehind counts a pass as stuck until its goroutines have ended, and lends its slot if the
// bound allows.
func (r *Runner) leaveBehind(e *execution) {
	s := &r.stuck
	s.mu.Lock()
	s.passes[e] = struct{}{}
	lent, blocked := len(s.passes) <= s.slots, s.blockedLocked()
	if !s.stopped {
		s.watchers.Go(func() { r.watchStuck(e) })
	}
	s.mu.Unlock()

	s.changed.Set()
	s.report(e, lent)
	if lent {
		r.releaseSlots(1)
	}
	if blocked {
		s.log.Error("Stopped claiming runs: functions that do not return occupy all slots; restart the worker", "slots", s.slots)
	}
}

// watchStuck logs at growing intervals that a pass is stuck, until its goroutines have ended or
// Run returns.
func (r *Runner) watchStuck(e *execution) {
	timer := time.NewTimer(stuckLogBackoff.Delay(1))
	defer timer.Stop()
	left := e.left
	for n := 1; !left.ended(); {
		before := left
		left = left.wait(timer.C, r.writeCtx.Done())
		switch {
		case r.writeCtx.Err() != nil:
			return
		case left == before:
			n++
			timer.Reset(stuckLogBackoff.Delay(n))
			r.stuck.report(e, r.stuck.lends())
		}
	}
	e.log().Info("The functions of a run that had not returned have returned", "for", e.stuckFor())
	r.returnStuck(e)
}

// returnStuck ends the count of a pass whose goroutines have ended. If a pass has kept its slot,
// one slot less needs to be lent, so one is free.
func (r *Runner) returnStuck(e *execution) {
	s := &r.stuck
	s.mu.Lock()
	blocked := s.blockedLocked()
	free := len(s.passes) > s.slots
	delete(s.passes, e)
	s.mu.Unlock()
	if free {
		r.releaseSlots(1)
	}
	if blocked {
		s.log.Info("Claims runs again: a function that occupied a slot has returned")
	}
	s.changed.Set()
}

// report logs that a pass is stuck.
func (s *stuckPasses) report(e *execution, lent bool) {
	names := s.functions(e)
	step := ""
	if len(names) > 0 {
		step = names[0]
	}
	e.log().Warn("Functions of a run do not return although their context has ended: they must honor it",
		"step", step, "functions", max(len(names), 1), "for", e.stuckFor(), "cause", e.left.cause, "slotLent", lent)
}

// stuckFor returns how long ago the functions of a pass should have returned.
func (e *execution) stuckFor() time.Duration { return time.Since(e.left.since).Round(time.Second) }

// lends reports whether the slots of all stuck passes are lent.
func (s *stuckPasses) lends() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.passes) <= s.slots
}

// blocked reports whether stuck passes keep all slots.
func (s *stuckPasses) blocked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blockedLocked()
}

func (s *stuckPasses) blockedLocked() bool { return len(s.passes) >= 2*s.slots }

// count returns how many functions do not return, the workflow's own included.
func (s *stuckPasses) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for e := range s.passes {
		n += max(len(s.functions(e)), 1)
	}
	return n
}

// stop waits for the watchers. It is called when writeCtx has ended.
func (s *stuckPasses) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.watchers.Wait()
}
