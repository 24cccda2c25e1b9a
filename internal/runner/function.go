package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// RunStep implements durable.Execution (R91, R92).
func (e *execution) RunStep(ctx context.Context, step durable.FunctionStep) (json.RawMessage, error) {
	name, err := e.resolve(step.Name)
	if err != nil {
		return nil, err
	}
	if output, known, err := e.recall(name, step.Retry); known {
		return output, err
	}
	e.checkpoint()
	e.checkLimit()
	return e.attempt(ctx, name, step)
}

// recall returns what is stored of a step: its output, or that it has failed for good.
func (e *execution) recall(name string, policy openworkflow.RetryPolicy) (output json.RawMessage, known bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if done, ok := e.history.completed[name]; ok && memoize {
		return done.Output, true, nil
	}
	failed, ok := e.history.failed[name]
	if !ok {
		return nil, false, nil
	}
	payload := openworkflow.DecodeError(failed.Error)
	usedUp := policy.MaximumAttempts > 0 && e.history.failures[name] >= policy.MaximumAttempts
	if usedUp || payload.NonRetryable {
		return nil, true, durable.NewStepError(name, payload)
	}
	return nil, false, nil
}

// attempt executes a step once and stores how that ended.
func (e *execution) attempt(ctx context.Context, name string, step durable.FunctionStep) (json.RawMessage, error) {
	attempt := e.newAttempt(name, openworkflow.KindFunction, nil)
	started := *attempt.StartedAt
	shown := e.showWhenLong(attempt)
	output, err := e.protect(func() (json.RawMessage, error) {
		return step.Call(durable.InsideStep(ctx, name))
	})
	shown.stop()

	if err == nil {
		attempt.Status, attempt.Output = openworkflow.StepCompleted, output
		err = e.store(attempt, started, nil)
		if err == nil {
			return output, nil
		}
		attempt.Output = nil // it cannot be stored: the step has failed (R23, R92)
	}
	if cause := context.Cause(e.ctx); cause != nil && !errors.Is(cause, durable.ErrDeadlineExceeded) {
		e.leave(e.interrupted()) // the function was interrupted; that is not its failure
	}
	return nil, e.fail(attempt, started, step.Retry, err)
}

// fail stores a failed attempt. It returns the step's error when there is no
// further attempt; otherwise it puts the run off and leaves (R77, R100).
func (e *execution) fail(attempt openworkflow.StepAttempt, started time.Time, policy openworkflow.RetryPolicy, err error) error {
	now := time.Now()
	payload := durable.EncodeError(err)
	decision := openworkflow.Decide(policy, e.failures(attempt.StepName)+1, e.run.DeadlineAt, payload.Encode(), now)
	attempt.Status = openworkflow.StepFailed

	if decision.Retry && !durable.IsNonRetryable(err) {
		attempt.Error = payload.Encode()
		retry := &store.RunWrite{Lease: e.lease, Op: store.RunRetry, At: decision.At, Error: payload.Encode()}
		if err := e.store(attempt, started, retry); err != nil {
			e.leave(outcome{kind: outcomeReturned, err: fmt.Errorf("store the failure of step %q: %w", attempt.StepName, err)})
		}
		e.log.Info("Step failed; it is retried", "step", attempt.StepName, "error", payload.Message, "at", decision.At)
		e.leave(outcome{kind: outcomePutOff, at: decision.At, payload: payload.Encode()})
	}

	// Whether this was the last attempt may depend on the error or the deadline,
	// which a later execution cannot see: it is written down.
	payload.NonRetryable = policy.MaximumAttempts == 0 || e.failures(attempt.StepName)+1 < policy.MaximumAttempts
	attempt.Error = payload.Encode()
	if err := e.store(attempt, started, nil); err != nil {
		e.leave(outcome{kind: outcomeReturned, err: fmt.Errorf("store the failure of step %q: %w", attempt.StepName, err)})
	}
	if e.run.DeadlineAt != nil && !now.Before(*e.run.DeadlineAt) {
		e.leave(outcome{kind: outcomeReturned, err: durable.ErrDeadlineExceeded})
	}
	return durable.NewStepError(attempt.StepName, payload)
}

func (e *execution) failures(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.history.failures[name]
}

// showDelay is how long a step must last before its running row is written. The
// row is information for those who look, not a lock (R177).
const showDelay = 50 * time.Millisecond

// showing writes the running row of an attempt that lasts.
type showing struct {
	timer *time.Timer
	done  chan struct{}
}

func (e *execution) showWhenLong(attempt openworkflow.StepAttempt) *showing {
	s := &showing{done: make(chan struct{})}
	s.timer = time.AfterFunc(showDelay, func() {
		defer close(s.done)
		err := e.runner.flusher.submit(e.writeCtx, []store.StepWrite{{
			Lease:   e.lease,
			Attempt: attempt,
			Elapsed: time.Since(*attempt.StartedAt),
		}}, nil)
		if errors.Is(err, store.ErrLeaseLost) {
			e.disowned()
		}
	})
	return s
}

// stop returns once the running row is written or never will be.
func (s *showing) stop() {
	if !s.timer.Stop() {
		<-s.done
	}
}
