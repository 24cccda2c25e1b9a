// Package durable is the seam between what an author calls (packages workflow
// and step) and what executes it (package runner). Both sides know only this.
package durable

import (
	"context"
	"encoding/json"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Definition is a workflow as an executor sees it: its identity, its retry
// policy, and its function with JSON in place of the author's types.
type Definition struct {
	openworkflow.Definition
	Retry openworkflow.RetryPolicy
	// Execute decodes the input, calls the workflow's function and encodes what
	// it returns. Nil input and output stand for null.
	Execute func(ctx context.Context, input json.RawMessage) (json.RawMessage, error)
}

// RunInfo is what a workflow may know about its own run. It is the same at every
// execution of the run.
type RunInfo struct {
	ID           string
	WorkflowName string
	Version      string
	CreatedAt    time.Time
}

// FunctionStep is a call of step.Run.
type FunctionStep struct {
	Name  string
	Retry openworkflow.RetryPolicy
	// Call runs the author's function and encodes its result; nil stands for null.
	Call func(ctx context.Context) (json.RawMessage, error)
}

// Execution is one execution of a workflow's function, from its beginning. Its
// methods are called on the goroutine of the workflow. A method that finds that
// the execution is over (the run is to be retried later, was canceled, or now
// belongs to another worker) does not return: it ends the goroutine with
// runtime.Goexit, so that an author's code cannot mistake that for a result.
type Execution interface {
	// Info returns what the workflow may know about its run.
	Info() RunInfo
	// RunStep returns the stored output of the step, or calls it and stores the
	// output before it returns. A step that has failed for good returns a *StepError.
	RunStep(ctx context.Context, step FunctionStep) (json.RawMessage, error)
	// Sleep returns once the time has come that wake named at the first execution of
	// this call, given the time then. The run is parked meanwhile.
	Sleep(name string, wake func(now time.Time) time.Time) error
}

// StepError is the failure of a step that has no attempts left, as it was stored.
// It is the same at every execution of the run, so it does not wrap the error
// that the step's function returned.
type StepError struct {
	// Step is the step's durable name.
	Step string
	// Name is the name of the type of the error that the function returned.
	Name string
	// Message is that error's text.
	Message string

	stack string
}

// NewStepError returns the failure of a step from its stored payload.
func NewStepError(step string, payload openworkflow.Error) *StepError {
	return &StepError{Step: step, Name: payload.Name, Message: payload.Message, stack: payload.Stack}
}

func (e *StepError) Error() string {
	return "step " + quote(e.Step) + " failed: " + e.Message
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return s
	}
	return string(b)
}

type executionKey struct{}

type insideStepKey struct{}

// WithExecution returns the context that a workflow's function is called with.
func WithExecution(ctx context.Context, e Execution) context.Context {
	return context.WithValue(ctx, executionKey{}, e)
}

// ExecutionFrom returns the execution that a context belongs to, or nil.
func ExecutionFrom(ctx context.Context) Execution {
	e, _ := ctx.Value(executionKey{}).(Execution)
	return e
}

// InsideStep returns the context that a step's function is called with.
func InsideStep(ctx context.Context, step string) context.Context {
	return context.WithValue(ctx, insideStepKey{}, step)
}

// StepFrom returns the name of the step whose function a context was given to.
func StepFrom(ctx context.Context) (step string, ok bool) {
	step, ok = ctx.Value(insideStepKey{}).(string)
	return step, ok
}
