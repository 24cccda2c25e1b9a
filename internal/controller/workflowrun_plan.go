package controller

import (
	"encoding/json"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// maxInput is the largest spec.input, in bytes.
const maxInput = 1 << 20

// runSeen is what a WorkflowRun is planned from.
type runSeen struct {
	Run     *v1alpha1.WorkflowRun
	Cluster string
	Backend backend.State
	// RunID is the id of the run's row, empty while there is none.
	RunID string
	// Row is nil when there is none, or when it was not read because the plan does not
	// depend on it.
	Row   *openworkflow.Run
	Steps openworkflow.StepSummary
	// Worker is the name of the pod that holds the run, if it is known.
	Worker string
	// WorkerReports says that the worker that holds the run or has completed it is live, in a
	// pod of the object's namespace, and reports by itself.
	WorkerReports bool
	// ReportDelay is the current delay of reports: of that worker or, if it is not known, of
	// the slowest one.
	ReportDelay time.Duration
	// TTL is how many seconds after its end an ended object is deleted, nil for never.
	TTL *int32
	// Kept is for how long the object stays though its ttl is over, as its schedule needs it.
	Kept time.Duration
	// Unconfirmed says that the object shows an end, but its row was not seen to have ended.
	Unconfirmed bool
	// NoWorker is why no worker serves the run's workflow, empty if one does.
	NoWorker string
	// Refused is why the run cannot be started, and RefusedReason the reason of its
	// conditions.
	Refused, RefusedReason string
	// Awaits is what a fork waits for, nil for nothing.
	Awaits *forkProblem
	// NeverStarts says that a fork was canceled before it was made.
	NeverStarts bool
	// Succession is what has become of the runs that supersede an ended one.
	Succession succession
	// JustInserted says that this reconcile has inserted the row. It was not read since; a
	// worker may have claimed it already.
	JustInserted bool
	// FirstReport is how long a worker may take to claim a new run and report it, and
	// FirstReportLeft what is left of that, if an earlier reconcile inserted the row.
	FirstReport, FirstReportLeft time.Duration
	// Done are the actions that this reconcile has carried out.
	Done []runAction
	// Now is the time by the manager's clock. The database's clock is ServerAhead ahead of it.
	Now         time.Time
	ServerAhead time.Duration
}

// serverNow returns the time by the clock of the database, which the instants of rows are by.
func (s *runSeen) serverNow() time.Time { return s.Now.Add(s.ServerAhead) }

// own reports whether the row was inserted for this object, not for an earlier one with the
// same idempotency key.
func (s *runSeen) own() bool { return s.RunID == string(s.Run.UID) }

// runAction is the next thing to do.
type runAction string

const (
	// runNothing means that only the status is left to write.
	runNothing runAction = ""
	runMirror  runAction = "Mirror"
	runFork    runAction = "Fork"
	runCancel  runAction = "Cancel"
	runSuspend runAction = "Suspend"
	runResume  runAction = "Resume"
	runDelete  runAction = "Delete"
)

// runPlan is what should happen to a WorkflowRun.
type runPlan struct {
	Action runAction
	// NewRun is the row to insert, without an input that the cache has left out.
	NewRun store.NewRun
	// Status is the status to write, or nil. A plan with an action has none: after the
	// action there is a new plan.
	Status *v1alpha1.WorkflowRunStatus
	// Overdue says that the row's worker did not report in time.
	Overdue bool
	// RequeueAfter, if not zero, is when to reconcile the run again.
	RequeueAfter time.Duration
	// ExpectReportWithin, if not zero, is how long to wait for the worker's first report.
	ExpectReportWithin time.Duration
}

// planRun returns what should happen to a WorkflowRun.
func planRun(seen runSeen) runPlan {
	run := seen.Run
	switch {
	case run.Status.State.Terminal():
		return planEnded(seen)
	case seen.Refused != "":
		return statusPlan(rejectedStatus(seen, seen.RefusedReason, seen.Refused))
	case seen.NeverStarts:
		return statusPlan(canceledStatus(seen))
	case seen.Awaits != nil:
		plan := statusPlan(waitingStatus(seen, seen.Awaits.reason, seen.Awaits.message))
		plan.RequeueAfter = seen.sourcePause()
		return plan
	case seen.JustInserted:
		return expectReport(seen, seen.FirstReport+seen.ReportDelay)
	case run.Unreadable.SpecMessage() != "":
		return planUnreadable(seen)
	case seen.RunID == "":
		return planNew(seen)
	case !seen.Backend.Ready:
		return runPlan{} // the status stays until the database answers again
	case seen.Row == nil:
		return statusPlan(missingStatus(seen))
	case seen.Row.Status.Terminal():
		return planProjection(seen)
	}
	wanted := ptr.Deref(run.Spec.Suspend, false)
	switch {
	case seen.own() && (ptr.Deref(run.Spec.Cancel, false) || !run.DeletionTimestamp.IsZero()):
		return runPlan{Action: runCancel}
	case seen.own() && wanted && seen.Row.SuspendedAt == nil:
		return runPlan{Action: runSuspend}
	case seen.own() && !wanted && seen.Row.SuspendedAt != nil:
		return runPlan{Action: runResume}
	default:
		return planProjection(seen)
	}
}

// planProjection writes the row's status, unless its worker is about to report first.
func planProjection(seen runSeen) runPlan {
	wait, overdue := seen.firstReportWait()
	switch {
	case wait > 0:
		return expectReport(seen, wait)
	case seen.Row.Attempts == 0 && seen.FirstReportLeft > 0:
		return expectReport(seen, seen.FirstReportLeft)
	}
	plan := statusPlan(runStatus(seen))
	plan.Overdue = overdue
	return plan
}

// expectReport returns the plan that leaves the first report to the worker.
func expectReport(seen runSeen, wait time.Duration) runPlan {
	return runPlan{ExpectReportWithin: seen.recheckWithin(wait)}
}

// planUnreadable plans a run of whose spec a part cannot be read, so that nobody knows what it asks
// for. What was started goes on.
func planUnreadable(seen runSeen) runPlan {
	if seen.Row != nil {
		return planProjection(seen)
	}
	status := *seen.Run.Status.DeepCopy()
	if status.State == "" {
		status.State = v1alpha1.RunPending
	}
	return statusPlan(stalledStatus(seen, status, v1alpha1.ReasonUnreadable, seen.Run.Unreadable.SpecMessage()))
}

// planNew plans a run that has no row yet.
func planNew(seen runSeen) runPlan {
	run := seen.Run
	if !run.DeletionTimestamp.IsZero() {
		return runPlan{}
	}
	if size, _ := inputSize(run); size > maxInput {
		what := "spec.input has"
		if run.Spec.From != nil {
			what = "spec.input and the outputs of spec.from have"
		}
		return statusPlan(rejectedStatus(seen, v1alpha1.ReasonInvalidInput, fmt.Sprintf(
			"%s %d bytes, the limit is %d: keep the data elsewhere and pass a reference to it", what, size, maxInput)))
	}
	switch {
	case !seen.Backend.Known:
		return runPlan{}
	case !seen.Backend.Ready:
		return statusPlan(waitingStatus(seen, backendReason(seen.Backend), backendMessage(backend.NameOf(run.Spec.BackendRef), seen.Backend)))
	case run.Spec.From != nil:
		return runPlan{Action: runFork, NewRun: newRun(run, seen.Cluster, seen.Now)}
	default:
		return runPlan{Action: runMirror, NewRun: newRun(run, seen.Cluster, seen.Now)}
	}
}

// unconfirmedWait is the time until an ended run is looked at again whose row does not show
// the end. The sweep corrects its status meanwhile.
const unconfirmedWait = 10 * time.Second

// planEnded deletes an ended run after its ttl. Apart from that, it only writes which spec
// was observed.
func planEnded(seen runSeen) runPlan {
	run := seen.Run
	plan := runPlan{}
	if run.Status.ObservedGeneration != run.Generation {
		plan = statusPlan(*run.Status.DeepCopy())
		plan.Status.ObservedGeneration = run.Generation
	}
	ttl := seen.TTL
	if ttl == nil || !run.DeletionTimestamp.IsZero() {
		return plan
	}
	if left := time.Duration(*ttl)*time.Second - seen.endedFor(); left > 0 {
		plan.RequeueAfter = left
		return plan
	}
	if seen.Kept > 0 {
		plan.RequeueAfter = seen.Kept
		return plan
	}
	if seen.Unconfirmed {
		plan.RequeueAfter = unconfirmedWait
		return plan
	}
	return runPlan{Action: runDelete}
}

// endedFor returns how much of the ttl of an ended run has passed. The end is by the database's
// clock; that of a run that was refused, which has no row, is by the manager's.
//
// The ttl starts no earlier than the object. An object that shows an earlier run of the same
// idempotency key would otherwise be deleted at once, and a GitOps tool would create it again
// for ever.
func (s *runSeen) endedFor() time.Duration {
	since := s.Now.Sub(s.Run.CreationTimestamp.Time)
	switch {
	case s.Row != nil && s.Row.FinishedAt != nil:
		return min(since, s.serverNow().Sub(*s.Row.FinishedAt))
	case s.Run.Status.FinishedAt == nil:
		return since
	case s.Run.Status.RunID == "":
		return min(since, s.Now.Sub(s.Run.Status.FinishedAt.Time))
	default:
		return min(since, s.serverNow().Sub(s.Run.Status.FinishedAt.Time))
	}
}

// newRun returns the row for an object. Its id is the object's uid, so that a second insert
// changes nothing.
func newRun(run *v1alpha1.WorkflowRun, cluster string, now time.Time) store.NewRun {
	spec := &run.Spec
	n := store.NewRun{
		ID:           string(run.UID),
		WorkflowName: spec.WorkflowName,
		// A run that was canceled before it has a row must not start.
		Suspended: ptr.Deref(spec.Suspend, false) || ptr.Deref(spec.Cancel, false),
	}
	if spec.Version != "" {
		n.Version = &spec.Version
	}
	if spec.IdempotencyKey != "" {
		n.IdempotencyKey = &spec.IdempotencyKey
	}
	if _, isLeftOut := inputSize(run); spec.Input != nil && !isLeftOut {
		n.Input = spec.Input.Raw
	}
	if spec.AvailableAt != nil {
		n.AvailableAt = &spec.AvailableAt.Time
	}
	switch {
	case spec.DeadlineAt != nil:
		n.DeadlineAt = &spec.DeadlineAt.Time
	case spec.TimeoutSeconds != nil:
		n.Timeout = timeLeft(run, now)
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

// timeLeft returns how much of timeoutSeconds is left. The object's age is measured by clocks of the
// cluster; what is left counts from the insert by the clock of the database, which may differ.
func timeLeft(run *v1alpha1.WorkflowRun, now time.Time) time.Duration {
	age := max(now.Sub(run.CreationTimestamp.Time), 0)
	return max(time.Duration(*run.Spec.TimeoutSeconds)*time.Second-age, time.Millisecond)
}

// statusPlan returns the plan that writes a status.
func statusPlan(status v1alpha1.WorkflowRunStatus) runPlan {
	return runPlan{Status: &status}
}

// runStatus returns the status of a run that has a row.
func runStatus(seen runSeen) v1alpha1.WorkflowRunStatus {
	return carryOver(&seen.Run.Status, rowStatus(&seen))
}

// rowStatus returns the projection of the row, with what only the manager knows.
func rowStatus(seen *runSeen) v1alpha1.WorkflowRunStatus {
	status := projection.Status(seen.Row, seen.Steps, seen.Worker)
	if seen.Succession.completed != nil {
		projection.Supersede(&status, seen.Succession.completed)
	}
	if seen.NoWorker != "" {
		status.Message = seen.NoWorker
		status.Conditions = projection.Conditions(status.State, v1alpha1.ReasonNoWorker, seen.NoWorker, seen.Row.AvailableAt.Add(fleet.Patience))
	}
	return status
}

// carryOver copies from the old status what a projection may not know, and the transition
// times of conditions that are the same.
func carryOver(old *v1alpha1.WorkflowRunStatus, status v1alpha1.WorkflowRunStatus) v1alpha1.WorkflowRunStatus {
	status.Corrections = old.Corrections
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

// waitingStatus returns the status of a run that cannot be started yet.
func waitingStatus(seen runSeen, reason, message string) v1alpha1.WorkflowRunStatus {
	message = truncateText(message, 1000)
	return carryOver(&seen.Run.Status, v1alpha1.WorkflowRunStatus{
		State:      v1alpha1.RunPending,
		Message:    message,
		Conditions: projection.Conditions(v1alpha1.RunPending, reason, message, seen.Now),
	})
}

// rejectedStatus returns the status of a run that cannot be started, and so never starts.
func rejectedStatus(seen runSeen, reason, message string) v1alpha1.WorkflowRunStatus {
	message = truncateText(message, 1000)
	return carryOver(&seen.Run.Status, v1alpha1.WorkflowRunStatus{
		State:      v1alpha1.RunFailed,
		FinishedAt: new(metav1.NewTime(seen.Now.UTC().Truncate(time.Second))),
		Error:      &v1alpha1.RunError{Name: reason, Message: message},
		Message:    message,
		Conditions: projection.Conditions(v1alpha1.RunFailed, reason, message, seen.Now),
	})
}

// canceledStatus returns the status of a fork that was canceled before its source had ended.
func canceledStatus(seen runSeen) v1alpha1.WorkflowRunStatus {
	const message = "the run was canceled before it started"
	return carryOver(&seen.Run.Status, v1alpha1.WorkflowRunStatus{
		State:      v1alpha1.RunCanceled,
		FinishedAt: new(metav1.NewTime(seen.Now.UTC().Truncate(time.Second))),
		Message:    message,
		Conditions: projection.Conditions(v1alpha1.RunCanceled, v1alpha1.ReasonCanceled, message, seen.Now),
	})
}

// missingStatus returns the status of a run whose row is gone. It is not final: the URL may
// name the wrong database.
func missingStatus(seen runSeen) v1alpha1.WorkflowRunStatus {
	return stalledStatus(seen, *seen.Run.Status.DeepCopy(), v1alpha1.ReasonRunMissing, fmt.Sprintf("run %s is no longer in the database of Backend %q; it is not started again, as its steps may have run: delete this object, or bring the row back",
		seen.RunID, backend.NameOf(seen.Run.Spec.BackendRef)))
}

// stalledStatus returns a status with the conditions of a run that needs a person, but has not
// failed.
func stalledStatus(seen runSeen, status v1alpha1.WorkflowRunStatus, reason, message string) v1alpha1.WorkflowRunStatus {
	status.Message = truncateText(message, 1000)
	conditions := projection.Conditions(v1alpha1.RunFailed, reason, status.Message, seen.Now)
	status.Conditions = nil
	for _, c := range conditions {
		if c.Type != v1alpha1.ConditionFailed { // the run itself has not failed
			status.Conditions = append(status.Conditions, c)
		}
	}
	return carryOver(&seen.Run.Status, status)
}
