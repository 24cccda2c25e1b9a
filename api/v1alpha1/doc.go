// Package v1alpha1 contains the custom resources of OpenWorkflow for Kubernetes.
//
// The spec of an object is the source of truth for what its author wants. Postgres is the source
// of truth for the execution of runs: status is a projection of the rows there, and no decision
// about rows depends on it.
//
// +kubebuilder:object:generate=true
// +groupName=openworkflow.dev
package v1alpha1
