// Package groupcommit lets goroutines that write to a database at the same time share
// transactions. Writes that arrive while a batch is in flight go with the next one, without
// any artificial delay.
//
// Up to two batches are in flight, so that one is sent while the other waits for the disk.
// But a transaction costs as much as several rows, and writers that are each in step with a
// batch of their own would send the smallest batches possible. So a second batch starts only
// once it has at least half as many writes as are in flight; otherwise it starts when the
// first has finished.
//
// A writer that finds nothing in flight writes by itself (TryAcquire): waking another thread
// for one write would cost a good part of the time of a commit.
package groupcommit

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/openworkflow-operator/operator/internal/wake"
)

// maxBatches is how many batches may be in flight at once: while one waits for the disk, the
// next one is sent.
const maxBatches = 2

// maxBatch bounds the writes of a batch, so that a long queue after an outage does not become
// one statement of unbounded size.
const maxBatch = 500

// Write is one item of a batch.
type Write[T any] struct {
	Item T

	ctx  context.Context
	done chan error
	// batch is the batch that the write is in; nil while it waits for one.
	batch *batch
}

// Finish makes the Join of this write return err. It is called at most once.
func (w *Write[T]) Finish(err error) { w.done <- err }

// batch is a batch in flight.
type batch struct {
	waiters int // writes whose Join has not returned
	cancel  context.CancelFunc
}

// Group collects writes into batches.
type Group[T any] struct {
	flush func(ctx context.Context, batch []*Write[T])

	mu      sync.Mutex
	pending []*Write[T]
	// batchesInFlight counts the batches in flight, and writesInFlight the writes in them.
	batchesInFlight, writesInFlight int
	// ready is set when a batch may start.
	ready wake.Flag
	// stop is closed by Stop.
	stop    chan struct{}
	stopped bool
}

// ErrStopped is what Join returns after Stop.
var ErrStopped = errors.New("nothing is written any more")

// New returns a group whose batches are written by flush, which finishes their writes. A
// write that flush does not finish waits until its own context ends. The context of a batch
// ends when no Join waits for it any more.
func New[T any](flush func(ctx context.Context, batch []*Write[T])) *Group[T] {
	return &Group[T]{flush: flush, ready: wake.New(), stop: make(chan struct{})}
}

// TryAcquire reports whether nothing is in flight or pending. The caller then writes by
// itself, counts as a batch in flight, and calls Release when done.
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

// Release ends a write that started with TryAcquire.
func (g *Group[T]) Release() {
	g.finished(1)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeIfReadyLocked()
}

// Join adds the item to the next batch, waits for it, and returns the result of the item. If
// ctx ends first, it returns the cause, and the item may or may not have been written.
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

// enqueue adds a write to the next batch. It returns false after Stop.
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

// stopWaiting records that the Join of a write has returned early, and cancels a batch that
// no Join waits for.
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

// shouldFlushLocked reports whether the pending writes may start a batch now.
func (g *Group[T]) shouldFlushLocked() bool {
	return len(g.pending) > 0 && (g.stopped || g.batchesInFlight == 0 ||
		g.batchesInFlight < maxBatches && 2*len(g.pending) >= g.writesInFlight)
}

func (g *Group[T]) wakeIfReadyLocked() {
	if g.shouldFlushLocked() {
		g.ready.Set()
	}
}

// Stop makes Run return once the pending writes are written. It is called at most once.
func (g *Group[T]) Stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stopped = true
	close(g.stop)
}

// Run writes batches until Stop is called, or until ctx ends, which also ends the contexts of
// the batches in flight.
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
			runtime.Gosched() // let the writers that were just released enqueue first
		}
	}
}

// flushNext writes the next batch, and reports whether there was one to write now.
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

// dequeue removes the next batch from the queue, without the writes whose contexts have
// ended; nil if there is nothing to write now.
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

// finished is called after a batch of n writes.
func (g *Group[T]) finished(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.batchesInFlight--
	g.writesInFlight -= n
}
