// Package step holds the durable calls of a workflow. Each call stores its result in
// Postgres under the name of the step. When the workflow's function is executed again, after
// a wait, a retry or a crash, a call that has completed returns its stored result and has no
// other effect.
//
//	var Checkout = workflow.Define("checkout", func(ctx context.Context, in Order) (string, error) {
//		receipt, err := step.Run(ctx, "charge-card", func(ctx context.Context) (string, error) {
//			return cards.Charge(ctx, in.Card, in.Amount) // called until its result is stored
//		})
//		if err != nil {
//			return "", err // a *step.Error: all attempts have failed
//		}
//		if err := step.Sleep(ctx, "cool-off", 24*time.Hour); err != nil {
//			return "", err
//		}
//		_, err = step.Run(ctx, "send-email", func(ctx context.Context) (any, error) {
//			return nil, mail.Send(ctx, in.Email, receipt)
//		})
//		return receipt, err
//	})
//
//	func main() { worker.Main(Checkout) }
//
// The calls:
//
//	Run             calls a function
//	Sleep           waits for a duration; SleepUntil waits for an instant
//	RunWorkflow     starts a child run and waits for its end
//	WaitForSignal   waits for a signal, from SendSignal or package client
//	SendSignal      sends a signal
//	WaitForApproval asks people, and waits for their decision
//	Go, GoSleep, …  start one of these and return a Future
//	Select          waits for the first of several futures
//	Map             calls a function for each of many items, in parallel
//
// # Names
//
// A workflow must make the same calls, with the same names, in the same order at every
// execution of a run. A name that occurs again, for example in a loop, gets a number: "page",
// "page:1", "page:2" (R89 of docs/openworkflow-rules.md). The name with its number is the
// durable name of the step.
//
// # Contexts and goroutines
//
// Call the functions of this package, and the methods of futures, with the context of the
// workflow and on the goroutine of its function. To do several things at once, use futures
// instead of goroutines. Inside a step's function there are no steps ([ErrNested]).
//
// # Calls that do not return
//
// A call does not return when the execution cannot continue now: it waits, a step will be
// retried later, the run was canceled, or the worker shuts down. The goroutine then ends with
// runtime.Goexit: deferred functions run, and recover returns nil. A later execution continues
// the run. A run that only waits occupies no worker.
package step

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Run calls fn and stores its result. If an earlier execution has stored a result, Run
// returns that and does not call fn.
//
// The result is stored before the next step's function is called, and before the run waits
// or ends. Once it is stored, fn is never called again. If the worker dies after fn had its
// effect and before the result was stored, fn is called again: execution is at least once. If
// the effect is outside this database, pass the other system an idempotency key made of the
// run's id ([workflow.Info]) and the name of the step.
//
// The result is encoded and decoded with encoding/json, at the first execution too. The
// context of fn ends when the run is canceled or passes its deadline, when another worker
// claims the run, or at the end of the grace period of a shutdown. context.Cause tells which:
// [workflow.ErrCanceled], ErrDeadlineExceeded, ErrLeaseLost or ErrShutdown.
//
// fn must honor its context, because nothing else can stop it. If fn has not returned 10 s after
// the end of its context, the worker leaves it behind: what it returns later is dropped, the
// worker logs its name, the WorkerPool counts it (status.stuckSteps), and another run takes its
// place. A worker lends as many places as it executes runs at a time (its concurrency). Beyond
// that, a function that does not return occupies a place, and a worker whose places are all
// occupied claims nothing. The same holds for code of the workflow outside steps. While the run
// is the worker's and its context has not ended, fn may take as long as it likes.
//
// If fn returns an error or panics, the attempt has failed. The step is retried by its policy
// ([Retry]), and Run does not return meanwhile. After the last attempt, Run returns an
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

// Go is [Run] without waiting: it calls fn at once on a goroutine of its own, and the workflow
// continues. If the workflow returns while fn is running, the run ends once fn has returned,
// but retries do not happen: await each result that matters.
func Go[T any](ctx context.Context, name string, fn func(ctx context.Context) (T, error), options ...Option) *Future[T] {
	return startStep(ctx, name, functionStep(name, fn, options), decode[T])
}

// functionStep returns the step that a call of Run or Go describes.
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

// Sleep pauses the run for d, counted from the first execution of this call. Meanwhile the
// run is parked in the database: it occupies no worker and outlasts restarts. Zero and
// negative durations end at once.
func Sleep(ctx context.Context, name string, d time.Duration) error {
	_, err := GoSleep(ctx, name, d).Await()
	return err
}

// SleepUntil pauses the run until t, like [Sleep].
func SleepUntil(ctx context.Context, name string, t time.Time) error {
	_, err := GoSleepUntil(ctx, name, t).Await()
	return err
}

// GoSleep is [Sleep] without waiting: a timer to use with [Select].
func GoSleep(ctx context.Context, name string, d time.Duration) *Future[struct{}] {
	return startSleep(ctx, name, durationFromNow(d))
}

// GoSleepUntil is [SleepUntil] without waiting.
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

// defaultTimeout is the timeout of waits for children and signals without an option (R34).
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

// executionOf returns the execution that the context of a call belongs to.
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
