package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// Run (might not return) implements durable.Execution (R91, R92). The function is called on the
// workflow's goroutine.
func (e *execution) Run(ctx context.Context, step durable.FunctionStep) (json.RawMessage, error) {
	e.enterVerb()
	defer e.exitVerb()
	name, err := e.durableName(step.Name)
	if err != nil {
		return nil, err
	}
	if output, known, err := e.replay(name, step.Retry); known {
		return output, err
	}
	again, failure := e.nextRetryTime(name, step.Retry)
	for {
		if !again.IsZero() {
			e.waitForRetry(name, again, failure)
		}
		e.checkpoint()
		e.flushRequired()
		attempt := e.newAttempt(name, openworkflow.KindFunction, nil)
		if output, err := e.runAttempt(ctx, attempt, step, true); !errors.Is(err, errTryAgain) {
			return output, err
		}
		again, failure = e.retryTime(name, step.Retry)
	}
}

// waitForRetry (might not return) blocks the workflow's goroutine until a failed step is due again.
func (e *execution) waitForRetry(name string, at time.Time, failure json.RawMessage) {
	f := &future{e: e, name: name, wait: &wait{until: at, failure: failure}}
	e.mu.Lock()
	e.futures = append(e.futures, f)
	e.mu.Unlock()
	e.await(func() bool {
		if e.now().Before(at) {
			return false
		}
		f.resolveLocked(nil, nil)
		return true
	})
}

// startFunction (might not return) starts a function step on a goroutine of its own.
func (e *execution) startFunction(ctx context.Context, step durable.FunctionStep) (*future, error) {
	name := step.Reserved
	if name == "" {
		var err error
		if name, err = e.durableName(step.Name); err != nil {
			return nil, err
		}
	}
	if output, known, err := e.replay(name, step.Retry); known {
		return &future{e: e, name: name, resolved: true, output: output, err: err}, nil
	}
	f := &future{e: e, name: name}
	e.checkpoint()
	e.flushRequired()
	var first *openworkflow.StepAttempt
	again, failure := e.nextRetryTime(name, step.Retry)
	if again.IsZero() {
		first = new(e.newAttempt(name, openworkflow.KindFunction, nil))
	} else {
		f.wait = &wait{until: again, failure: failure}
	}
	e.mu.Lock()
	over := e.outcome != nil
	if !over {
		e.futures = append(e.futures, f)
		e.branches++
		if first != nil {
			e.executing++
		}
	}
	e.mu.Unlock()
	if over {
		runtime.Goexit()
	}
	go e.runBranch(ctx, f, step, first)
	return f, nil
}

// runBranch (might not return) executes a function step on a goroutine of its own, until it has
// a result or the execution is over. Without a first attempt it waits until the step is due
// again.
func (e *execution) runBranch(ctx context.Context, f *future, step durable.FunctionStep, first *openworkflow.StepAttempt) {
	executing := first != nil
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		defer e.endBranchLocked()
		if executing {
			e.executing--
			if !f.resolved { // the author's function has called runtime.Goexit
				e.setOutcomeLocked(outcome{kind: outcomeReturned, err: errGoexit})
			}
		}
		e.wakes.Set()
	}()
	attempt := first
	for {
		if attempt == nil {
			if executing = e.waitUntilDue(f); !executing {
				return
			}
			e.checkpoint()
			e.flushRequired()
			attempt = new(e.newAttempt(f.name, openworkflow.KindFunction, nil))
		}
		output, err := e.runAttempt(ctx, *attempt, step, false)
		final := !errors.Is(err, errTryAgain)
		again, failure := e.retryTime(f.name, step.Retry)
		e.mu.Lock()
		e.executing--
		executing = false
		if final {
			f.resolveLocked(output, err)
		} else {
			f.wait = &wait{until: again, failure: failure}
		}
		e.mu.Unlock()
		if final {
			return
		}
		e.wakes.Set()
		attempt = nil
	}
}

// waitUntilDue waits until a failed step of a branch is due again, and counts the branch as
// executing. It returns false if the execution is over before that.
func (e *execution) waitUntilDue(f *future) bool {
	e.mu.Lock()
	until := f.wait.until
	e.mu.Unlock()
	timer := time.NewTimer(e.until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.hasOutcome:
		return false
	case <-e.ctx.Done():
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.outcome != nil {
		return false
	}
	f.wait = nil
	e.executing++
	return true
}

// retryTime returns when a failed step is due again, and its error; zero if it has not
// failed.
func (e *execution) retryTime(name string, policy openworkflow.RetryPolicy) (at time.Time, failure json.RawMessage) {
	e.mu.Lock()
	defer e.mu.Unlock()
	failed, ok := e.history.failed[name]
	if !ok || failed.FinishedAt == nil {
		return time.Time{}, nil
	}
	at = failed.FinishedAt.Add(policy.Delay(e.history.failures[name])).Truncate(time.Millisecond)
	return at, failed.Error
}

// retrySlack is how much earlier than planned a later execution may retry a step. The step's
// time of failure in the database and the time at which its run is due differ a little;
// without it, a run that is due could be put off again.
const retrySlack = 100 * time.Millisecond

// nextRetryTime is retryTime for a failure in an earlier execution; zero if the step is due
// now.
func (e *execution) nextRetryTime(name string, policy openworkflow.RetryPolicy) (at time.Time, failure json.RawMessage) {
	at, failure = e.retryTime(name, policy)
	if !at.Add(-retrySlack).After(e.now()) {
		return time.Time{}, nil
	}
	return at, failure
}

// replay returns the stored result of a step: its output, or its final failure. known is
// false if there is none.
func (e *execution) replay(name string, policy openworkflow.RetryPolicy) (output json.RawMessage, known bool, err error) {
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

// errTryAgain says that a step has failed and is retried.
var errTryAgain = errors.New("the step has failed and is tried again")

// runAttempt (might not return) calls the function once and stores the result. It returns the
// step's result, or errTryAgain if there is none yet.
//
// With inline, for the workflow's own goroutine, an output that is certain to be storable is
// only buffered. It is durable before the next function is called and before the run ends, so
// the last step of a run costs no commit of its own.
func (e *execution) runAttempt(
	ctx context.Context, attempt openworkflow.StepAttempt, step durable.FunctionStep, inline bool,
) (json.RawMessage, error) {
	output, written, err := e.callAsAttempt(ctx, attempt, step)
	write := e.stepWrite
	if !written {
		write = e.firstWrite
	}

	if err == nil {
		attempt.Status, attempt.Output = openworkflow.StepCompleted, output
		if inline && openworkflow.Plain(output) {
			e.buffer.addRequired(write(attempt))
			e.finishAttempt(attempt)
			e.buffer.flushSoon(e.flushAll)
			return output, nil
		}
		err = e.writeSteps(append(e.buffer.popImplied(), write(attempt)))
		if err == nil {
			e.finishAttempt(attempt)
			return output, nil
		}
		attempt.Output = nil // the output cannot be stored: the step has failed (R23, R92)
	}
	if cause := context.Cause(e.ctx); cause != nil && !errors.Is(cause, durable.ErrDeadlineExceeded) {
		e.exitWith(e.interrupted()) // interrupting a function is no failure of it
	}
	return nil, e.failAttempt(attempt, write, step.Retry, err)
}

// callAsAttempt (might not return) calls the function. Written says whether the running row of the attempt may have
// been written.
func (e *execution) callAsAttempt(
	ctx context.Context, attempt openworkflow.StepAttempt, step durable.FunctionStep,
) (output json.RawMessage, written bool, err error) {
	row := e.runner.runningRows.schedule(e, attempt)
	defer func() { written = e.runner.runningRows.cancel(row) }() // also when the function calls runtime.Goexit
	output, err = e.callTraced(ctx, attempt.StepName, step)
	return output, written, err
}

// callTraced is callFunction in a span of its own.
func (e *execution) callTraced(ctx context.Context, name string, step durable.FunctionStep) (json.RawMessage, error) {
	ctx, span := e.runner.options.Tracer.StartStep(ctx, e.run, tracing.Step{
		Name:    name,
		Kind:    openworkflow.KindFunction,
		Attempt: e.failures(name) + 1,
	})
	output, err := e.callFunction(ctx, name, step)
	if err != nil {
		span.End(tracing.Failed, err)
	} else {
		span.End(tracing.Completed, nil)
	}
	return output, err
}

// callFunction calls the function of a step, with its maximum duration.
func (e *execution) callFunction(ctx context.Context, name string, step durable.FunctionStep) (json.RawMessage, error) {
	ctx = durable.InsideStep(ctx, name)
	if step.MaxDuration <= 0 {
		return e.protect(func() (json.RawMessage, error) { return step.Call(ctx) })
	}
	exceeded := &durable.MaxDurationError{Limit: step.MaxDuration}
	ctx, cancel := context.WithTimeoutCause(ctx, step.MaxDuration, exceeded)
	defer cancel()
	output, err := e.protect(func() (json.RawMessage, error) { return step.Call(ctx) })
	if err != nil && context.Cause(ctx) == error(exceeded) { //nolint:errorlint // a cause may be the author's, with methods that panic
		return nil, &durable.MaxDurationError{Limit: step.MaxDuration, Err: err}
	}
	return output, err
}

// failAttempt (might not return) stores a failed attempt. A final failure is durable when it
// returns, and its error is the step's. Otherwise it buffers the attempt and returns
// errTryAgain; in the simplest case, the next write is the one that ends the pass until the
// retry (R77, R100).
func (e *execution) failAttempt(
	attempt openworkflow.StepAttempt, write func(openworkflow.StepAttempt) store.StepWrite, policy openworkflow.RetryPolicy, err error,
) error {
	now := e.now()
	payload := durable.EncodeError(err)
	decision := openworkflow.Decide(policy, e.failures(attempt.StepName)+1, e.run.DeadlineAt, payload.Encode(), now)
	attempt.Status = openworkflow.StepFailed

	if decision.Retry && !durable.IsNonRetryable(err) {
		attempt.Error = payload.Encode()
		e.buffer.addRequired(write(attempt))
		e.finishAttempt(attempt)
		e.log().Info("Step failed; it is retried", "step", attempt.StepName, "error", payload.Message, "at", decision.At)
		return errTryAgain
	}

	// Whether this attempt is the last may depend on the error or the deadline, which a
	// later execution cannot see. So the payload says it.
	payload.NonRetryable = policy.MaximumAttempts == 0 || e.failures(attempt.StepName)+1 < policy.MaximumAttempts
	attempt.Error = payload.Encode()
	if err := e.writeSteps([]store.StepWrite{write(attempt)}); err != nil {
		e.exitWith(outcome{kind: outcomeReturned, err: fmt.Errorf("store the failure of step %q: %w", attempt.StepName, err)})
	}
	e.finishAttempt(attempt)
	if e.run.DeadlineAt != nil && !now.Before(*e.run.DeadlineAt) {
		e.exitWith(outcome{kind: outcomeReturned, err: durable.ErrDeadlineExceeded})
	}
	return durable.NewStepError(attempt.StepName, payload)
}

func (e *execution) failures(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.history.failures[name]
}
