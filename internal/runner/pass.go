package runner

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// pass executes a claimed run once, from loading its history to its final write.
func (r *Runner) pass(run *openworkflow.Run) {
	e := newExecution(r, run)
	r.leases.add(e.lease, e)
	defer func() {
		r.leases.remove(e.lease)
		e.lost(durable.ErrLeaseLost) // nothing that is left behind may go on
	}()

	definition, served := r.definitions[keyOf(run.WorkflowName, run.Version)]
	if !served { // the claim asks for what is served only
		e.log.Error("Claimed a run of a workflow that is not served")
		r.conclude(e, outcome{kind: outcomeHandBack})
		return
	}
	if err := e.loadHistory(); err != nil {
		r.conclude(e, outcome{kind: outcomeAbandoned, err: err})
		return
	}
	if err := e.endElapsedSleeps(); err != nil {
		r.conclude(e, outcome{kind: outcomeAbandoned, err: err})
		return
	}
	stopProgress := e.reportProgress()
	ended := e.begunTooOften()
	if ended == nil {
		o := e.execute(definition)
		ended = &o
	}
	stopProgress()
	r.conclude(e, *ended)
}

// loadHistory reads the run's step attempts; a first claim has none (decision 5).
func (e *execution) loadHistory() error {
	var attempts []openworkflow.StepAttempt
	if e.run.Attempts > 1 {
		err := retry(e.writeCtx, e.log, "Could not load the history of a run", func() error {
			loaded, err := e.runner.store.LoadSteps(e.writeCtx, []string{e.run.ID})
			attempts = loaded[e.run.ID]
			return err
		})
		if err != nil {
			return context.Cause(e.writeCtx)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.history = newHistory(attempts)
	if e.run.Attempts > 1 {
		e.log.Info("Resumed a run", "attempts", e.run.Attempts, "completedSteps", e.history.summary.Completed)
	}
	return nil
}

// begunTooOften fails a run whose history is above the step limit before any of its
// code runs (R110).
func (e *execution) begunTooOften() *outcome {
	if n := e.countAttempts(); n > stepLimit {
		return &outcome{kind: outcomeReturned, err: &stepLimitError{count: n}}
	}
	return nil
}

// conclude writes how a pass ended, and reports it.
func (r *Runner) conclude(e *execution, o outcome) {
	switch o.kind {
	case outcomeReturned:
		r.concludeReturn(e, o)
	case outcomePutOff: // written with the step's failure
		e.reportRetry(o.at, o.payload)
		r.wakeAt(o.at)
	case outcomeParked:
		if e.conclusion(store.RunWrite{Op: store.RunPark, At: o.at}) {
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt = nil, &o.at })
			r.wakeAt(o.at.Add(-e.ahead))
		}
	case outcomeHandBack:
		if e.conclusion(store.RunWrite{Op: store.RunRelease}) {
			now := time.Now()
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt, run.UpdatedAt = nil, &now, now })
			if err := r.store.Notify(e.writeCtx); err != nil {
				e.log.Debug("Could not notify other workers", "error", err)
			}
		}
	case outcomeSuspended:
		now := time.Now()
		if e.conclusion(store.RunWrite{Op: store.RunPark, At: now}) {
			e.report(func(run *openworkflow.Run) { run.WorkerID, run.AvailableAt, run.SuspendedAt = nil, nil, &now })
		}
	case outcomeAbandoned:
		e.log.Info("Left a run that is no longer this worker's", "cause", o.err)
	}
}

// concludeReturn ends the run as its function did: completed, to be retried, or failed.
func (r *Runner) concludeReturn(e *execution, o outcome) {
	err := o.err
	if err == nil {
		var stored error
		if stored = e.write(store.RunWrite{Op: store.RunComplete, Output: o.output}); stored == nil {
			now := time.Now()
			e.report(func(run *openworkflow.Run) {
				run.Status, run.Output, run.Error = openworkflow.RunCompleted, o.output, nil
				run.AvailableAt, run.FinishedAt = nil, &now
			})
			return
		}
		if e.writeCtx.Err() != nil || errors.Is(stored, store.ErrLeaseLost) {
			e.log.Info("Left a run that is no longer this worker's", "cause", context.Cause(e.writeCtx))
			return
		}
		err = stored // the output cannot be stored (R23, R79)
	}

	decision := e.decide(err)
	if decision.Retry {
		if e.conclusion(store.RunWrite{Op: store.RunRetry, At: decision.At, Error: decision.Error}) {
			e.reportRetry(decision.At, decision.Error)
			r.wakeAt(decision.At)
		}
		return
	}
	now := time.Now()
	if e.conclusion(store.RunWrite{Op: store.RunFail, Error: decision.Error, FinishedAt: now}) {
		e.log.Info("Run failed", "error", openworkflow.DecodeError(decision.Error).Message)
		e.report(func(run *openworkflow.Run) {
			run.Status, run.Error = openworkflow.RunFailed, decision.Error
			run.WorkerID, run.AvailableAt, run.FinishedAt = nil, nil, &now
		})
	}
}

// decide says what an error of the workflow's function means for its run. A failed
// step has used up its own retries, wrapped or not, and the workflow's policy does
// not start them anew (R77).
func (e *execution) decide(err error) openworkflow.Decision {
	policy := e.runner.definitions[keyOf(e.run.WorkflowName, e.run.Version)].Retry
	var failedStep *durable.StepError
	var limit *stepLimitError
	switch {
	case errors.Is(err, durable.ErrDeadlineExceeded):
		return openworkflow.Decision{Error: openworkflow.Error{Message: openworkflow.DeadlineMessage}.Encode()}
	case errors.As(err, &limit):
		policy.MaximumAttempts = 1
		return openworkflow.Decide(policy, e.run.Attempts, e.run.DeadlineAt, limit.encode(), time.Now())
	case errors.As(err, &failedStep), durable.IsNonRetryable(err):
		policy.MaximumAttempts = 1
	}
	return openworkflow.Decide(policy, e.run.Attempts, e.run.DeadlineAt, durable.EncodeError(err).Encode(), time.Now())
}

func (e *stepLimitError) encode() json.RawMessage {
	payload, err := json.Marshal(map[string]any{
		"name":      openworkflow.StepLimitName,
		"message":   e.Error(),
		"code":      "STEP_LIMIT_EXCEEDED",
		"limit":     stepLimit,
		"stepCount": e.count,
	})
	if err != nil { // numbers and texts always marshal
		panic(err)
	}
	return payload
}

// write writes the end of the pass.
func (e *execution) write(w store.RunWrite) error {
	w.Lease = e.lease
	return e.runner.flusher.submit(e.writeCtx, nil, &w)
}

// conclusion writes the end of the pass and reports whether it was this pass' to write.
func (e *execution) conclusion(w store.RunWrite) bool {
	err := e.write(w)
	switch {
	case err == nil:
		return true
	case e.writeCtx.Err() != nil || errors.Is(err, store.ErrLeaseLost):
		e.log.Info("Left a run that is no longer this worker's", "cause", err)
	default:
		e.log.Error("Could not end a run; it goes on when its lease ends", "error", err)
	}
	return false
}

// report tells the reporter of the run as this pass has just changed it.
func (e *execution) report(change func(*openworkflow.Run)) {
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
	firstProgress = time.Second
	lastProgress  = time.Minute
)

// reportProgress reports the start of the pass, then its progress, until the
// returned function is called.
func (e *execution) reportProgress() (stop func()) {
	e.report(func(*openworkflow.Run) {})
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for interval := firstProgress; ; interval = min(2*interval, lastProgress) {
			timer := time.NewTimer(interval)
			select {
			case <-done:
				timer.Stop()
				return
			case <-timer.C:
				e.report(func(*openworkflow.Run) {})
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}
