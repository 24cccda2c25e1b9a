package step

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Future is a step that was started, and gives its result later. It belongs to one execution
// of the workflow; use it on the goroutine of the workflow's function. The zero Future is of no step:
// it fails the run.
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
	if f == nil {
		return none, errNotStarted
	}
	if f.err != nil {
		return none, f.err
	}
	if f.future == nil {
		return none, errNotStarted
	}
	output, err := f.future.Await()
	if err != nil {
		return none, authorError(err)
	}
	return f.decode(f.name, output)
}

func (f *Future[T]) durableFuture() (durable.Future, error) {
	switch {
	case f == nil:
		return nil, errNotStarted
	case f.err != nil:
		return nil, f.err
	case f.future == nil:
		return nil, errNotStarted
	}
	return f.future, nil
}

// errNotStarted is the error of a zero Future.
var errNotStarted = NonRetryable(errors.New("the future is of no step: take it from step.Go or another function that starts one"))

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
		if f == nil {
			return nil, errNotStarted
		}
		var err error
		if pending[i], err = f.durableFuture(); err != nil {
			return nil, err
		}
	}
	return pending, nil
}

// Map calls fn for each item and returns the results in the order of the items. Each call is
// a step of this name ("name", "name:1", …). At most limit of them run at a time; zero or
// less means no limit.
//
// When one has failed after its last attempt, Map starts no further ones, waits for those
// that are running, and returns the first error in the order of the items. An item that was
// not started is never started by a later execution. All items have their durable names from
// the beginning, so that steps after Map keep theirs.
//
// The items must be the same at every execution: take them from the workflow's input or from
// the result of a step. Each started item counts towards the step limit of the run
// ([workflow.StepLimit]). For many thousands of items, start child runs with a part each.
func Map[In, Out any](
	ctx context.Context, name string, items []In, limit int, fn func(ctx context.Context, item In) (Out, error), options ...Option,
) ([]Out, error) {
	execution, err := executionOf(ctx, name)
	if err != nil {
		return nil, err
	}
	names, err := execution.Reserve(name, len(items))
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = len(items)
	}
	futures := make([]*Future[Out], 0, len(items))
	var running []durable.Future // of the futures, those not known to have a result
	for i, item := range items {
		// All results are read before the next item starts, not only those that make room
		// for it: a replay finds them at once, and must stop where the first execution did.
		var failed bool
		running, failed = drain(execution, running, max(0, len(running)-limit+1))
		if failed {
			break
		}
		call := functionStep(name, func(ctx context.Context) (Out, error) { return fn(ctx, item) }, options)
		call.Reserved = names[i]
		f := startStep(ctx, name, call, decode[Out])
		if f.err != nil {
			return nil, f.err
		}
		futures, running = append(futures, f), append(running, f.future)
	}
	return results(futures)
}

// drain waits until at least n of the futures have resolved. It returns those that have
// not, and whether any has failed.
func drain(execution durable.Execution, futures []durable.Future, n int) (unresolved []durable.Future, failed bool) {
	resolved := execution.AwaitSome(futures, n)
	for _, i := range resolved {
		if _, err := futures[i].Await(); err != nil {
			failed = true
		}
	}
	for i, f := range futures {
		if len(resolved) > 0 && resolved[0] == i {
			resolved = resolved[1:]
			continue
		}
		unresolved = append(unresolved, f)
	}
	return unresolved, failed
}

// results awaits all futures, and returns their results or the first error in their order.
func results[T any](futures []*Future[T]) ([]T, error) {
	values := make([]T, len(futures))
	var first error
	for i, f := range futures {
		var err error
		if values[i], err = f.Await(); err != nil && first == nil {
			first = err
		}
	}
	if first != nil {
		return nil, first
	}
	return values, nil
}
