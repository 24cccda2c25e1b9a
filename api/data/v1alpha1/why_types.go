package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of a RunWhy beside those of a WorkflowRun's Ready condition (Completed, WorkflowFailed,
// DeadlineExceeded, WorkerDeathsExceeded, Canceled, Suspended, Scheduled, Retrying, Quarantined,
// NoWorker, Running, Waiting, BackendNotReady, StuckSteps).
const (
	// WhySuspending: the run is suspended, and its worker has not stopped yet.
	WhySuspending = "Suspending"
	// WhySleeping: the run waits for a time.
	WhySleeping = "Sleeping"
	// WhyWaitingForSignal and WhyWaitingForChild: the run waits for a signal, or for a run that it
	// has started.
	WhyWaitingForSignal = "WaitingForSignal"
	WhyWaitingForChild  = "WaitingForChild"
	// WhyWaitingForApproval: the run waits for the decision of approvers.
	WhyWaitingForApproval = "WaitingForApproval"
	// WhyWakePending: what the run waits for is there, and the run has not been made due yet.
	WhyWakePending = "WakePending"
	// WhyQueued: the run is runnable and waits for a free slot of a worker.
	WhyQueued = "Queued"
	// WhyLeaseExpired: the worker of the run has not extended its lease; another takes it over.
	WhyLeaseExpired = "LeaseExpired"
	// WhyNeverDue: the run's row has no time at which it is due.
	WhyNeverDue = "NeverDue"
)

// +kubebuilder:object:root=true

// RunWhy says what a run waits for, or how it ended, and what to do.
type RunWhy struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// message is one sentence.
	Message string `json:"message"`

	// reason is the same for programs.
	Reason string `json:"reason"`

	// next says what to do. Empty means nothing.
	// +optional
	Next string `json:"next,omitempty"`

	// since is when that began.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`

	// until is when the run goes on by itself at the latest.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// state is the state of the run. Empty if its database does not answer.
	// +optional
	State string `json:"state,omitempty"`

	// workflowName is the name of the run's workflow.
	// +optional
	WorkflowName string `json:"workflowName,omitempty"`

	// version is the version of the run's workflow.
	// +optional
	Version string `json:"version,omitempty"`

	// backend is the name of the Backend that holds the run.
	// +optional
	Backend string `json:"backend,omitempty"`

	// object is the name of the WorkflowRun that the run mirrors.
	// +optional
	Object string `json:"object,omitempty"`

	// waits are the steps in which the run waits or that it executes, oldest first, at most 20.
	// +optional
	Waits []RunWait `json:"waits,omitempty"`

	// blockers are the runs below: the child that the run waits for, the child that this one waits
	// for, and so on, at most 5.
	// +optional
	Blockers []RunBlocker `json:"blockers,omitempty"`

	// ahead is how many runnable runs of the workflow are claimed before this one, up to 1,000.
	// +optional
	Ahead int32 `json:"ahead,omitempty"`

	// pools are the WorkerPools of the Backend, for a run that waits for a worker.
	// +optional
	Pools []RunPool `json:"pools,omitempty"`
}

// RunWait is a step that has not ended.
type RunWait struct {
	// step is the step's durable name.
	Step string `json:"step"`

	// kind is function, sleep, workflow, signal-send or signal-wait.
	Kind string `json:"kind"`

	// signal is the name of the signal that the step waits for.
	// +optional
	Signal string `json:"signal,omitempty"`

	// child is the id of the run that the step waits for.
	// +optional
	Child string `json:"child,omitempty"`

	// over is true when the child has ended, or the signal was delivered.
	// +optional
	Over bool `json:"over,omitempty"`

	// since is when the step began.
	Since metav1.Time `json:"since"`

	// until is when the wait ends by itself.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
}

// RunBlocker is a run below another one that waits for it.
type RunBlocker struct {
	// run is the run's id.
	Run string `json:"run"`

	// workflowName is the name of its workflow.
	WorkflowName string `json:"workflowName"`

	// reason and message say why it has not ended, as those of a RunWhy.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// RunPool is a WorkerPool, and what it serves.
type RunPool struct {
	// name is the name of the WorkerPool.
	Name string `json:"name"`

	// readyPods and desiredPods are how many pods are ready, and how many there should be.
	ReadyPods   int32 `json:"readyPods"`
	DesiredPods int32 `json:"desiredPods"`

	// slots is how many runs the ready pods execute at a time.
	Slots int32 `json:"slots"`

	// serves is whether the pool serves the run's workflow and version.
	Serves bool `json:"serves"`

	// workflows are what the pool serves, as name or name@version, at most 32.
	// +optional
	Workflows []string `json:"workflows,omitempty"`
}
