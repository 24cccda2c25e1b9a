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
)

// future is a step that the workflow has started in this execution. It implements
// durable.Future. The execution's mu guards its fields.
type future struct {
	e    *execution
	name string

	resolved bool
	output   json.RawMessage
	err      error
	// wait is what the future waits for; nil while its function is executing.
	wait *wait
}

// wait is what keeps a future from resolving: a retry that is not due, or an attempt that
// waits for a time, a child or a signal.
type wait struct {
	// until is when the wait ends by itself, by the server's clock.
	until time.Time
	// attempt is the attempt that waits; nil for a retry.
	attempt *openworkflow.StepAttempt
	// failure is the error that a retry follows.
	failure json.RawMessage
}

func (f *future) resolveLocked(output json.RawMessage, err error) {
	f.resolved, f.output, f.err, f.wait = true, output, err, nil
}

// Start (might not return) implements durable.Execution.
func (e *execution) Start(ctx context.Context, step durable.Step) (durable.Future, error) {
	e.enterVerb()
	defer e.exitVerb()
	switch step := step.(type) {
	case durable.FunctionStep:
		return asFuture(e.startFunction(ctx, step))
	case durable.SleepStep:
		return asFuture(e.startSleep(step))
	case durable.WorkflowStep:
		return asFuture(e.startWorkflow(step))
	case durable.SignalWaitStep:
		return asFuture(e.startSignalWait(step))
	case durable.ApprovalStep:
		return asFuture(e.startApproval(step))
	default:
		return nil, fmt.Errorf("unknown kind of step %T", step)
	}
}

// asFuture returns a nil interface for a nil future.
func asFuture(f *future, err error) (durable.Future, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Await (might not return) implements durable.Future.
func (f *future) Await() (json.RawMessage, error) {
	f.e.enterVerb()
	defer f.e.exitVerb()
	f.e.await(func() bool { return f.resolved })
	return f.output, f.err
}

// Reserve (might not return) implements durable.Execution.
func (e *execution) Reserve(base string, n int) ([]string, error) {
	e.enterVerb()
	defer e.exitVerb()
	names := make([]string, n)
	for i := range names {
		var err error
		if names[i], err = e.durableName(base); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// AwaitSome (might not return) implements durable.Execution.
func (e *execution) AwaitSome(futures []durable.Future, n int) []int {
	e.enterVerb()
	defer e.exitVerb()
	if err := e.checkOwn(futures); err != nil {
		e.exitWith(outcome{kind: outcomeReturned, err: err})
	}
	return e.awaitSome(futures, n)
}

// checkOwn refuses futures of other executions: this one's mutex does not guard them.
func (e *execution) checkOwn(futures []durable.Future) error {
	for _, f := range futures {
		if own, ok := f.(*future); !ok || own.e != e {
			return &durable.NonRetryableError{Err: errForeignFuture}
		}
	}
	return nil
}

var errForeignFuture = errors.New("the future is of another run, or of another execution of this run: " +
	"keep futures in the workflow's function")

// awaitSome (might not return) is AwaitSome without enterVerb, of futures of this execution.
func (e *execution) awaitSome(futures []durable.Future, n int) (resolved []int) {
	e.await(func() bool {
		resolved = resolved[:0]
		for i, f := range futures {
			if f.(*future).resolved {
				resolved = append(resolved, i)
			}
		}
		return len(resolved) >= n
	})
	return resolved
}

// Select (might not return) implements durable.Execution. The choice is stored as the output of a
// function step.
func (e *execution) Select(base string, futures []durable.Future) (int, error) {
	e.enterVerb()
	defer e.exitVerb()
	name, err := e.durableName(base)
	if err != nil {
		return 0, err
	}
	if len(futures) == 0 {
		return 0, &durable.NonRetryableError{Err: fmt.Errorf("select %q: there is nothing to wait for", name)}
	}
	if err := e.checkOwn(futures); err != nil {
		return 0, fmt.Errorf("select %q: %w", name, err)
	}
	if stored, known, err := e.replay(name, openworkflow.DefaultStepPolicy); known {
		var index int
		if err == nil {
			err = json.Unmarshal(stored, &index)
		}
		if err == nil && (index < 0 || index >= len(futures)) {
			err = fmt.Errorf("select %q: an earlier execution chose number %d of %d futures", name, index, len(futures))
		}
		return index, err
	}
	index := e.awaitSome(futures, 1)[0]
	attempt := e.newAttempt(name, openworkflow.KindFunction, nil)
	attempt.Status = openworkflow.StepCompleted
	attempt.Output = json.RawMessage(fmt.Sprint(index))
	e.buffer.addRequired(e.firstWrite(attempt))
	e.finishAttempt(attempt)
	return index, nil
}

// await (might not return) blocks the workflow's goroutine until ready, which is called with mu
// held, returns true. Meanwhile every wait that is due resolves, also those that ready does
// not ask for. If all futures wait and no function is executing, it parks the run.
func (e *execution) await(ready func() bool) {
	for {
		if e.locked(ready) {
			return
		}
		e.checkpoint()
		done, parked, overdue, next := e.resolveOrPark(ready)
		switch {
		case done:
			return
		case len(overdue) > 0:
			e.expireApprovals(overdue)
			continue
		case parked:
			runtime.Goexit()
		}

		// While functions execute, users must see the waits that were started, and children
		// and signals must find their rows.
		e.flushAll()
		e.waitForChange(next)
	}
}

// locked returns the answer of ready, with mu held.
func (e *execution) locked(ready func() bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return ready()
}

// resolveOrPark resolves what is due. Unless that was enough, it returns the approvals whose time is
// over; or parks the run, if nothing of it is executing; or returns when the next wait ends.
func (e *execution) resolveOrPark(ready func() bool) (done, parked bool, overdue []*future, next time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	overdue = e.resolveDueLocked()
	switch {
	case ready():
		return true, false, nil, time.Time{}
	case len(overdue) > 0:
		return false, false, overdue, time.Time{}
	case e.executing == 0:
		e.parkLocked()
		return false, true, nil, time.Time{}
	}
	return false, false, nil, e.nextDueLocked()
}

// waitForChange returns when wakes is set, the execution is over, or next has come by the
// server's clock.
func (e *execution) waitForChange(next time.Time) {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(e.until(next))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-e.wakes:
	case <-due:
	case <-e.hasOutcome:
	case <-e.ctx.Done():
	}
}

// nextDueLocked returns when the first wait ends by itself; zero if no future waits.
func (e *execution) nextDueLocked() time.Time {
	var first time.Time
	for _, f := range e.futures {
		if !f.resolved && f.wait != nil {
			first = earlier(first, f.wait.until)
		}
	}
	return first
}

// earlier returns the earlier of two times, of which the first may be zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// resolveDueLocked resolves the futures whose wait is over, and removes the resolved ones. It returns
// those that wait for an approval whose time is over.
func (e *execution) resolveDueLocked() (overdue []*future) {
	now := e.now()
	unresolved := e.futures[:0]
	for _, f := range e.futures {
		if !f.resolved && f.wait != nil && f.wait.attempt != nil {
			e.resolveWaitLocked(f, *f.wait.attempt, now)
		}
		if f.resolved {
			continue
		}
		unresolved = append(unresolved, f)
		if f.wait != nil && f.wait.attempt != nil && isOverdueApproval(*f.wait.attempt, f.wait.until, now) {
			overdue = append(overdue, f)
		}
	}
	clear(e.futures[len(unresolved):])
	e.futures = unresolved
	return overdue
}

// parkLocked sets the outcome of a run that waits: it is due when its first wait ends (R81).
// The run becomes pending if it waits for retries alone (R77), else parked.
func (e *execution) parkLocked() {
	e.completeStrayWaitsLocked()
	o := outcome{kind: outcomeRetryLater}
	for _, f := range e.futures {
		switch {
		case f.resolved || f.wait == nil:
		case o.at.IsZero() || f.wait.until.Before(o.at):
			o.at, o.payload = f.wait.until, f.wait.failure
		}
	}
	if len(e.history.waiting) > 0 {
		o.kind = outcomeParked
		now := e.now()
		for _, a := range e.history.waiting {
			if end := waitEnd(a); end.After(now) {
				o.at = earlier(o.at, end)
			}
		}
	}
	e.setOutcomeLocked(o)
}

// completeStrayWaitsLocked completes waiting attempts for which something has arrived and
// which the workflow's code, since changed, no longer asks for. They would make the run due
// again and again.
func (e *execution) completeStrayWaitsLocked() {
	asked := map[string]bool{}
	for _, f := range e.futures {
		if f.wait != nil && f.wait.attempt != nil {
			asked[f.wait.attempt.ID] = true
		}
	}
	for _, a := range e.history.waiting {
		result, arrived := e.waitResults[a.ID]
		if !arrived || asked[a.ID] {
			continue
		}
		a.Status = openworkflow.StepCompleted
		if result.Child != nil {
			a.Output = result.Child.Output
		} else {
			a.Output = signalOutput(result.Data)
		}
		e.bufferImpliedLocked(a)
	}
}

// bufferRequiredLocked ends a waiting attempt whose outcome a later execution could decide
// otherwise.
func (e *execution) bufferRequiredLocked(a openworkflow.StepAttempt) {
	e.buffer.addRequired(e.stepWrite(a))
	e.finishAttemptLocked(a)
}

// bufferImpliedLocked ends a waiting attempt whose outcome other rows imply.
func (e *execution) bufferImpliedLocked(a openworkflow.StepAttempt) {
	e.buffer.addImplied(e.stepWrite(a))
	e.finishAttemptLocked(a)
}

// deliver passes on what has arrived for a waiting attempt.
func (e *execution) deliver(attemptID string, result store.WaitResult) {
	e.mu.Lock()
	defer e.mu.Unlock()
	insert(&e.waitResults, attemptID, result)
	e.wakes.Set()
}

// externalWaits returns the ids of the attempts that wait for a child or a signal and for
// which nothing has arrived.
func (e *execution) externalWaits() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var ids []string
	for _, f := range e.futures {
		if f.resolved || f.wait == nil || f.wait.attempt == nil || f.wait.attempt.Kind == openworkflow.KindSleep {
			continue
		}
		if _, arrived := e.waitResults[f.wait.attempt.ID]; !arrived {
			ids = append(ids, f.wait.attempt.ID)
		}
	}
	return ids
}
