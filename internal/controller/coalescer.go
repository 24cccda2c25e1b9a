package controller

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errBatcherStopped: the connection was closed while a call waited for its turn.
var errBatcherStopped = errors.New("the connection was closed")

// batcher makes one call of many: those that come while one is under way, or within
// the pace of its beginning, share the next. One that comes alone is not delayed, nor are
// many. Its owner calls run; everybody else calls do.
type batcher[in, out any] struct {
	// call handles up to limit inputs, and returns as many outputs in the same order.
	call  func(ctx context.Context, inputs []in) ([]out, error)
	limit int
	pace  pace

	mu      sync.Mutex
	waiting []*batched[in, out]
	arrived chan struct{} // somebody waits
	many    chan struct{} // as many wait as are not to be delayed
	stopped chan struct{}
}

// pace spaces calls out: the more inputs a call had, the more are likely to come.
type pace struct {
	// each is the time between the beginnings of two calls for each input of the first,
	// and longest its bound.
	each, longest time.Duration
	// enough is how many inputs do not wait for it.
	enough int
}

func (p pace) after(inputs int) time.Duration {
	return min(time.Duration(inputs)*p.each, p.longest)
}

// batched is a call of do.
type batched[in, out any] struct {
	ctx    context.Context
	input  in
	output out
	err    error
	done   chan struct{}
}

func newBatcher[in, out any](limit int, pace pace, call func(context.Context, []in) ([]out, error)) *batcher[in, out] {
	return &batcher[in, out]{
		call: call, limit: limit, pace: pace,
		arrived: make(chan struct{}, 1), many: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
}

// do waits for the input's turn and returns its output. An error of the call is that
// of everybody who shared it. When ctx ends first, the input may or may not have been
// handled.
func (b *batcher[in, out]) do(ctx context.Context, input in) (output out, err error) {
	entry := &batched[in, out]{ctx: ctx, input: input, done: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, entry)
	if len(b.waiting) >= b.pace.enough {
		signal(b.many)
	}
	b.mu.Unlock()
	signal(b.arrived)
	select {
	case <-entry.done:
		return entry.output, entry.err
	case <-ctx.Done():
		return output, ctx.Err()
	case <-b.stopped:
		return output, errBatcherStopped
	}
}

// run handles what arrives until ctx ends. It is called once.
func (b *batcher[in, out]) run(ctx context.Context) {
	defer close(b.stopped)
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		case <-b.many:
		}
		select {
		case <-ctx.Done():
			return
		case <-b.arrived:
		}
		batch := b.take()
		rest.Reset(b.pace.after(len(batch)))
		b.handle(ctx, batch)
	}
}

// take removes the next batch, without those who have stopped waiting.
func (b *batcher[in, out]) take() []*batched[in, out] {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch []*batched[in, out]
	n := 0
	for ; n < len(b.waiting) && len(batch) < b.limit; n++ {
		if b.waiting[n].ctx.Err() == nil {
			batch = append(batch, b.waiting[n])
		}
	}
	rest := copy(b.waiting, b.waiting[n:])
	clear(b.waiting[rest:])
	b.waiting = b.waiting[:rest]
	if rest > 0 {
		signal(b.arrived)
	}
	select {
	case <-b.many: // those were taken
	default:
	}
	if rest >= b.pace.enough {
		signal(b.many)
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

func (b *batcher[in, out]) handle(ctx context.Context, batch []*batched[in, out]) {
	if len(batch) == 0 {
		return
	}
	inputs := make([]in, len(batch))
	for i, entry := range batch {
		inputs[i] = entry.input
	}
	var outputs []out
	err := within(ctx, loopTimeout, func(ctx context.Context) (err error) {
		outputs, err = b.call(ctx, inputs)
		return err
	})
	for i, entry := range batch {
		if entry.err = err; err == nil {
			entry.output = outputs[i]
		}
		close(entry.done)
	}
}
