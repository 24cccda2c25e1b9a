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

// startPasses starts a pass for each of the runs, which were claimed together.
func (r *Runner) startPasses(runs []openworkflow.Run) {
	var resumed []*execution
	for i := range runs {
		e := newExecution(r, &runs[i])
		r.leases.add(e.lease, e)
		if e.run.Attempts > 1 {
			resumed = append(resumed, e)
			continue
		}
		r.passes.Go(func() { r.runPass(e) })
	}
	if len(resumed) == 0 {
		return
	}
	r.passes.Go(func() {
		err := r.loadHistories(resumed)
		for _, e := range resumed {
			r.passes.Go(func() {
				if err != nil {
					r.finishPass(e)
					return
				}
				r.runPass(e)
			})
		}
	})
}

// runPass executes a claimed run once, from its history to its final write.
func (r *Runner) runPass(e *execution) {
	defer r.finishPass(e)
	definition := e.definition()
	if definition.Execute == nil { // the claim asks for what is served only
		e.log().Error("Claimed a run of a workflow that is not served")
		r.finish(e, outcome{kind: outcomeHandBack})
		return
	}
	e.completeElapsedSleeps()
	stopProgress := e.reportProgress()
	ended := e.overStepLimit()
	if ended == nil {
		o := e.execute(definition)
		ended = &o
	}
	stopProgress()
	r.finish(e, *ended)
}

// finishPass ends a pass, whatever has become of it, and frees its slot.
func (r *Runner) finishPass(e *execution) {
	r.leases.remove(e.lease)
	r.waitPoller.remove(e)
	e.buffer.stop()
	e.revoke(durable.ErrLeaseLost) // nothing that is left behind may go on
	r.releaseSlots(1)
}

// loadHistories reads the step attempts of runs that have begun before, as far as this
// worker does not remember them, and what has come for those that wait. A first claim
// has none (decision 5). The error is that of a runner that stops.
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
	err := retry(r.writeCtx, r.log, "Could not load the histories of runs", func() error {
		loaded, err := r.store.LoadSteps(r.writeCtx, uncached)
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
			arrived, err = r.store.WaitResults(r.writeCtx, waiting)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, e := range executions {
		e.restoreHistory(histories[e.run.ID], arrived)
	}
	return nil
}

// restoreHistory takes in what is known of a run that has begun before.
func (e *execution) restoreHistory(h *history, arrived map[string]store.WaitResult) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.history = h
	for _, id := range h.externalWaits() {
		if arrival, ok := arrived[id]; ok {
			insert(&e.arrivals, id, arrival)
		}
	}
	e.log().Debug("Resumed a run", "attempts", e.run.Attempts, "completedSteps", h.summary.Completed)
}

// detachHistory returns the history, which this execution, should anything of it be left,
// does not see any more.
func (e *execution) detachHistory() *history {
	e.mu.Lock()
	defer e.mu.Unlock()
	h := e.history
	e.history = newHistory(nil)
	return h
}

// overStepLimit fails a run whose history is above the step limit before any of its
// code runs (R110).
func (e *execution) overStepLimit() *outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n, limit := e.history.attempts, e.stepLimit(); n > limit {
		return &outcome{kind: outcomeReturned, err: &stepLimitError{limit: limit, count: n}}
	}
	return nil
}

// finish writes how a pass ended, and reports it.
func (r *Runner) finish(e *execution, o outcome) {
	switch o.kind {
	case outcomeReturned:
		r.finishReturned(e, o)
	case outcomeRetryLater:
		if e.writeEnd(store.RunWrite{Op: store.RunRetry, At: o.at, Error: o.payload}) {
			e.reportRetry(o.at, o.payload)
			r.histories.put(e.run, e.detachHistory())
			r.wakeAt(o.at.Add(-e.ahead))
			e.span.End(tracing.Retrying, nil)
		}
	case outcomeParked:
		if e.writeEnd(store.RunWrite{Op: store.RunPark, At: o.at}) {
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt = nil, &o.at })
			r.histories.put(e.run, e.detachHistory())
			r.wakeAt(o.at.Add(-e.ahead))
			e.span.End(tracing.Suspended, nil)
		}
	case outcomeHandBack:
		if e.writeEnd(store.RunWrite{Op: store.RunRelease}) {
			now := time.Now()
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt, run.UpdatedAt = nil, &now, now })
			e.span.End(tracing.Suspended, nil)
		}
	case outcomeSuspended:
		now := time.Now()
		if e.writeEnd(store.RunWrite{Op: store.RunPark, At: now}) {
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt, run.SuspendedAt = nil, nil, &now })
			e.span.End(tracing.Suspended, nil)
		}
	case outcomeAbandoned:
		e.finishAbandoned(o.err)
	}
}

// finishAbandoned is the end of a pass whose run is no longer this worker's.
func (e *execution) finishAbandoned(cause error) {
	e.log().Info("Left a run that is no longer this worker's", "cause", cause)
	e.span.End(tracing.Stale, cause)
}

// finishReturned ends the run as its function did: completed, to be retried, or failed.
func (r *Runner) finishReturned(e *execution, o outcome) {
	err := o.err
	if err == nil {
		var stored error
		if stored = e.submitEnd(store.RunWrite{Op: store.RunComplete, Output: o.output}); stored == nil {
			now := time.Now()
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
			r.wakeAt(decision.At.Add(-e.ahead))
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

// retryDecision says what an error of the workflow's function means for its run. A failed
// step has used up its own retries, wrapped or not, and the workflow's policy does
// not start them anew (R77). The policy's attempts are the workflow's own failures, not
// claims (R97).
func (e *execution) retryDecision(err error) openworkflow.Decision {
	policy := e.definition().Retry
	payload := durable.EncodeError(err).Encode()
	var failedStep *durable.StepError
	var limit *stepLimitError
	switch {
	case errors.Is(err, durable.ErrDeadlineExceeded):
		return openworkflow.Decision{Error: openworkflow.Error{Message: openworkflow.DeadlineMessage}.Encode()}
	case errors.As(err, &limit):
		policy.MaximumAttempts = 1
		payload = limit.encode()
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

// submitEnd writes the end of the pass, and with it what has not been written yet.
func (e *execution) submitEnd(w store.RunWrite) error {
	w.Lease, w.HasParent = e.lease, e.run.ParentStepAttemptID != nil
	e.buffer.flushMu.Lock() // what is being written comes first
	defer e.buffer.flushMu.Unlock()
	steps := e.buffer.popAll()
	err := e.runner.flusher.submit(e.writeCtx, steps, &w)
	if err != nil && len(steps) > 0 && !e.lostLease(err) {
		return unstorable(steps, err)
	}
	return err
}

// lostLease reports whether an error of a write means that the run is no longer this
// worker's; else it is that of a value that cannot be stored.
func (e *execution) lostLease(err error) bool {
	return e.writeCtx.Err() != nil || errors.Is(err, store.ErrLeaseLost)
}

// writeEnd writes the end of the pass and reports whether it was this pass' to write.
// A run with steps that cannot be stored fails.
func (e *execution) writeEnd(w store.RunWrite) bool {
	err := e.submitEnd(w)
	switch {
	case err == nil:
		return true
	case e.lostLease(err):
		e.finishAbandoned(err)
	case w.Op == store.RunFail:
		e.log().Error("Could not end a run; it goes on when its lease ends", "error", err)
		e.span.End(tracing.Stale, err)
	default:
		e.runner.finishReturned(e, outcome{kind: outcomeReturned, err: err})
	}
	return false
}

// report tells the reporter of the run as this pass has just changed it.
func (e *execution) report(change func(*openworkflow.Run)) {
	if e.runner.options.Reporter == nil {
		return
	}
	run := *e.run
	run.UpdatedAt = time.Now()
	change(&run)
	e.runner.options.Reporter.Report(&run, e.snapshot())
}

func (e *execution) reportRetry(at time.Time, payload json.RawMessage) {
	e.report(func(run *openworkflow.Run) {
		run.Status, run.Error = openworkflow.RunPending, payload
		run.WorkerID, run.StartedAt, run.AvailableAt = nil, nil, &at
	})
}

// progress reports come at growing intervals, so that the number of them grows with
// the logarithm of a run's duration (decision 3).
const (
	firstProgressInterval = time.Second
	maxProgressInterval   = time.Minute
)

// reportProgress reports the start of the pass, then its progress, until the
// returned function is called.
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
