package runner

import (
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// setAsideTime is when a quarantined run that was claimed beside another one is due again.
const setAsideTime = time.Second

// quarantine is the one place in which this worker executes a quarantined run: one whose worker
// has died several times in a row without progress of the run. Such a run may have killed it, so
// no two of them are executed together. The others that were claimed are set aside before, so
// that the next death is not counted for them too. Runs that are not quarantined
// execute beside it.
//
//	claimed ──> no progress since several deaths ──> enter ──> executed ──> progress, or the pass has ended ──> leave
//	                                                   └─> set aside, due in a second
type quarantine struct {
	mu sync.Mutex
	// run is the execution of the quarantined run, nil for none.
	run *execution
}

// enter reports whether the execution may start. It must leave later.
func (q *quarantine) enter(e *execution) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.run != nil {
		return false
	}
	q.run = e
	return true
}

// leave does nothing for an execution that has not entered.
func (q *quarantine) leave(e *execution) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.run == e {
		q.run = nil
	}
}

// runQuarantined starts a pass for one of these runs, unless a quarantined run is executing
// here, and sets the others aside. Runs that have reached the bound only fail.
func (r *Runner) runQuarantined(executions []*execution) {
	var entered *execution
	var aside sync.WaitGroup
	for _, e := range executions {
		switch {
		case e.deathsExceeded() != nil:
			r.passes.Go(func() { r.runPass(e) })
		case entered == nil && r.quarantine.enter(e):
			entered = e
		default:
			aside.Go(func() { r.setAside(e) })
		}
	}
	aside.Wait()
	if entered != nil {
		e := entered
		e.log().Warn("Executing a run whose worker has died several times", "deaths", e.run.Deaths)
		r.passes.Go(func() { r.runPass(e) })
	}
}

// setAside ends a pass before it has begun.
func (r *Runner) setAside(e *execution) {
	defer r.finishPass(e)
	if r.draining.Load() {
		r.finish(e, outcome{kind: outcomeHandBack})
		return
	}
	if e.writeEnd(store.RunWrite{Op: store.RunSetAside, At: e.now().Add(setAsideTime)}) {
		r.histories.put(e.run, e.detachHistory())
		r.wakeAfter(setAsideTime)
		e.span.End(tracing.Suspended, nil)
	}
}

// noteDeaths is called once the history is known.
func (e *execution) noteDeaths() {
	if e.run.DiedAt == nil || e.run.Deaths == 0 {
		return
	}
	e.mu.Lock()
	progress := e.history.progressAt.After(*e.run.DiedAt)
	e.mu.Unlock()
	e.suspect.Store(!progress)
}

// noteProgress is called when writes are durable.
func (e *execution) noteProgress(steps []store.StepWrite) {
	if !e.suspect.Load() {
		return
	}
	for i := range steps {
		if a := &steps[i].Attempt; a.Status != openworkflow.StepRunning || !a.ProgressAt().IsZero() {
			e.suspect.Store(false)
			e.runner.quarantine.leave(e)
			return
		}
	}
}

// isQuarantined reports whether the run must be executed apart from others of its kind.
func (e *execution) isQuarantined() bool { return e.suspect.Load() && e.run.Quarantined() }

// deathsExceeded returns the failure of a run whose worker has died too often, else nil. None
// of its code is executed again.
func (e *execution) deathsExceeded() *outcome {
	if !e.suspect.Load() || e.run.Deaths < e.runner.options.MaxWorkerDeaths {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	step := openworkflow.SuspectedStep(e.history.summary.Newest)
	return &outcome{kind: outcomeReturned, err: &workerDeathsError{openworkflow.WorkerDeathsError(step, e.run.Deaths)}}
}

// workerDeathsError fails a run whose worker has died too often.
type workerDeathsError struct{ payload openworkflow.Error }

func (e *workerDeathsError) Error() string { return e.payload.Message }
