package runner

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// unwritten are the step attempts that an execution has begun or ended and that
// travel with its next write, so that they cost no commit of their own.
type unwritten struct {
	mu sync.Mutex
	// decisions must be durable before another function is called, because a later
	// execution could decide otherwise: what is waited for and until when, a timeout, a
	// choice, a failure.
	decisions []store.StepWrite
	// notes say what the database implies already: a sleep is over, a child has ended, a
	// signal was delivered.
	notes []store.StepWrite

	// flush is held while they are being written on behalf of a function.
	flush sync.Mutex
	// late writes them should the workflow do nothing durable for a while. It is set at
	// the first of many results, not at each, and looks again when it is early: to set a
	// timer wakes a thread.
	late  *time.Timer
	armed bool
	// since is when the oldest result was taken up that is not written.
	since time.Time
}

// patience is how long the result of a step may be unwritten while its workflow does
// something else.
const patience = 5 * time.Millisecond

// soon sees to it that what was taken up is written soon, whatever the workflow does.
func (u *unwritten) soon(write func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.since.IsZero() {
		u.since = time.Now()
	}
	switch {
	case u.armed:
		return
	case u.late == nil:
		u.late = time.AfterFunc(patience, func() {
			if u.due() {
				write()
			}
		})
	default:
		u.late.Reset(patience)
	}
	u.armed = true
}

// due reports whether something has been unwritten for long enough. The timer is set
// anew for what has not.
func (u *unwritten) due() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.armed = false
	if u.since.IsZero() {
		return false
	}
	if rest := patience - time.Since(u.since); rest > 0 {
		u.late.Reset(rest)
		u.armed = true
		return false
	}
	return true
}

// decide takes up an attempt that must be durable before another function is called.
func (u *unwritten) decide(w store.StepWrite) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.decisions = append(u.decisions, w)
}

// note takes up an attempt that the database implies.
func (u *unwritten) note(w store.StepWrite) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.notes = append(u.notes, w)
}

// take returns all there is to write, in order, and forgets it.
func (u *unwritten) take() []store.StepWrite {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := append(u.decisions, u.notes...)
	u.decisions, u.notes, u.since = nil, nil, time.Time{}
	return all
}

// end stops the timer, when nothing more is to be written.
func (u *unwritten) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.armed {
		u.late.Stop()
	}
}

// takeNotes returns the notes, and forgets them.
func (u *unwritten) takeNotes() []store.StepWrite {
	u.mu.Lock()
	defer u.mu.Unlock()
	notes := u.notes
	u.notes = nil
	return notes
}

func (u *unwritten) undecided() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.decisions) > 0
}

// secure returns once everything is durable that must be before a function is
// called, also what another goroutine is writing at this moment. It leaves when that
// is not to be.
func (e *execution) secure() {
	e.unwritten.flush.Lock()
	defer e.unwritten.flush.Unlock()
	if e.unwritten.undecided() {
		e.writeUnwritten()
	} else if e.over() {
		runtime.Goexit()
	}
}

// flushUnwritten makes everything durable that was taken up, for those who look.
func (e *execution) flushUnwritten() {
	e.unwritten.flush.Lock()
	defer e.unwritten.flush.Unlock()
	e.writeUnwritten()
}

func (e *execution) writeUnwritten() {
	writes := e.unwritten.take()
	if len(writes) == 0 {
		return
	}
	if err := e.submit(writes, nil); err != nil {
		e.leave(outcome{kind: outcomeReturned, err: unstorable(writes, err)})
	}
}

// submit writes, and waits until that is durable. It leaves when the run is no longer
// this worker's; the error it returns is that of a value that cannot be stored.
func (e *execution) submit(steps []store.StepWrite, run *store.RunWrite) error {
	err := e.runner.flusher.submit(e.writeCtx, steps, run)
	if errors.Is(err, store.ErrLeaseLost) || e.writeCtx.Err() != nil {
		e.leave(e.disowned())
	}
	return err
}

// unstorable is the failure of a run whose steps have a value that cannot be stored.
func unstorable(writes []store.StepWrite, err error) error {
	if len(writes) == 1 {
		return &durable.NonRetryableError{Err: fmt.Errorf("store step %q: %w", writes[0].Attempt.StepName, err)}
	}
	return &durable.NonRetryableError{Err: fmt.Errorf("store %d steps: %w", len(writes), err)}
}

// disowned ends the contexts of an execution that has lost its run.
func (e *execution) disowned() outcome {
	if e.writeCtx.Err() == nil {
		e.lost(e.runner.leases.whyLost(e.writeCtx, e.lease))
	}
	return outcome{kind: outcomeAbandoned, err: context.Cause(e.writeCtx)}
}

// stepWrite is a write of an attempt under this execution's lease.
func (e *execution) stepWrite(attempt openworkflow.StepAttempt) store.StepWrite {
	w := store.StepWrite{Lease: e.lease, Attempt: attempt}
	if attempt.StartedAt != nil {
		w.Elapsed = e.now().Sub(*attempt.StartedAt)
	}
	return w
}

// firstWrite is stepWrite for an attempt of which nothing was written.
func (e *execution) firstWrite(attempt openworkflow.StepAttempt) store.StepWrite {
	w := e.stepWrite(attempt)
	w.New = true
	return w
}

// ended takes the outcome of an attempt into the history.
func (e *execution) ended(attempt openworkflow.StepAttempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.endedLocked(attempt)
}

func (e *execution) endedLocked(attempt openworkflow.StepAttempt) {
	attempt.FinishedAt = new(e.now())
	e.history.end(attempt)
}
