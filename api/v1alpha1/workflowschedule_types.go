package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkflowScheduleSpec says when to start which runs. All but runs may change at any time. A change of
// when (schedules, timeZone, daylightSaving, startAt, endAt) applies to slots after the change.
// +kubebuilder:validation:XValidation:rule="!has(self.startAt) || !has(self.endAt) || timestamp(self.startAt) <= timestamp(self.endAt)",message="endAt is before startAt: no slot would ever start; correct one of them"
// +kubebuilder:validation:XValidation:rule="self.runs == oldSelf.runs",message="runs does not change: create another WorkflowSchedule, and delete this one"
// +kubebuilder:validation:XValidation:rule="self.runs != 'InDatabase' || self.runTemplate.backendRef.name == oldSelf.runTemplate.backendRef.name",message="runTemplate.backendRef does not change with runs InDatabase, as open runs are there: create another WorkflowSchedule"
// +kubebuilder:validation:XValidation:rule="self.runs != 'InDatabase' || self.successfulRunsHistoryLimit == 3 && self.failedRunsHistoryLimit == 3",message="history limits are for WorkflowRuns: with runs InDatabase, spec.retention of the Backend says how long rows stay"
type WorkflowScheduleSpec struct {
	// schedules are cron expressions: minute, hour, day of month, month, day of week, or one of
	// @yearly, @monthly, @weekly, @daily and @hourly. A time that several match is one slot.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^(@[A-Za-z]+|[^ @=]+( +[^ ]+){4})$')",message="give five fields (minute hour day-of-month month day-of-week), such as '30 2 * * *', or @daily; seconds and years are not supported, and the zone goes to timeZone"
	Schedules []string `json:"schedules,omitempty"`

	// timeZone is the name of an IANA time zone, such as Europe/Berlin. Empty means UTC.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self != 'Local'",message="Local is no time zone: name one, such as Europe/Berlin or UTC"
	TimeZone string `json:"timeZone,omitempty"`

	// daylightSaving says what happens to times of day that do not exist, or exist twice, because
	// the clocks of timeZone change. By default, an expression that names a time of day has one slot
	// on each day.
	// +optional
	DaylightSaving *DaylightSaving `json:"daylightSaving,omitzero"`

	// startAt is the earliest slot. Empty means no bound. Slots before the creation of the object
	// never start.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	StartAt *metav1.Time `json:"startAt,omitempty"`

	// endAt is the latest slot. Empty means no bound.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	EndAt *metav1.Time `json:"endAt,omitempty"`

	// suspend keeps slots from starting. Runs that were started go on. The slots that pass meanwhile
	// are skipped and never caught up.
	// +optional
	Suspend *bool `json:"suspend,omitempty"`

	// overlapPolicy says what happens to a slot while a run of an earlier one is open. Allow starts
	// it, Forbid skips it. BufferOne keeps it until the run has ended, and skips later ones
	// meanwhile. Replace cancels the open run, and starts the newest slot once that has ended.
	// +optional
	// +default="Allow"
	// +kubebuilder:validation:Enum=Allow;Forbid;Replace;BufferOne
	OverlapPolicy string `json:"overlapPolicy,omitempty"`

	// catchUp says what happens to slots during which no manager was there. None starts only those
	// that are less than a minute late. Latest starts the last one, All starts all, oldest first.
	// +optional
	// +default="Latest"
	// +kubebuilder:validation:Enum=None;Latest;All
	CatchUp string `json:"catchUp,omitempty"`

	// startingDeadlineSeconds is how late a slot may start, also when it is caught up or was
	// buffered. Empty means no bound.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31622400
	StartingDeadlineSeconds *int64 `json:"startingDeadlineSeconds,omitempty"`

	// jitterSeconds delays each slot by a time up to this, which is always the same for one slot.
	// Empty means no delay.
	// +optional
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	JitterSeconds *int32 `json:"jitterSeconds,omitempty"`

	// pauseAfterFailures is the number of runs that fail in a row after which no slot starts, until
	// the spec is changed. Empty means that failures do not matter.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	PauseAfterFailures *int32 `json:"pauseAfterFailures,omitempty"`

	// successfulRunsHistoryLimit is how many completed and canceled WorkflowRuns are kept. Their
	// rows stay in the database for as long as the retention of the Backend says.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	SuccessfulRunsHistoryLimit *int32 `json:"successfulRunsHistoryLimit,omitempty"`

	// failedRunsHistoryLimit is how many failed WorkflowRuns are kept.
	// +optional
	// +default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	FailedRunsHistoryLimit *int32 `json:"failedRunsHistoryLimit,omitempty"`

	// backfills are requests to start slots of the past. Each is carried out once, in the order of the
	// list. To stop one, remove it; its open runs go on.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Backfills []Backfill `json:"backfills,omitempty"`

	// runs says where runs are. Objects has a WorkflowRun for each. With InDatabase, the manager starts
	// them in the database alone: the data API and kubectl workflow show them, no history limit applies,
	// and they outlive the schedule. It does not change.
	// +optional
	// +default="Objects"
	// +kubebuilder:validation:Enum=Objects;InDatabase
	Runs string `json:"runs,omitempty"`

	// runTemplate says what the runs are. A change applies to runs that are started after it.
	// +required
	RunTemplate RunTemplate `json:"runTemplate,omitzero"`
}

// DaylightSaving says what happens when clocks change. It does not apply to expressions that match
// in every hour: those go on by elapsed time.
// +kubebuilder:validation:MinProperties=1
type DaylightSaving struct {
	// gap is for times of day that the clock skips. RunAfter has one slot for them at the end of the
	// gap, Skip none. Defaults to RunAfter.
	// +optional
	// +default="RunAfter"
	// +kubebuilder:validation:Enum=RunAfter;Skip
	Gap string `json:"gap,omitempty"`

	// fold is for times of day that the clock shows twice: First, Second or Both. An expression
	// whose minutes begin with * goes on by elapsed time instead. Defaults to First.
	// +optional
	// +default="First"
	// +kubebuilder:validation:Enum=First;Second;Both
	Fold string `json:"fold,omitempty"`
}

// Backfill is a request to start the slots of a past interval, also of one before the creation of the
// schedule. The slots are those of the schedule's expressions, without its startAt and endAt.
// +kubebuilder:validation:XValidation:rule="timestamp(self.startAt) <= timestamp(self.endAt)",message="endAt is before startAt: no slot is between them; correct one of them"
// +kubebuilder:validation:XValidation:rule="self.startAt == oldSelf.startAt && self.endAt == oldSelf.endAt && self.reprocess == oldSelf.reprocess && has(self.dryRun) == has(oldSelf.dryRun) && (!has(self.dryRun) || self.dryRun == oldSelf.dryRun)",message="a backfill is carried out once: add another one, with a new name"
type Backfill struct {
	// name identifies the request. Its runs are named after it, so that none starts twice.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="use lower-case letters, digits and -"
	Name string `json:"name,omitempty"`

	// startAt is the earliest slot.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	StartAt *metav1.Time `json:"startAt,omitempty"`

	// endAt is the latest slot. It is in the past.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	EndAt *metav1.Time `json:"endAt,omitempty"`

	// overlapPolicy says whether a slot of the backfill starts while runs are open. Allow starts up to
	// maxParallel of them at once, beside the runs of other slots. Forbid starts one when no run of the
	// schedule is open. Slots that are due now are never held up.
	// +optional
	// +default="Allow"
	// +kubebuilder:validation:Enum=Allow;Forbid
	OverlapPolicy string `json:"overlapPolicy,omitempty"`

	// maxParallel is how many runs of the backfill may be open. Defaults to 10.
	// +optional
	// +default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	MaxParallel int32 `json:"maxParallel,omitempty"`

	// reprocess says which slots start that have a WorkflowRun already: None of them, those whose run
	// has Failed, or All. A WorkflowRun that was deleted does not count.
	// +optional
	// +default="None"
	// +kubebuilder:validation:Enum=None;Failed;All
	Reprocess string `json:"reprocess,omitempty"`

	// dryRun only counts the slots that would start.
	// +optional
	DryRun *bool `json:"dryRun,omitempty"`
}

// RunTemplate is what the runs of a schedule are made from.
type RunTemplate struct {
	// backendRef names the Backend that holds the runs. Defaults to the one named default.
	// +optional
	// +default={"name": "default"}
	BackendRef BackendReference `json:"backendRef,omitzero"`

	// workflowName is the name of the workflow, as its worker defines it.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	WorkflowName string `json:"workflowName,omitempty"`

	// version is the version of the workflow, which must match exactly. Empty means the
	// unversioned workflow.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Version string `json:"version,omitempty"`

	// input is the input of the workflow: any JSON value. Empty means null, or an object with only
	// scheduledTimeField.
	// +optional
	Input *apiextensionsv1.JSON `json:"input,omitempty"`

	// scheduledTimeField names a member of the input, which is then an object. It is set to the
	// time of the slot, in UTC, such as "2027-01-01T02:30:00Z". Empty means that the input is the
	// same for all slots.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ScheduledTimeField string `json:"scheduledTimeField,omitempty"`

	// timeoutSeconds sets the deadline of a run as a number of seconds after its creation. Empty
	// means no deadline.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3153600000
	TimeoutSeconds *int64 `json:"timeoutSeconds,omitempty"`
}

// WorkflowScheduleStatus is what happened to the slots of a schedule.
// +kubebuilder:validation:MinProperties=1
type WorkflowScheduleStatus struct {
	// observedGeneration is the generation of the spec that the manager last acted on.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// decidedUntil is the time up to which each slot has an outcome.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	DecidedUntil *metav1.Time `json:"decidedUntil,omitempty"`

	// timingHash changes with the fields of the spec that say when slots are.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	TimingHash string `json:"timingHash,omitempty"`

	// nextScheduleTime is the next slot, without its jitter. It is empty if there is none, and while
	// no slot starts.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	NextScheduleTime *metav1.Time `json:"nextScheduleTime,omitempty"`

	// lastScheduleTime is the newest slot that was started.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	LastScheduleTime *metav1.Time `json:"lastScheduleTime,omitempty"`

	// lastSuccessfulTime is when a run of the schedule last completed.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	LastSuccessfulTime *metav1.Time `json:"lastSuccessfulTime,omitempty"`

	// pausedSince is when slots ceased to start, because of spec.suspend or of failures.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	PausedSince *metav1.Time `json:"pausedSince,omitempty"`

	// bufferedTime is a slot that waits for the end of open runs.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	BufferedTime *metav1.Time `json:"bufferedTime,omitempty"`

	// starting is a slot of which it was decided that it starts, and whose run may not exist yet. With
	// Forbid, BufferOne and Replace it is written before the run is created, so that of two managers
	// that take themselves for the leader only one decides.
	// +optional
	Starting *StartingSlot `json:"starting,omitzero"`

	// failures is the number of runs that have failed in a row.
	// +optional
	// +kubebuilder:validation:Minimum=0
	Failures *int32 `json:"failures,omitempty"`

	// active are the names of the WorkflowRuns that have not ended.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=200
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Active []string `json:"active,omitempty"`

	// backfills say how far spec.backfills are carried out.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Backfills []BackfillStatus `json:"backfills,omitempty"`

	// outcomes are what happened to the newest slots, oldest first: ten and, while the database of the
	// Backend is away, up to 100. The data API has those before.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Outcomes []SlotOutcome `json:"outcomes,omitempty"`

	// conditions are Ready, and Reconciling and Stalled while true.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// BackfillStatus says how far a backfill is carried out.
type BackfillStatus struct {
	// name is that of the request.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name,omitempty"`

	// state is Waiting, Running, Completed or Invalid. A completed backfill has started all its slots,
	// and their runs have ended, whether they have failed or not.
	// +required
	// +kubebuilder:validation:Enum=Waiting;Running;Completed;Invalid
	State BackfillState `json:"state,omitempty"`

	// message says what it waits for, what is wrong, or what a dry run has found.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Message string `json:"message,omitempty"`

	// slots is the number of slots in the interval.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Slots int32 `json:"slots,omitempty"`

	// started is how many of them were started; of a dry run, how many would be.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Started int32 `json:"started,omitempty"`

	// skipped is how many were not started, as they have a WorkflowRun.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Skipped int32 `json:"skipped,omitempty"`

	// completed is how many of the runs have completed.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Completed int32 `json:"completed,omitempty"`

	// failed is how many of the runs have failed.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Failed int32 `json:"failed,omitempty"`

	// canceled is how many of the runs were canceled, or their WorkflowRuns deleted while they were
	// open.
	// +optional
	// +kubebuilder:validation:Minimum=1
	Canceled int32 `json:"canceled,omitempty"`

	// decidedUntil is the slot up to which all were started or skipped.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	DecidedUntil *metav1.Time `json:"decidedUntil,omitempty"`

	// starting are the names of WorkflowRuns that are being created.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Starting []string `json:"starting,omitempty"`

	// active are the names of WorkflowRuns that have not ended.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	Active []string `json:"active,omitempty"`

	// startedAt is when the first slot was decided.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	StartedAt *metav1.Time `json:"startedAt,omitempty"`

	// finishedAt is when the backfill was completed.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
}

// BackfillState is how far a backfill is.
type BackfillState string

const (
	// BackfillWaiting means that another backfill goes first, or that the schedule is suspended, paused
	// or invalid.
	BackfillWaiting BackfillState = "Waiting"
	// BackfillRunning means that its slots are being started, or that their runs are open.
	BackfillRunning BackfillState = "Running"
	// BackfillCompleted means that all runs have ended.
	BackfillCompleted BackfillState = "Completed"
	// BackfillInvalid means that it is not carried out, because of what message says.
	BackfillInvalid BackfillState = "Invalid"
)

// Terminal reports whether nothing more happens.
func (s BackfillState) Terminal() bool { return s == BackfillCompleted || s == BackfillInvalid }

// StartingSlot is a slot whose run is being created.
type StartingSlot struct {
	// time is the slot.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	Time *metav1.Time `json:"time,omitempty"`

	// run is the name of the WorkflowRun.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Run string `json:"run,omitempty"`
}

// SlotOutcome is what happened to a slot, or to several that follow each other.
type SlotOutcome struct {
	// time is the slot, or the first of several.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	Time *metav1.Time `json:"time,omitempty"`

	// reason is what happened: Started, Buffered, SkippedOverlap, SkippedSuspended, SkippedGap,
	// Missed or Coalesced.
	// +required
	// +kubebuilder:validation:Enum=Started;Buffered;SkippedOverlap;SkippedSuspended;SkippedGap;Missed;Coalesced
	Reason string `json:"reason,omitempty"`

	// until is the last of several slots.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	Until *metav1.Time `json:"until,omitempty"`

	// count is the number of several slots. It is counted up to 10000.
	// +optional
	// +kubebuilder:validation:Minimum=2
	// +kubebuilder:validation:Maximum=10000
	Count int32 `json:"count,omitempty"`

	// run is the name of the WorkflowRun that was started. Of a missed slot it is the name that
	// another object has.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Run string `json:"run,omitempty"`

	// message says why a slot was missed, if not because of its time.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wfs,categories={openworkflow}
// +kubebuilder:printcolumn:name="Schedules",type=string,JSONPath=`.spec.schedules`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.spec.timeZone`
// +kubebuilder:printcolumn:name="Workflow",type=string,JSONPath=`.spec.runTemplate.workflowName`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Last",type=date,JSONPath=`.status.lastScheduleTime`
// +kubebuilder:printcolumn:name="Next",type=string,JSONPath=`.status.nextScheduleTime`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Success",type=date,JSONPath=`.status.lastSuccessfulTime`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1

// WorkflowSchedule starts WorkflowRuns at the times of cron expressions.
type WorkflowSchedule struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says when to start which runs.
	// +required
	Spec WorkflowScheduleSpec `json:"spec,omitzero"`

	// status is what happened to the slots. It is never empty, so that tools do not take a schedule
	// for ready that the manager has not seen.
	// +optional
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NotObserved", "message": "not seen by the manager yet", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	Status WorkflowScheduleStatus `json:"status,omitzero"`

	// Unreadable names what of the object could not be decoded, nil if all was. It is no part of
	// the API.
	Unreadable *Unreadable `json:"-"`
}

// +kubebuilder:object:root=true

// WorkflowScheduleList is a list of WorkflowSchedules.
type WorkflowScheduleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkflowSchedule `json:"items"`
}
