package controller

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func eventType(good bool) string {
	if good {
		return corev1.EventTypeNormal
	}
	return corev1.EventTypeWarning
}

// conditionReason returns the reason of the Ready condition, or nothing.
func conditionReason(conditions []metav1.Condition) string {
	if c := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); c != nil {
		return c.Reason
	}
	return ""
}

// backendName returns the name of the Backend that an object refers to.
func backendName(ref v1alpha1.BackendReference) string {
	if ref.Name == "" {
		return "default"
	}
	return ref.Name
}
