package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// sleepContext is the context column of a sleep (R25).
type sleepContext struct {
	Kind     openworkflow.StepKind `json:"kind"`
	ResumeAt string                `json:"resumeAt"`
}

// now is the time by the server's clock.
func (e *execution) now() time.Time { return time.Now().Add(e.ahead) }

// Sleep implements durable.Execution (R98a). A sleep is never armed anew: the row
// that the first execution wrote decides.
func (e *execution) Sleep(base string, wake func(now time.Time) time.Time) error {
	name, err := e.resolve(base)
	if err != nil {
		return err
	}
	if e.done(name) {
		return nil
	}
	e.checkpoint()
	if !e.waiting(name) {
		e.checkLimit()
		if err := e.beginSleep(name, wake(e.now())); err != nil {
			if e.writeCtx.Err() != nil {
				e.leave(outcome{kind: outcomeAbandoned, err: err})
			}
			return fmt.Errorf("begin sleep %q: %w", name, err)
		}
	}
	e.park()
	return nil
}

// beginSleep writes the row of a sleep.
func (e *execution) beginSleep(name string, until time.Time) error {
	encoded, err := json.Marshal(sleepContext{Kind: openworkflow.KindSleep, ResumeAt: openworkflow.FormatTime(until)})
	if err != nil {
		return err
	}
	return e.record(e.newAttempt(name, openworkflow.KindSleep, encoded))
}

// done reports whether the step of a name has completed, whatever its kind (R74).
func (e *execution) done(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.history.completed[name]
	return ok
}

// waiting reports whether the step of a name has begun to wait.
func (e *execution) waiting(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.history.waiting[name]
	return ok
}

// park leaves until the first of what the run waits for (R81).
func (e *execution) park() {
	e.mu.Lock()
	at := e.history.wakeAt()
	e.mu.Unlock()
	e.leave(outcome{kind: outcomeParked, at: at})
}

// endElapsedSleeps completes the sleeps whose time has come, before any code of the
// workflow runs (R72).
func (e *execution) endElapsedSleeps() error {
	e.mu.Lock()
	var elapsed []openworkflow.StepAttempt
	for _, attempt := range e.history.waiting {
		if attempt.Kind != openworkflow.KindSleep {
			continue
		}
		if until, ok := waitEnd(attempt); !ok || !until.After(e.now()) {
			attempt.Status = openworkflow.StepCompleted
			elapsed = append(elapsed, attempt)
		}
	}
	e.mu.Unlock()
	return e.record(elapsed...)
}

// record makes attempts durable, and takes those that have ended into the history. It
// returns why the run is no longer this worker's, or the error of a value that cannot
// be stored.
func (e *execution) record(attempts ...openworkflow.StepAttempt) error {
	if len(attempts) == 0 {
		return nil
	}
	writes := make([]store.StepWrite, len(attempts))
	for i, attempt := range attempts {
		writes[i] = store.StepWrite{Lease: e.lease, Attempt: attempt}
	}
	if err := e.runner.flusher.submit(e.writeCtx, writes, nil); err != nil {
		if errors.Is(err, store.ErrLeaseLost) || e.writeCtx.Err() != nil {
			e.disowned()
			return context.Cause(e.writeCtx)
		}
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, attempt := range attempts {
		if attempt.Status != openworkflow.StepRunning {
			attempt.FinishedAt = new(time.Now())
			e.history.end(attempt)
		}
	}
	return nil
}

// waitEnd returns when an attempt stops waiting by itself: when its sleep is over, or
// its timeout. A context that does not say so counts as none (R72, R81).
func waitEnd(attempt openworkflow.StepAttempt) (time.Time, bool) {
	var end struct {
		ResumeAt  string `json:"resumeAt"`
		TimeoutAt string `json:"timeoutAt"`
	}
	if json.Unmarshal(attempt.Context, &end) != nil {
		return time.Time{}, false
	}
	text := end.TimeoutAt
	if attempt.Kind == openworkflow.KindSleep {
		text = end.ResumeAt
	}
	at, err := openworkflow.ParseTime(text)
	return at, err == nil
}
