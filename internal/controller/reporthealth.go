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
	// distrustFor is how long a worker is not waited for.
	distrustFor = 5 * time.Minute
	// reportPatience is how long a live worker has to report what it has done with a run,
	// which is longer than it tries, beside the time that its reports take anyhow.
	reportPatience = 35 * time.Second
	// maxLag bounds that time.
	maxLag = 10 * time.Minute
)

// trust is what is known of the reports of workers, by the beginning of their ids.
type trust struct {
	mu sync.Mutex
	of map[string]workerTrust
}

type workerTrust struct {
	// silent is until when the worker is not waited for.
	silent time.Time
	// heard is when a report of it arrived last, and lag how old that was.
	heard time.Time
	lag   time.Duration
}

// keep forgets all workers but these.
func (t *trust) keep(workers []store.Worker) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.of, func(process string, _ workerTrust) bool {
		for _, w := range workers {
			if processOfWorker(w) == process {
				return false
			}
		}
		return true
	})
}

func (t *trust) get(process string) workerTrust {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[process]
}

// change replaces what is known of a worker, in one step: what is heard and what is not
// come from several goroutines.
func (t *trust) change(process string, by func(workerTrust) workerTrust) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[string]workerTrust{}
	}
	t.of[process] = by(t.of[process])
}

// setWorkers remembers who is live.
func (c *Connection) setWorkers(workers []store.Worker) {
	c.workers.Store(&workers)
	c.trust.keep(workers)
}

// reports reports whether the worker that holds the run, or did until it had completed,
// is live and writes the status of its runs by itself, and how long that takes it.
func (c *Connection) reports(run *openworkflow.Run, now time.Time) (lag time.Duration, ok bool) {
	process, ok := processOf(run)
	if !ok {
		return 0, false
	}
	known := c.trust.get(process)
	if now.Before(known.silent) {
		return 0, false
	}
	for _, w := range c.Workers() {
		if w.PodName != "" && processOfWorker(w) == process {
			return known.lagAt(now), true
		}
	}
	return 0, false
}

// lag is how long the reports of the slowest worker take.
func (c *Connection) lag(now time.Time) time.Duration {
	var lag time.Duration
	for _, w := range c.Workers() {
		lag = max(lag, c.trust.get(processOfWorker(w)).lagAt(now))
	}
	return lag
}

// hear takes note that the status of an object has come to tell of a run's end, or of
// its begin for the first time. What is heard of a worker that is not waited for is the
// manager's own.
func (c *Connection) hear(status *v1alpha1.WorkflowRunStatus, now time.Time) {
	of := status.StartedAt
	if status.FinishedAt != nil {
		of = status.FinishedAt
	}
	if of == nil || status.Worker == "" {
		return
	}
	for _, w := range c.Workers() {
		if w.PodName == status.Worker {
			c.trust.change(processOfWorker(w), func(t workerTrust) workerTrust { return t.hear(now.Sub(of.Time), now) })
		}
	}
}

// hear is what is known after a report of this age has come.
func (t workerTrust) hear(age time.Duration, now time.Time) workerTrust {
	if now.Before(t.silent) {
		return t
	}
	const precision = time.Second                                             // of the times in a status
	t.lag = max(min(age-precision, maxLag), t.lagAt(now)-now.Sub(t.heard), 0) // a single one may overtake others
	t.heard = now
	return t
}

// lagAt is how long the worker's reports take, as far as is known by those that have
// come of late.
func (t workerTrust) lagAt(now time.Time) time.Duration {
	if now.Sub(t.heard) > reportPatience {
		return 0
	}
	return t.lag
}

// distrust remembers that the worker that holds the run, or did, did not report it.
func (c *Connection) distrust(run *openworkflow.Run, now time.Time) {
	if process, ok := processOf(run); ok {
		c.trust.change(process, func(workerTrust) workerTrust { return workerTrust{silent: now.Add(distrustFor)} })
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
