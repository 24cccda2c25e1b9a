package controller

import (
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// A worker of ours in a pod reports the runs that it executes, so the manager leaves
// that to it: each report is written once. When many runs end together, their reports
// wait for each other, and the manager for as long as those take that arrive. A worker
// that lives and whose reports do not arrive, because it may not or cannot reach the API
// server, is not waited for again for a while.

const (
	// ignoreFor is how long a worker is not waited for.
	ignoreFor = 5 * time.Minute
	// reportTimeout is how long a live worker has to report what it has done with a run,
	// which is longer than it tries, beside the time that its reports take anyhow.
	reportTimeout = 35 * time.Second
	// maxReportDelay bounds that time.
	maxReportDelay = 10 * time.Minute
)

// reportHealth is what is known of the reports of workers, by the beginning of their ids.
type reportHealth struct {
	mu        sync.Mutex
	byProcess map[string]workerReports
}

type workerReports struct {
	// ignoreUntil is until when the worker is not waited for.
	ignoreUntil time.Time
	// lastAt is when a report of it arrived last, and delay how old that was.
	lastAt time.Time
	delay  time.Duration
}

// retainLive forgets all workers but these.
func (t *reportHealth) retainLive(workers []store.Worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.byProcess, func(process string, _ workerReports) bool {
		for _, w := range workers {
			if processOfWorker(w) == process {
				return false
			}
		}
		return true
	})
}

func (t *reportHealth) get(process string) workerReports {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byProcess[process]
}

// update replaces what is known of a worker, in one step: what is heard and what is not
// come from several goroutines.
func (t *reportHealth) update(process string, by func(workerReports) workerReports) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byProcess == nil {
		t.byProcess = map[string]workerReports{}
	}
	t.byProcess[process] = by(t.byProcess[process])
}

// setWorkers remembers who is live.
func (c *Connection) setWorkers(workers []store.Worker) {
	c.workers.Store(&workers)
	c.reportHealth.retainLive(workers)
}

// reportDelay reports whether the worker that holds the run, or did until it had completed,
// is live and writes the status of its runs by itself, and how long that takes it.
func (c *Connection) reportDelay(run *openworkflow.Run, now time.Time) (delay time.Duration, ok bool) {
	process, ok := processOf(run)
	if !ok {
		return 0, false
	}
	known := c.reportHealth.get(process)
	if now.Before(known.ignoreUntil) {
		return 0, false
	}
	for _, w := range c.Workers() {
		if w.PodName != "" && processOfWorker(w) == process {
			return known.delayAt(now), true
		}
	}
	return 0, false
}

// slowestReportDelay is how long the reports of the slowest worker take.
func (c *Connection) delay(now time.Time) time.Duration {
	var delay time.Duration
	for _, w := range c.Workers() {
		delay = max(delay, c.reportHealth.get(processOfWorker(w)).delayAt(now))
	}
	return delay
}

// observeReport takes note that the status of an object has come to tell of a run's end, or of
// its begin for the first time. What is heard of a worker that is not waited for is the
// manager's own.
func (c *Connection) observeReport(status *v1alpha1.WorkflowRunStatus, now time.Time) {
	of := status.StartedAt
	if status.FinishedAt != nil {
		of = status.FinishedAt
	}
	if of == nil || status.Worker == "" {
		return
	}
	for _, w := range c.Workers() {
		if w.PodName == status.Worker {
			c.reportHealth.update(processOfWorker(w), func(t workerReports) workerReports { return t.observe(now.Sub(of.Time), now) })
		}
	}
}

// observe is what is known after a report of this age has come.
func (t workerReports) observe(age time.Duration, now time.Time) workerReports {
	if now.Before(t.ignoreUntil) {
		return t
	}
	const precision = time.Second                                                          // of the times in a status
	t.delay = max(min(age-precision, maxReportDelay), t.delayAt(now)-now.Sub(t.lastAt), 0) // a single one may overtake others
	t.lastAt = now
	return t
}

// delayAt is how long the worker's reports take, as far as is known by those that have
// come of late.
func (t workerReports) delayAt(now time.Time) time.Duration {
	if now.Sub(t.lastAt) > reportTimeout {
		return 0
	}
	return t.delay
}

// markUnresponsive remembers that the worker that holds the run, or did, did not report it.
func (c *Connection) markUnresponsive(run *openworkflow.Run, now time.Time) {
	if process, ok := processOf(run); ok {
		c.reportHealth.update(process, func(workerReports) workerReports { return workerReports{ignoreUntil: now.Add(ignoreFor)} })
	}
}

// processOf returns what the worker ids of one process begin with.
func processOf(run *openworkflow.Run) (process string, ok bool) {
	if run.WorkerID == nil {
		return "", false
	}
	i := strings.LastIndexByte(*run.WorkerID, '.')
	if i < 0 { // OpenWorkflow's own worker, which never reports
		return "", false
	}
	return (*run.WorkerID)[:i], true
}

func processOfWorker(w store.Worker) string { return w.PodUID + "." + w.Process }
