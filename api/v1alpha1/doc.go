// Package v1alpha1 holds the custom resources of OpenWorkflow for Kubernetes.
//
// An object's spec says what its author wants and is the source of truth for
// that alone. Execution itself lives in Postgres; status is a projection of the
// rows there and never an input to a decision about them.
//
// +kubebuilder:object:generate=true
// +groupName=openworkflow.dev
package v1alpha1
