package runner

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/groupcommit"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// write is what one pass writes at once: step writes, and at most one write of the run
// itself, which comes last. All of it is fenced by the worker id of the pass.
type write struct {
	steps []store.StepWrite
	run   *store.RunWrite
	// keepsSlot says that the end of the run does not free the slot of the pass (stuckPasses).
	keepsSlot bool
}

// ending returns how many slots are free after the write.
func (w write) ending() int {
	if w.run == nil || w.keepsSlot {
		return 0
	}
	return 1
}

// flusher is the one way in which passes write to the database: group commit, one transaction
// and one round trip per batch. Each write succeeds or fails by itself. A batch that ends
// runs claims the next ones.
type flusher struct {
	runner *Runner
	log    *slog.Logger
	group  *groupcommit.Group[write]
}

// flushTimeout bounds one try of a write: a connection that hangs must not block all passes.
const flushTimeout = 10 * time.Second

func newFlusher(r *Runner) *flusher {
	f := &flusher{runner: r, log: r.log}
	f.group = groupcommit.New(f.flush)
	return f
}

// submit writes, and returns once that is durable. It retries while the database fails, and
// while another session has locked the run. It returns store.ErrLeaseLost if the pass no longer holds its run, or the error of a value
// that cannot be stored. If ctx ends first, it returns the cause, and the write may or may
// not happen.
func (f *flusher) submit(ctx context.Context, w write) error {
	if f.group.TryAcquire() {
		outcome, err := f.writeAlone(ctx, w)
		if err == nil {
			return f.whenUnlocked(ctx, w, outcome)
		}
		// The group retries it, in a batch with the writes of others.
		w.steps = slices.Clone(w.steps)
		markMaybeWritten(w.steps)
	}
	return f.whenUnlocked(ctx, w, f.group.Join(ctx, w))
}

// lockedBackoff spaces out the tries of a write whose run another session has locked.
var lockedBackoff = backoff.Policy{First: 20 * time.Millisecond, Max: time.Second}

// whenUnlocked returns the outcome of a write. If that is store.ErrLocked, it repeats the write
// until another session no longer locks the run, apart from the batches of others, which it
// would delay. A try waits for no lock, so it holds a connection only for a moment.
func (f *flusher) whenUnlocked(ctx context.Context, w write, outcome error) error {
	if !errors.Is(outcome, store.ErrLocked) {
		return outcome
	}
	w.steps = slices.Clone(w.steps)
	markMaybeWritten(w.steps)
	for n := 1; errors.Is(outcome, store.ErrLocked); n++ {
		if lockedBackoff.Wait(ctx, n) != nil {
			return context.Cause(ctx)
		}
		stepErrs, runErrs, err := f.tryOnce(ctx, store.Batch{Steps: w.steps, Runs: w.runs(), NoWait: true})
		if err == nil { // else the database has failed; outcome stays
			outcome = firstError(stepErrs, runErrs)
		}
	}
	return outcome
}

// runs returns the write of the run as a batch takes it.
func (w write) runs() []store.RunWrite {
	if w.run == nil {
		return nil
	}
	return []store.RunWrite{*w.run}
}

// writeAlone tries once to send a single write, without waking a goroutine of the group. err
// is a failure of the database, or the end of ctx; outcome is the result of the write.
func (f *flusher) writeAlone(ctx context.Context, w write) (outcome, err error) {
	defer f.group.Release()
	stepErrs, runErrs, err := f.tryOnce(ctx, store.Batch{Steps: w.steps, Runs: w.runs(), Claim: f.runner.claimForEnding(w.ending())})
	if err != nil {
		return nil, err
	}
	return firstError(stepErrs, runErrs), nil
}

// firstError returns the first error among the results of one write. That of a value in a step is a
// refusedStepError.
func firstError(stepErrs, runErrs []error) error {
	for _, err := range stepErrs {
		switch {
		case err == nil:
		case isUnstorable(err):
			return refusedStepError{err}
		default:
			return err
		}
	}
	for _, err := range runErrs {
		if err != nil {
			return err
		}
	}
	return nil
}

// refusedStepError tells a step whose value cannot be stored from the end of a run with such a value.
type refusedStepError struct{ error }

// Unwrap returns the error of the value.
func (e refusedStepError) Unwrap() error { return e.error }

// tryOnce sends a batch once. It starts passes for the claimed runs, and notifies of runs that the writes have ended or made due: in the
// same transaction if the rate limit allows, else later.
func (f *flusher) tryOnce(ctx context.Context, batch store.Batch) (stepErrs, runErrs []error, err error) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	r := f.runner
	children := slices.ContainsFunc(batch.Steps, func(w store.StepWrite) bool { return w.Child != nil })
	released := slices.ContainsFunc(batch.Runs, func(w store.RunWrite) bool { return w.Op == store.RunRelease })
	parents := slices.ContainsFunc(batch.Runs, func(w store.RunWrite) bool { return w.HasParent && endsRun(w) })
	waits := slices.ContainsFunc(batch.Steps, beginsSignalWait)
	due, ended := children || released || parents, slices.ContainsFunc(batch.Runs, endsRun)
	batch.Hints = store.Hints{
		Due: due && r.notifyDue.tryAcquire(), Ends: ended && r.notifyEnds.tryAcquire(), Waits: waits && r.notifyWaits.tryAcquire(),
	}
	result, err := r.store.ApplyAndClaim(ctx, batch)
	r.finishClaim(batch.Claim, result.Claimed)
	if err != nil {
		return nil, nil, err
	}
	if due && !batch.Hints.Due {
		r.notifyDue.request()
	}
	if ended && !batch.Hints.Ends {
		r.notifyEnds.request()
	}
	if waits && !batch.Hints.Waits {
		r.notifyWaits.request()
	}
	if children { // this worker may serve them itself
		r.claimWake.Set()
	}
	if parents { // a parent may be executing here
		r.waitPoller.wakes.Set()
	}
	return result.Steps, result.Runs, nil
}

// endsRun reports whether the write completes or fails a run.
func endsRun(w store.RunWrite) bool { return w.Op == store.RunComplete || w.Op == store.RunFail }

// beginsSignalWait reports whether the write is the first of a wait for a signal.
func beginsSignalWait(w store.StepWrite) bool {
	return w.Attempt.Kind == openworkflow.KindSignalWait && w.Attempt.Status == openworkflow.StepRunning
}

// markMaybeWritten records that the attempts may exist in the database already.
func markMaybeWritten(steps []store.StepWrite) {
	for i := range steps {
		steps[i].New = false
	}
}

// flush writes a batch, and retries until the database accepts it or no pass waits for it any
// more. Writes are idempotent, so a try whose answer was lost does no harm.
func (f *flusher) flush(ctx context.Context, batch []*groupcommit.Write[write]) {
	var steps []store.StepWrite
	var runs []store.RunWrite
	ending := 0
	for _, w := range batch {
		steps = append(steps, w.Item.steps...)
		ending += w.Item.ending()
		if w.Item.run != nil {
			runs = append(runs, *w.Item.run)
		}
	}
	var stepErrs, runErrs []error
	request := f.runner.claimForEnding(ending)
	err := retry(ctx, f.log, "Could not write to the database", func(ctx context.Context) (err error) {
		stepErrs, runErrs, err = f.tryOnce(ctx, store.Batch{Steps: steps, Runs: runs, Claim: request})
		if request = nil; err != nil {
			markMaybeWritten(steps)
		}
		return err
	})
	if err != nil {
		return // each write that is still awaited returns with its own context
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
