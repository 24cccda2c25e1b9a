package backend

import (
	"context"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// requestPacing coalesces the creates of callers that wait for an answer. A caller on its own waits
// for a millisecond at most between two creates. Of many, up to 20 ms are collected: that is where
// the cost of a commit no longer counts.
var requestPacing = pacing{perInput: time.Millisecond, max: 20 * time.Millisecond, fullAt: FullAt}

// Creator inserts runs in transactions that concurrent callers share, and returns something for each.
// Its methods may be called concurrently.
type Creator[out any] struct {
	plain, keyed *coalescer[store.NewRun, out]
	panics       panics
}

// NewCreator returns a Creator that inserts by the call, which gets up to 500 runs. Create blocks
// until Run is called.
func NewCreator[out any](create func(ctx context.Context, runs []store.NewRun) ([]out, error)) *Creator[out] {
	c := &Creator[out]{}
	call := contained(&c.panics, "create", create)
	c.plain, c.keyed = newCoalescer(maxBatch, requestPacing, call), newCoalescer(maxBatch, requestPacing, call)
	return c
}

// Create inserts a run. A run with an idempotency key, whose lock somebody may hold, delays none
// without. When ctx ends first, the run may or may not have been inserted.
func (c *Creator[out]) Create(ctx context.Context, run store.NewRun) (out, error) {
	if run.IdempotencyKey != nil {
		return c.keyed.do(ctx, run)
	}
	return c.plain.do(ctx, run)
}

// Run executes the calls until ctx ends. It is called once.
func (c *Creator[out]) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { c.plain.run(ctx) })
	loops.Go(func() { c.keyed.run(ctx) })
	loops.Wait()
}
