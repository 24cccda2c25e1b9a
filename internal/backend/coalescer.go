package backend

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errBatcherStopped: the connection was closed while a call waited for its turn.
var ErrClosed = errors.New("the connection was closed")

// coalescer makes one call of many: those that come while one is under way, or within
// the pacing of its start, share the next. One that comes alone is not delayed, nor are
// many. Its owner calls run; everybody else calls do.
type coalescer[in, out any] struct {
	// call handles up to limit inputs, and returns as many outputs in the same order.
	call   func(ctx context.Context, inputs []in) ([]out, error)
	limit  int
	pacing pacing

	mu      sync.Mutex
	waiting []*coalesced[in, out]
	arrived chan struct{} // somebody waits
	full    chan struct{} // as many wait as are not to be delayed
	stopped chan struct{}
}

// pacing spaces calls out: the more inputs a call had, the more are likely to come.
type pacing struct {
	// perInput is the time between the starts of two calls for each input of the first,
	// and max its bound.
	perInput, max time.Duration
	// fullAt is how many inputs do not wait for it.
	fullAt int
}

func (p pacing) after(inputs int) time.Duration {
	return min(time.Duration(inputs)*p.perInput, p.max)
}

// coalesced is a call of do.
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
		arrived: make(chan struct{}, 1), full: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
}

// do waits for the input's turn and returns its output. An error of the call is that
// of everybody who shared it. When ctx ends first, the input may or may not have been
// handled.
func (c *coalescer[in, out]) do(ctx context.Context, input in) (output out, err error) {
	entry := &coalesced[in, out]{ctx: ctx, input: input, done: make(chan struct{})}
	c.mu.Lock()
	c.waiting = append(c.waiting, entry)
	if len(c.waiting) >= c.pacing.fullAt {
		signal(c.full)
	}
	c.mu.Unlock()
	signal(c.arrived)
	select {
	case <-entry.done:
		return entry.output, entry.err
	case <-ctx.Done():
		return output, ctx.Err()
	case <-c.stopped:
		return output, ErrClosed
	}
}

// run handles what arrives until ctx ends. It is called once.
func (c *coalescer[in, out]) run(ctx context.Context) {
	defer close(c.stopped)
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		case <-c.full:
		}
		select {
		case <-ctx.Done():
			return
		case <-c.arrived:
		}
		batch := c.nextBatch()
		rest.Reset(c.pacing.after(len(batch)))
		c.handle(ctx, batch)
	}
}

// nextBatch removes the next batch, without those who have stopped waiting.
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
		signal(c.arrived)
	}
	select {
	case <-c.full: // those were taken
	default:
	}
	if rest >= c.pacing.fullAt {
		signal(c.full)
	}
	return batch
}

// signal wakes who receives from c, now or next.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

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
	for i, entry := range batch {
		if entry.err = err; err == nil {
			entry.output = outputs[i]
		}
		close(entry.done)
	}
}
