package runner

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/groupcommit"
	"github.com/openworkflow-operator/operator/internal/store"
)

// write is what one pass writes at once: any number of step writes, and at most
// one write of the run itself, which comes last. All of it is fenced by the
// pass's worker id.
type write struct {
	steps []store.StepWrite
	run   *store.RunWrite
}

// flusher is the one way in which passes write to the database: group commit, in one
// transaction and one round trip. Each write succeeds or fails by itself. With the ends of
// runs, the next ones are claimed.
type flusher struct {
	runner *Runner
	log    *slog.Logger
	group  *groupcommit.Group[write]
}

// flushTimeout bounds one try: a connection that hangs must not hold up all runs.
const flushTimeout = 10 * time.Second

func newFlusher(r *Runner) *flusher {
	f := &flusher{runner: r, log: r.log}
	f.group = groupcommit.New(f.flush)
	return f
}

// submit writes and waits until that is durable. It returns store.ErrLeaseLost when
// the pass no longer holds its run, or the error of the write itself (a value that
// cannot be stored). Trouble with the database is waited out; when ctx ends first,
// submit returns its cause, and the write may or may not happen.
func (f *flusher) submit(ctx context.Context, steps []store.StepWrite, run *store.RunWrite) error {
	w := write{steps: steps, run: run}
	if f.group.TryAcquire() {
		outcome, err := f.writeAlone(ctx, w)
		if err == nil {
			return outcome
		}
		// It is tried again, together with what others write.
		w.steps = slices.Clone(steps)
		markMaybeWritten(w.steps)
	}
	return f.group.Join(ctx, w)
}

// writeAlone flushes one write, once. The error is that of the database, as which the end of
// the write's context counts, too.
func (f *flusher) writeAlone(ctx context.Context, w write) (outcome, err error) {
	defer f.group.Release()
	var runs []store.RunWrite
	if w.run != nil {
		runs = []store.RunWrite{*w.run}
	}
	stepErrs, runErrs, err := f.tryOnce(ctx, w.steps, runs, f.runner.claimForEnding(len(runs)))
	if err != nil {
		return nil, err
	}
	return firstError(stepErrs, runErrs), nil
}

// firstError returns the first failure among the results of one write.
func firstError(stepErrs, runErrs []error) error {
	for _, errs := range [][]error{stepErrs, runErrs} {
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// tryOnce sends writes, and what to claim with them, and tells others what comes of it.
func (f *flusher) tryOnce(
	ctx context.Context, steps []store.StepWrite, runs []store.RunWrite, request *store.ClaimRequest,
) (stepErrs, runErrs []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	r := f.runner
	children := slices.ContainsFunc(steps, func(w store.StepWrite) bool { return w.Child != nil })
	released := slices.ContainsFunc(runs, func(w store.RunWrite) bool { return w.Op == store.RunRelease })
	parents := slices.ContainsFunc(runs, func(w store.RunWrite) bool { return w.HasParent && endsRun(w) })
	due, ended := children || released || parents, slices.ContainsFunc(runs, endsRun)
	hints := store.Hints{Due: due && r.notifyDue.tryAcquire(), Ends: ended && r.notifyEnds.tryAcquire()}
	result, err := r.store.ApplyAndClaim(ctx, store.Batch{Steps: steps, Runs: runs, Claim: request, Hints: hints})
	r.finishClaim(request, result.Claimed)
	if err != nil {
		return nil, nil, err
	}
	if due && !hints.Due {
		r.notifyDue.request()
	}
	if ended && !hints.Ends {
		r.notifyEnds.request()
	}
	if children { // this worker may serve them
		r.claimWake.Set()
	}
	if parents { // and go on with them
		r.waitPoller.wakes.Set()
	}
	return result.Steps, result.Runs, nil
}

// endsRun reports whether the write ends a run for good.
func endsRun(w store.RunWrite) bool { return w.Op == store.RunComplete || w.Op == store.RunFail }

// markMaybeWritten takes note that the attempts may have been written.
func markMaybeWritten(steps []store.StepWrite) {
	for i := range steps {
		steps[i].New = false
	}
}

// flush writes a batch, again and again until the database takes it or nobody
// waits for it. Writes are idempotent, so a try whose answer was lost does no harm.
func (f *flusher) flush(ctx context.Context, batch []*groupcommit.Write[write]) {
	var steps []store.StepWrite
	var runs []store.RunWrite
	for _, w := range batch {
		steps = append(steps, w.Item.steps...)
		if w.Item.run != nil {
			runs = append(runs, *w.Item.run)
		}
	}
	var stepErrs, runErrs []error
	request := f.runner.claimForEnding(len(runs))
	err := retry(ctx, f.log, "Could not write to the database", func() (err error) {
		stepErrs, runErrs, err = f.tryOnce(ctx, steps, runs, request)
		if request = nil; err != nil {
			markMaybeWritten(steps)
		}
		return err
	})
	if err != nil {
		return // whoever still waits is told by his own context
	}
	for _, w := range batch {
		n, ended := len(w.Item.steps), 0
		if w.Item.run != nil {
			ended = 1
		}
		w.Finish(firstError(stepErrs[:n], runErrs[:ended]))
		stepErrs, runErrs = stepErrs[n:], runErrs[ended:]
	}
}
