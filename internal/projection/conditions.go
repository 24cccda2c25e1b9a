package projection

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// conditions expresses the run's state in the conditions that "kubectl wait", Flux and Argo CD
// understand. As with a Job, all but Ready are present only while true. A canceled run is as
// its spec asks, so it is ready although not complete.
func conditions(run *openworkflow.Run, state v1alpha1.RunState, reason, message string) []metav1.Condition {
	since := run.UpdatedAt
	if run.FinishedAt != nil {
		since = *run.FinishedAt
	}
	return Conditions(state, reason, message, since)
}

// Conditions returns the conditions of a run in this state. The manager calls it for states
// that only it knows, such as a missing Backend. Since is when the state began.
func Conditions(state v1alpha1.RunState, reason, message string, since time.Time) []metav1.Condition {
	condition := func(kind string, status metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{
			Type:               kind,
			Status:             status,
			Reason:             reason,
			Message:            truncate(message, maxConditionMessage),
			LastTransitionTime: instantOf(since),
		}
	}
	ready := metav1.ConditionFalse
	if state == v1alpha1.RunCompleted || state == v1alpha1.RunCanceled {
		ready = metav1.ConditionTrue
	}
	list := []metav1.Condition{condition(v1alpha1.ConditionReady, ready)}
	switch {
	case state == v1alpha1.RunCompleted:
		list = append(list, condition(v1alpha1.ConditionComplete, metav1.ConditionTrue))
	case state == v1alpha1.RunFailed:
		list = append(list, condition(v1alpha1.ConditionFailed, metav1.ConditionTrue), condition(v1alpha1.ConditionStalled, metav1.ConditionTrue))
	case !state.Terminal() && reason != v1alpha1.ReasonSuspended:
		list = append(list, condition(v1alpha1.ConditionReconciling, metav1.ConditionTrue))
	}
	return list
}

// Supersede makes the status of a failed run that of one whose work another run has completed, which
// was forked from it, or from a fork of it. Nothing is left for anybody to do, so the run is ready and
// not stalled. It still has failed.
func Supersede(status *v1alpha1.WorkflowRunStatus, successor *openworkflow.Run) {
	since := successor.UpdatedAt
	if successor.FinishedAt != nil {
		since = *successor.FinishedAt
	}
	id := truncate(successor.ID, MaxRunID)
	status.Message = "run " + id + ", which was forked from this one, has completed"
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSuperseded,
		Message: truncate(status.Message, maxConditionMessage), LastTransitionTime: instantOf(since),
	}
	list := []metav1.Condition{ready}
	for _, c := range status.Conditions {
		if c.Type == v1alpha1.ConditionFailed {
			list = append(list, c)
		}
	}
	status.Conditions = list
}
