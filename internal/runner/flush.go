package runner

import (
	"context"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

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
// And where nothing else is written, the pass itself does it: to wake another thread for
// that would take a good part of the time that a commit does.
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
	w := &write{ctx: ctx, steps: steps, run: run}
	if f.begin() {
		outcome, err := f.alone(w)
		if err == nil {
			return outcome
		}
		// It is tried again, together with what others write.
		w.steps = slices.Clone(steps)
		unknown(w.steps)
	}
	w.done = make(chan error, 1)
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

// begin reports whether nothing is written or waits to be, and then begins a flush of one
// write.
func (f *flusher) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flushing > 0 || len(f.pending) > 0 {
		return false
	}
	f.flushing, f.underWay = 1, 1
	return true
}

// alone flushes one write, once. The error is that of the database, as which the end of
// the write's context counts, too.
func (f *flusher) alone(w *write) (outcome, err error) {
	defer func() {
		f.flushed(1)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.enough() {
			f.wake()
		}
	}()
	var runs []store.RunWrite
	if w.run != nil {
		runs = []store.RunWrite{*w.run}
	}
	stepErrs, runErrs, err := f.try(w.ctx, w.steps, runs, f.runner.exchange(len(runs)))
	if err != nil {
		return nil, err
	}
	return firstOf(stepErrs, runErrs), nil
}

// firstOf returns the first failure among the results of one write.
func firstOf(stepErrs, runErrs []error) error {
	for _, errs := range [][]error{stepErrs, runErrs} {
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// try sends writes, and what to claim with them.
func (f *flusher) try(
	ctx context.Context, steps []store.StepWrite, runs []store.RunWrite, request *store.ClaimRequest,
) (stepErrs, runErrs []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	stepErrs, runErrs, claimed, err := f.runner.store.ApplyAndClaim(ctx, steps, runs, request)
	f.runner.exchanged(request, claimed)
	return stepErrs, runErrs, err
}

// unknown takes note that the attempts may have been written.
func unknown(steps []store.StepWrite) {
	for i := range steps {
		steps[i].New = false
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
		stepErrs, runErrs, err = f.try(ctx, steps, runs, request)
		if request = nil; err != nil {
			unknown(steps)
		}
		return err
	})
	f.runner.exchanged(request, nil) // nothing was tried
	if err != nil || stepErrs == nil && runErrs == nil {
		return // whoever still waits is told by his own context
	}
	for _, w := range batch {
		n, ended := len(w.steps), 0
		if w.run != nil {
			ended = 1
		}
		w.done <- firstOf(stepErrs[:n], runErrs[:ended])
		stepErrs, runErrs = stepErrs[n:], runErrs[ended:]
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
