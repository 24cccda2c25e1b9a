package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// writeBuffer holds step attempts that have started or ended and are written together with
// the next write of their execution, so that they cost no commit of their own.
type writeBuffer struct {
	mu sync.Mutex
	// required must be durable before another function is called, because a later execution
	// could decide otherwise: what is waited for and until when, a timeout, a choice, a
	// result.
	required []store.StepWrite
	// implied follows from other rows: a sleep is over, a child has ended, a signal was
	// delivered.
	implied []store.StepWrite

	// state is what the workflow has published since the last write, nil for nothing. It travels with
	// the next write, and makes none necessary.
	state *store.NewState

	// flushMu is held while buffered attempts are written. A caller that has locked it knows
	// that nothing that was taken from the buffer is still in flight.
	flushMu sync.Mutex
	// lost is the failure of the run if attempts of the buffer could not be stored. It may have
	// come when the execution was over. Guarded by flushMu.
	lost error
	// timer flushes results that have been buffered for maxBufferTime. It is set for the
	// first of many results, not for each, and set again if it fires early: setting a timer
	// wakes a thread.
	timer *time.Timer
	armed bool
	// oldest is when the oldest buffered result was added; zero if there is none.
	oldest time.Time
}

// maxBufferTime is how long a result may be buffered while its workflow does something else.
const maxBufferTime = 5 * time.Millisecond

// flushSoon calls flush within maxBufferTime, unless the buffer is emptied before.
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

// flushDue reports, when the timer fires, whether a result has been buffered for long enough.
// If the oldest has not, it sets the timer for it.
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

// addRequired adds an attempt that must be durable before another function is called.
func (b *writeBuffer) addRequired(w store.StepWrite) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.required = append(b.required, w)
}

// addImplied adds an attempt that follows from other rows.
func (b *writeBuffer) addImplied(w store.StepWrite) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.implied = append(b.implied, w)
}

// popAll removes all attempts and returns them in order.
func (b *writeBuffer) popAll() []store.StepWrite {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := append(b.required, b.implied...)
	b.required, b.implied, b.oldest = nil, nil, time.Time{}
	return all
}

// setState replaces the state that travels with the next write, unless it has a newer one.
func (b *writeBuffer) setState(state *store.NewState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if state != nil && (b.state == nil || b.state.Sequence < state.Sequence) {
		b.state = state
	}
}

// popState removes the state that travels with the next write and returns it.
func (b *writeBuffer) popState() *store.NewState {
	b.mu.Lock()
	defer b.mu.Unlock()
	state := b.state
	b.state = nil
	return state
}

// stop stops the timer at the end of the pass.
func (b *writeBuffer) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.armed {
		b.timer.Stop()
	}
}

// popImplied removes the implied attempts and returns them.
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

// flushRequired (might not return) returns once everything is durable that must be before a
// function is called, including what another goroutine is writing at this moment.
func (e *execution) flushRequired() {
	e.buffer.flushMu.Lock()
	defer e.buffer.flushMu.Unlock()
	if e.buffer.hasRequired() {
		e.writeBufferedLocked()
	} else if e.isOver() {
		runtime.Goexit()
	}
}

// flushAll (might not return) makes all buffered attempts durable.
func (e *execution) flushAll() {
	e.buffer.flushMu.Lock()
	defer e.buffer.flushMu.Unlock()
	e.writeBufferedLocked()
}

// writeBufferedLocked (might not return) is flushAll for a caller that holds buffer.flushMu.
func (e *execution) writeBufferedLocked() {
	writes := e.buffer.popAll()
	if len(writes) == 0 {
		return
	}
	if err := e.writeSteps(writes); err != nil {
		e.buffer.lost = unstorable(writes, err)
		e.exitWith(outcome{kind: outcomeReturned, err: e.buffer.lost})
	}
}

// writeSteps (might not return) writes, and returns once that is durable. It ends the goroutine
// if this worker no longer holds the run. The error it returns is that of a value that cannot
// be stored.
func (e *execution) writeSteps(steps []store.StepWrite) error {
	err := e.submit(write{steps: steps})
	if errors.Is(err, store.ErrLeaseLost) || e.writeCtx.Err() != nil {
		e.exitWith(e.onLeaseLost())
	}
	if err == nil {
		e.noteProgress(steps)
	}
	if refused, ok := errors.AsType[refusedStepError](err); ok {
		return refused.error
	}
	return err
}

// submit writes steps, the end of the pass, or both, and the state that the run has published since
// its last write. A state fails no write: what is refused is written again without it. Of a write
// that fails all the same, the state travels with the next one.
func (e *execution) submit(w write) error {
	state := e.buffer.popState()
	w.setState(state)
	err := e.runner.flusher.submit(e.writeCtx, w)
	if state == nil || err == nil {
		return err
	}
	if isUnstorable(err) {
		w.setState(nil)
		markMaybeWritten(w.steps)
		if err = e.runner.flusher.submit(e.writeCtx, w); err == nil {
			e.log().Error("Dropped what a run has published with SetState: it cannot be stored", "bytes", len(state.State))
			return nil
		}
	}
	e.buffer.setState(state)
	return err
}

// setState makes a state travel with the write, nil for none.
func (w write) setState(state *store.NewState) {
	if w.run != nil {
		w.run.State = state
	} else {
		w.steps[0].State = state
	}
}

// isUnstorable reports whether a write failed because of a value in it.
func isUnstorable(err error) bool {
	return errors.Is(err, store.ErrInvalidJSON) || errors.Is(err, store.ErrTooLarge)
}

// SetState (might not return) implements durable.Execution.
func (e *execution) SetState(state json.RawMessage) {
	e.enterVerb()
	defer e.exitVerb()
	e.states++
	e.buffer.setState(&store.NewState{Sequence: e.states, State: state})
}

// unstorable returns the failure of a run with step values that cannot be stored.
func unstorable(writes []store.StepWrite, err error) error {
	if len(writes) == 1 {
		return &durable.NonRetryableError{Err: fmt.Errorf("store step %q: %w", writes[0].Attempt.StepName, err)}
	}
	return &durable.NonRetryableError{Err: fmt.Errorf("store %d steps: %w", len(writes), err)}
}

// onLeaseLost ends the contexts of an execution whose lease is lost, and returns its outcome.
func (e *execution) onLeaseLost() outcome {
	if e.writeCtx.Err() == nil {
		e.revoke(e.runner.leases.lossCause(e.writeCtx, e.lease))
	}
	return outcome{kind: outcomeAbandoned, err: context.Cause(e.writeCtx)}
}

// stepWrite returns the write of an attempt under this execution's lease.
func (e *execution) stepWrite(attempt openworkflow.StepAttempt) store.StepWrite {
	w := store.StepWrite{Lease: e.lease, Attempt: attempt}
	if attempt.StartedAt != nil {
		w.Elapsed = e.now().Sub(*attempt.StartedAt)
	}
	return w
}

// firstWrite is stepWrite for an attempt that has no row yet.
func (e *execution) firstWrite(attempt openworkflow.StepAttempt) store.StepWrite {
	w := e.stepWrite(attempt)
	w.New = true
	return w
}

// finishAttempt records the outcome of an attempt in the history.
func (e *execution) finishAttempt(attempt openworkflow.StepAttempt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.finishAttemptLocked(attempt)
}

func (e *execution) finishAttemptLocked(attempt openworkflow.StepAttempt) {
	attempt.FinishedAt = new(e.now())
	e.history.finish(attempt)
}
