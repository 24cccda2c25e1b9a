package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The fields by which runs are selected.
const (
	// FieldBackend selects the runs of one Backend of the namespace.
	FieldBackend = "spec.backend"
	// FieldWorkflow selects the runs of a workflow, of any version.
	FieldWorkflow = "spec.workflowName"
	// FieldState selects the runs in a state; != selects all others.
	FieldState = "status.state"
	// FieldParent selects the runs that a run has started.
	FieldParent = "status.parent"
	// FieldSuperseded selects by whether a run was forked from this one: true, false or any. A list
	// that selects neither by it, nor by a name or a parent, leaves superseded runs out.
	FieldSuperseded = "status.superseded"
	// FieldObject selects, with an empty value, the runs that no WorkflowRun stands for.
	FieldObject = "status.object"
	// FieldCreatedFrom and FieldCreatedBefore bound the creation of runs, in RFC 3339. From is
	// included, before is not.
	FieldCreatedFrom   = "createdFrom"
	FieldCreatedBefore = "createdBefore"
)

// RunSpec says what runs. Create takes all of it; answers leave out the input, which is read by
// runs/payload.
type RunSpec struct {
	// backend is the name of the Backend that holds the run. Defaults to the one named default.
	// +optional
	Backend string `json:"backend,omitempty"`

	// workflowName is the name of the workflow.
	// +required
	WorkflowName string `json:"workflowName"`

	// version is the version of the workflow. Empty means the unversioned workflow.
	// +optional
	Version string `json:"version,omitempty"`

	// idempotencyKey lets a later create with the same key and workflow find this run instead of
	// starting another.
	// +optional
	IdempotencyKey string `json:"idempotencyKey,omitempty"`

	// input is the input of a run to create. Empty means null.
	// +optional
	Input *apiextensionsv1.JSON `json:"input,omitempty"`

	// availableAt is the earliest time at which a created run starts. Empty means at once.
	// +optional
	AvailableAt *metav1.Time `json:"availableAt,omitempty"`

	// deadlineAt is when the run fails if it has not ended. Empty means no deadline.
	// +optional
	DeadlineAt *metav1.Time `json:"deadlineAt,omitempty"`

	// timeoutSeconds sets the deadline of a created run, counted from its creation.
	// +optional
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`
}

// RunStatus is what has happened to the run, without payloads.
type RunStatus struct {
	// state is Pending, Running, Waiting, Completed, Failed or Canceled.
	State string `json:"state"`

	// reason says in one word why the run is in its state, as the Ready condition of a WorkflowRun.
	// +optional
	Reason string `json:"reason,omitempty"`

	// errorName is the type of the error of a failed run, or of its last failed attempt. The text
	// is a payload.
	// +optional
	ErrorName string `json:"errorName,omitempty"`

	// worker is the pod that executes the run, or its worker id where the pod is not known.
	// +optional
	Worker string `json:"worker,omitempty"`

	// attempts is the number of claims of the run by workers, for any cause.
	Attempts int32 `json:"attempts"`

	// suspended is true while the run may not be claimed.
	// +optional
	Suspended bool `json:"suspended,omitempty"`

	// startedAt is when a worker first claimed the run.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// finishedAt is when the run ended.
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// nextAt is when a run that waits, or will be retried, is due.
	// +optional
	NextAt *metav1.Time `json:"nextAt,omitempty"`

	// archivedAt is when the run was archived and its rows removed. Such a run is read by its name,
	// and is in no list.
	// +optional
	ArchivedAt *metav1.Time `json:"archivedAt,omitempty"`

	// parent is the id of the run that started this one.
	// +optional
	Parent string `json:"parent,omitempty"`

	// forkedFrom is the id of the run whose results the run took over.
	// +optional
	ForkedFrom string `json:"forkedFrom,omitempty"`

	// forkStep is the step at which the run left the history of that run. Empty if it took over all
	// of it or nothing.
	// +optional
	ForkStep string `json:"forkStep,omitempty"`

	// supersededBy is the id of the newest run that was forked from this one.
	// +optional
	SupersededBy string `json:"supersededBy,omitempty"`

	// object is the name of the WorkflowRun of this namespace that the run mirrors. Empty if the
	// run was started by other means, or its object belongs to another namespace or cluster.
	// +optional
	Object string `json:"object,omitempty"`

	// schedule is the name of the WorkflowSchedule of this namespace that has started the run without a
	// WorkflowRun. Empty for other runs: the owner of a WorkflowRun is in its metadata.
	// +optional
	Schedule string `json:"schedule,omitempty"`

	// scheduledAt is the slot of the schedule for which the run was started.
	// +optional
	ScheduledAt *metav1.Time `json:"scheduledAt,omitempty"`
}

// +kubebuilder:object:root=true

// Run is a run of a workflow: a row of workflow_runs. Its name is the run's id.
type Run struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec RunSpec `json:"spec"`

	// +optional
	Status RunStatus `json:"status,omitempty"`
}

// +kubebuilder:object:root=true

// RunList is a list of Runs, newest first.
type RunList struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Run `json:"items"`
}

// Step is one attempt of a step.
type Step struct {
	// id identifies the attempt.
	ID string `json:"id"`

	// name is the step's durable name.
	Name string `json:"name"`

	// kind is function, sleep, workflow, signal-send or signal-wait.
	Kind string `json:"kind"`

	// state is running, completed or failed.
	State string `json:"state"`

	// errorName is the type of the attempt's error.
	// +optional
	ErrorName string `json:"errorName,omitempty"`

	// child is the id of the run that the step has started.
	// +optional
	Child string `json:"child,omitempty"`

	// signal is the name of the signal that the step waits for.
	// +optional
	Signal string `json:"signal,omitempty"`

	// until is when the wait ends by itself.
	// +optional
	Until *metav1.MicroTime `json:"until,omitempty"`

	// createdAt is when the attempt was stored first.
	CreatedAt metav1.MicroTime `json:"createdAt"`

	// startedAt is when the attempt started.
	// +optional
	StartedAt *metav1.MicroTime `json:"startedAt,omitempty"`

	// finishedAt is when the attempt ended.
	// +optional
	FinishedAt *metav1.MicroTime `json:"finishedAt,omitempty"`
}

// +kubebuilder:object:root=true

// RunSteps is a page of the step attempts of a run, oldest first, without payloads.
type RunSteps struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Items []Step `json:"items"`

	// continue, not empty, is the position of the next page.
	// +optional
	Continue string `json:"continue,omitempty"`
}

// +kubebuilder:object:root=true

// RunPayload is the input, output and error of a run, whole.
type RunPayload struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Input *apiextensionsv1.JSON `json:"input,omitempty"`

	// +optional
	Output *apiextensionsv1.JSON `json:"output,omitempty"`

	// +optional
	Error *apiextensionsv1.JSON `json:"error,omitempty"`
}

// +kubebuilder:object:root=true

// RunState is what the workflow of a run has published about it. It can be read while no worker
// executes the run.
type RunState struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// state is the value that was published last. Absent if there is none.
	// +optional
	State *apiextensionsv1.JSON `json:"state,omitempty"`

	// updatedAt is when it was stored, by the database's clock.
	// +optional
	UpdatedAt *metav1.Time `json:"updatedAt,omitempty"`
}

// HistoryStep is one attempt of a step with its payloads.
type HistoryStep struct {
	Step `json:",inline"`

	// context is the attempt's context column: what a wait waits for.
	// +optional
	Context *apiextensionsv1.JSON `json:"context,omitempty"`

	// +optional
	Output *apiextensionsv1.JSON `json:"output,omitempty"`

	// +optional
	Error *apiextensionsv1.JSON `json:"error,omitempty"`
}

// +kubebuilder:object:root=true

// RunHistory is a run with a page of its step attempts, all with their payloads.
type RunHistory struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   RunSpec   `json:"spec"`
	Status RunStatus `json:"status"`

	// +optional
	Output *apiextensionsv1.JSON `json:"output,omitempty"`

	// +optional
	Error *apiextensionsv1.JSON `json:"error,omitempty"`

	Steps []HistoryStep `json:"steps"`

	// continue, not empty, is the position of the next page.
	// +optional
	Continue string `json:"continue,omitempty"`
}

// +kubebuilder:object:root=true

// ReadOptions select a page of runs/steps and runs/history.
type ReadOptions struct {
	metav1.TypeMeta `json:",inline"`

	// limit is the largest number of step attempts. Empty means 500.
	// +optional
	Limit int64 `json:"limit,omitempty"`

	// continue is the continue of the page before.
	// +optional
	Continue string `json:"continue,omitempty"`
}

// +kubebuilder:object:root=true

// RunSignal sends a signal. Created as runs/signal, it must be waited for by that run.
type RunSignal struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// signal is the signal's name.
	Signal string `json:"signal"`

	// data is what the waiting step returns. Empty means null.
	// +optional
	Data *apiextensionsv1.JSON `json:"data,omitempty"`

	// idempotencyKey makes a repeated signal of the same name and key be delivered once.
	// +optional
	IdempotencyKey string `json:"idempotencyKey,omitempty"`

	// recipients are the ids of the runs to which it was delivered.
	// +optional
	Recipients []string `json:"recipients,omitempty"`
}

// +kubebuilder:object:root=true

// RunCancel cancels a run.
type RunCancel struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// children, if true, also cancels the runs below this one.
	// +optional
	Children bool `json:"children,omitempty"`

	// state is the run's state afterwards.
	// +optional
	State string `json:"state,omitempty"`
}

// +kubebuilder:object:root=true

// RunSuspend suspends or resumes a run.
type RunSuspend struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// suspend says whether the run stops before its next step, or goes on.
	Suspend bool `json:"suspend"`
}

// StepOutput is a corrected result of a step.
type StepOutput struct {
	// step is the durable name of the step.
	Step string `json:"step"`

	// value is the result: of a function or a child run its output, of a wait for a signal the
	// signal's data. Empty means null.
	// +optional
	Value *apiextensionsv1.JSON `json:"value,omitempty"`
}

// +kubebuilder:object:root=true

// RunFork starts a new run that takes over results of a run that has ended. Created as runs/fork; the
// answer is the new Run. Without step and lastFailed it takes over nothing: it is a rerun.
type RunFork struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// step is the durable name of the first step to execute again. The results of steps that began
	// before its first attempt are taken over.
	// +optional
	Step *string `json:"step,omitempty"`

	// lastFailed makes it a retry: all completed steps are taken over but those that began after the
	// failure that ended the run.
	// +optional
	LastFailed bool `json:"lastFailed,omitempty"`

	// input is the input of the new run. Empty means that of the run that is forked.
	// +optional
	Input *apiextensionsv1.JSON `json:"input,omitempty"`

	// outputs are corrected results of steps that began before the one from which the fork starts, or
	// of that one. They count as completed.
	// +optional
	Outputs []StepOutput `json:"outputs,omitempty"`

	// children is Keep, which takes over the results of child runs, or Restart, which starts them
	// anew. Empty means Keep.
	// +optional
	Children string `json:"children,omitempty"`

	// idempotencyKey lets a later create with the same key find the new run instead of starting
	// another.
	// +optional
	IdempotencyKey string `json:"idempotencyKey,omitempty"`

	// availableAt is the earliest time at which the new run starts. Empty means at once.
	// +optional
	AvailableAt *metav1.Time `json:"availableAt,omitempty"`

	// deadlineAt is when the new run fails if it has not ended. Empty means no deadline.
	// +optional
	DeadlineAt *metav1.Time `json:"deadlineAt,omitempty"`

	// timeoutSeconds sets the deadline of the new run, counted from its creation.
	// +optional
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`
}
