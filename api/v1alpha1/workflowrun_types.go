package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkflowRunSpec says which workflow to run once, and with which input. The fields that define
// the run are immutable; cancel, suspend and ttlSecondsAfterFinished may change at any time.
//
// Immutability is one rule, because the API server evaluates each rule at every status write.
// +kubebuilder:validation:XValidation:rule="self == oldSelf || (self.workflowName == oldSelf.workflowName && self.backendRef == oldSelf.backendRef && (has(self.version) ? has(oldSelf.version) && self.version == oldSelf.version : !has(oldSelf.version)) && (has(self.idempotencyKey) ? has(oldSelf.idempotencyKey) && self.idempotencyKey == oldSelf.idempotencyKey : !has(oldSelf.idempotencyKey)) && (has(self.availableAt) ? has(oldSelf.availableAt) && self.availableAt == oldSelf.availableAt : !has(oldSelf.availableAt)) && (has(self.timeoutSeconds) ? has(oldSelf.timeoutSeconds) && self.timeoutSeconds == oldSelf.timeoutSeconds : !has(oldSelf.timeoutSeconds)) && (has(self.deadlineAt) ? has(oldSelf.deadlineAt) && self.deadlineAt == oldSelf.deadlineAt : !has(oldSelf.deadlineAt)) && (has(self.from) ? has(oldSelf.from) && self.from == oldSelf.from : !has(oldSelf.from)))",message="workflowName, backendRef, version, idempotencyKey, availableAt, deadlineAt, timeoutSeconds and from are immutable: delete the WorkflowRun and create another"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",message="cancel cannot be taken back"
// +kubebuilder:validation:XValidation:rule="!has(self.deadlineAt) || !has(self.timeoutSeconds)",message="give deadlineAt or timeoutSeconds, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.from) || !has(self.idempotencyKey)",message="give from or idempotencyKey, not both: each WorkflowRun with from is a run of its own"
type WorkflowRunSpec struct {
	// backendRef names the Backend that holds the run. Defaults to the one named default.
	// +optional
	// +default={"name": "default"}
	BackendRef BackendReference `json:"backendRef,omitzero"`

	// workflowName is the name of the workflow, as its worker defines it. With from, it must be that
	// of the run that is forked.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	WorkflowName string `json:"workflowName,omitempty"`

	// version is the version of the workflow, which must match exactly. Empty means the
	// unversioned workflow. With from, empty means the version of the run that is forked.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Version string `json:"version,omitempty"`

	// input is the input of the workflow: any JSON value, up to 1 MiB. Empty means null. With from,
	// empty means the input of the run that is forked.
	// +optional
	Input *apiextensionsv1.JSON `json:"input,omitempty"`

	// from makes the run a fork: a new run of the same workflow that takes over stored results of a
	// run that has ended, which itself does not change. Steps whose results are taken over are not
	// executed again. The run starts once that run has ended. Empty means a run that starts from
	// nothing.
	// +optional
	From *ForkSource `json:"from,omitzero"`

	// idempotencyKey makes all WorkflowRuns with the same key and the same workflow share one
	// run: a later object shows the run that the first one started, even when the first object
	// no longer exists. Empty means that each object has a run of its own.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	IdempotencyKey string `json:"idempotencyKey,omitempty"`

	// availableAt is the earliest time at which the run starts. Empty means at once.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	AvailableAt *metav1.Time `json:"availableAt,omitempty"`

	// deadlineAt is when the run fails if it has not ended. Empty means no deadline.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	DeadlineAt *metav1.Time `json:"deadlineAt,omitempty"`

	// timeoutSeconds sets the deadline as a number of seconds after the creation of the object.
	// Empty means no deadline.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3153600000
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`

	// cancel cancels the run. The context of a step that is executing ends. It cannot be set back
	// to false.
	// +optional
	Cancel *bool `json:"cancel,omitempty"`

	// suspend stops the run before its next step. A step that is executing ends first, and its
	// result is stored. Setting suspend to false resumes the run.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`

	// ttlSecondsAfterFinished deletes the object this many seconds after the end of its run, or
	// after its own creation if that is later. Empty means what the retention of the Backend says of
	// objects, and to keep the object if it says nothing. The rows in the database stay for as long as
	// that retention says.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// ForkSource says which results a fork takes over, and of which run. Without step and lastFailed it
// takes over none: the fork is a rerun.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.runName) != has(self.runID)",message="give runName, for a WorkflowRun of this namespace, or runID, for any run of the Backend: one of the two"
// +kubebuilder:validation:XValidation:rule="!has(self.step) || !has(self.lastFailed) || !self.lastFailed",message="give step or lastFailed, not both: step names the first step to execute again, lastFailed means the one that made the run fail"
// +kubebuilder:validation:XValidation:rule="!has(self.outputs) || has(self.step) || (has(self.lastFailed) && self.lastFailed)",message="outputs need step or lastFailed: without them the run starts from nothing and takes over no results"
type ForkSource struct {
	// runName is the name of the WorkflowRun to fork, in the same namespace and of the same Backend.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunName string `json:"runName,omitempty"`

	// runID is the id of the run to fork, in the same Backend: status.runID of its WorkflowRun, or
	// the id of a run without an object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunID string `json:"runID,omitempty"`

	// step is the durable name of the first step to execute again ("page:1" is the second "page").
	// The results of steps that began before its first attempt are taken over.
	// +optional
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=1024
	Step *string `json:"step,omitempty"`

	// lastFailed makes the run a retry: it takes over all completed steps but those that began after
	// the failure that ended the run.
	// +optional
	LastFailed *bool `json:"lastFailed,omitempty"`

	// outputs are corrected results of steps, in place of those that the run had. Each of these steps
	// must have begun before the one from which the fork starts, or be that one. It counts as
	// completed, whatever became of it.
	// +optional
	// +listType=map
	// +listMapKey=step
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Outputs []StepOutput `json:"outputs,omitempty"`

	// children says what becomes of child runs that have ended before the step from which the fork
	// starts: Keep takes over their results, Restart starts them anew. Defaults to Keep.
	// +optional
	// +kubebuilder:validation:Enum=Keep;Restart
	Children ForkChildren `json:"children,omitempty"`
}

// ForkChildren says what a fork does about child runs.
// +enum
type ForkChildren string

const (
	// ForkKeepChildren takes over the results of child runs.
	ForkKeepChildren ForkChildren = "Keep"
	// ForkRestartChildren starts child runs anew.
	ForkRestartChildren ForkChildren = "Restart"
)

// StepOutput is a corrected result of a step.
type StepOutput struct {
	// step is the durable name of the step.
	// +required
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=1024
	Step *string `json:"step,omitempty"`

	// value is the result: of a function or a child run its output, of a wait for a signal the
	// signal's data. Empty means null.
	// +optional
	Value *apiextensionsv1.JSON `json:"value,omitempty"`
}

// RunState is the state of a run.
// +enum
type RunState string

const (
	// RunPending means that the run waits for a worker or for a retry.
	RunPending RunState = "Pending"
	// RunRunning means that a worker is executing the run.
	RunRunning RunState = "Running"
	// RunWaiting means that the run is parked until a time, a child or a signal.
	RunWaiting RunState = "Waiting"
	// RunCompleted means that the workflow has returned its output.
	RunCompleted RunState = "Completed"
	// RunFailed means that the run has failed and is not retried.
	RunFailed RunState = "Failed"
	// RunCanceled means that the run was canceled.
	RunCanceled RunState = "Canceled"
)

// Terminal reports whether a run in this state never changes again.
func (s RunState) Terminal() bool {
	return s == RunCompleted || s == RunFailed || s == RunCanceled
}

// The messages with which the API server refuses a status, by the transition rule of
// WorkflowRunStatus. Writers recognize a refusal by them.
const (
	// StatusOutdatedMessage means that the object has a status of a later revision.
	StatusOutdatedMessage = "status of an older revision: the run has moved on"
	// StatusEndedMessage means that the object has a terminal state.
	StatusEndedMessage = "the run has ended: its state cannot change"
)

// WorkflowRunStatus is a projection of the run's rows in Postgres. Workers and the manager both
// write it: the API server refuses a write with an older revision.
// +mapType=atomic
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="(has(self.corrections) ? has(oldSelf.corrections) && self.corrections == oldSelf.corrections : !has(oldSelf.corrections)) ? (!has(oldSelf.revision) || (has(self.revision) && self.revision >= oldSelf.revision)) && (!has(oldSelf.state) || !(oldSelf.state in ['Completed', 'Failed', 'Canceled']) || (has(self.state) && self.state == oldSelf.state)) : has(self.corrections) && self.corrections == (has(oldSelf.corrections) ? oldSelf.corrections + 1 : 1)",messageExpression="(has(self.corrections) ? self.corrections : 0) != (has(oldSelf.corrections) ? oldSelf.corrections : 0) ? 'corrections are counted up, by one' : has(oldSelf.revision) && !(has(self.revision) && self.revision >= oldSelf.revision) ? 'status of an older revision: the run has moved on' : 'the run has ended: its state cannot change'"
type WorkflowRunStatus struct {
	// observedGeneration is the generation of the spec that the manager last acted on.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// revision increases with every change of the run's row. It orders the writes of this status.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=2251799813685247
	Revision *int64 `json:"revision,omitempty"`

	// corrections is how often the manager has replaced a status that did not come from the run's
	// row. Only such a replacement may go back to an older revision, or change a terminal state.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Corrections *int64 `json:"corrections,omitempty"`

	// state is the state of the run.
	// +optional
	// +kubebuilder:validation:Enum=Pending;Running;Waiting;Completed;Failed;Canceled
	State RunState `json:"state,omitempty"`

	// runID is the id of the run's row in workflow_runs. It is the uid of this object, or the id of
	// an earlier run with the same idempotency key.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunID string `json:"runID,omitempty"`

	// forkedFrom is the id of the run whose results the run took over. Empty if it is no fork.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ForkedFrom string `json:"forkedFrom,omitempty"`

	// forkStep is the step at which the run left the history of the run that it was forked from, cut
	// at 128 characters. Empty if it took over all of that or nothing.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ForkStep string `json:"forkStep,omitempty"`

	// supersededBy is the id of the newest run that was forked from this one. Once it, or one that
	// was forked from it in turn, has completed, a failed run is Ready, with the reason Superseded.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	SupersededBy string `json:"supersededBy,omitempty"`

	// worker is the pod that executes the run, or that executed it last.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Worker string `json:"worker,omitempty"`

	// attempts is the number of claims of the run by workers, for any cause: the first execution,
	// the end of a wait, a retry, or the death of a worker.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Attempts *int32 `json:"attempts,omitempty"`

	// startedAt is when a worker first claimed the run.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// finishedAt is when the run ended.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// duration is the time from startedAt to finishedAt, as text for people.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Duration string `json:"duration,omitempty"`

	// nextAt is when a run that waits or will be retried is due.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	NextAt *metav1.Time `json:"nextAt,omitempty"`

	// output is what the workflow returned. A value above 2 KiB is left out; the database has it.
	// +optional
	Output *apiextensionsv1.JSON `json:"output,omitempty"`

	// outputTruncated is true when output was left out because of its size.
	// +optional
	OutputTruncated *bool `json:"outputTruncated,omitempty"`

	// error is the error of a failed run, or of its last failed attempt.
	// +optional
	Error *RunError `json:"error,omitzero"`

	// steps summarizes the run's steps. Counts of zero are left out.
	// +optional
	Steps *StepsStatus `json:"steps,omitzero"`

	// message is one sentence: what the run waits for, why and when it will be retried, or why it
	// ended without an output.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`

	// conditions are Ready, and Complete, Failed, Reconciling and Stalled while true.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// RunError is an error of a run or of a step.
// +kubebuilder:validation:MinProperties=1
type RunError struct {
	// name is the type of the error.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`

	// message is the text of the error, cut at 1 KiB.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1100
	Message string `json:"message,omitempty"`

	// truncated is true when the text was cut. The database has all of it.
	// +optional
	Truncated *bool `json:"truncated,omitempty"`
}

// StepsStatus summarizes the steps of a run.
type StepsStatus struct {
	// summary is the number of completed steps over the number of started steps, as text for
	// people.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`

	// completed is the number of steps whose result is stored.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Completed *int32 `json:"completed,omitempty"`

	// running is the number of steps that are executing or waiting.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Running *int32 `json:"running,omitempty"`

	// failed is the number of failed step attempts, including those that were retried.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Failed *int32 `json:"failed,omitempty"`

	// newest lists the step attempts that started last, oldest first. It is empty for a completed
	// run, whose steps are in the database.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=5
	Newest []StepStatus `json:"newest,omitempty"`
}

// StepStatus is one attempt of a step.
type StepStatus struct {
	// name is the step's name, cut at 128 characters.
	// +required
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=128
	Name *string `json:"name,omitempty"`

	// kind is function, sleep, workflow, signal-send or signal-wait.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	Kind string `json:"kind,omitempty"`

	// state is running, completed or failed.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	State string `json:"state,omitempty"`

	// startedAt is when the attempt started.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// finishedAt is when the attempt ended.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// error is the text of the attempt's error, cut at 256 bytes.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	Error string `json:"error,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wfr,categories={openworkflow}
// +kubebuilder:selectablefield:JSONPath=`.spec.workflowName`
// +kubebuilder:selectablefield:JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Workflow",type=string,JSONPath=`.spec.workflowName`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Steps",type=string,JSONPath=`.status.steps.summary`
// +kubebuilder:printcolumn:name="Worker",type=string,JSONPath=`.status.worker`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Duration",type=string,JSONPath=`.status.duration`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.version`,priority=1
// +kubebuilder:printcolumn:name="Attempts",type=integer,JSONPath=`.status.attempts`,priority=1
// +kubebuilder:printcolumn:name="Run-ID",type=string,JSONPath=`.status.runID`,priority=1
// +kubebuilder:printcolumn:name="Forked-From",type=string,JSONPath=`.status.forkedFrom`,priority=1
// +kubebuilder:printcolumn:name="Superseded-By",type=string,JSONPath=`.status.supersededBy`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1

// WorkflowRun is one run of a workflow.
type WorkflowRun struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which workflow to run, with which input.
	// +required
	Spec WorkflowRunSpec `json:"spec,omitzero"`

	// status is the observed state of the run. It is never empty, so that a patch may add to it,
	// and so that tools do not take a run for done that the manager has not seen.
	// +optional
	// +default={"state": "Pending", "conditions": [{"type": "Ready", "status": "Unknown", "reason": "NotObserved", "message": "not seen by the manager yet", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	Status WorkflowRunStatus `json:"status,omitzero"`

	// Unreadable names what of the object could not be decoded, nil if all was. It is no part of
	// the API.
	Unreadable *Unreadable `json:"-"`
}

// +kubebuilder:object:root=true

// WorkflowRunList is a list of WorkflowRuns.
type WorkflowRunList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkflowRun `json:"items"`
}
