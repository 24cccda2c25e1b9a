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

// writeBuffer are the step attempts that an execution has begun or ended and that
// travel with its next write, so that they cost no commit of their own.
type writeBuffer struct {
	mu sync.Mutex
	// required must be durable before another function is called, because a later
	// execution could decide otherwise: what is waited for and until when, a timeout, a
	// choice, a failure.
	required []store.StepWrite
	// implied say what the database implies already: a sleep is over, a child has ended, a
	// signal was delivered.
	implied []store.StepWrite

	// flushMu is held while they are being written on behalf of a function.
	flushMu sync.Mutex
	// timer writes them should the workflow do nothing durable for a while. It is set at
	// the first of many results, not at each, and looks again when it is early: to set a
	// timer wakes a thread.
	timer *time.Timer
	armed bool
	// oldest is when the oldest result was taken up that is not written.
	oldest time.Time
}

// maxBufferTime is how long the result of a step may be unwritten while its workflow does
// something else.
const maxBufferTime = 5 * time.Millisecond

// flushSoon sees to it that what was taken up is written soon, whatever the workflow does.
func (b *writeBuffer) flushSoon(flush func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.oldest.IsZero() {
		b.oldest = time.Now()
	}
	switch {
	case b.armed:
		return
	case b.timer == nil:
		b.timer = time.AfterFunc(maxBufferTime, func() {
			if b.flushDue() {
				flush()
			}
		})
	default:
		b.timer.Reset(maxBufferTime)
	}
	b.armed = true
}

// flushDue reports whether something has been unwritten for long enough. The timer is set
// anew for what has not.
func (b *writeBuffer) flushDue() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.armed = false
	if b.oldest.IsZero() {
		return false
	}
	if rest := maxBufferTime - time.Since(b.oldest); rest > 0 {
		b.timer.Reset(rest)
		b.armed = true
		return false
	}
	return true
}

// addRequired takes up an attempt that must be durable before another function is called.
func (b *writeBuffer) addRequired(w store.StepWrite) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.required = append(b.required, w)
}

// addImplied takes up an attempt that the database implies.
func (b *writeBuffer) addImplied(w store.StepWrite) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.implied = append(b.implied, w)
}

// popAll returns all there is to write, in order, and forgets it.
func (b *writeBuffer) popAll() []store.StepWrite {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := append(b.required, b.implied...)
	b.required, b.implied, b.oldest = nil, nil, time.Time{}
	return all
}

// stop stops the timer, when nothing more is to be written.
func (b *writeBuffer) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed {
		b.timer.Stop()
	}
}

// popImplied returns the notes, and forgets them.
func (b *writeBuffer) popImplied() []store.StepWrite {
	b.mu.Lock()
	defer b.mu.Unlock()
	implied := b.implied
	b.implied = nil
	return implied
}

func (b *writeBuffer) hasRequired() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.required) > 0
}

// flushRequired (may not return) returns once everything is durable that must be before a function is
// called, also what another goroutine is writing at this moment. It leaves when that
// is not to be.
func (e *execution) flushRequired() {
	e.buffer.flushMu.Lock()
	defer e.buffer.flushMu.Unlock()
	if e.buffer.hasRequired() {
		e.writeBufferedLocked()
	} else if e.isOver() {
		runtime.Goexit()
	}
}

// flushAll (may not return) makes everything durable that was taken up, for those who look.
func (e *execution) flushAll() {
	e.buffer.flushMu.Lock()
	defer e.buffer.flushMu.Unlock()
	e.writeBufferedLocked()
}

// writeBufferedLocked (may not return) writes all that is buffered.
func (e *execution) writeBufferedLocked() {
	writes := e.buffer.popAll()
	if len(writes) == 0 {
		return
	}
	if err := e.writeSteps(writes); err != nil {
		e.exitWith(outcome{kind: outcomeReturned, err: unstorable(writes, err)})
	}
}

// writeSteps (may not return) writes, and waits until that is durable. It leaves when the run is no longer
// this worker's; the error it returns is that of a value that cannot be stored.
func (e *execution) writeSteps(steps []store.StepWrite) error {
	err := e.runner.flusher.submit(e.writeCtx, steps, nil)
	if errors.Is(err, store.ErrLeaseLost) || e.writeCtx.Err() != nil {
		e.exitWith(e.onLeaseLost())
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

// onLeaseLost ends the contexts of an execution that has lost its run.
func (e *execution) onLeaseLost() outcome {
	if e.writeCtx.Err() == nil {
		e.revoke(e.runner.leases.lossCause(e.writeCtx, e.lease))
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

// finishAttempt takes the outcome of an attempt into the history.
func (e *execution) finishAttempt(attempt openworkflow.StepAttempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finishAttemptLocked(attempt)
}

func (e *execution) finishAttemptLocked(attempt openworkflow.StepAttempt) {
	attempt.FinishedAt = new(e.now())
	e.history.finish(attempt)
}
