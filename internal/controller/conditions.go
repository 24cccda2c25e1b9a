package controller

import (
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// maxNote is the length of the longest note of an event that the API server accepts, in bytes.
const maxNote = 1024

// boundedEvents cuts notes that are longer.
type boundedEvents struct{ events.EventRecorder }

// Eventf implements events.EventRecorder.
func (b boundedEvents) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	b.EventRecorder.Eventf(regarding, related, kind, reason, action, "%s", truncateText(fmt.Sprintf(note, args...), maxNote))
}

// eventType returns the type of an event about something good, or not.
func eventType(good bool) string {
	if good {
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}

// conditionReason returns the reason of the Ready condition, empty if there is none.
func conditionReason(conditions []metav1.Condition) string {
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

// setCondition sets one condition of a list, or removes it if the reason is empty. The
// time of the last transition changes only with the condition's status.
type setCondition func(kind string, truth bool, reason, message string)

// conditionSetter returns a setCondition for this list.
func conditionSetter(list *[]metav1.Condition, generation int64, now time.Time) setCondition {
	return func(kind string, truth bool, reason, message string) {
		if reason == "" {
			meta.RemoveStatusCondition(list, kind)
			return
		}
		status := metav1.ConditionFalse
		if truth {
			status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(list, metav1.Condition{
			Type:               kind,
			Status:             status,
			Reason:             reason,
			Message:            message,
			ObservedGeneration: generation,
			LastTransitionTime: metav1.NewTime(now.UTC().Truncate(time.Second)),
		})
	}
}

// only sets a condition that is present only while true.
func (set setCondition) only(kind string, truth bool, reason, message string) {
	if truth {
		set(kind, true, reason, message)
	} else {
		set(kind, false, "", "")
	}
}

// statusPatch returns the patch of an object's status. It replaces all of a status of which a part
// could not be read, and which a comparison would therefore miss.
func statusPatch(before client.Object, status any, whole bool) client.Patch {
	if !whole {
		return client.MergeFrom(before)
	}
	return wholeStatus{before.GetUID(), status}
}

// wholeStatus is a client.Patch that replaces a status.
type wholeStatus struct {
	uid    types.UID
	status any
}

// Type implements client.Patch.
func (wholeStatus) Type() types.PatchType { return types.JSONPatchType }

// Data implements client.Patch.
func (p wholeStatus) Data(client.Object) ([]byte, error) {
	return json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": p.uid},
		{"op": "add", "path": "/status", "value": p.status},
	})
}

// truncateText cuts text to at most limit bytes, between two characters.
func truncateText(text string, limit int) string { return openworkflow.Truncate(text, limit) }

// backendReason returns the reason of an object whose Backend is not ready, and
// backendMessage its message.
func backendReason(state backend.State) string {
	if state.Reason == v1alpha1.ReasonBackendNotFound {
		return v1alpha1.ReasonBackendNotFound
	}
	return v1alpha1.ReasonBackendNotReady
}

func backendMessage(name string, state backend.State) string {
	if state.Reason == v1alpha1.ReasonBackendNotFound {
		return state.Message
	}
	return fmt.Sprintf("Backend %q is not ready (%s): %s", name, state.Reason, state.Message)
}

// notReadyReason returns the reason why an object is not ready, empty if it is.
func notReadyReason(conditions []metav1.Condition) string {
	for _, c := range conditions {
		if c.Type == v1alpha1.ConditionReady && c.Status != metav1.ConditionTrue {
			return c.Reason
		}
	}
	return ""
}
