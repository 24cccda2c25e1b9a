package controller

import (
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// A worker of ours in a pod reports the runs that it executes, so the manager leaves
// that to it: each report is written once. One that lives and whose reports do not
// arrive, because it may not or cannot reach the API server, is not waited for again
// for a while.

// distrustFor is how long a worker is not waited for.
const distrustFor = 5 * time.Minute

// reports reports whether the worker that holds the run, or did until it had completed,
// is live and writes the status of its runs by itself.
func (c *Connection) reports(run *openworkflow.Run, now time.Time) bool {
	process, ok := processOf(run)
	if !ok {
		return false
	}
	if until, ok := c.silent.Load(process); ok && now.Before(until.(time.Time)) {
		return false
	}
	for _, w := range c.Workers() {
		if w.PodName != "" && w.PodUID+"."+w.Process == process {
			return true
		}
	}
	return false
}

// distrust remembers that the worker that holds the run, or did, did not report it.
func (c *Connection) distrust(run *openworkflow.Run, now time.Time) {
	if process, ok := processOf(run); ok {
		c.silent.Store(process, now.Add(distrustFor))
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
