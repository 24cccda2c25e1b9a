package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// execution is one execution of a workflow's function under one claim. It implements
// durable.Execution, which the author's calls act on.
//
// Lock order: buffer.flushMu, then mu, then buffer.mu. Methods with the suffix Locked are
// called with mu held, except writeBufferedLocked: with buffer.flushMu. The mutexes of the
// Runner's parts (leases, slots, quarantine, waitPoller, runningRows, flusher.group) come last,
// as none of them calls back.
type execution struct {
	runner *Runner
	lease  openworkflow.Lease
	run    *openworkflow.Run // as this pass claimed it; constant
	// claimedAt is when the run was claimed, by the server's clock, and startedAt the same
	// instant by this process's. Sleeps follow the server's clock, as claims do (R180): by a
	// local clock that is behind, a run that is due would be claimed and parked over and over.
	// A time.Duration between the clocks would not do: a test may skip more than 292 years.
	claimedAt, startedAt time.Time

	// ctx is the context of the workflow. It ends with the lease, the deadline or the worker.
	ctx    context.Context
	cancel context.CancelCauseFunc
	span   tracing.Span
	// writeCtx ends with the lease alone: a result that arrives at the deadline is still
	// stored.
	writeCtx     context.Context
	cancelWrites context.CancelCauseFunc

	names *openworkflow.Names // used on the workflow's goroutine only
	// states counts the states that the workflow has published. Used on the workflow's goroutine only.
	states int
	busy   atomic.Bool // a method of durable.Execution is being called

	// mu guards history, futures, executing, branches, branchesEnded, waitResults, suspended and
	// outcome.
	mu      sync.Mutex
	history *history
	// futures are the steps that were started and have not resolved, in order.
	futures []*future
	// executing counts the functions that are executing on goroutines of their own.
	executing int
	// branches counts the goroutines of futures. Once the execution is over, none is added, and
	// branchesEnded, if made, is closed when the last one ends.
	branches      int
	branchesEnded chan struct{}
	// waitResults is what has arrived for waiting attempts, by attempt id.
	waitResults map[string]store.WaitResult
	suspended   bool
	outcome     *outcome
	hasOutcome  chan struct{} // closed when there is an outcome
	// wakes wakes the workflow's goroutine from waitForChange.
	wakes wake.Flag

	// suspect says that the run's worker has died, and that the run has made no durable progress
	// since.
	suspect atomic.Bool
	// left are the goroutines that had not ended when execute returned.
	left goroutines

	buffer writeBuffer
}

// outcome is how an execution ended. Fields that do not belong to the kind are zero.
type outcome struct {
	kind   outcomeKind
	output json.RawMessage
	err    error
	// at is when the run is due again; payload is the error of the step that is retried then.
	at      time.Time
	payload json.RawMessage
}

type outcomeKind int

const (
	// outcomeReturned: the workflow's function returned output or err.
	outcomeReturned outcomeKind = iota
	// outcomeRetryLater: the run waits for the retry of a step, and for nothing else.
	outcomeRetryLater
	// outcomeParked: the run waits until at, or until a child or a signal wakes it.
	outcomeParked
	// outcomeHandBack: the run is due now, for another worker.
	outcomeHandBack
	// outcomeSuspended: the run waits until it is resumed.
	outcomeSuspended
	// outcomeAbandoned: this worker no longer holds the run.
	outcomeAbandoned
)

func newExecution(r *Runner, run *openworkflow.Run) *execution {
	e := &execution{
		runner: r,
		lease:  openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID},
		run:    run,

		claimedAt: run.UpdatedAt,
		startedAt: time.Now(),

		names: openworkflow.NewNames(),

		history:    newHistory(nil),
		hasOutcome: make(chan struct{}),
		wakes:      wake.New(),
	}
	e.writeCtx, e.cancelWrites = context.WithCancelCause(r.writeCtx)
	ctx, cancel := context.WithCancelCause(r.passCtx)
	e.cancel = cancel
	ctx, e.span = r.options.Tracer.StartPass(ctx, run)
	e.ctx = durable.WithExecution(ctx, e)
	return e
}

// log returns a logger with the id of the run.
func (e *execution) log() *slog.Logger {
	return e.runner.log.With("run", e.run.ID, "workflow", e.run.WorkflowName)
}

// revoke implements leaseHolder.
func (e *execution) revoke(cause error) {
	e.cancel(cause)
	e.cancelWrites(cause)
}

// suspend implements leaseHolder.
func (e *execution) suspend() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.suspended = true
	e.wakes.Set()
}

// Info implements durable.Execution.
func (e *execution) Info() durable.RunInfo {
	info := durable.RunInfo{ID: e.run.ID, WorkflowName: e.run.WorkflowName, CreatedAt: e.run.CreatedAt}
	if e.run.Version != nil {
		info.Version = *e.run.Version
	}
	return info
}

// execute calls the workflow's function and returns the outcome. The function has a goroutine
// of its own, which may end at any call of a step. When execute returns, deferred functions
// have run and the functions of steps have ended, so that none of their results is lost, except
// for what does not end within exitTimeout (awaitExits).
func (e *execution) execute(definition durable.Definition) outcome {
	if e.run.DeadlineAt != nil {
		ctx, cancel := context.WithDeadlineCause(e.ctx, time.Now().Add(e.until(*e.run.DeadlineAt)), durable.ErrDeadlineExceeded)
		defer cancel()
		e.ctx = ctx
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		output, err := e.protect(func() (json.RawMessage, error) {
			return definition.Execute(e.ctx, e.run.Input)
		})
		e.setOutcome(outcome{kind: outcomeReturned, output: output, err: err})
	}()
	e.awaitExits(ended)
	e.mu.Lock()
	defer e.mu.Unlock()
	return *e.outcome
}

// awaitExits waits until the goroutines of an execution have ended, and makes sure that it has
// an outcome. It gives up those that have not ended exitTimeout after their context has, and the
// workflow's also if it has not ended exitTimeout after the execution. A function whose context has
// not ended may take as long as it likes.
func (e *execution) awaitExits(workflow <-chan struct{}) {
	timeout := exitTimeout
	workflow = e.awaitExit(workflow, e.hasOutcome, timeout)
	if workflow == nil { // without an outcome, the author's code has called runtime.Goexit
		e.setOutcome(outcome{kind: outcomeReturned, err: errGoexit})
	} else { // without an outcome, the context has ended
		e.setOutcome(e.interrupted())
		e.left = goroutines{since: time.Now().Add(-exitTimeout), cause: errOver}
		if e.ctx.Err() != nil {
			timeout, e.left.cause = 0, context.Cause(e.ctx)
		}
	}
	branches := e.awaitExit(e.branchesEnd(), nil, timeout)
	if branches != nil {
		if workflow == nil {
			e.left = goroutines{since: time.Now().Add(-exitTimeout), cause: context.Cause(e.ctx)}
		}
		e.mu.Lock()
		e.outcome = new(e.interrupted()) // a run ends when its functions have, and these have not
		e.mu.Unlock()
	}
	e.left.workflow, e.left.branches = workflow, branches
}

// awaitExit waits until ended is closed, and returns nil, as for a nil channel. Once the context of
// the execution has ended or over is closed, it waits for no longer than the timeout, and returns
// ended.
func (e *execution) awaitExit(ended, over <-chan struct{}, timeout time.Duration) <-chan struct{} {
	if ended == nil {
		return nil
	}
	select {
	case <-ended:
		return nil
	case <-over:
	case <-e.ctx.Done():
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-ended:
		return nil
	case <-timer.C:
		return ended
	}
}

// branchesEnd returns a channel that is closed when the goroutines of all futures of an
// execution that is over have ended, nil if they have.
func (e *execution) branchesEnd() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.branches == 0 {
		return nil
	}
	e.branchesEnded = make(chan struct{})
	return e.branchesEnded
}

// endBranchLocked is called when the goroutine of a future ends.
func (e *execution) endBranchLocked() {
	if e.branches--; e.branches == 0 && e.branchesEnded != nil {
		close(e.branchesEnded)
	}
}

var errGoexit = errors.New("the goroutine of a workflow or a step was ended with runtime.Goexit")

// protect calls an author's function. It returns its error, or its panic, as a durable.Failure: no
// method of an author's error is called after it.
func (e *execution) protect(f func() (json.RawMessage, error)) (output json.RawMessage, err error) {
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, durable.NewPanic(value, debug.Stack())
		}
	}()
	if output, err = f(); err != nil {
		return nil, durable.NewFailure(err)
	}
	return output, nil
}

// setOutcome sets the outcome of the execution. The first one stands.
func (e *execution) setOutcome(o outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.setOutcomeLocked(o)
}

func (e *execution) setOutcomeLocked(o outcome) {
	if e.outcome == nil {
		e.outcome = &o
		close(e.hasOutcome)
	}
}

// exitWith (might not return) sets the outcome of the execution and ends the goroutine. On the
// goroutine of a step, the workflow learns of it when it waits next (decision 9).
func (e *execution) exitWith(o outcome) {
	e.setOutcome(o)
	runtime.Goexit()
}

// isOver reports whether the execution has an outcome.
func (e *execution) isOver() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.outcome != nil
}

// enterVerb (might not return) is called first by each method of durable.Execution, and
// exitVerb last. Two at the same time fail the run: the order of their calls, and so their
// durable names, would depend on timing.
func (e *execution) enterVerb() {
	if !e.busy.CompareAndSwap(false, true) {
		e.exitWith(outcome{kind: outcomeReturned, err: &durable.NonRetryableError{Err: errConcurrentVerbs}})
	}
}

func (e *execution) exitVerb() { e.busy.Store(false) }

var errConcurrentVerbs = errors.New("a step was called inside another step, or on a goroutine that is not the workflow's: " +
	"call steps one after the other, and step.Go for those that are to run in parallel")

// checkpoint (might not return) ends the goroutine if the execution has to end. It is called
// before anything new is done for the run.
func (e *execution) checkpoint() {
	if e.ctx.Err() != nil {
		e.exitWith(e.interrupted())
	}
	e.mu.Lock()
	suspended, over := e.suspended, e.outcome != nil
	e.mu.Unlock()
	switch {
	case over: // another goroutine has ended the execution
		runtime.Goexit()
	case suspended:
		e.exitWith(outcome{kind: outcomeSuspended})
	case e.runner.draining.Load():
		e.exitWith(outcome{kind: outcomeHandBack})
	}
}

// interrupted returns the outcome of an execution whose context has ended.
func (e *execution) interrupted() outcome {
	switch cause := context.Cause(e.ctx); {
	case errors.Is(cause, durable.ErrDeadlineExceeded) && e.writeCtx.Err() == nil:
		return outcome{kind: outcomeReturned, err: durable.ErrDeadlineExceeded}
	case errors.Is(cause, durable.ErrShutdown) && e.writeCtx.Err() == nil:
		return outcome{kind: outcomeHandBack}
	default:
		return outcome{kind: outcomeAbandoned, err: cause}
	}
}

// durableName returns the durable name of the next call with this base name (R89).
func (e *execution) durableName(base string) (string, error) {
	name := e.names.Resolve(base)
	if !storableText(name) {
		return "", fmt.Errorf("step name %q cannot be stored: use valid UTF-8 without U+0000", name)
	}
	return name, nil
}

// storableText reports whether Postgres can store a text: UTF-8 without U+0000.
func storableText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// now returns the time by the server's clock.
func (e *execution) now() time.Time { return e.claimedAt.Add(time.Since(e.startedAt)) }

// until returns how long it is until an instant by the server's clock. More than 292 years
// count as 292.
func (e *execution) until(at time.Time) time.Duration { return at.Sub(e.now()) }

// newAttempt (might not return) adds an attempt that starts now to the history, and returns it.
// At the step limit it fails the run instead (R110).
func (e *execution) newAttempt(name string, kind openworkflow.StepKind, context json.RawMessage) openworkflow.StepAttempt {
	now := e.now()
	attempt := openworkflow.StepAttempt{
		NamespaceID:   e.run.NamespaceID,
		ID:            openworkflow.NewID(),
		WorkflowRunID: e.run.ID,
		StepName:      name,
		Kind:          kind,
		Status:        openworkflow.StepRunning,
		Context:       context,
		StartedAt:     &now,
		CreatedAt:     now,
	}
	e.mu.Lock()
	n, limit := e.history.attempts, e.stepLimit()
	if n < limit {
		e.history.add(attempt)
	}
	e.mu.Unlock()
	if n >= limit {
		e.exitWith(outcome{kind: outcomeReturned, err: &stepLimitError{limit: limit, count: n}})
	}
	return attempt
}

// stepLimit returns how many step attempts the run may have (R110).
func (e *execution) stepLimit() int {
	if limit := e.definition().StepLimit; limit > 0 {
		return limit
	}
	return durable.DefaultStepLimit
}

func (e *execution) definition() durable.Definition {
	return e.runner.definitions[e.run.Definition().Key()]
}

func (e *execution) snapshot() openworkflow.StepSummary {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.history.snapshot()
}

// stepLimitError fails a run that has too many step attempts (R110).
type stepLimitError struct{ limit, count int }

func (e *stepLimitError) Error() string {
	return fmt.Sprintf("Exceeded the step limit of %d attempts (current count: %d)", e.limit, e.count)
}
