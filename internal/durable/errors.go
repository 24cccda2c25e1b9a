package durable

import (
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// The contexts of a workflow and its steps end with one of these causes.
var (
	ErrCanceled         = errors.New("workflow run was canceled")
	ErrLeaseLost        = errors.New("workflow run is now held by another worker")
	ErrDeadlineExceeded = errors.New("workflow run deadline exceeded")
	ErrShutdown         = errors.New("worker is shutting down")
)

// NonRetryableError marks an error that is not retried.
type NonRetryableError struct{ Err error }

func (e *NonRetryableError) Error() string { return e.Err.Error() }

// Unwrap returns the marked error.
func (e *NonRetryableError) Unwrap() error { return e.Err }

// IsNonRetryable reports whether err, or an error that it wraps, is marked.
func IsNonRetryable(err error) bool {
	var marked *NonRetryableError
	return errors.As(err, &marked)
}

// PanicError is the error of a workflow or a step that has panicked.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Failure is an error of an author's function as the engine keeps it. It holds what the engine needs
// to know of the error, and not the error: its methods are the author's code, and are called where a
// panic of theirs is the function's.
type Failure struct {
	payload openworkflow.Error
	// marks are the engine's own errors that the error was or wrapped.
	marks []error
}

func (f *Failure) Error() string { return f.payload.Message }

// Unwrap returns the engine's own errors.
func (f *Failure) Unwrap() []error { return f.marks }

// NewFailure returns what the engine keeps of an error. It calls the methods of the error, which may
// panic: those of a nil pointer in an error, for example.
func NewFailure(err error) *Failure {
	f := &Failure{payload: EncodeError(err)}
	if failed, ok := errors.AsType[*StepError](err); ok {
		f.marks = append(f.marks, failed)
	}
	if IsNonRetryable(err) {
		f.marks = append(f.marks, &NonRetryableError{Err: errMarked})
	}
	if errors.Is(err, ErrDeadlineExceeded) {
		f.marks = append(f.marks, ErrDeadlineExceeded)
	}
	return f
}

// errMarked stands for the error of an author that is marked as non-retryable.
var errMarked = errors.New("marked as non-retryable")

// NewPanic returns the failure of a function that has panicked.
func NewPanic(value any, stack []byte) *Failure {
	return &Failure{payload: openworkflow.Error{Name: "PanicError", Message: panicText(value), Stack: string(stack)}}
}

// panicText returns the text of a PanicError. Methods of the value may panic too.
func panicText(value any) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("panic: a value of type %T, which has no text", value)
		}
	}()
	return (&PanicError{Value: value}).Error()
}

// EncodeError returns the payload that is stored of an error (R120). Its name is the name of
// the error's type, or Error for types that only carry a text. A StepError that a workflow
// returns unwrapped keeps the payload of the step (R77).
func EncodeError(err error) openworkflow.Error {
	if failure, ok := err.(*Failure); ok { //nolint:errorlint // what wraps one has a text of its own
		return failure.payload
	}
	if failed, ok := asStepError(err); ok {
		return openworkflow.Error{Name: failed.Name, Message: failed.Message, Stack: failed.Stack}
	}
	payload := openworkflow.Error{Name: errorName(err), Message: err.Error()}
	if panicked, ok := errors.AsType[*PanicError](err); ok {
		payload.Stack = panicked.Stack
	} else if failure, ok := errors.AsType[*Failure](err); ok {
		payload.Stack = failure.payload.Stack
	}
	return payload
}

// asStepError returns the failure that err is: a StepError, or a step.Error, the only type
// of error that wraps a StepError directly. An error that wraps a step.Error is another
// error, with a text of its own.
func asStepError(err error) (*StepError, bool) {
	//nolint:errorlint // see above
	if failed, ok := err.(*StepError); ok {
		return failed, true
	}
	failed, ok := errors.Unwrap(err).(*StepError) //nolint:errorlint // see above
	return failed, ok
}

// errorName returns the name of the first type in the error's chain that says more than that
// it is an error with a text.
func errorName(err error) string {
	for ; err != nil; err = errors.Unwrap(err) {
		if _, ok := asStepError(err); ok {
			return "StepError"
		}
		t := reflect.TypeOf(err)
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch {
		case t == reflect.TypeFor[NonRetryableError](), t.PkgPath() == "errors", t.PkgPath() == "fmt", t.Name() == "":
		default:
			return t.Name()
		}
	}
	return "Error"
}

// MaxDurationError is the failure of a step whose function has returned an error after its
// maximum duration.
type MaxDurationError struct {
	Limit time.Duration
	// Err is what the function returned; nil while it is executing.
	Err error
}

func (e *MaxDurationError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("the step has exceeded its maximum duration of %v", e.Limit)
	}
	return fmt.Sprintf("the step has exceeded its maximum duration of %v: %v", e.Limit, e.Err)
}

// Unwrap returns what the function returned.
func (e *MaxDurationError) Unwrap() error { return e.Err }
