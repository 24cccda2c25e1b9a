// Package groupcommit lets goroutines that write to a database at the same time share
// transactions. What gathers while a batch is under way goes with the next one, without any
// artificial delay.
//
// Two batches may be under way, so that one is sent while the other waits for the disk.
// But a transaction costs as much as several rows, and many writers that are each in step
// with a batch of their own would send the smallest ones possible. So a second batch
// begins only once it is half as large as the first; else the first one's end begins it.
// And where nothing else is written, the writer itself does it: to wake another thread for
// that would take a good part of the time that a commit does.
package groupcommit

import (
	"context"
	"errors"
	"runtime"
	"sync"
)

// batches is the number of batches that may be under way at once: while one waits for
// the disk, the next one is being sent.
const batches = 2

// maxBatch bounds the writes of one batch, so that a long queue after an outage does not
// become one statement of unbounded size.
const maxBatch = 500

// Write is one of a batch.
type Write[T any] struct {
	Item T

	ctx  context.Context
	done chan error
	// in is the batch that the write is in; nil as long as it waits for one.
	in *batch
}

// Finish tells whoever waits for the write what has become of it. It is called at most
// once.
func (w *Write[T]) Finish(err error) { w.done <- err }

// batch is one that is under way.
type batch struct {
	awaited int // writes that somebody waits for
	abandon context.CancelFunc
}

// Group is the writes that share transactions.
type Group[T any] struct {
	flush func(ctx context.Context, batch []*Write[T])

	mu      sync.Mutex
	pending []*Write[T]
	// flushing are the batches under way, and underWay the writes in them.
	flushing, underWay int
	// ready holds a token when a batch may begin.
	ready chan struct{}
	// stop is closed once nothing more may join.
	stop    chan struct{}
	stopped bool
}

// ErrStopped is the error of Join after Stop.
var ErrStopped = errors.New("nothing is written any more")

// New returns a group whose batches are written by flush, which finishes the writes. A
// write that it does not finish waits until its own context ends. The context of a batch
// ends when nobody waits for it any more.
func New[T any](flush func(ctx context.Context, batch []*Write[T])) *Group[T] {
	return &Group[T]{flush: flush, ready: make(chan struct{}, 1), stop: make(chan struct{})}
}

// Alone reports whether nothing is written or waits to be. The caller then writes by
// himself and calls Done after that.
func (g *Group[T]) Alone() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.flushing > 0 || len(g.pending) > 0 {
		return false
	}
	g.flushing++
	g.underWay++
	return true
}

// Done ends a write that began with Alone.
func (g *Group[T]) Done() {
	g.flushed(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeIfEnough()
}

// Join writes with the next batch and returns what has become of the item, or the cause
// of the end of ctx, when it may or may not have been written.
func (g *Group[T]) Join(ctx context.Context, item T) error {
	w := &Write[T]{Item: item, ctx: ctx, done: make(chan error, 1)}
	if !g.queue(w) {
		return ErrStopped
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		g.leave(w)
		return context.Cause(ctx)
	}
}

// queue puts a write into the next batch, unless there is none any more.
func (g *Group[T]) queue(w *Write[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return false
	}
	g.pending = append(g.pending, w)
	g.wakeIfEnough()
	return true
}

// leave takes note that nobody waits for a write any more.
func (g *Group[T]) leave(w *Write[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.in == nil {
		return
	}
	if w.in.awaited--; w.in.awaited == 0 {
		w.in.abandon()
	}
}

// enough reports whether what is pending is to be written now.
func (g *Group[T]) enough() bool {
	return len(g.pending) > 0 && (g.flushing == 0 || g.stopped || g.flushing < batches && 2*len(g.pending) >= g.underWay)
}

func (g *Group[T]) wakeIfEnough() {
	if !g.enough() {
		return
	}
	select {
	case g.ready <- struct{}{}:
	default:
	}
}

// Stop lets Run return as soon as what waits has been written. It is called at most once.
func (g *Group[T]) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	close(g.stop)
}

// Run writes batches until Stop is called, or until ctx ends, which ends the contexts of
// those under way.
func (g *Group[T]) Run(ctx context.Context) {
	var tasks sync.WaitGroup
	for range batches {
		tasks.Go(func() { g.run(ctx) })
	}
	tasks.Wait()
}

func (g *Group[T]) run(ctx context.Context) {
	for stopped := false; !stopped; {
		select {
		case <-ctx.Done():
			return
		case <-g.stop:
			stopped = true
		case <-g.ready:
		}
		for g.next(ctx) {
			runtime.Gosched() // whom the batch has let go on may have something for the next one
		}
	}
}

// next writes the next batch, if there is one to write now.
func (g *Group[T]) next(ctx context.Context) bool {
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	writes := g.take(&batch{abandon: abandon})
	if len(writes) == 0 {
		return false
	}
	g.flush(ctx, writes)
	g.flushed(len(writes))
	return true
}

// take removes the next batch from the queue, without the writes that nobody waits
// for any more; nil if there is nothing to write now.
func (g *Group[T]) take(in *batch) []*Write[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var writes []*Write[T]
	for g.enough() && len(writes) == 0 {
		n := min(len(g.pending), maxBatch)
		writes = make([]*Write[T], 0, n)
		for _, w := range g.pending[:n] {
			if w.ctx.Err() == nil {
				w.in = in
				writes = append(writes, w)
			}
		}
		rest := copy(g.pending, g.pending[n:])
		clear(g.pending[rest:])
		g.pending = g.pending[:rest]
	}
	if in.awaited = len(writes); in.awaited > 0 {
		g.flushing++
		g.underWay += len(writes)
	}
	g.wakeIfEnough()
	return writes
}

// flushed is called after n writes.
func (g *Group[T]) flushed(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flushing--
	g.underWay -= n
}
