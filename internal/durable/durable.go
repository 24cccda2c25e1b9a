// Package durable is the interface between what an author calls (packages workflow and step)
// and what executes it (package runner). Neither side knows the other.
//
// Definitions, steps and the interface Execution are in durable.go; the errors that both
// sides tell apart, and how errors are stored, in errors.go.
package durable

import (
	"context"
	"encoding/json"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// DefaultStepLimit is the number of step attempts that a run may have unless its
// workflow says otherwise (R110).
const DefaultStepLimit = 1000

// Definition is a workflow as the runner sees it: its identity, its retry policy, and its
// function with JSON in place of the author's types.
type Definition struct {
	openworkflow.Definition
	Retry openworkflow.RetryPolicy
	// StepLimit is the number of step attempts that a run may have; zero means
	// DefaultStepLimit.
	StepLimit int
	// Execute decodes the input, calls the workflow's function and encodes its output. Nil
	// input and output stand for null. Execute is nil for a workflow that is only declared
	// here and implemented elsewhere.
	Execute func(ctx context.Context, input json.RawMessage) (json.RawMessage, error)
}

// RunInfo is what a workflow may know about its own run. It is the same in every execution of
// the run.
type RunInfo struct {
	ID           string
	WorkflowName string
	Version      string
	CreatedAt    time.Time
}

// Step is a step that can be started: one of the types below.
type Step interface{ step() }

// FunctionStep calls a function and stores its output.
type FunctionStep struct {
	Name string
	// Reserved is a durable name that Execution.Reserve returned for Name. Empty means that
	// the step gets its durable name when it starts.
	Reserved string
	Retry    openworkflow.RetryPolicy
	// MaxDuration bounds one call of the function; zero means no bound.
	MaxDuration time.Duration
	// Call runs the author's function and encodes its result; nil stands for null.
	Call func(ctx context.Context) (json.RawMessage, error)
}

// SleepStep waits until a time. Its output is null.
type SleepStep struct {
	Name string
	// Until returns that time, given the time of the first execution of the step.
	Until func(now time.Time) time.Time
}

// WorkflowStep starts a child run and waits for its end. Its output is the child's.
type WorkflowStep struct {
	Name     string
	Workflow openworkflow.Definition
	Input    json.RawMessage
	// Timeout returns the time until which it waits, as SleepStep.Until does.
	Timeout func(now time.Time) time.Time
}

// SignalWaitStep waits for a signal. Its output is {"data": …}, or null after the timeout
// (R26).
type SignalWaitStep struct {
	Name   string
	Signal string
	// Timeout returns the time until which it waits, as SleepStep.Until does.
	Timeout func(now time.Time) time.Time
}

// ApprovalStep waits for the decision of approvers. Its output is {"data": …} with what was decided,
// or null if what was asked is gone.
type ApprovalStep struct {
	Name          string
	Prompt        string
	Details       json.RawMessage
	Users, Groups []string
	// Required is how many must approve.
	Required int
	// Expiry returns the time until which it waits, as SleepStep.Until does.
	Expiry func(now time.Time) time.Time
	// OnExpiry is handed back with an approval that has expired.
	OnExpiry string
}

func (FunctionStep) step()   {}
func (SleepStep) step()      {}
func (WorkflowStep) step()   {}
func (SignalWaitStep) step() {}
func (ApprovalStep) step()   {}

// SignalSend is a signal that a workflow sends to all runs that wait for it.
type SignalSend struct {
	Name   string
	Signal string
	Data   json.RawMessage
}

// Execution is one execution of a workflow's function, from its start. Its methods, and those
// of its futures, are called on the workflow's goroutine.
//
// A method other than Info might not return. If the execution is over (everything waits, the
// run was canceled, another worker holds it), the method ends the goroutine with
// runtime.Goexit. So an author's code cannot mistake that for a result, or swallow it with
// recover.
type Execution interface {
	// Info returns what the workflow may know about its run.
	Info() RunInfo
	// Run is Start and Await in one for a function, which is called on this goroutine.
	Run(ctx context.Context, step FunctionStep) (json.RawMessage, error)
	// Start gives the step its durable name and starts it. It returns an error for a step
	// that no execution could start.
	Start(ctx context.Context, step Step) (Future, error)
	// SetState publishes JSON with the next write of the run. A replay publishes nothing older than
	// what an earlier execution has published.
	SetState(state json.RawMessage)
	// SendSignal returns the ids of the runs to which the signal was delivered.
	SendSignal(send SignalSend) ([]string, error)
	// Select waits until one of the futures has resolved, and returns its index. The index is
	// stored under the name: later executions return the same one.
	Select(name string, futures []Future) (int, error)
	// Reserve gives n steps of this name their durable names, in order, before they
	// start. The names do not depend on which of them start, or when.
	Reserve(name string, n int) ([]string, error)
	// AwaitSome waits until at least n of the futures have resolved, and returns the
	// indexes of all that have, in order. With n = 0 it does not wait. A later execution
	// may find more of them resolved, never fewer of those whose results are stored.
	AwaitSome(futures []Future, n int) []int
}

// Future is a step that was started.
type Future interface {
	// Await returns the step's stored output. A step that has failed for good returns
	// a *StepError.
	Await() (json.RawMessage, error)
}

// StepError is the stored failure of a step that has no attempts left. It is the same in
// every execution of the run, so it does not wrap the error that the step's function
// returned. Authors see it as a step.Error, which wraps it.
type StepError struct {
	// Step is the step's durable name.
	Step string
	// Name is the name of the type of the error that the function returned.
	Name string
	// Message is that error's text.
	Message string
	// Stack is where it was thrown or panicked, empty for most errors of Go.
	Stack string
}

// NewStepError returns the failure of a step from its stored payload.
func NewStepError(step string, payload openworkflow.Error) *StepError {
	return &StepError{Step: step, Name: payload.Name, Message: payload.Message, Stack: payload.Stack}
}

func (e *StepError) Error() string { return openworkflow.StepFailure(e.Step, e.Message) }

type executionKey struct{}

type insideStepKey struct{}

// WithExecution returns the context that a workflow's function is called with.
func WithExecution(ctx context.Context, e Execution) context.Context {
	return context.WithValue(ctx, executionKey{}, e)
}

// ExecutionFrom returns the execution to which a context belongs, or nil.
func ExecutionFrom(ctx context.Context) Execution {
	e, _ := ctx.Value(executionKey{}).(Execution)
	return e
}

// InsideStep returns the context that a step's function is called with.
func InsideStep(ctx context.Context, step string) context.Context {
	return context.WithValue(ctx, insideStepKey{}, step)
}

// StepFrom returns the name of the step to whose function a context was passed.
func StepFrom(ctx context.Context) (step string, ok bool) {
	step, ok = ctx.Value(insideStepKey{}).(string)
	return step, ok
}
