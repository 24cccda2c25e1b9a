// Package step holds the verbs that a workflow's function is made of. Each call
// is stored under its name; when the workflow is executed again, a call that has
// completed returns its stored result and does nothing.
//
// Names must come in the same order at every execution of a run. A name that is
// used again, in a loop for example, gets a number: "page", "page:1", "page:2" (R89).
//
// The verbs are called with the context of the workflow, on its goroutine. When
// the execution cannot go on here (a step is to be retried later, the run was
// canceled, the worker is shutting down) the call does not return: the goroutine
// ends, deferred functions run, and the run is continued another time.
package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/workflow"
)

// Error is the failure of a step that has no attempts left. It carries what was
// stored of the function's error (its type's name and its text), so that it is
// the same at every execution of the run; errors.As finds it.
type Error = durable.StepError

// Errors of a verb that is called where it cannot work.
var (
	// ErrNoWorkflow means that the context is not that of a workflow.
	ErrNoWorkflow = errors.New("the context is not a workflow's")
	// ErrNested means that the context is that of a step's function: steps do not nest.
	ErrNested = errors.New("steps do not nest: use the workflow's context, outside other steps")
)

// Option changes how a step is run.
type Option func(*durable.FunctionStep)

// Retry sets how often and when the step is tried again after a failure. The
// default is 10 attempts, 1 s to 100 s apart.
func Retry(policy workflow.RetryPolicy) Option {
	return func(s *durable.FunctionStep) { s.Retry = policy.ForStep() }
}

// NonRetryable marks an error that no retry can mend: a step that returns it, or
// an error that wraps it, fails at once, and so does a workflow.
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return &durable.NonRetryableError{Err: err}
}

// Run calls fn and stores its result before it returns it, or returns the stored
// result of an earlier execution without calling fn. A result that was stored is
// never computed again, whatever is killed. A crash before that means that fn is
// called again: between its own effect and the storing of its result there is a
// moment in which no one can know. Where the effect is outside this database, give
// the other side an idempotency key made of [workflow.Info]'s ID and the step's name.
//
// The result travels as JSON, as encoding/json does it, also at the first
// execution. The context that fn gets ends when the run is canceled, passes its
// deadline or is lost to another worker, with the cause that package workflow names.
//
// An error of fn, or a panic, makes the step fail; it is retried by its policy,
// and Run does not return meanwhile. Once the attempts are used up, Run returns an
// [*Error], at this and at every later execution.
func Run[T any](ctx context.Context, name string, fn func(ctx context.Context) (T, error), options ...Option) (T, error) {
	var result T
	execution, err := executionOf(ctx, name)
	if err != nil {
		return result, err
	}
	call := durable.FunctionStep{
		Name:  name,
		Retry: openworkflow.DefaultStepPolicy,
		Call: func(ctx context.Context) (json.RawMessage, error) {
			value, err := fn(ctx)
			if err != nil {
				return nil, err
			}
			encoded, err := json.Marshal(value)
			if err != nil {
				return nil, fmt.Errorf("encode the result: %w", err)
			}
			return encoded, nil
		},
	}
	for _, option := range options {
		option(&call)
	}
	output, err := execution.RunStep(ctx, call)
	if err != nil {
		return result, err
	}
	if len(output) == 0 {
		return result, nil
	}
	if err := json.Unmarshal(output, &result); err != nil {
		return result, fmt.Errorf("decode the stored result of step %q into %T: %w", name, result, err)
	}
	return result, nil
}

// Sleep lets the run wait for d, from the first execution of this call on. The run
// is parked: it holds no worker, and goes on after any restart of anything. A
// duration of zero or less gives way once.
func Sleep(ctx context.Context, name string, d time.Duration) error {
	return sleep(ctx, name, func(now time.Time) time.Time { return now.Add(d) })
}

// SleepUntil lets the run wait until t, as Sleep does.
func SleepUntil(ctx context.Context, name string, t time.Time) error {
	return sleep(ctx, name, func(time.Time) time.Time { return t })
}

func sleep(ctx context.Context, name string, wake func(now time.Time) time.Time) error {
	execution, err := executionOf(ctx, name)
	if err != nil {
		return err
	}
	return execution.Sleep(name, wake)
}

// executionOf returns the execution of the workflow whose context a verb was called
// with.
func executionOf(ctx context.Context, name string) (durable.Execution, error) {
	execution := durable.ExecutionFrom(ctx)
	if execution == nil {
		return nil, fmt.Errorf("step %q: %w", name, ErrNoWorkflow)
	}
	if outer, inside := durable.StepFrom(ctx); inside {
		return nil, fmt.Errorf("step %q inside step %q: %w", name, outer, ErrNested)
	}
	return execution, nil
}
