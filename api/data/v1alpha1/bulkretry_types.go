package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BulkRetryFrom says which results of a run its retry takes over.
type BulkRetryFrom string

const (
	// FromLastFailed takes over all completed steps but those that began after the failure that
	// ended the run.
	FromLastFailed BulkRetryFrom = "LastFailed"
	// FromStep takes over the completed steps that began before spec.step.
	FromStep BulkRetryFrom = "Step"
	// FromStart takes over nothing.
	FromStart BulkRetryFrom = "Start"
)

// BulkRetryChildren says what becomes of the results of child runs.
type BulkRetryChildren string

const (
	// ChildrenKeep takes over the results of children as those of other steps.
	ChildrenKeep BulkRetryChildren = "Keep"
	// ChildrenRestart takes over none, so that all children are started anew.
	ChildrenRestart BulkRetryChildren = "Restart"
)

// BulkRetrySelector selects runs that have failed or were canceled before the request was created.
// Runs that another run has started are not selected: their parents start them anew.
type BulkRetrySelector struct {
	// workflowName selects the runs of a workflow. Empty means all.
	// +optional
	WorkflowName string `json:"workflowName,omitempty"`

	// version selects the runs of a version; the empty text is the unversioned one. Absent means all.
	// +optional
	Version *string `json:"version,omitempty"`

	// states are those of the runs: Failed, Canceled or both. Empty means Failed.
	// +optional
	// +listType=set
	States []string `json:"states,omitempty"`

	// errorName selects the runs whose error has this name, as status.errorName shows it. Empty
	// means all.
	// +optional
	ErrorName string `json:"errorName,omitempty"`

	// finishedFrom and finishedBefore bound the end of the runs by the database's clock: from is
	// included, before is not. Empty means no bound.
	// +optional
	FinishedFrom *metav1.Time `json:"finishedFrom,omitempty"`
	// +optional
	FinishedBefore *metav1.Time `json:"finishedBefore,omitempty"`
}

// BulkRetrySpec says which runs to retry, and how. Only suspend and cancel may be changed.
type BulkRetrySpec struct {
	// backend is the name of the Backend that holds the runs. Defaults to the one named default.
	// +optional
	Backend string `json:"backend,omitempty"`

	// selector selects the runs.
	// +optional
	Selector BulkRetrySelector `json:"selector"`

	// from says which results a retry takes over: LastFailed, Step or Start. Defaults to LastFailed.
	// +optional
	From BulkRetryFrom `json:"from,omitempty"`

	// step is the durable name of the step from which on runs are executed anew, with from: Step.
	// +optional
	Step string `json:"step,omitempty"`

	// children says what becomes of the results of child runs: Keep or Restart. Defaults to Keep.
	// +optional
	Children BulkRetryChildren `json:"children,omitempty"`

	// runsPerMinute is the largest number of runs that are retried in a minute, up to 6000. Defaults
	// to 600.
	// +optional
	RunsPerMinute int32 `json:"runsPerMinute,omitempty"`

	// maxRuns ends the request when so many runs were retried. Empty means no bound.
	// +optional
	MaxRuns int32 `json:"maxRuns,omitempty"`

	// suspend, while true, makes the request pause.
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// cancel, if true, ends the request. The runs that it has retried go on. It cannot be taken back.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
}

// BulkRetryFailure says why a run could not be retried.
type BulkRetryFailure struct {
	// run is the id of the run.
	Run string `json:"run"`

	// message says why.
	Message string `json:"message"`
}

// BulkRetryStatus says how far the request has come.
type BulkRetryStatus struct {
	// state is Running, Suspended, Completed or Canceled.
	// +optional
	State string `json:"state,omitempty"`

	// matched is how many runs matched when the request was created, and had not been retried.
	Matched int32 `json:"matched"`

	// matchedMore is true if these are only the first: the newer part of the history was not counted.
	// +optional
	MatchedMore bool `json:"matchedMore,omitempty"`

	// sample are the ids of the first runs that match. Only a dry run has it.
	// +optional
	// +listType=atomic
	Sample []string `json:"sample,omitempty"`

	// started is how many runs were retried.
	Started int32 `json:"started"`

	// skipped is how many were passed over because they had been retried by other means.
	Skipped int32 `json:"skipped"`

	// failed is how many could not be retried. failures are the first of them.
	Failed int32 `json:"failed"`
	// +optional
	// +listType=atomic
	Failures []BulkRetryFailure `json:"failures,omitempty"`

	// finishedAt is when the request was completed or canceled.
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
}

// +kubebuilder:object:root=true

// BulkRetry retries many runs, at a bounded rate. The manager makes a new run for each.
type BulkRetry struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec BulkRetrySpec `json:"spec"`

	// +optional
	Status BulkRetryStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// BulkRetryList is a list of BulkRetries, newest first.
type BulkRetryList struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []BulkRetry `json:"items"`
}
