package step

import (
	"errors"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Errors of a call with a wrong context. Nothing is stored.
var (
	// ErrNoWorkflow means that the context does not come from a workflow's function.
	ErrNoWorkflow = errors.New("the context is not a workflow's")
	// ErrNested means that the context comes from a step's function: steps do not nest.
	ErrNested = errors.New("steps do not nest: use the workflow's context, outside other steps")
)

// Error is the failure of a step: its attempts are used up, its child run failed or was
// canceled, or its child run did not end in time. Find it with errors.As.
//
// An Error holds what was stored, so it is the same at every execution of the run. It does not
// wrap the error that the step's function returned: decide by Name or Message.
//
// A workflow that returns an Error, or an error that wraps one, fails and is not retried
// (R77), because the step has used up its retries.
type Error struct {
	// Step is the durable name of the step, for example "page:1".
	Step string
	// Name is the type of the step's error, without package and pointer, for example
	// "InputError". Wrappers of packages errors and fmt are skipped; if there is no other
	// error in the chain, it is "Error". For a child run it is the Name of the child's error.
	Name string
	// Message is the text of the step's error.
	Message string

	stack string
}

// Error returns a text with Step and Message.
func (e *Error) Error() string { return e.durable().Error() }

// Unwrap returns the engine's error, by which a worker recognizes an Error that a workflow
// returns.
func (e *Error) Unwrap() error { return e.durable() }

func (e *Error) durable() *durable.StepError {
	return &durable.StepError{Step: e.Step, Name: e.Name, Message: e.Message, Stack: e.stack}
}

// authorError turns the failure of a step into an Error, and returns other errors as they are.
func authorError(err error) error {
	failed, ok := err.(*durable.StepError) //nolint:errorlint // the engine never wraps one
	if !ok {
		return err
	}
	return &Error{Step: failed.Step, Name: failed.Name, Message: failed.Message, stack: failed.Stack}
}

// NonRetryable marks an error so that it is not retried. A step or a workflow that returns
// it, or an error that wraps it, fails at once. The result wraps err and has its text.
// NonRetryable(nil) is nil.
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return &durable.NonRetryableError{Err: err}
}
