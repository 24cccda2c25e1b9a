package store

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// This file defines which runs are runnable: which ones a worker takes as soon as it has a free
// slot. Claims, the condition NoWorker, the backlog of a workflow, and what says why a run waits
// use this definition. It exists twice, as SQL for many runs and as HoldOf for one; a test holds
// that both agree with what claims take.
//
//	runnable  =  open  ∧  not suspended  ∧  before its deadline  ∧  served  ∧  (due  ∨  given back)
//
// A run that a worker executes is not due, because its lease ends later. Nor is one that waits,
// will be retried, or is quarantined, until the time at which it goes on. A run that was given
// back (R62) need not be due for a worker that has its workflow.

// Hold is the first thing that keeps every worker from claiming a run.
type Hold string

// The holds, in the order in which HoldOf looks for them.
const (
	// NotHeld: the run is runnable.
	NotHeld Hold = ""
	// HoldEnded: it has ended, or its status is none that workers know.
	HoldEnded Hold = "Ended"
	// HoldSuspended: it is suspended. A worker that executes it stops before its next step.
	HoldSuspended Hold = "Suspended"
	// HoldDeadline: its deadline has passed, so that it only fails.
	HoldDeadline Hold = "DeadlineExceeded"
	// HoldNeverDue: it has no time at which it is due. A wake gives it one.
	HoldNeverDue Hold = "NeverDue"
	// HoldLeased: a worker's lease of it has not ended.
	HoldLeased Hold = "Leased"
	// HoldNotDue: it is due later.
	HoldNotDue Hold = "NotDue"
	// HoldUnserved: no worker serves its workflow and version.
	HoldUnserved Hold = "Unserved"
)

// HoldOf returns what keeps every worker from claiming a run at an instant of the server's clock.
// Served are the workflows that live workers serve.
func HoldOf(run *openworkflow.Run, now time.Time, served map[openworkflow.DefinitionKey]bool) Hold {
	isServed := served[run.Definition().Key()]
	switch {
	case run.Status != openworkflow.RunPending && run.Status != openworkflow.RunRunning && run.Status != openworkflow.RunSleeping:
		return HoldEnded
	case run.SuspendedAt != nil:
		return HoldSuspended
	case run.DeadlineAt != nil && !run.DeadlineAt.After(now):
		return HoldDeadline
	case run.AvailableAt == nil:
		return HoldNeverDue
	case isServed && GivenBack(run):
		return NotHeld
	case run.AvailableAt.After(now) && run.Status == openworkflow.RunRunning && run.WorkerID != nil:
		return HoldLeased
	case run.AvailableAt.After(now):
		return HoldNotDue
	case !isServed:
		return HoldUnserved
	default:
		return NotHeld
	}
}

// GivenBack reports whether a worker of OpenWorkflow's that does not have the run's workflow gave
// the run back (R62).
func GivenBack(run *openworkflow.Run) bool {
	return run.Status == openworkflow.RunPending && openworkflow.DecodeError(run.Error).Message == run.Definition().Refusal()
}

// ofServed says that the run r is of the workflow s, not suspended, and before its deadline.
// The coalesced version is for the indexes. The comparison is exact (R61): no version is not
// the empty version.
var ofServed = `r.workflow_name = s.workflow_name
		AND coalesce(r.version, '') = coalesce(s.version, '') AND (r.version IS NULL) = (s.version IS NULL)
		AND NOT ` + isSuspended("r") + `
		AND (r.deadline_at IS NULL OR r.deadline_at > now())`

// dueFrom says that a run of the namespace is due, and not before the position start. The
// namespace is the expression of the claim indexes, so the planner can use no other index.
// Before the tables are analyzed, or when most runs are of one workflow, another index looks
// as good to it, and each claim would read all pending runs.
func dueFrom(start string) string {
	return `r.namespace_id || '' = $1 AND r.available_at >= ` + start + ` AND r.available_at <= now() AND ` + ofServed
}

// newDueFrom and againDueFrom say that a run is runnable: of those that no worker has claimed yet,
// and of the others. They are ranges of operator_runs_new_idx and operator_runs_again_idx.
func newDueFrom(start string) string { return `r.status = 'pending' AND ` + dueFrom(start) }
func againDueFrom(start string) string {
	return `r.status IN ('running', 'sleeping') AND ` + dueFrom(start)
}

// isGivenBack says that the run r was given back, and is runnable for a worker of the workflow s,
// which refuses runs with the text s.refusal. It is a range of operator_runs_given_back_idx.
var isGivenBack = `r.namespace_id || '' = $1 AND r.status = 'pending' AND ` + ofServed + `
			AND r.available_at IS NOT NULL
			AND r.error ->> 'message' LIKE 'Workflow "%is not registered' AND r.error ->> 'message' = s.refusal`
