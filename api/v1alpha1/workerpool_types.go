package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// WorkerPoolSpec says which pods execute runs, and how many of them.
type WorkerPoolSpec struct {
	// backendRef names the Backend whose runs the pool executes. Defaults to the one named default.
	// +optional
	// +default={"name": "default"}
	BackendRef BackendReference `json:"backendRef,omitzero"`

	// template is the template of the pods, as in a Deployment. The container that is named worker,
	// or else the first one, is the worker. The manager adds what a worker needs: the database URL,
	// the identity of the pod, a service account, health probes, and the settings of the restricted
	// Pod Security Standard. It does not change what the template sets itself.
	// +required
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Template runtime.RawExtension `json:"template,omitzero"`

	// replicas is the number of pods. Defaults to 1. With 0, the runs of the pool wait.
	// +optional
	// +default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	Replicas *int32 `json:"replicas,omitempty"`

	// concurrency is the number of runs that one pod executes at the same time. Defaults to 10.
	// +optional
	// +default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	Concurrency *int32 `json:"concurrency,omitempty"`

	// leaseDurationSeconds is the duration of the lease with which a worker claims a run. It bounds
	// how long a run of a dead worker stands still while no manager runs. Defaults to 10.
	// +optional
	// +default=10
	// +kubebuilder:validation:Minimum=3
	// +kubebuilder:validation:Maximum=3600
	LeaseDurationSeconds *int32 `json:"leaseDurationSeconds,omitempty"`

	// maxWorkerDeaths is how many processes of workers may die in a row while they execute a run,
	// without progress of the run, until the run fails. Only the death of a process counts: not the
	// end of its pod (a rollout, a drain, an eviction), and not the loss of the node or the database.
	// Defaults to 5.
	// +optional
	// +default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxWorkerDeaths *int32 `json:"maxWorkerDeaths,omitempty"`

	// healthPort is the port of the worker's endpoints /healthz and /readyz. Defaults to 8081.
	// Set it to 0 for workers without these endpoints, such as OpenWorkflow's TypeScript
	// worker; only the template's own probes are used then.
	// +optional
	// +default=8081
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	HealthPort *int32 `json:"healthPort,omitempty"`

	// workflows lists the workflows that the pool serves. It is needed only for workers that do not
	// announce this, such as those in TypeScript; Go workers do.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Workflows []ServedWorkflow `json:"workflows,omitempty"`
}

// BackendReference names a Backend in the same namespace.
// +kubebuilder:validation:MinProperties=1
type BackendReference struct {
	// name is the Backend's name. Defaults to default.
	// +optional
	// +default="default"
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
}

// ServedWorkflow is one version of a workflow that a pool can execute.
type ServedWorkflow struct {
	// name is the workflow's name.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// version is the workflow's version. Empty means the unversioned workflow.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Version string `json:"version,omitempty"`
}

// WorkerPoolStatus is the last observation of the pool by the manager.
// +kubebuilder:validation:MinProperties=1
type WorkerPoolStatus struct {
	// observedGeneration is the generation of the spec that this status describes.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// replicas is the number of pods that exist.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Replicas *int32 `json:"replicas,omitempty"`

	// readyReplicas is the number of pods that are ready.
	// +optional
	// +kubebuilder:validation:Minimum=0
	ReadyReplicas *int32 `json:"readyReplicas,omitempty"`

	// updatedReplicas is the number of pods that have the current template.
	// +optional
	// +kubebuilder:validation:Minimum=0
	UpdatedReplicas *int32 `json:"updatedReplicas,omitempty"`

	// selector selects the pool's pods, for the scale subresource.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Selector string `json:"selector,omitempty"`

	// workflows lists the workflows that the pool's live workers serve.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=256
	Workflows []ServedWorkflow `json:"workflows,omitempty"`

	// stuckSteps is the number of functions in the pool's live workers that do not return although
	// their runs have ended or moved on. Empty means none.
	// +optional
	// +kubebuilder:validation:Minimum=0
	StuckSteps *int32 `json:"stuckSteps,omitempty"`

	// conditions are Ready, and Reconciling, Stalled or StuckSteps while true.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:shortName=wp,categories={openworkflow}
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.spec.replicas`
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.readyReplicas`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.spec.backendRef.name`,priority=1
// +kubebuilder:printcolumn:name="Workflows",type=string,JSONPath=`.status.workflows[*].name`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1

// WorkerPool is a set of pods that execute workflow runs.
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 200",message="metadata.name must be at most 200 characters"
type WorkerPool struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which pods to run, and how many.
	// +required
	Spec WorkerPoolSpec `json:"spec,omitzero"`

	// status is the last observation of the pool by the manager.
	// +optional
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NotObserved", "message": "not seen by the manager yet", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	Status WorkerPoolStatus `json:"status,omitzero"`

	// Unreadable names what of the object could not be decoded, nil if all was. It is no part of
	// the API.
	Unreadable *Unreadable `json:"-"`
}

// +kubebuilder:object:root=true

// WorkerPoolList is a list of WorkerPools.
type WorkerPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkerPool `json:"items"`
}
