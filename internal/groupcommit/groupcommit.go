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

	"github.com/openworkflow-operator/operator/internal/wake"
)

// maxBatches is the number of batches that may be under way at once: while one waits for
// the disk, the next one is being sent.
const maxBatches = 2

// maxBatch bounds the writes of one batch, so that a long queue after an outage does not
// become one statement of unbounded size.
const maxBatch = 500

// Write is one of a batch.
type Write[T any] struct {
	Item T

	ctx  context.Context
	done chan error
	// batch is the batch that the write is in; nil as long as it waits for one.
	batch *batch
}

// Finish tells whoever waits for the write what has become of it. It is called at most
// once.
func (w *Write[T]) Finish(err error) { w.done <- err }

// batch is one that is under way.
type batch struct {
	waiters int // writes that somebody waits for
	cancel  context.CancelFunc
}

// Group is the writes that share transactions.
type Group[T any] struct {
	flush func(ctx context.Context, batch []*Write[T])

	mu      sync.Mutex
	pending []*Write[T]
	// batchesInFlight are the batches under way, and underWay the writes in them.
	batchesInFlight, writesInFlight int
	// ready holds a token when a batch may begin.
	ready wake.Flag
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
	return &Group[T]{flush: flush, ready: wake.New(), stop: make(chan struct{})}
}

// TryAcquire reports whether nothing is written or waits to be. The caller then writes by
// himself and calls Done after that.
func (g *Group[T]) TryAcquire() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.batchesInFlight > 0 || len(g.pending) > 0 {
		return false
	}
	g.batchesInFlight++
	g.writesInFlight++
	return true
}

// Release ends a write that began with Alone.
func (g *Group[T]) Release() {
	g.finished(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeIfReadyLocked()
}

// Join writes with the next batch and returns what has become of the item, or the cause
// of the end of ctx, when it may or may not have been written.
func (g *Group[T]) Join(ctx context.Context, item T) error {
	w := &Write[T]{Item: item, ctx: ctx, done: make(chan error, 1)}
	if !g.enqueue(w) {
		return ErrStopped
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		g.stopWaiting(w)
		return context.Cause(ctx)
	}
}

// enqueue puts a write into the next batch, unless there is none any more.
func (g *Group[T]) enqueue(w *Write[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped {
		return false
	}
	g.pending = append(g.pending, w)
	g.wakeIfReadyLocked()
	return true
}

// stopWaiting takes note that nobody waits for a write any more.
func (g *Group[T]) stopWaiting(w *Write[T]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.batch == nil {
		return
	}
	if w.batch.waiters--; w.batch.waiters == 0 {
		w.batch.cancel()
	}
}

// shouldFlushLocked reports whether what is pending is to be written now.
func (g *Group[T]) shouldFlushLocked() bool {
	return len(g.pending) > 0 && (g.batchesInFlight == 0 || g.stopped || g.batchesInFlight < maxBatches && 2*len(g.pending) >= g.writesInFlight)
}

func (g *Group[T]) wakeIfReadyLocked() {
	if g.shouldFlushLocked() {
		g.ready.Set()
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
	for range maxBatches {
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
		for g.flushNext(ctx) {
			runtime.Gosched() // whom the batch has let go on may have something for the next one
		}
	}
}

// flushNext writes the next batch, if there is one to write now.
func (g *Group[T]) flushNext(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	writes := g.dequeue(&batch{cancel: cancel})
	if len(writes) == 0 {
		return false
	}
	g.flush(ctx, writes)
	g.finished(len(writes))
	return true
}

// dequeue removes the next batch from the queue, without the writes that nobody waits
// for any more; nil if there is nothing to write now.
func (g *Group[T]) dequeue(in *batch) []*Write[T] {
	g.mu.Lock()
	defer g.mu.Unlock()
	var writes []*Write[T]
	for g.shouldFlushLocked() && len(writes) == 0 {
		n := min(len(g.pending), maxBatch)
		writes = make([]*Write[T], 0, n)
		for _, w := range g.pending[:n] {
			if w.ctx.Err() == nil {
				w.batch = in
				writes = append(writes, w)
			}
		}
		rest := copy(g.pending, g.pending[n:])
		clear(g.pending[rest:])
		g.pending = g.pending[:rest]
	}
	if in.waiters = len(writes); in.waiters > 0 {
		g.batchesInFlight++
		g.writesInFlight += len(writes)
	}
	g.wakeIfReadyLocked()
	return writes
}

// finished is called after n writes.
func (g *Group[T]) finished(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.batchesInFlight--
	g.writesInFlight -= n
}
