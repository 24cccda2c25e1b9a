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

func (e *execution) countAttempts() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.history.attempts
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
