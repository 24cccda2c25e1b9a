package controller

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// maxInput bounds spec.input.
const maxInput = 1 << 20

// runSeen is what is decided about a WorkflowRun from.
type runSeen struct {
	Run     *v1alpha1.WorkflowRun
	Cluster string
	Backend backend.State
	// RunID is the id of the run's row, empty as long as there is none.
	RunID string
	// Row is nil when there is none, or when nobody looked because nothing
	// depends on it.
	Row   *openworkflow.Run
	Steps openworkflow.StepSummary
	// Worker is the name of the pod that holds the run, when it is known.
	Worker string
	// WorkerReports says that whoever holds the run or, once it has completed, did, is live and
	// reports by itself.
	WorkerReports bool
	// ReportDelay is how long reports take at the moment: those of whoever holds the run or, as
	// long as that is not known, of the slowest worker.
	ReportDelay time.Duration
	// NoWorker says that nobody serves the run's workflow.
	NoWorker string
	// Refused is why the database cannot store the run.
	Refused string
	// JustInserted says that the row was inserted just now, and that a worker may have
	// claimed it already. Nobody looked.
	JustInserted bool
	// FirstReport is how long a worker may take to claim a run and report it.
	FirstReport time.Duration
	// Done are the actions that this reconcile has carried out.
	Done []runAction
	Now  time.Time
}

// own reports whether the row was made for this object, and not for an earlier
// one with the same idempotency key.
func (s *runSeen) own() bool { return s.RunID == string(s.Run.UID) }

// runAction is the one thing to do next.
type runAction string

const (
	// runNothing: what is left is to report.
	runNothing runAction = ""
	runMirror  runAction = "Mirror"
	runCancel  runAction = "Cancel"
	runSuspend runAction = "Suspend"
	runResume  runAction = "Resume"
	runDelete  runAction = "Delete"
)

// runPlan is what should happen to a WorkflowRun.
type runPlan struct {
	Action runAction
	// NewRun is the row to insert.
	NewRun store.NewRun
	// Status is what to report, nil for nothing. A plan with an action has none:
	// the action's outcome is planned for afresh.
	Status *v1alpha1.WorkflowRunStatus
	// Overdue says that the row's worker should have reported.
	Overdue bool
	// RequeueAfter, when not zero, is when the next thing is due.
	RequeueAfter time.Duration
	// ExpectReportWithin, when not zero, is how long to wait for the worker, which has yet to report
	// the row.
	ExpectReportWithin time.Duration
}

// planRun decides about a WorkflowRun.
func planRun(seen runSeen) runPlan {
	run := seen.Run
	switch {
	case run.Status.State.Terminal():
		return planEnded(seen)
	case seen.Refused != "":
		return statusPlan(rejectedStatus(seen, seen.Refused))
	case seen.JustInserted:
		return expectReport(seen, seen.FirstReport+seen.ReportDelay)
	case seen.RunID == "":
		return planNew(seen)
	case !seen.Backend.Ready:
		return runPlan{} // the run goes on when the database does; its status is the last that is known
	case seen.Row == nil:
		return statusPlan(missingStatus(seen))
	case seen.Row.Status.Terminal():
		return planProjection(seen)
	}
	wanted := ptr.Deref(run.Spec.Suspend, false)
	switch {
	case ptr.Deref(run.Spec.Cancel, false), seen.own() && !run.DeletionTimestamp.IsZero():
		return runPlan{Action: runCancel}
	case seen.own() && wanted && seen.Row.SuspendedAt == nil:
		return runPlan{Action: runSuspend}
	case seen.own() && !wanted && seen.Row.SuspendedAt != nil:
		return runPlan{Action: runResume}
	default:
		return planProjection(seen)
	}
}

// planProjection shows the row, unless its worker is about to show it for the first time.
func planProjection(seen runSeen) runPlan {
	wait, overdue := seen.firstReportWait()
	if wait > 0 {
		return expectReport(seen, wait)
	}
	plan := statusPlan(runStatus(seen))
	plan.Overdue = overdue
	return plan
}

// expectReport returns the plan that leaves the first report to the worker.
func expectReport(seen runSeen, wait time.Duration) runPlan {
	return runPlan{ExpectReportWithin: seen.recheckWithin(wait)}
}

// planNew decides about a run that has no row yet.
func planNew(seen runSeen) runPlan {
	run := seen.Run
	if !run.DeletionTimestamp.IsZero() {
		return runPlan{}
	}
	if input := run.Spec.Input; input != nil && len(input.Raw) > maxInput {
		return statusPlan(rejectedStatus(seen, fmt.Sprintf(
			"spec.input has %d bytes, the limit is %d: keep the data elsewhere and pass a reference to it", len(input.Raw), maxInput)))
	}
	switch {
	case !seen.Backend.Known:
		return runPlan{}
	case !seen.Backend.Ready:
		return statusPlan(waitingStatus(seen, backendMessage(backend.NameOf(run.Spec.BackendRef), seen.Backend)))
	default:
		return runPlan{Action: runMirror, NewRun: newRun(run, seen.Cluster)}
	}
}

// planEnded deletes an ended run when its time has come. Nothing else can happen
// to it any more, except that a change of its spec is taken note of.
func planEnded(seen runSeen) runPlan {
	run := seen.Run
	plan := runPlan{}
	if run.Status.ObservedGeneration != run.Generation {
		plan = statusPlan(*run.Status.DeepCopy())
		plan.Status.ObservedGeneration = run.Generation
	}
	ttl := run.Spec.TTLSecondsAfterFinished
	if ttl == nil || !run.DeletionTimestamp.IsZero() {
		return plan
	}
	// An object that attached to a run of long ago shows it for its whole ttl: to
	// delete it at once would make whoever applied it create it again, for ever.
	since := run.CreationTimestamp
	if finished := run.Status.FinishedAt; finished != nil && since.Before(finished) {
		since = *finished
	}
	due := since.Add(time.Duration(*ttl) * time.Second)
	if !seen.Now.Before(due) {
		return runPlan{Action: runDelete}
	}
	plan.RequeueAfter = due.Sub(seen.Now)
	return plan
}

// newRun returns the row for an object. Its id is the object's uid, so that
// inserting it again changes nothing.
func newRun(run *v1alpha1.WorkflowRun, cluster string) store.NewRun {
	spec := &run.Spec
	n := store.NewRun{
		ID:           string(run.UID),
		WorkflowName: spec.WorkflowName,
		// A run that was canceled before it began must not begin.
		Suspended: ptr.Deref(spec.Suspend, false) || ptr.Deref(spec.Cancel, false),
	}
	if spec.Version != "" {
		n.Version = &spec.Version
	}
	if spec.IdempotencyKey != "" {
		n.IdempotencyKey = &spec.IdempotencyKey
	}
	if spec.Input != nil {
		n.Input = spec.Input.Raw
	}
	if spec.AvailableAt != nil {
		n.AvailableAt = &spec.AvailableAt.Time
	}
	switch {
	case spec.DeadlineAt != nil:
		n.DeadlineAt = &spec.DeadlineAt.Time
	case spec.TimeoutSeconds != nil:
		n.DeadlineAt = new(run.CreationTimestamp.Add(time.Duration(*spec.TimeoutSeconds) * time.Second))
	}
	context, err := json.Marshal(openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
		Cluster:         cluster,
		Namespace:       run.Namespace,
		Name:            run.Name,
		UID:             string(run.UID),
		Generation:      run.Generation,
		ResourceVersion: run.ResourceVersion,
	}})
	if err != nil { // strings always marshal
		panic(err)
	}
	n.Context = context
	return n
}

func statusPlan(status v1alpha1.WorkflowRunStatus) runPlan {
	return runPlan{Status: &status}
}

// runStatus is the projection of the row, and what only the manager knows.
func runStatus(seen runSeen) v1alpha1.WorkflowRunStatus {
	status := projection.Status(seen.Row, seen.Steps, seen.Worker)
	if seen.NoWorker != "" {
		status.Message = seen.NoWorker
		status.Conditions = projection.Conditions(status.State, v1alpha1.ReasonNoWorker, seen.NoWorker, seen.Row.AvailableAt.Add(noWorkerAfter))
	}
	return carryOver(&seen.Run.Status, status)
}

// carryOver carries over from the old status what a projection may not know, and the
// time of each condition's last transition.
func carryOver(old *v1alpha1.WorkflowRunStatus, status v1alpha1.WorkflowRunStatus) v1alpha1.WorkflowRunStatus {
	if status.Worker == "" {
		status.Worker = old.Worker
	}
	if status.StartedAt == nil {
		status.StartedAt = old.StartedAt
	}
	for i := range status.Conditions {
		for j := range old.Conditions {
			if n, o := &status.Conditions[i], &old.Conditions[j]; n.Type == o.Type && n.Status == o.Status {
				n.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	return status
}

// waitingStatus is that of a run whose Backend cannot be used yet.
func waitingStatus(seen runSeen, message string) v1alpha1.WorkflowRunStatus {
	message = truncateText(message, 1000)
	return carryOver(&seen.Run.Status, v1alpha1.WorkflowRunStatus{
		State:      v1alpha1.RunPending,
		Message:    message,
		Conditions: projection.Conditions(v1alpha1.RunPending, backendReason(seen.Backend), message, seen.Now),
	})
}

// rejectedStatus is that of a run that can never be stored, so it never began.
func rejectedStatus(seen runSeen, message string) v1alpha1.WorkflowRunStatus {
	message = truncateText(message, 1000)
	return carryOver(&seen.Run.Status, v1alpha1.WorkflowRunStatus{
		State:      v1alpha1.RunFailed,
		FinishedAt: new(metav1.NewTime(seen.Now.UTC().Truncate(time.Second))),
		Error:      &v1alpha1.RunError{Name: v1alpha1.ReasonInvalidInput, Message: message},
		Message:    message,
		Conditions: projection.Conditions(v1alpha1.RunFailed, v1alpha1.ReasonInvalidInput, message, seen.Now),
	})
}

// missingStatus is that of a run whose row is gone. It is not final, as the
// database may be the wrong one, and come back.
func missingStatus(seen runSeen) v1alpha1.WorkflowRunStatus {
	status := *seen.Run.Status.DeepCopy()
	status.Message = fmt.Sprintf("run %s is no longer in the database of Backend %q; it is not started again, as its steps may have run: delete this object, or bring the row back",
		seen.RunID, backend.NameOf(seen.Run.Spec.BackendRef))
	conditions := projection.Conditions(v1alpha1.RunFailed, v1alpha1.ReasonRunMissing, status.Message, seen.Now)
	status.Conditions = nil
	for _, c := range conditions {
		if c.Type != v1alpha1.ConditionFailed { // the run itself has not failed
			status.Conditions = append(status.Conditions, c)
		}
	}
	return carryOver(&seen.Run.Status, status)
}
