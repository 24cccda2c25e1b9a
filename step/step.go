// Package step holds the verbs that a workflow's function is made of. Each call
// is stored under its name; when the workflow is executed again, a call that has
// completed returns its stored result and does nothing.
//
//	Run             calls a function
//	Sleep           waits, for a while or until an instant (SleepUntil)
//	RunWorkflow     starts a child run and waits for its end
//	WaitForSignal   waits for a signal, which SendSignal or package client sends
//	SendSignal      sends one
//	Go…             begin any of these without waiting: they return a Future
//	Select, Map     wait for the first of several; call a function for each of many
//
// Names must come in the same order at every execution of a run. A name that is
// used again, in a loop for example, gets a number: "page", "page:1", "page:2" (R89).
//
// The verbs, and the methods of futures, are called with the context of the workflow,
// on its goroutine: futures are the way to do several things at a time. When the
// execution cannot go on here (everything waits, a step is to be retried later, the run
// was canceled, the worker is shutting down) the call does not return: the goroutine
// ends, deferred functions run, and the run is continued another time. A run that only
// waits holds no worker.
package step

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Run calls fn and stores its result, or returns the stored result of an earlier
// execution without calling fn. The result is stored before anything else is done for
// the run: before the next step's function is called, and before the run ends or waits.
// A result that was stored is never computed again, whatever is killed. A crash before
// that means that fn is called again: between its own effect and the storing of its
// result there is a moment in which no one can know. Where the effect is outside this
// database, give the other side an idempotency key made of [workflow.Info]'s ID and the
// step's name.
//
// The result travels as JSON, as encoding/json does it, also at the first
// execution. The context that fn gets ends when the run is canceled, passes its
// deadline or is lost to another worker, with the cause that package workflow names.
//
// An error of fn, or a panic, makes the step fail; it is retried by its policy,
// and Run does not return meanwhile. Once the attempts are used up, Run returns an
// [*Error], at this and at every later execution.
func Run[T any](ctx context.Context, name string, fn func(ctx context.Context) (T, error), options ...Option) (T, error) {
	var none T
	execution, err := executionOf(ctx, name)
	if err != nil {
		return none, err
	}
	output, err := execution.Run(ctx, functionStep(name, fn, options))
	if err != nil {
		return none, authorError(err)
	}
	return decode[T](name, output)
}

// Go begins Run without waiting for its result: fn is called on a goroutine of its
// own, at once, while the workflow goes on. A workflow that returns while fn is running
// ends once fn has returned; retries are not waited for, so await what matters.
func Go[T any](ctx context.Context, name string, fn func(ctx context.Context) (T, error), options ...Option) *Future[T] {
	return startStep(ctx, name, functionStep(name, fn, options), decode[T])
}

// function makes a step of a call of Run or Go.
func functionStep[T any](name string, fn func(ctx context.Context) (T, error), options []Option) durable.FunctionStep {
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
		option.function(&call)
	}
	return call
}

// Sleep lets the run wait for d, from the first execution of this call on. The run
// is parked: it holds no worker, and goes on after any restart of anything. A
// duration of zero or less has passed at once.
func Sleep(ctx context.Context, name string, d time.Duration) error {
	_, err := GoSleep(ctx, name, d).Await()
	return err
}

// SleepUntil lets the run wait until t, as Sleep does.
func SleepUntil(ctx context.Context, name string, t time.Time) error {
	_, err := GoSleepUntil(ctx, name, t).Await()
	return err
}

// GoSleep begins Sleep without waiting: a timer, to select from beside other futures.
func GoSleep(ctx context.Context, name string, d time.Duration) *Future[struct{}] {
	return startSleep(ctx, name, durationFromNow(d))
}

// GoSleepUntil begins SleepUntil without waiting.
func GoSleepUntil(ctx context.Context, name string, t time.Time) *Future[struct{}] {
	return startSleep(ctx, name, func(time.Time) time.Time { return t })
}

func startSleep(ctx context.Context, name string, until func(now time.Time) time.Time) *Future[struct{}] {
	return startStep(ctx, name, durable.SleepStep{Name: name, Until: until},
		func(string, json.RawMessage) (struct{}, error) { return struct{}{}, nil })
}

func durationFromNow(d time.Duration) func(now time.Time) time.Time {
	return func(now time.Time) time.Time { return now.Add(d) }
}

// aYear is the default timeout of those who wait for others (R34).
func defaultTimeout(now time.Time) time.Time { return now.AddDate(1, 0, 0) }

// decode decodes the stored output of a step.
func decode[T any](name string, output json.RawMessage) (T, error) {
	var result T
	if len(output) == 0 {
		return result, nil
	}
	if err := json.Unmarshal(output, &result); err != nil {
		return result, NonRetryable(fmt.Errorf("decode the stored result of step %q into %T: %w", name, result, err))
	}
	return result, nil
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
