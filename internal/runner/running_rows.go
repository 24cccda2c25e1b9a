package runner

import (
	"container/list"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// runningRowDelay is how long the function of a step must run before its running row is
// written. The row is information for users, not a lock (R177).
const runningRowDelay = 50 * time.Millisecond

// runningRows writes the running rows of attempts that take long. Most do not, so an attempt
// costs a list entry, and one timer serves them all: setting a timer wakes a thread, which is
// noticeable where the steps of a run take less than a millisecond.
type runningRows struct {
	mu sync.Mutex
	// pending are the attempts whose rows are not written, *pendingRow, oldest first.
	pending list.List
	// executing are the attempts that have lasted for longer than that.
	executing map[*pendingRow]struct{}
	timer     *time.Timer
	armed     bool
}

// pendingRow is an attempt that is executing.
type pendingRow struct {
	execution *execution
	attempt   openworkflow.StepAttempt
	startedAt time.Time
	entry     *list.Element
	// done is closed when the try to write the row has finished. Nil until it starts.
	done chan struct{}
}

// schedule (might not return) writes the running row of an attempt that starts now, unless it is
// canceled within runningRowDelay. After a death of the run's worker it writes the row before it
// returns, so that the step is known if it kills the next one too.
func (s *runningRows) schedule(e *execution, attempt openworkflow.StepAttempt) *pendingRow {
	row := &pendingRow{execution: e, attempt: attempt, startedAt: time.Now()}
	if e.suspect.Load() && e.writeSteps([]store.StepWrite{e.firstWrite(attempt)}) == nil {
		row.done = make(chan struct{})
		close(row.done)
		return row
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	row.entry = s.pending.PushBack(row)
	s.armLocked(runningRowDelay)
	return row
}

// cancel is called when an attempt has ended, and reports whether its running row may have
// been written. It waits for a write in progress.
func (s *runningRows) cancel(row *pendingRow) (written bool) {
	s.mu.Lock()
	done := row.done
	if done == nil {
		s.pending.Remove(row.entry)
	} else {
		delete(s.executing, row)
	}
	s.mu.Unlock()
	if done == nil {
		return false
	}
	<-done
	return true
}

// armLocked sets the timer unless it is set.
func (s *runningRows) armLocked(after time.Duration) {
	switch {
	case s.armed:
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(after, s.writeDue)
	default:
		s.timer.Reset(after)
	}
	s.armed = true
}

// writeDue starts to write the rows that are due.
func (s *runningRows) writeDue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	for entry := s.pending.Front(); entry != nil; entry = s.pending.Front() {
		row := entry.Value.(*pendingRow)
		if rest := runningRowDelay - time.Since(row.startedAt); rest > 0 {
			s.armLocked(rest)
			return
		}
		s.pending.Remove(entry)
		row.done = make(chan struct{})
		insert(&s.executing, row, struct{}{})
		go row.write()
	}
}

// executingOf returns the durable names of the steps of an execution whose functions have been
// executing for longer than runningRowDelay.
func (s *runningRows) executingOf(e *execution) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for row := range s.executing {
		if row.execution == e {
			names = append(names, row.attempt.StepName)
		}
	}
	slices.Sort(names)
	return names
}

func (row *pendingRow) write() {
	defer close(row.done)
	e := row.execution
	err := e.submit(write{steps: []store.StepWrite{e.firstWrite(row.attempt)}})
	if errors.Is(err, store.ErrLeaseLost) {
		e.onLeaseLost()
	}
}
