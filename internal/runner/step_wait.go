package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// startSleep (might not return) starts a sleep (R98a). A replay does not change its end: the
// row that the first execution wrote decides.
func (e *execution) startSleep(step durable.SleepStep) (*future, error) {
	f, waiting, err := e.replayWait(step.Name, openworkflow.KindSleep)
	if f == nil || f.resolved || waiting {
		return f, err
	}
	until := step.Until(e.now())
	if err := checkWaitEnd(until); err != nil {
		return nil, err
	}
	f.waitFor(e.newWait(f.name, openworkflow.WaitContext{
		Kind:     openworkflow.KindSleep,
		ResumeAt: openworkflow.FormatTime(until),
	}))
	return f, nil
}

// startSignalWait (might not return) starts to wait for a signal (R99b). It refuses two waits
// of one run for the same signal at the same time: which of them gets the signal would be
// undefined.
func (e *execution) startSignalWait(step durable.SignalWaitStep) (*future, error) {
	if err := checkSignalName(step.Signal); err != nil {
		return nil, err
	}
	f, waiting, err := e.replayWait(step.Name, openworkflow.KindSignalWait)
	if f == nil || f.resolved || waiting {
		return f, err
	}
	if other, ok := e.waitsForSignal(step.Signal); ok {
		return nil, &durable.NonRetryableError{
			Err: fmt.Errorf("Signal %q is already being waited on by step %q", step.Signal, other), //nolint:staticcheck // the text is R99b's
		}
	}
	timeout := step.Timeout(e.now())
	if err := checkWaitEnd(timeout); err != nil {
		return nil, err
	}
	f.waitFor(e.newWait(f.name, openworkflow.WaitContext{
		Kind:      openworkflow.KindSignalWait,
		Signal:    &step.Signal,
		TimeoutAt: openworkflow.FormatTime(timeout),
	}))
	return f, nil
}

// checkSignalName refuses a name that no signal of an author can have.
func checkSignalName(name string) error {
	switch {
	case !storableText(name):
		return fmt.Errorf("signal name %q cannot be stored: use valid UTF-8 without U+0000", name)
	case openworkflow.IsApprovalSignal(name):
		return &durable.NonRetryableError{Err: fmt.Errorf("signal name %q is reserved for approvals: use another one", name)}
	}
	return nil
}

// checkWaitEnd refuses an instant that cannot be the end of a wait. RFC 3339, in which statuses
// and the API server write instants, has years of four digits. An instant that is centuries
// further, such as time.Unix(math.MaxInt64, 0), overflows in comparisons and would be over at
// once.
func checkWaitEnd(at time.Time) error {
	if year := at.UTC().Year(); year < 0 || year > 9999 {
		return &durable.NonRetryableError{Err: fmt.Errorf("cannot wait until %s: give a time in the years 0 to 9999", at.UTC().Format(time.RFC3339))}
	}
	return nil
}

// waitsForSignal returns the step of this run that waits for a signal.
func (e *execution) waitsForSignal(signal string) (step string, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name, a := range e.history.waiting {
		c := openworkflow.DecodeWaitContext(a.Context)
		if a.Kind == openworkflow.KindSignalWait && c.Signal != nil && *c.Signal == signal {
			return name, true
		}
	}
	return "", false
}

// replayWait (might not return) returns the future of a step that waits. It is resolved if the
// history has a result. Otherwise waiting reports whether an earlier execution has started
// the wait, which the future then continues.
func (e *execution) replayWait(base string, kind openworkflow.StepKind) (f *future, waiting bool, err error) {
	name, err := e.durableName(base)
	if err != nil {
		return nil, false, err
	}
	if output, known, err := e.replay(name, onePolicy); known {
		return &future{e: e, name: name, resolved: true, output: output, err: err}, false, nil
	}
	f = &future{e: e, name: name}
	e.checkpoint()
	e.mu.Lock()
	attempt, waiting := e.history.waiting[name]
	e.mu.Unlock()
	if !waiting || attempt.Kind != kind {
		return f, false, nil
	}
	f.waitFor(attempt)
	return f, true, nil
}

// onePolicy is the retry policy of steps that wait: every failure is final.
var onePolicy = openworkflow.RetryPolicy{MaximumAttempts: 1}

// newWait (might not return) returns a new attempt that waits, and buffers it.
func (e *execution) newWait(name string, c openworkflow.WaitContext) openworkflow.StepAttempt {
	attempt := e.newAttempt(name, c.Kind, c.Encode())
	e.buffer.addRequired(e.firstWrite(attempt))
	step := tracing.Step{Name: name, Kind: c.Kind}
	if c.Kind == openworkflow.KindSleep {
		step.ResumeAt = waitEnd(attempt)
	} else {
		step.TimeoutAt, step.Signal = waitEnd(attempt), *c.Signal
	}
	e.traceWait(e.ctx, step)
	return attempt
}

// traceWait records a span for a step that starts to wait.
func (e *execution) traceWait(ctx context.Context, step tracing.Step) {
	_, span := e.runner.options.Tracer.StartStep(ctx, e.run, step)
	span.End(tracing.Suspended, nil)
}

// waitFor makes the future wait for the end of an attempt.
func (f *future) waitFor(attempt openworkflow.StepAttempt) {
	f.e.mu.Lock()
	defer f.e.mu.Unlock()
	f.wait = &wait{until: waitEnd(attempt), attempt: &attempt}
	f.e.futures = append(f.e.futures, f)
	if attempt.Kind != openworkflow.KindSleep {
		f.e.runner.waitPoller.add(f.e)
	}
}

// resolveWaitLocked resolves a future if its wait is over.
func (e *execution) resolveWaitLocked(f *future, a openworkflow.StepAttempt, now time.Time) {
	result, arrived := e.waitResults[a.ID]
	expired := !f.wait.until.After(now)
	a.Status = openworkflow.StepCompleted
	switch {
	case a.Kind == openworkflow.KindSleep && expired: // R72
		e.bufferImpliedLocked(a)
		f.resolveLocked(nil, nil)
	case a.Kind == openworkflow.KindWorkflow && arrived && childEndedInTime(result.Child, f.wait.until, expired):
		e.resolveChildLocked(f, a, result.Child)
	case a.Kind == openworkflow.KindWorkflow && expired:
		e.failWaitLocked(f, a, openworkflow.Error{Name: "Error", Message: "Timed out waiting for child workflow to complete"})
	case a.Kind == openworkflow.KindSignalWait && arrived: // also after the timeout (R99c)
		a.Output = signalOutput(result.Data)
		e.bufferImpliedLocked(a)
		f.resolveLocked(a.Output, nil)
	case isOverdueApproval(a, f.wait.until, now): // expireApproval resolves it
	case a.Kind == openworkflow.KindSignalWait && expired:
		e.bufferRequiredLocked(a)
		f.resolveLocked(nil, nil)
	}
}

// failWaitLocked fails the attempt of a future for good.
func (e *execution) failWaitLocked(f *future, a openworkflow.StepAttempt, failure openworkflow.Error) {
	a.Status, a.Error = openworkflow.StepFailed, failure.Encode()
	e.bufferRequiredLocked(a)
	f.resolveLocked(nil, durable.NewStepError(f.name, failure))
}

// signalOutput returns the output of a wait that has received a signal (R26).
func signalOutput(data json.RawMessage) json.RawMessage {
	if data == nil {
		return json.RawMessage(`{"data":null}`)
	}
	return append(append(json.RawMessage(`{"data":`), data...), '}')
}

// waitEnd returns when an attempt stops waiting by itself, by the server's clock: the end of
// a sleep, or the timeout. Without a readable time, a sleep is over (R72), and another
// attempt waits for a year (R81).
func waitEnd(attempt openworkflow.StepAttempt) time.Time {
	c := openworkflow.DecodeWaitContext(attempt.Context)
	if at, err := c.Until(); err == nil && c.Kind == attempt.Kind {
		return at
	}
	if attempt.Kind == openworkflow.KindSleep {
		return time.Time{}
	}
	return attempt.CreatedAt.AddDate(1, 0, 0)
}

// completeElapsedSleeps completes the sleeps that are over, before any code of the workflow
// is executed (R72).
func (e *execution) completeElapsedSleeps() {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	for _, a := range e.history.waiting {
		if a.Kind == openworkflow.KindSleep && !waitEnd(a).After(now) {
			a.Status = openworkflow.StepCompleted
			e.bufferImpliedLocked(a)
		}
	}
}
