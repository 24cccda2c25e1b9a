package openworkflow

import (
	"encoding/json"
	"time"
)

// RunStatus is the status column of workflow_runs (R40).
type RunStatus string

// Statuses of a run. Sleeping and succeeded are read, never written (R40, R170).
const (
	RunPending   RunStatus = "pending"
	RunRunning   RunStatus = "running"
	RunCompleted RunStatus = "completed"
	RunFailed    RunStatus = "failed"
	RunCanceled  RunStatus = "canceled"
	RunSleeping  RunStatus = "sleeping"
	RunSucceeded RunStatus = "succeeded"
)

// Terminal reports whether a run of this status never changes again.
func (s RunStatus) Terminal() bool {
	switch s {
	case RunCompleted, RunSucceeded, RunFailed, RunCanceled:
		return true
	default:
		return false
	}
}

// StepStatus is the status column of step_attempts (R41).
type StepStatus string

// Statuses of a step attempt. Succeeded is read, never written (R41, R170).
const (
	StepRunning   StepStatus = "running"
	StepCompleted StepStatus = "completed"
	StepFailed    StepStatus = "failed"
	StepSucceeded StepStatus = "succeeded"
)

// StepKind is the kind column of step_attempts (R41).
type StepKind string

// Kinds of step.
const (
	KindFunction   StepKind = "function"
	KindSleep      StepKind = "sleep"
	KindWorkflow   StepKind = "workflow"
	KindSignalSend StepKind = "signal-send"
	KindSignalWait StepKind = "signal-wait"
)

// Run is a row of workflow_runs. A nil JSON column is SQL NULL (R20).
type Run struct {
	NamespaceID    string
	ID             string
	WorkflowName   string
	Version        *string
	Status         RunStatus
	IdempotencyKey *string
	Context        json.RawMessage
	Input          json.RawMessage
	Output         json.RawMessage
	Error          json.RawMessage
	// Attempts counts claims of any cause (R9).
	Attempts            int
	ParentStepAttemptID *string
	WorkerID            *string
	AvailableAt         *time.Time
	DeadlineAt          *time.Time
	StartedAt           *time.Time
	FinishedAt          *time.Time
	CreatedAt           time.Time
	UpdatedAt           time.Time
	// SuspendedAt is ours, in the run's config: not nil while the run may not be claimed.
	SuspendedAt *time.Time
	// Failures is ours, in the run's config: how often the workflow itself has failed. Other ends of a
	// pass, such as a sleep or the retry of a step, are not counted.
	Failures int
	// Deaths and DiedAt are ours, in the run's config: how many processes in a row have died while
	// they executed the run, and when the last of them did. Progress since DiedAt
	// (StepAttempt.ProgressAt) outdates both. They are 0 and nil when there was no death.
	Deaths int
	DiedAt *time.Time
	// ForkedFrom is ours, in the run's config: the id of the run whose results this one took over
	// when it was created, nil if it is no fork. ForkStep is the durable name of the step at which
	// it left that run's history, nil if it took over all of it or nothing.
	ForkedFrom, ForkStep *string
	// SupersededBy is ours, in the run's config: the id of the newest run that was forked from this
	// one, nil for none.
	SupersededBy *string
}

// Definition identifies the workflow of the run.
func (r *Run) Definition() Definition {
	return Definition{Name: r.WorkflowName, Version: r.Version}
}

// Parked reports whether the run has started but no worker executes it (R40).
func (r *Run) Parked() bool {
	return r.Status == RunSleeping || r.Status == RunRunning && r.WorkerID == nil
}

// StepAttempt is a row of step_attempts. A nil JSON column is SQL NULL (R20).
type StepAttempt struct {
	NamespaceID        string
	ID                 string
	WorkflowRunID      string
	StepName           string
	Kind               StepKind
	Status             StepStatus
	Context            json.RawMessage
	Output             json.RawMessage
	Error              json.RawMessage
	ChildWorkflowRunID *string
	StartedAt          *time.Time
	FinishedAt         *time.Time
	CreatedAt          time.Time
	UpdatedAt          time.Time
}

// StepSummary is what the status of a run needs of its step attempts.
type StepSummary struct {
	// Running, Completed and Failed count attempts by status.
	Running, Completed, Failed int
	// Names counts the distinct step names.
	Names int
	// Newest are the most recently created attempts, oldest first, without outputs.
	Newest []StepAttempt
}

// Definition identifies a workflow: a name and a version, nil for the
// unversioned one. There is no fallback between the two (R61).
type Definition struct {
	Name    string
	Version *string
}

// Key returns the definition as a comparable value, such as a map's key.
func (d Definition) Key() DefinitionKey {
	if d.Version == nil {
		return DefinitionKey{name: d.Name}
	}
	return DefinitionKey{name: d.Name, version: *d.Version, versioned: true}
}

// DefinitionKey is a Definition that == compares: the unversioned workflow differs from
// that of the empty version (R61). Make one with Definition.Key.
type DefinitionKey struct {
	name, version string
	versioned     bool
}

// Refusal is the error message with which OpenWorkflow's worker gives back a run whose
// workflow it does not have (R62).
func (d Definition) Refusal() string {
	version := ""
	if d.Version != nil && *d.Version != "" {
		version = " (version: " + *d.Version + ")"
	}
	return `Workflow "` + d.Name + `"` + version + " is not registered"
}

// ObjectRef names the Kubernetes object that a run mirrors. It is the
// "kubernetes" member of the run's context.
type ObjectRef struct {
	// Cluster is the uid of the cluster's kube-system namespace.
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Generation is that of the spec from which the run was created, 0 if it is not known.
	Generation int64 `json:"generation,omitempty"`
	// ResourceVersion is that of the object when its run was created, empty if it is not
	// known.
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// Valid reports whether Kubernetes could have an object of these names. Whoever may write rows may write
// anything there, and the names become parts of URLs.
func (o *ObjectRef) Valid() bool {
	return isDNSName(o.Namespace, 63, false) && isDNSName(o.Name, 253, true)
}

// isDNSName reports whether a name is a DNS label of RFC 1123, or several with dots between them.
func isDNSName(name string, limit int, dots bool) bool {
	afterBorder := true // whether a label begins here
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			afterBorder = false
		case c == '-' && !afterBorder:
		case c == '.' && dots && !afterBorder && name[i-1] != '-':
			afterBorder = true
		default:
			return false
		}
	}
	return !afterBorder && name[len(name)-1] != '-' && len(name) <= limit
}

// RunContext is the context column of workflow_runs. TraceContext is
// OpenWorkflow's (R27, R160); Kubernetes and Schedule are ours.
type RunContext struct {
	TraceContext map[string]string `json:"traceContext,omitempty"`
	Kubernetes   *ObjectRef        `json:"kubernetes,omitempty"`
	Schedule     *ScheduleRef      `json:"schedule,omitempty"`
}

// ScheduleRef names the WorkflowSchedule that has started a run without an object.
type ScheduleRef struct {
	// Cluster is the uid of the cluster's kube-system namespace.
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// ScheduledAt is the time of the slot, as in RFC 3339.
	ScheduledAt string `json:"scheduledAt"`
}

// Encode returns the column's JSON.
func (c RunContext) Encode() json.RawMessage {
	b, err := json.Marshal(c)
	if err != nil { // texts always marshal
		panic(err)
	}
	return b
}

// Object returns the Kubernetes object that the run mirrors, nil if there is none. A context
// of another shape, or with names that no object has, counts as none.
func (r *Run) Object() *ObjectRef {
	if object := r.decodeContext().Kubernetes; object != nil && object.Valid() {
		return object
	}
	return nil
}

// Schedule returns the WorkflowSchedule that has started the run without an object, nil if there is
// none. A context of another shape counts as none.
func (r *Run) Schedule() *ScheduleRef { return r.decodeContext().Schedule }

func (r *Run) decodeContext() (c RunContext) {
	if len(r.Context) == 0 || json.Unmarshal(r.Context, &c) != nil {
		return RunContext{}
	}
	return c
}

// Lease is a claim of a run: the run's id and the worker id, the fencing token of every write
// of the pass (R45).
type Lease struct {
	RunID    string
	WorkerID string
}
