package step

import (
	"context"
	"encoding/json"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Future is a step that was begun and whose result is still to come.
type Future[T any] struct {
	name   string
	future durable.Future
	decode func(name string, output json.RawMessage) (T, error)
	err    error // why the step could not be begun
}

// Await waits for the step and returns its result, as the verb itself would have. It
// may be called again, and returns the same.
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

// Pending is a [*Future] of any type.
type Pending interface {
	durableFuture() (durable.Future, error)
}

// start begins a step.
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

// Select waits until one of the futures has a result, or has failed, and returns its
// index. The choice is stored under the name, so that it is the same at every
// execution, whatever has come meanwhile. The other futures go on, and may be awaited
// or selected from later.
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

// Map calls fn for each of the items, as steps of this name that run in parallel, and
// returns the results in the order of the items. No more than limit are running at a
// time; zero means no limit. When one has failed for good, no further ones are begun,
// those under way may end, and the first error in the order of the items is returned.
//
// The items must be the same at every execution: data that a workflow fans out over is
// its input or the result of a step. Each item counts towards the step limit of the run;
// for many thousands, let child runs have a part of them each.
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
