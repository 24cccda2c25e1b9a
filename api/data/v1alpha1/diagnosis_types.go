package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Outcomes of a Check, and of a Diagnosis.
const (
	CheckOK      = "OK"
	CheckWarning = "Warning"
	CheckError   = "Error"
)

// Check is one thing that was looked at.
type Check struct {
	// name says what, in one word.
	Name string `json:"name"`

	// outcome is OK, Warning or Error.
	Outcome string `json:"outcome"`

	// message is one sentence.
	Message string `json:"message"`

	// next says what to do. Empty means nothing.
	// +optional
	Next string `json:"next,omitempty"`
}

// +kubebuilder:object:root=true

// Diagnosis is the health of a Backend and its database. Its name is the Backend's.
type Diagnosis struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// outcome is the worst of the checks.
	Outcome string `json:"outcome"`

	Checks []Check `json:"checks"`
}

// +kubebuilder:object:root=true

// DiagnosisList is a list of Diagnoses, by the names of the Backends.
type DiagnosisList struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Diagnosis `json:"items"`
}
