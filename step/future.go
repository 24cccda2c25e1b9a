package step

import (
	"context"
	"encoding/json"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Future is a step that was started, and gives its result later. It belongs to one execution
// of the workflow; use it on the goroutine of the workflow's function.
type Future[T any] struct {
	name   string
	future durable.Future
	decode func(name string, output json.RawMessage) (T, error)
	err    error // why the step could not be started
}

// Await waits for the step and returns the same result and error as the function without Go
// in its name. Later calls return the same again.
func (f *Future[T]) Await() (T, error) {
	var none T
	if f.err != nil {
		return none, f.err
	}
	output, err := f.future.Await()
	if err != nil {
		return none, authorError(err)
	}
	return f.decode(f.name, output)
}

func (f *Future[T]) durableFuture() (durable.Future, error) { return f.future, f.err }

// Pending is a [*Future] of any type, for [Select].
type Pending interface {
	durableFuture() (durable.Future, error)
}

// startStep starts a step, or returns a Future that has failed.
func startStep[T any](ctx context.Context, name string, step durable.Step, decode func(string, json.RawMessage) (T, error)) *Future[T] {
	f := &Future[T]{name: name, decode: decode}
	execution, err := executionOf(ctx, name)
	if err != nil {
		f.err = err
		return f
	}
	f.future, err = execution.Start(ctx, step)
	f.err = authorError(err)
	return f
}

// Select waits until one of the futures has succeeded or failed, and returns its index. The
// index is stored under the name, so that later executions choose the same future. The others
// continue, and may be awaited or passed to Select again. The error of a future is that of its
// Await, not of Select.
//
//	answer := step.GoWaitForSignal[Answer](ctx, "answer")
//	reminder := step.GoSleep(ctx, "reminder", 24*time.Hour)
//	if first, err := step.Select(ctx, "answer or reminder", answer, reminder); …
func Select(ctx context.Context, name string, futures ...Pending) (index int, err error) {
	execution, err := executionOf(ctx, name)
	if err != nil {
		return 0, err
	}
	pending, err := durableFutures(futures)
	if err != nil {
		return 0, err
	}
	index, err = execution.Select(name, pending)
	return index, authorError(err)
}

func durableFutures(futures []Pending) ([]durable.Future, error) {
	pending := make([]durable.Future, len(futures))
	for i, f := range futures {
		var err error
		if pending[i], err = f.durableFuture(); err != nil {
			return nil, err
		}
	}
	return pending, nil
}

// Map calls fn for each item and returns the results in the order of the items. Each call is
// a step of this name ("name", "name:1", …). At most limit of them run at a time; zero or
// less means no limit. When one has failed after its last attempt, Map starts no further
// ones, waits for those that are running, and returns the first error in the order of the
// items.
//
// The items must be the same at every execution: take them from the workflow's input or from
// the result of a step. Each item counts towards the step limit of the run
// ([workflow.StepLimit]). For many thousands of items, start child runs with a part each.
func Map[In, Out any](
	ctx context.Context, name string, items []In, limit int, fn func(ctx context.Context, item In) (Out, error), options ...Option,
) ([]Out, error) {
	execution, err := executionOf(ctx, name)
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = len(items)
	}
	var futures []*Future[Out]
	var running []durable.Future // of the futures, those not known to have a result
	failed := false
	for _, item := range items {
		for len(running) >= limit && !failed {
			i := execution.AwaitAny(running)
			_, err := running[i].Await()
			failed = err != nil
			running = append(running[:i], running[i+1:]...)
		}
		if failed {
			break
		}
		f := Go(ctx, name, func(ctx context.Context) (Out, error) { return fn(ctx, item) }, options...)
		if f.err != nil {
			return nil, f.err
		}
		futures, running = append(futures, f), append(running, f.future)
	}
	results := make([]Out, len(futures))
	var first error
	for i, f := range futures {
		var err error
		if results[i], err = f.Await(); err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return nil, first
	}
	return results, nil
}
