// Package v1alpha1 contains the resources of the data API: runs as rows of Postgres, whoever
// started them. The manager serves them; the API server's storage has none of them.
//
// A Run is a row of workflow_runs. A WorkflowRun (group openworkflow.dev) is an object that
// starts one and shows it.
//
// +kubebuilder:object:generate=true
// +k8s:openapi-gen=true
// +groupName=data.openworkflow.dev
package v1alpha1
