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
	"time"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// execution is one execution of a workflow's function by one claim: what the
// author's calls act on. It implements durable.Execution.
type execution struct {
	runner *Runner
	lease  openworkflow.Lease
	run    *openworkflow.Run // as this pass claimed it; constant
	// ahead is how far the server's clock is ahead of this one. Sleeps go by the
	// server's, as claims do (R180): by a clock that is behind, a run that is due
	// would not be, and would be claimed and parked over and over.
	ahead time.Duration
	log   *slog.Logger

	// ctx is the workflow's. It ends with the lease, the deadline or the worker.
	ctx context.Context
	end context.CancelCauseFunc
	// writeCtx ends with the lease alone, so that a result that arrives with the
	// deadline is still stored.
	writeCtx  context.Context
	endWrites context.CancelCauseFunc

	names *openworkflow.Names // the workflow's goroutine only

	mu        sync.Mutex
	history   *history
	suspended bool
	outcome   *outcome
	settled   chan struct{} // closed when there is an outcome
}

// outcome is how an execution ended; the zero value of the members that do not
// belong to the kind.
type outcome struct {
	kind   outcomeKind
	output json.RawMessage
	err    error
	// at and payload are of a run that was put off; at also of one that waits.
	at      time.Time
	payload json.RawMessage
}

type outcomeKind int

const (
	// outcomeReturned: the function returned output or err.
	outcomeReturned outcomeKind = iota
	// outcomePutOff: a step failed and is retried later; that is written already.
	outcomePutOff
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
		log:    r.log.With("run", run.ID, "workflow", run.WorkflowName),
		names:  openworkflow.NewNames(),

		history: newHistory(nil),
		settled: make(chan struct{}),
	}
	e.writeCtx, e.endWrites = context.WithCancelCause(r.writeCtx)
	ctx, end := context.WithCancelCause(r.passCtx)
	e.end = end
	e.ctx = durable.WithExecution(ctx, e)
	return e
}

// lost implements leaseHolder.
func (e *execution) lost(cause error) {
	e.end(cause)
	e.endWrites(cause)
}

// suspend implements leaseHolder.
func (e *execution) suspend() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.suspended = true
}

// Info implements durable.Execution.
func (e *execution) Info() durable.RunInfo {
	info := durable.RunInfo{ID: e.run.ID, WorkflowName: e.run.WorkflowName, CreatedAt: e.run.CreatedAt}
	if e.run.Version != nil {
		info.Version = *e.run.Version
	}
	return info
}

// leaveTimeout is how long the workflow's goroutine may take to end once the
// execution has.
const leaveTimeout = 10 * time.Second

// execute calls the workflow's function and returns how that ended. The function
// has its own goroutine, which verbs may end at any call; what it defers has run
// when execute returns. A goroutine that does not end, because it waits for another
// one that a verb was wrongly called on and has ended, is left behind: it can write
// nothing, and must not keep the run.
func (e *execution) execute(definition durable.Definition) outcome {
	if e.run.DeadlineAt != nil {
		ctx, cancel := context.WithDeadlineCause(e.ctx, *e.run.DeadlineAt, durable.ErrDeadlineExceeded)
		defer cancel()
		e.ctx = ctx
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		output, err := e.protect(func() (json.RawMessage, error) {
			return definition.Execute(e.ctx, e.run.Input)
		})
		e.settle(outcome{kind: outcomeReturned, output: output, err: err})
	}()
	select {
	case <-done:
	case <-e.settled:
		select {
		case <-done:
		case <-time.After(leaveTimeout):
			e.log.Error("The workflow's goroutine does not end; were steps called on other goroutines, or does a deferred function block?")
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.outcome == nil { // somebody else's Goexit
		return outcome{kind: outcomeReturned, err: errors.New("the workflow's goroutine was ended with runtime.Goexit")}
	}
	return *e.outcome
}

// protect turns a panic of f into an error.
func (e *execution) protect(f func() (json.RawMessage, error)) (output json.RawMessage, err error) {
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, &durable.PanicError{Value: value, Stack: string(debug.Stack())}
		}
	}()
	return f()
}

// settle decides how the execution ended; the first decision stands.
func (e *execution) settle(o outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.outcome == nil {
		e.outcome = &o
		close(e.settled)
	}
}

// leave ends the workflow's goroutine with this outcome (decision 9).
func (e *execution) leave(o outcome) {
	e.settle(o)
	runtime.Goexit()
}

// checkpoint is passed before anything new is done for the run: it leaves when the
// execution has to end here.
func (e *execution) checkpoint() {
	if e.ctx.Err() != nil {
		e.leave(e.interrupted())
	}
	e.mu.Lock()
	suspended, settled := e.suspended, e.outcome != nil
	e.mu.Unlock()
	switch {
	case settled: // a call on another goroutine has ended the execution
		runtime.Goexit()
	case suspended:
		e.leave(outcome{kind: outcomeSuspended})
	case e.runner.draining.Load():
		e.leave(outcome{kind: outcomeHandBack})
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

// resolve gives a call its durable name (R89).
func (e *execution) resolve(base string) (string, error) {
	name := e.names.Resolve(base)
	if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("step name %q cannot be stored: use valid UTF-8 without U+0000", name)
	}
	return name, nil
}

// checkLimit leaves when the run may have no further step attempt (R110).
func (e *execution) checkLimit() {
	if n := e.countAttempts(); n >= stepLimit {
		e.leave(outcome{kind: outcomeReturned, err: &stepLimitError{count: n}})
	}
}

// newAttempt returns an attempt that begins now, and takes it into the history.
func (e *execution) newAttempt(name string, kind openworkflow.StepKind, context json.RawMessage) openworkflow.StepAttempt {
	now := time.Now()
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
	defer e.mu.Unlock()
	e.history.begin(attempt)
	return attempt
}

func (e *execution) countAttempts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.history.attempts
}

// store makes the outcome of an attempt durable, and with it what happens to the
// run. It leaves when the run is no longer this worker's; the error it returns is
// that of a value that cannot be stored.
func (e *execution) store(attempt openworkflow.StepAttempt, started time.Time, run *store.RunWrite) error {
	err := e.runner.flusher.submit(e.writeCtx, []store.StepWrite{{
		Lease:   e.lease,
		Attempt: attempt,
		Elapsed: time.Since(started),
	}}, run)
	if errors.Is(err, store.ErrLeaseLost) || e.writeCtx.Err() != nil {
		e.leave(e.disowned())
	}
	if err != nil {
		return err
	}
	attempt.FinishedAt = new(time.Now())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.history.end(attempt)
	return nil
}

// disowned ends the contexts of an execution that has lost its run.
func (e *execution) disowned() outcome {
	if e.writeCtx.Err() == nil {
		e.lost(e.runner.leases.whyLost(e.writeCtx, e.lease))
	}
	return outcome{kind: outcomeAbandoned, err: context.Cause(e.writeCtx)}
}

func (e *execution) snapshot() openworkflow.StepSummary {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.history.snapshot()
}

// stepLimitError ends a run that has too many step attempts (R110).
type stepLimitError struct{ count int }

func (e *stepLimitError) Error() string {
	return fmt.Sprintf("Exceeded the step limit of %d attempts (current count: %d)", stepLimit, e.count)
}
