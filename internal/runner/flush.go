package runner

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// write is what one pass writes at once: any number of step writes, and at most
// one write of the run itself, which comes last. All of it is fenced by the
// pass's worker id.
type write struct {
	ctx   context.Context
	steps []store.StepWrite
	run   *store.RunWrite
	done  chan error
}

// flusher is the one way in which passes write to the database: group commit. What
// gathers while a flush is under way goes with the next one, in one transaction and
// one round trip, without any artificial delay. Each write succeeds or fails by
// itself. With the ends of runs, the next ones are claimed.
//
// Two flushes may be under way, so that one is sent while the other waits for the disk.
// But a transaction costs as much as several rows, and many runs that are each in step
// with a flush of their own would send the smallest ones possible. So a second flush
// begins only once it is half as large as the first; else the first one's end begins it.
type flusher struct {
	runner *Runner
	log    *slog.Logger

	mu      sync.Mutex
	pending []*write
	// flushing are the flushes under way, and underWay the writes in them.
	flushing, underWay int
	// ready holds a token when a flush may begin.
	ready chan struct{}
}

// flushers is the number of flushes that may be under way at once: while one waits
// for the disk, the next one is being sent.
const flushers = 2

// maxFlush bounds the writes of one transaction, so that a long queue after an
// outage does not become one statement of unbounded size.
const maxFlush = 500

// flushTimeout bounds one try: a connection that hangs must not hold up all runs.
const flushTimeout = 10 * time.Second

func newFlusher(r *Runner) *flusher {
	return &flusher{runner: r, log: r.log, ready: make(chan struct{}, 1)}
}

// submit writes and waits until that is durable. It returns store.ErrLeaseLost when
// the pass no longer holds its run, or the error of the write itself (a value that
// cannot be stored). Trouble with the database is waited out; when ctx ends first,
// submit returns its cause, and the write may or may not happen.
func (f *flusher) submit(ctx context.Context, steps []store.StepWrite, run *store.RunWrite) error {
	w := &write{ctx: ctx, steps: steps, run: run, done: make(chan error, 1)}
	f.mu.Lock()
	f.pending = append(f.pending, w)
	if f.enough() {
		f.wake()
	}
	f.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enough reports whether what is pending is to be flushed now.
func (f *flusher) enough() bool {
	return len(f.pending) > 0 && (f.flushing == 0 || f.flushing < flushers && 2*len(f.pending) >= f.underWay)
}

func (f *flusher) wake() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// run flushes until ctx ends.
func (f *flusher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.ready:
		}
		for batch := f.take(); len(batch) > 0; batch = f.take() {
			f.flush(ctx, batch)
			f.flushed(len(batch))
			runtime.Gosched() // whom the flush has let go on may have something for the next one
		}
	}
}

// take removes the next batch from the queue, without the writes that nobody waits
// for any more; nil if there is nothing to flush now.
func (f *flusher) take() []*write {
	f.mu.Lock()
	defer f.mu.Unlock()
	var batch []*write
	for f.enough() && len(batch) == 0 {
		n := min(len(f.pending), maxFlush)
		batch = make([]*write, 0, n)
		for _, w := range f.pending[:n] {
			if w.ctx.Err() == nil {
				batch = append(batch, w)
			}
		}
		rest := copy(f.pending, f.pending[n:])
		clear(f.pending[rest:])
		f.pending = f.pending[:rest]
	}
	if len(batch) > 0 {
		f.flushing++
		f.underWay += len(batch)
	}
	if f.enough() {
		f.wake()
	}
	return batch
}

// flushed is called after a flush of n writes.
func (f *flusher) flushed(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.flushing--
	f.underWay -= n
}

// flush writes a batch, again and again until the database takes it or nobody
// waits for it. Writes are idempotent, so a try whose answer was lost does no harm.
func (f *flusher) flush(ctx context.Context, batch []*write) {
	var steps []store.StepWrite
	var runs []store.RunWrite
	for _, w := range batch {
		steps = append(steps, w.steps...)
		if w.run != nil {
			runs = append(runs, *w.run)
		}
	}
	var stepErrs, runErrs []error
	request := f.runner.exchange(len(runs))
	err := retry(ctx, f.log, "Could not write to the database", func() (err error) {
		if abandoned(batch) {
			return nil
		}
		try, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		var claimed []openworkflow.Run
		stepErrs, runErrs, claimed, err = f.runner.store.ApplyAndClaim(try, steps, runs, request)
		f.runner.exchanged(request, claimed)
		if request = nil; err != nil {
			for i := range steps { // this try may have written them
				steps[i].New = false
			}
		}
		return err
	})
	f.runner.exchanged(request, nil) // nothing was tried
	if err != nil || stepErrs == nil && runErrs == nil {
		return // whoever still waits is told by his own context
	}
	step, run := 0, 0
	for _, w := range batch {
		var failure error
		for range w.steps {
			if failure == nil {
				failure = stepErrs[step]
			}
			step++
		}
		if w.run != nil {
			if failure == nil {
				failure = runErrs[run]
			}
			run++
		}
		w.done <- failure
	}
}

func abandoned(batch []*write) bool {
	for _, w := range batch {
		if w.ctx.Err() == nil {
			return false
		}
	}
	return true
}
