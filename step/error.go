package step

import (
	"errors"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Errors of a verb that was called with a context that it cannot work with. They are
// returned at once; nothing is stored.
var (
	// ErrNoWorkflow means that the context is not that of a workflow.
	ErrNoWorkflow = errors.New("the context is not a workflow's")
	// ErrNested means that the context is that of a step's function: steps do not nest.
	ErrNested = errors.New("steps do not nest: use the workflow's context, outside other steps")
)

// Error is the failure of a step that has no attempts left, of a child run, or of a wait
// for a child. Find it with errors.As or errors.AsType. It carries what was stored, so it
// is the same at every execution of the run, and it does not wrap the error that the
// step's function returned: decide by Name or Message.
//
// A workflow that returns an Error, or an error that wraps one, fails without another
// attempt (R77), as the step has used up its own.
type Error struct {
	// Step is the durable name of the step, for example "page:1".
	Step string
	// Name is the name of the type of the error, without package and pointer, for example
	// "InputError". For errors that only carry a text, as errors.New makes them, it is
	// "Error". For a child run it is the name of the child's error.
	Name string
	// Message is the text of the error.
	Message string

	stack string
}

// Error returns a text with the name of the step and the message.
func (e *Error) Error() string { return e.durable().Error() }

// Unwrap returns an error of the engine, by which the worker recognizes an Error that a
// workflow returns.
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

// NonRetryable marks an error that no retry can mend: a step that returns it, or an error
// that wraps it, fails at once, and so does a workflow. errors.Is and errors.As find what
// is marked. NonRetryable(nil) is nil.
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return &durable.NonRetryableError{Err: err}
}
