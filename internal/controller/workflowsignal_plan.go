package controller

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// signalSeen is what a signal's status is made from.
type signalSeen struct {
	Signal  *v1alpha1.WorkflowSignal
	Cluster string
	// Now is the time, and ServerNow that of the database, if it is ready.
	Now, ServerNow time.Time
	Backend        backend.State
	// RunID is the id of the run that receives the signal, empty for any.
	RunID string
	// Missing says why the run that receives the signal cannot be told yet, empty if it can.
	Missing string
	// Refused is the reason why the signal is never sent, empty if it may be, and Message says more.
	Refused, Message string
	// Note is added to the message about a delivery.
	Note string
	// Result is what the database says of the signal, nil if it was not asked.
	Result *store.SignalResult
}

// targetOf returns the run that receives a signal, by the name of its object or by its id, neither for
// any.
func targetOf(s *v1alpha1.WorkflowSignal) (name, id string) {
	switch {
	case s.Spec.Approval != nil:
		return s.Spec.Approval.RunName, s.Spec.Approval.RunID
	case s.Spec.Target != nil:
		return s.Spec.Target.RunName, s.Spec.Target.RunID
	default:
		return "", ""
	}
}

// subjectOf names what is sent.
func subjectOf(s *v1alpha1.WorkflowSignal) string {
	if a := s.Spec.Approval; a != nil && a.Step != nil {
		return fmt.Sprintf("the decision about step %q", *a.Step)
	}
	return fmt.Sprintf("signal %q", s.Spec.Signal)
}

// signalExpiry returns when a signal expires, nil for one that is not kept.
func signalExpiry(s *v1alpha1.WorkflowSignal) *metav1.Time {
	if s.Spec.Delivery == v1alpha1.SignalNow {
		return nil
	}
	seconds := int64(v1alpha1.DefaultSignalExpirationSeconds)
	if s.Spec.ExpirationSeconds != nil {
		seconds = *s.Spec.ExpirationSeconds
	}
	return new(metav1.NewTime(s.CreationTimestamp.Add(time.Duration(seconds) * time.Second)))
}

// recheck returns the time after which a signal expires that the database does not have, 0 for one
// that something else will have reconciled.
func (s *signalSeen) recheck() time.Duration {
	expiresAt := signalExpiry(s.Signal)
	isDecision := s.Signal.Spec.Approval != nil && s.Result != nil && s.Result.State == store.SignalWaiting
	if s.Missing == "" && !isDecision || expiresAt == nil {
		return 0
	}
	return max(expiresAt.Sub(s.ServerNow), 0)
}

// outcome is what has become of a signal: the reason of its conditions.
type outcome struct {
	reason, message string
	// isKept says that the signal will be delivered once a run waits for it, and isOver that it will
	// not be delivered any more, unless it was.
	isKept, isOver bool
	finishedAt     time.Time
}

// outcomeOf returns what has become of a signal.
func outcomeOf(seen signalSeen) outcome {
	what := subjectOf(seen.Signal)
	expiresAt := signalExpiry(seen.Signal)
	switch {
	case seen.Refused != "":
		return outcome{reason: seen.Refused, message: seen.Message, isOver: seen.Refused != v1alpha1.ReasonUnreadable, finishedAt: seen.Now}
	case !seen.Backend.Ready:
		name := backend.NameOf(seen.Signal.Spec.BackendRef)
		return outcome{reason: backendReason(seen.Backend), message: backendMessage(name, seen.Backend)}
	case seen.Missing != "" && expiresAt == nil:
		return outcome{reason: v1alpha1.ReasonNoReceiver, message: seen.Missing + ", and a signal with delivery Now is not kept", isOver: true, finishedAt: seen.ServerNow}
	case seen.Missing != "" && !expiresAt.After(seen.ServerNow):
		return outcome{reason: v1alpha1.ReasonExpired, message: "the signal has expired: " + seen.Missing, isOver: true, finishedAt: seen.ServerNow}
	case seen.Missing != "":
		return outcome{reason: v1alpha1.ReasonRunNotFound, message: seen.Missing + ": " + what + " is sent once it was started"}
	}
	result := outcome{isOver: true, finishedAt: seen.Now}
	if seen.Result.FinishedAt != nil {
		result.finishedAt = *seen.Result.FinishedAt
	}
	switch seen.Result.State {
	case store.SignalWaiting:
		return outcome{reason: v1alpha1.ReasonWaiting, isKept: true, message: fmt.Sprintf(
			"%s is kept until a run waits for it, at most until %s", what, expiresAt.UTC().Format(time.RFC3339))}
	case store.SignalDelivered:
		result.reason, result.message = v1alpha1.ReasonDelivered, receivers(what, seen.Result.Runs)+seen.Note
	case store.SignalUnreceived:
		result.reason, result.message = v1alpha1.ReasonNoReceiver, "no run waited for "+what+", and with delivery Now it is not kept"
	case store.SignalExpired:
		result.reason, result.message = v1alpha1.ReasonExpired, "no run has waited for "+what+" in time"
	case store.SignalRunEnded:
		result.reason, result.message = v1alpha1.ReasonRunEnded, "the run has ended and does not wait for "+what
	}
	return result
}

func receivers(what string, runs int) string {
	if runs == 1 {
		return "a run has received " + what
	}
	return fmt.Sprintf("%d runs have received %s", runs, what)
}

// signalStatus returns the status of a signal, nil if nothing may be concluded yet.
func signalStatus(seen signalSeen) *v1alpha1.WorkflowSignalStatus {
	if seen.Refused == "" && !seen.Backend.Known {
		return nil
	}
	o, s := outcomeOf(seen), seen.Signal
	status := v1alpha1.WorkflowSignalStatus{ObservedGeneration: s.Generation, ExpiresAt: signalExpiry(s)}
	for i := range s.Status.Conditions {
		status.Conditions = append(status.Conditions, *s.Status.Conditions[i].DeepCopy())
	}
	isDelivered := o.reason == v1alpha1.ReasonDelivered
	isStalled := o.isOver && !isDelivered || o.reason == v1alpha1.ReasonUnreadable
	set := conditionSetter(&status.Conditions, s.Generation, seen.Now)
	set(v1alpha1.ConditionReady, isDelivered || o.isKept, o.reason, o.message)
	set(v1alpha1.ConditionDelivered, isDelivered, o.reason, o.message)
	set.only(v1alpha1.ConditionReconciling, !isDelivered && !o.isKept && !isStalled, o.reason, o.message)
	set.only(v1alpha1.ConditionStalled, isStalled, o.reason, o.message)
	if o.isOver {
		status.FinishedAt = new(metav1.NewTime(o.finishedAt.UTC().Truncate(time.Second)))
	}
	if isDelivered {
		status.ExpiresAt = nil
		status.DeliveryCount = new(int32(min(seen.Result.Runs, 1<<31-1)))
		status.Deliveries = deliveriesOf(seen)
	}
	return &status
}

// deliveriesOf returns the deliveries of a signal.
func deliveriesOf(seen signalSeen) (deliveries []v1alpha1.SignalDelivery) {
	for _, d := range seen.Result.Deliveries {
		shown := v1alpha1.SignalDelivery{
			RunID: truncateText(d.RunID, 253), Step: truncateText(d.Step, projection.MaxStepName), Time: new(metav1.NewTime(d.At.UTC().Truncate(time.Second))),
		}
		if o := d.Object; o != nil && o.Cluster == seen.Cluster && o.Namespace == seen.Signal.Namespace {
			shown.RunName = truncateText(o.Name, 253)
		}
		deliveries = append(deliveries, shown)
	}
	return deliveries
}

// readyMessage returns the message of the Ready condition.
func readyMessage(conditions []metav1.Condition) string {
	for _, c := range conditions {
		if c.Type == v1alpha1.ConditionReady {
			return c.Message
		}
	}
	return ""
}
