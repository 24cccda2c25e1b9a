package runner

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// startPasses starts a pass for each of these runs, which were claimed together.
func (r *Runner) startPasses(runs []openworkflow.Run) {
	var withHistory []*execution
	for i := range runs {
		e := newExecution(r, &runs[i])
		r.leases.add(e.lease, e)
		if e.run.Attempts > 1 || e.run.ForkedFrom != nil {
			withHistory = append(withHistory, e)
			continue
		}
		r.passes.Go(func() { r.runPass(e) })
	}
	if len(withHistory) == 0 {
		return
	}
	r.passes.Go(func() {
		err := r.loadHistories(withHistory)
		var quarantined []*execution
		for _, e := range withHistory {
			if err == nil && e.isQuarantined() {
				quarantined = append(quarantined, e)
				continue
			}
			r.passes.Go(func() {
				if err != nil {
					r.finishPass(e)
					return
				}
				r.runPass(e)
			})
		}
		r.runQuarantined(quarantined)
	})
}

// runPass executes a claimed run once, from its history to its final write.
func (r *Runner) runPass(e *execution) {
	defer r.finishPass(e)
	definition := e.definition()
	if definition.Execute == nil { // claims ask only for what is served
		e.log().Error("Claimed a run of a workflow that is not served")
		r.finish(e, outcome{kind: outcomeHandBack})
		return
	}
	e.completeElapsedSleeps()
	stopProgress := e.reportProgress()
	ended := e.deathsExceeded()
	if ended == nil {
		ended = e.overStepLimit()
	}
	if ended == nil {
		o := e.execute(definition)
		ended = &o
	}
	stopProgress()
	r.finish(e, *ended)
}

// finishPass ends a pass, whatever its outcome, and frees its slot, unless functions of the run
// have not returned.
func (r *Runner) finishPass(e *execution) {
	r.leases.remove(e.lease)
	if e.suspect.Load() {
		r.quarantine.leave(e)
	}
	r.waitPoller.remove(e)
	e.buffer.stop()
	e.revoke(durable.ErrLeaseLost) // the workflow's goroutine may still be running; it must not write
	if !e.left.ended() {
		r.leaveBehind(e)
		return
	}
	r.releaseSlots(1)
}

// loadHistories sets the history of each run, from the cache or else the database, and what has
// arrived for its waits. It is for runs that were claimed before, and for forks: others have no
// history (decision 5). It retries until it succeeds or writeCtx ends.
func (r *Runner) loadHistories(executions []*execution) error {
	histories := map[string]*history{}
	var uncached []string
	for _, e := range executions {
		if h := r.histories.pop(e.run); h != nil {
			histories[e.run.ID] = h
		} else {
			uncached = append(uncached, e.run.ID)
		}
	}
	var arrived map[string]store.WaitResult
	err := retry(r.writeCtx, r.log, "Could not load the histories of runs", func(ctx context.Context) error {
		loaded, err := r.store.LoadSteps(ctx, uncached)
		if err != nil {
			return err
		}
		for _, id := range uncached {
			histories[id] = newHistory(loaded[id])
		}
		var waiting []string
		for _, h := range histories {
			waiting = append(waiting, h.externalWaits()...)
		}
		if len(waiting) > 0 {
			arrived, err = r.store.WaitResults(ctx, waiting)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range executions {
		e.restoreHistory(histories[e.run.ID], arrived)
		e.noteDeaths()
	}
	return nil
}

// restoreHistory sets what is known of a run that has a history.
func (e *execution) restoreHistory(h *history, arrived map[string]store.WaitResult) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.history = h
	for _, id := range h.externalWaits() {
		if result, ok := arrived[id]; ok {
			insert(&e.waitResults, id, result)
		}
	}
	e.log().Debug("Loaded the history of a run", "attempts", e.run.Attempts, "completedSteps", h.summary.Completed)
}

// detachHistory returns the history for the cache. If the workflow's goroutine is still
// running, it sees an empty history.
func (e *execution) detachHistory() *history {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.history
	e.history = newHistory(nil)
	return h
}

// overStepLimit returns the failure of a run whose history is already above the step limit,
// else nil. None of its code is then executed (R110).
func (e *execution) overStepLimit() *outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n, limit := e.history.attempts, e.stepLimit(); n > limit {
		return &outcome{kind: outcomeReturned, err: &stepLimitError{limit: limit, count: n}}
	}
	return nil
}

// finish writes the outcome of a pass, and reports it.
func (r *Runner) finish(e *execution, o outcome) {
	switch o.kind {
	case outcomeReturned:
		r.finishReturned(e, o)
	case outcomeRetryLater:
		if e.writeEnd(store.RunWrite{Op: store.RunRetry, At: o.at, Error: o.payload}) {
			e.reportRetry(o.at, o.payload)
			r.histories.put(e.run, e.detachHistory())
			r.wakeAfter(e.until(o.at))
			e.span.End(tracing.Retrying, nil)
		}
	case outcomeParked:
		if e.writeEnd(store.RunWrite{Op: store.RunPark, At: o.at}) {
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt = nil, &o.at })
			r.histories.put(e.run, e.detachHistory())
			r.wakeAfter(e.until(o.at))
			e.span.End(tracing.Suspended, nil)
		}
	case outcomeHandBack:
		if e.writeEnd(store.RunWrite{Op: store.RunRelease}) {
			now := e.now()
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt, run.UpdatedAt = nil, &now, now })
			e.span.End(tracing.Suspended, nil)
		}
	case outcomeSuspended:
		now := e.now()
		if e.writeEnd(store.RunWrite{Op: store.RunPark, At: now}) {
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt, run.SuspendedAt = nil, nil, &now })
			e.span.End(tracing.Suspended, nil)
		}
	case outcomeAbandoned:
		e.finishAbandoned(o.err)
	}
}

// finishAbandoned ends a pass that no longer holds its run: it writes and reports nothing.
func (e *execution) finishAbandoned(cause error) {
	e.log().Info("Abandoned a run that this worker no longer holds", "cause", cause)
	e.span.End(tracing.Stale, cause)
}

// finishReturned writes the outcome of a workflow's function: the run completes, is retried,
// or fails.
func (r *Runner) finishReturned(e *execution, o outcome) {
	err := o.err
	if err == nil {
		var stored error
		if stored = e.submitEnd(store.RunWrite{Op: store.RunComplete, Output: o.output}); stored == nil {
			now := e.now()
			e.report(func(run *openworkflow.Run) {
				run.Status, run.Output, run.Error = openworkflow.RunCompleted, o.output, nil
				run.AvailableAt, run.FinishedAt = nil, &now
			})
			e.span.End(tracing.Completed, nil)
			return
		}
		if e.lostLease(stored) {
			e.finishAbandoned(context.Cause(e.writeCtx))
			return
		}
		err = stored // the output cannot be stored (R23, R79)
	}

	decision := e.retryDecision(err)
	if decision.Retry {
		if e.writeEnd(store.RunWrite{Op: store.RunRetry, At: decision.At, Error: decision.Error, Failure: true}) {
			e.reportRetry(decision.At, decision.Error)
			r.wakeAfter(e.until(decision.At))
			e.span.End(tracing.Retrying, err)
		}
		return
	}
	now := e.now()
	if e.writeEnd(store.RunWrite{Op: store.RunFail, Error: decision.Error, FinishedAt: now, Failure: true}) {
		e.log().Info("Run failed", "error", openworkflow.DecodeError(decision.Error).Message)
		e.report(func(run *openworkflow.Run) {
			run.Status, run.Error = openworkflow.RunFailed, decision.Error
			run.WorkerID, run.AvailableAt, run.FinishedAt = nil, nil, &now
		})
		e.span.End(tracing.Failed, err)
	}
}

// retryDecision decides whether a run is retried after an error of its function. If the error
// is or wraps the final error of a step, the policy of the workflow does not retry: the step
// has used up its own retries (R77). That policy counts the failures of the workflow itself,
// not claims (R97).
func (e *execution) retryDecision(err error) openworkflow.Decision {
	policy := e.definition().Retry
	payload := durable.EncodeError(err).Encode()
	var failedStep *durable.StepError
	var limit *stepLimitError
	var deaths *workerDeathsError
	switch {
	case errors.Is(err, durable.ErrDeadlineExceeded):
		return openworkflow.Decision{Error: openworkflow.Error{Message: openworkflow.DeadlineMessage}.Encode()}
	case errors.As(err, &limit):
		policy.MaximumAttempts = 1
		payload = limit.encode()
	case errors.As(err, &deaths):
		policy.MaximumAttempts = 1
		payload = deaths.payload.Encode()
	case errors.As(err, &failedStep), durable.IsNonRetryable(err):
		policy.MaximumAttempts = 1
	}
	return openworkflow.Decide(policy, e.run.Failures+1, e.run.DeadlineAt, payload, e.now())
}

func (e *stepLimitError) encode() json.RawMessage {
	payload, err := json.Marshal(map[string]any{
		"name":      openworkflow.StepLimitName,
		"message":   e.Error(),
		"code":      "STEP_LIMIT_EXCEEDED",
		"limit":     e.limit,
		"stepCount": e.count,
	})
	if err != nil { // numbers and texts always marshal
		panic(err)
	}
	return payload
}

// submitEnd writes the end of the pass, together with all buffered attempts. If attempts of the buffer
// could not be stored, before or now, it returns the failure of the run, and writes no other end.
func (e *execution) submitEnd(w store.RunWrite) error {
	w.Lease, w.HasParent = e.lease, e.run.ParentStepAttemptID != nil
	e.buffer.flushMu.Lock() // a flush in progress comes first
	defer e.buffer.flushMu.Unlock()
	if e.buffer.lost != nil && w.Op != store.RunFail {
		return e.buffer.lost
	}
	steps := e.buffer.popAll()
	err := e.submit(write{steps: steps, run: &w, keepsSlot: !e.left.ended()})
	if refused, ok := errors.AsType[refusedStepError](err); ok {
		return unstorable(steps, refused.error)
	}
	return err
}

// lostLease reports whether a write failed because this worker no longer holds the run. Any
// other error is that of a value that cannot be stored.
func (e *execution) lostLease(err error) bool {
	return e.writeCtx.Err() != nil || errors.Is(err, store.ErrLeaseLost)
}

// writeEnd writes the end of the pass, and reports whether it was stored. A run whose
// buffered attempts cannot be stored fails.
func (e *execution) writeEnd(w store.RunWrite) bool {
	err := e.submitEnd(w)
	if w.Op == store.RunFail && err != nil && !e.lostLease(err) {
		err = e.failAllTheSame(w, err)
	}
	switch {
	case err == nil:
		return true
	case e.lostLease(err):
		e.finishAbandoned(err)
	case w.Op == store.RunFail:
		e.log().Error("Could not end a run; it is claimed again when its lease ends", "error", err)
		e.span.End(tracing.Stale, err)
	default:
		e.runner.finishReturned(e, outcome{kind: outcomeReturned, err: err})
	}
	return false
}

// failAllTheSame writes the failure of a run that was refused because of a value. A run that stays
// would be executed again for ever. First it leaves out the buffered attempts, which the refused
// write has taken from the buffer; then the error too.
func (e *execution) failAllTheSame(w store.RunWrite, refused error) error {
	e.log().Error("Could not store a value of a run that has failed; it fails without the value", "error", refused)
	err := e.submitEnd(w)
	if err != nil && !e.lostLease(err) {
		w.Error = openworkflow.Error{Name: "Error", Message: unstorableFailure}.Encode()
		err = e.submitEnd(w)
	}
	return err
}

// unstorableFailure is the error of a run whose own error cannot be stored.
const unstorableFailure = "the run has failed, and the error of the failure cannot be stored"

// report passes the run to the Reporter, with the change that this pass has just made.
func (e *execution) report(change func(*openworkflow.Run)) {
	if e.runner.options.Reporter == nil {
		return
	}
	run := *e.run
	run.UpdatedAt = e.now()
	change(&run)
	e.runner.options.Reporter.Report(&run, e.snapshot())
}

func (e *execution) reportRetry(at time.Time, payload json.RawMessage) {
	e.report(func(run *openworkflow.Run) {
		run.Status, run.Error = openworkflow.RunPending, payload
		run.WorkerID, run.StartedAt, run.AvailableAt = nil, nil, &at
	})
}

// Progress is reported at intervals that double from firstProgressInterval to
// maxProgressInterval, so that the number of reports grows with the logarithm of a run's
// duration (decision 3).
const (
	firstProgressInterval = time.Second
	maxProgressInterval   = time.Minute
)

// reportProgress reports the start of the pass, and then its progress until stop is called.
func (e *execution) reportProgress() (stop func()) {
	if e.runner.options.Reporter == nil {
		return func() {}
	}
	e.report(func(*openworkflow.Run) {})
	var mu sync.Mutex
	stopped := false
	interval := firstProgressInterval
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(interval, func() {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		e.report(func(*openworkflow.Run) {})
		interval = min(2*interval, maxProgressInterval)
		timer.Reset(interval)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}
