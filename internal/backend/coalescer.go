package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// ErrClosed is the error of a coalesced call that was waiting when its connection was
// closed.
var ErrClosed = errors.New("the connection was closed")

// coalescer merges the inputs of concurrent callers into one call. Inputs that arrive
// while a call is under way, or during the pause after its start, share the next call. An
// input that arrives when neither is the case is sent at once. The owner calls run; all
// others call do.
type coalescer[in, out any] struct {
	// call handles up to limit inputs, and returns as many outputs in the same order.
	call   func(ctx context.Context, inputs []in) ([]out, error)
	limit  int
	pacing pacing
	// slow, if not nil, ends the wait of all callers when the database is slow.
	slow *slowness

	mu      sync.Mutex
	waiting []*coalesced[in, out]
	arrived wake.Flag // waiting is not empty
	full    wake.Flag // waiting has pacing.fullAt inputs: the next call does not pause
	stopped chan struct{}
}

// pacing is the pause between the starts of two calls: the more inputs a call had, the
// more are likely to arrive soon.
type pacing struct {
	// perInput is the pause for each input of the first call, and max its bound.
	perInput, max time.Duration
	// fullAt is the number of waiting inputs that ends the pause.
	fullAt int
}

func (p pacing) after(inputs int) time.Duration {
	return min(time.Duration(inputs)*p.perInput, p.max)
}

// coalesced is one input that waits, and its result once done is closed.
type coalesced[in, out any] struct {
	ctx    context.Context
	input  in
	output out
	err    error
	done   chan struct{}
}

func newCoalescer[in, out any](limit int, pacing pacing, call func(context.Context, []in) ([]out, error)) *coalescer[in, out] {
	return &coalescer[in, out]{
		call: call, limit: limit, pacing: pacing,
		arrived: wake.New(), full: wake.New(), stopped: make(chan struct{}),
	}
}

// do returns the output for an input. An error of the call is returned for each of its
// inputs, except for that of one value. When ctx ends first, or the database is slow (ErrSlow), the input
// may or may not have been handled.
func (c *coalescer[in, out]) do(ctx context.Context, input in) (output out, err error) {
	slow := c.slow.marked()
	select {
	case <-slow:
		return output, ErrSlow
	default:
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	entry := &coalesced[in, out]{ctx: ctx, input: input, done: make(chan struct{})}
	c.mu.Lock()
	c.waiting = append(c.waiting, entry)
	if len(c.waiting) >= c.pacing.fullAt {
		c.full.Set()
	}
	c.mu.Unlock()
	c.arrived.Set()
	select {
	case <-entry.done:
		return entry.output, entry.err
	case <-ctx.Done():
		return output, ctx.Err()
	case <-c.stopped:
		return output, ErrClosed
	case <-slow:
		return output, ErrSlow
	}
}

// run handles inputs until ctx ends. It is called once.
func (c *coalescer[in, out]) run(ctx context.Context) {
	defer close(c.stopped)
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		case <-c.full:
		}
		select {
		case <-ctx.Done():
			return
		case <-c.arrived:
		}
		batch := c.nextBatch()
		pause.Reset(c.pacing.after(len(batch)))
		c.handle(ctx, batch)
	}
}

// nextBatch removes up to limit inputs, and drops those whose callers have stopped waiting.
func (c *coalescer[in, out]) nextBatch() []*coalesced[in, out] {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch []*coalesced[in, out]
	n := 0
	for ; n < len(c.waiting) && len(batch) < c.limit; n++ {
		if c.waiting[n].ctx.Err() == nil {
			batch = append(batch, c.waiting[n])
		}
	}
	rest := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[rest:])
	c.waiting = c.waiting[:rest]
	if rest > 0 {
		c.arrived.Set()
	}
	select {
	case <-c.full: // it was set for inputs that are in this batch
	default:
	}
	if rest >= c.pacing.fullAt {
		c.full.Set()
	}
	return batch
}

// handle calls for a batch. If the database refuses the call for a value, it calls for ever
// smaller parts, so that only the owner of the value gets the error.
func (c *coalescer[in, out]) handle(ctx context.Context, batch []*coalesced[in, out]) {
	if len(batch) == 0 {
		return
	}
	inputs := make([]in, len(batch))
	for i, entry := range batch {
		inputs[i] = entry.input
	}
	var outputs []out
	err := within(ctx, callTimeout, func(ctx context.Context) (err error) {
		outputs, err = c.call(ctx, inputs)
		return err
	})
	if len(batch) > 1 && (errors.Is(err, store.ErrInvalidJSON) || errors.Is(err, store.ErrTooLarge)) {
		c.handle(ctx, batch[:len(batch)/2])
		c.handle(ctx, batch[len(batch)/2:])
		return
	}
	for i, entry := range batch {
		if entry.err = err; err == nil {
			entry.output = outputs[i]
		}
		close(entry.done)
	}
}
