// Package workflows has the workflows that the benchmarks execute. Their steps do nothing,
// so that only the cost of durability is measured.
package workflows

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Steps is the number of steps of a run of Five.
const Steps = 5

// Five has five steps, one after the other.
var Five = workflow.Define("five", func(ctx context.Context, _ struct{}) (int, error) {
	sum := 0
	for i := range Steps {
		n, err := step.Run(ctx, "step", func(context.Context) (int, error) { return i, nil })
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
})

// Long has as many steps as its input says, one after the other.
var Long = workflow.Define("long", func(ctx context.Context, steps int) (int, error) {
	for i := range steps {
		if _, err := step.Run(ctx, "step", func(context.Context) (int, error) { return i, nil }); err != nil {
			return 0, err
		}
	}
	return steps, nil
}, workflow.StepLimit(100_000))

// Echo returns its input. It has no step.
var Echo = workflow.Define("echo", func(_ context.Context, n int) (int, error) { return n, nil })

// Tick is a step's length in Ticking.
const Tick = 20 * time.Millisecond

// Ticking has steps of a Tick each, whose output is the id of the process that executed
// them.
var Ticking = workflow.Define("ticking", func(ctx context.Context, steps int) (int, error) {
	for range steps {
		_, err := step.Run(ctx, "tick", func(ctx context.Context) (int, error) {
			select {
			case <-time.After(Tick):
				return os.Getpid(), nil
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		})
		if err != nil {
			return 0, err
		}
	}
	return steps, nil
}, workflow.StepLimit(100_000))

// FanOut executes as many steps as its input says, all in parallel.
var FanOut = workflow.Define("fan-out", func(ctx context.Context, steps int) (int, error) {
	futures := make([]*step.Future[int], steps)
	for i := range futures {
		futures[i] = step.Go(ctx, fmt.Sprintf("step-%d", i), func(context.Context) (int, error) { return i, nil })
	}
	sum := 0
	for _, future := range futures {
		n, err := future.Await()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}, workflow.StepLimit(100_000))

// Parent starts as many runs of Echo as its input says, and awaits them all.
var Parent = workflow.Define("parent", func(ctx context.Context, children int) (int, error) {
	futures := make([]*step.Future[int], children)
	for i := range futures {
		futures[i] = step.GoWorkflow(ctx, Echo, i, step.Name(fmt.Sprintf("child-%d", i)))
	}
	sum := 0
	for _, future := range futures {
		n, err := future.Await()
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}, workflow.StepLimit(100_000))

// Waiting waits for the signal that its input names.
var Waiting = workflow.Define("waiting", func(ctx context.Context, signal string) (int, error) {
	n, _, err := step.WaitForSignal[int](ctx, signal)
	return n, err
})

// PayloadBytes is the size of each step's output in Large.
const PayloadBytes = 100_000

// Large has five steps, each with a large output.
var Large = workflow.Define("large", func(ctx context.Context, _ struct{}) (int, error) {
	size := 0
	for range Steps {
		text, err := step.Run(ctx, "step", func(context.Context) (string, error) { return payload, nil })
		if err != nil {
			return 0, err
		}
		size += len(text)
	}
	return size, nil
})

// payload compresses as texts do, not as a repeated letter would.
var payload = func() string {
	var b strings.Builder
	for n := uint32(1); b.Len() < PayloadBytes; n = n*1664525 + 1013904223 {
		fmt.Fprintf(&b, "order %d of customer %d; ", n>>8, n>>20)
	}
	return b.String()[:PayloadBytes]
}()

// All are what a worker of the benchmarks serves.
func All() []workflow.Definition {
	return []workflow.Definition{Five, Long, Echo, Ticking, FanOut, Parent, Waiting, Large, Recorded, Poison}
}
