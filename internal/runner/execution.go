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

// execution is one execution of a workflow's function by one claim: what the
// author's calls act on. It implements durable.Execution.
//
// Lock order: buffer.flushMu, then mu, then buffer.mu. Methods with the suffix Locked are
// called with mu held; writeBufferedLocked is called with buffer.flushMu held. The mutexes of
// the Runner's parts (leases, slots, waitPoller, runningRows) come last: none calls back.
type execution struct {
	runner *Runner
	lease  openworkflow.Lease
	run    *openworkflow.Run // as this pass claimed it; constant
	// ahead is how far the server's clock is ahead of this one. Sleeps go by the
	// server's, as claims do (R180): by a clock that is behind, a run that is due
	// would not be, and would be claimed and parked over and over.
	ahead time.Duration

	// ctx is the workflow's. It ends with the lease, the deadline or the worker.
	ctx    context.Context
	cancel context.CancelCauseFunc
	span   tracing.Span
	// writeCtx ends with the lease alone, so that a result that arrives with the
	// deadline is still stored.
	writeCtx     context.Context
	cancelWrites context.CancelCauseFunc

	names *openworkflow.Names // the workflow's goroutine only
	busy  atomic.Bool         // a verb is under way on the workflow's goroutine

	mu      sync.Mutex
	history *history
	// futures are the steps that were begun and have not resolved, in order.
	futures []*future
	// executing counts the functions under way on goroutines of their own.
	executing int
	branches  sync.WaitGroup
	// arrivals is what has come for waiting attempts, by attempt id.
	arrivals   map[string]store.WaitResult
	suspended  bool
	outcome    *outcome
	hasOutcome chan struct{} // closed when there is an outcome
	// wakes holds a token when something has happened that the workflow's goroutine
	// may be waiting for.
	wakes wake.Flag

	buffer writeBuffer
}

// outcome is how an execution ended; the zero value of the members that do not
// belong to the kind.
type outcome struct {
	kind   outcomeKind
	output json.RawMessage
	err    error
	// at is when a run that waits or was put off is due; payload is the error of the
	// step that put it off.
	at      time.Time
	payload json.RawMessage
}

type outcomeKind int

const (
	// outcomeReturned: the function returned output or err.
	outcomeReturned outcomeKind = iota
	// outcomeRetryLater: a step failed and is retried later, and nothing else is waited for.
	outcomeRetryLater
	// outcomeParked: the run waits until at, or until something wakes it.
	outcomeParked
	// outcomeHandBack: the run goes on elsewhere, now.
	outcomeHandBack
	// outcomeSuspended: the run goes on when it is resumed.
	outcomeSuspended
	// outcomeAbandoned: the run is no longer this worker's.
	outcomeAbandoned
)

func newExecution(r *Runner, run *openworkflow.Run) *execution {
	e := &execution{
		runner: r,
		lease:  openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID},
		run:    run,
		ahead:  time.Until(run.UpdatedAt),
		names:  openworkflow.NewNames(),

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

// log returns the logger for what is worth a line, which is little.
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

// exitTimeout is how long the workflow's goroutine may take to end once the
// execution has.
const exitTimeout = 10 * time.Second

// execute calls the workflow's function and returns how that ended. The function
// has its own goroutine, which verbs may end at any call; what it defers has run when
// execute returns, and so have the steps in flight: none of their results is lost to
// the way in which the others ended. A goroutine that does not end, because a deferred
// function blocks, is left behind: it can write nothing, and must not keep the run.
func (e *execution) execute(definition durable.Definition) outcome {
	if e.run.DeadlineAt != nil {
		ctx, cancel := context.WithDeadlineCause(e.ctx, e.run.DeadlineAt.Add(-e.ahead), durable.ErrDeadlineExceeded)
		defer cancel()
		e.ctx = ctx
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		output, err := e.protect(func() (json.RawMessage, error) {
			return definition.Execute(e.ctx, e.run.Input)
		})
		e.setOutcome(outcome{kind: outcomeReturned, output: output, err: err})
	}()
	select {
	case <-done:
	case <-e.hasOutcome:
		select {
		case <-done:
		case <-time.After(exitTimeout):
			e.log().Error("The workflow's goroutine does not end; does a deferred function block?")
		}
	}
	// Without an outcome, somebody else ended the goroutine.
	e.setOutcome(outcome{kind: outcomeReturned, err: errGoexit})
	e.branches.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	return *e.outcome
}

var errGoexit = errors.New("the goroutine of a workflow or a step was ended with runtime.Goexit")

// protect turns a panic of f into an error.
func (e *execution) protect(f func() (json.RawMessage, error)) (output json.RawMessage, err error) {
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, &durable.PanicError{Value: value, Stack: string(debug.Stack())}
		}
	}()
	return f()
}

// setOutcome decides how the execution ended; the first decision stands.
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

// exitWith (may not return) ends the execution with this outcome, and the goroutine: the workflow's, or
// that of a step, whose workflow finds out when it waits next (decision 9).
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

// enterVerb (may not return) and exitVerb are around each verb. Two at a time mean that a workflow does
// something that cannot be replayed, as the order of its calls would be chance.
func (e *execution) enterVerb() {
	if !e.busy.CompareAndSwap(false, true) {
		e.exitWith(outcome{kind: outcomeReturned, err: &durable.NonRetryableError{Err: errConcurrentVerbs}})
	}
}

func (e *execution) exitVerb() { e.busy.Store(false) }

var errConcurrentVerbs = errors.New("a step was called inside another step, or on a goroutine that is not the workflow's: " +
	"call steps one after the other, and step.Go for those that are to run in parallel")

// checkpoint (may not return) is passed before anything new is done for the run: it leaves when the
// execution has to end here.
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

// interrupted is the outcome of an execution whose context has ended.
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

// durableName gives a call its durable name (R89).
func (e *execution) durableName(base string) (string, error) {
	name := e.names.Resolve(base)
	if !storableText(name) {
		return "", fmt.Errorf("step name %q cannot be stored: use valid UTF-8 without U+0000", name)
	}
	return name, nil
}

// storableText reports whether Postgres can store a text: UTF-8 without U+0000.
func storableText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// now is the time by the server's clock.
func (e *execution) now() time.Time { return time.Now().Add(e.ahead) }

// newAttempt (may not return) returns an attempt that begins now, and takes it into the history. It
// leaves when the run may have no further one (R110).
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

// stepLimit is the number of step attempts that the run may have (R110).
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

// stepLimitError ends a run that has too many step attempts (R110).
type stepLimitError struct{ limit, count int }

func (e *stepLimitError) Error() string {
	return fmt.Sprintf("Exceeded the step limit of %d attempts (current count: %d)", e.limit, e.count)
}
