package v1alpha1

// Condition types. Ready is on every kind. Reconciling and Stalled follow the
// kstatus contract: they are present only while true, so that Flux, Argo CD and
// "kubectl wait" can tell progress from failure.
const (
	// ConditionReady is true when the object has reached what its spec asks for: a Backend can
	// be used, all pods of a WorkerPool are ready, a WorkflowRun has completed or was canceled
	// on request.
	ConditionReady = "Ready"

	// ConditionReconciling is true while the object makes progress towards its spec.
	ConditionReconciling = "Reconciling"

	// ConditionStalled is true when the object makes no progress until somebody changes
	// something. A failed run is stalled; one that waits, is suspended or was canceled is not.
	ConditionStalled = "Stalled"

	// ConditionComplete is true once a WorkflowRun has returned its output.
	ConditionComplete = "Complete"

	// ConditionFailed is true once a WorkflowRun has failed and is not retried.
	ConditionFailed = "Failed"

	// ConditionDelivered is true once a run has received a WorkflowSignal.
	ConditionDelivered = "Delivered"

	// ConditionWakeUps is true when a Backend's database notifies workers of due runs, and false
	// when they find them by polling. It says nothing before the database was reached.
	ConditionWakeUps = "WakeUps"

	// ConditionEncrypted is true when the manager's connections to a Backend's database are
	// encrypted. It says nothing before the database was reached.
	ConditionEncrypted = "Encrypted"

	// ConditionStuckSteps is true while functions of a WorkerPool's workers do not return although
	// their runs have ended or moved on. Other runs are executed in their place, up to a bound.
	ConditionStuckSteps = "StuckSteps"
)

// ReasonNotObserved is the reason of Ready=Unknown, which the API server sets by default on every
// new object. It stays until the manager has observed the object.
const ReasonNotObserved = "NotObserved"

// ReasonUnreadable is the reason of an object whose spec cannot be read as its kind: it was stored
// under another CustomResourceDefinition. Nothing is done for it.
const ReasonUnreadable = "Unreadable"

// Reasons of a WorkflowRun's conditions.
const (
	// ReasonPending: the run waits for a worker to claim it.
	ReasonPending = "Pending"
	// ReasonScheduled: the run's availableAt is in the future.
	ReasonScheduled = "Scheduled"
	// ReasonRunning: a worker is executing the run.
	ReasonRunning = "Running"
	// ReasonWaiting: the run is parked until a time, a child or a signal.
	ReasonWaiting = "Waiting"
	// ReasonRetrying: an attempt failed; the run is retried after a delay.
	ReasonRetrying = "Retrying"
	// ReasonSuspended: spec.suspend has stopped the run.
	ReasonSuspended = "Suspended"
	// ReasonNoWorker: no live worker serves the run's workflow and version.
	ReasonNoWorker = "NoWorker"
	// ReasonCompleted: the workflow returned.
	ReasonCompleted = "Completed"
	// ReasonKeyLocked: an open transaction holds the run's idempotencyKey.
	ReasonKeyLocked = "KeyLocked"
	// ReasonWorkflowFailed: the workflow failed and has no attempts left.
	ReasonWorkflowFailed = "WorkflowFailed"
	// ReasonDeadlineExceeded: the run did not end before its deadline.
	ReasonDeadlineExceeded = "DeadlineExceeded"
	// ReasonQuarantined: the worker process has died several times in a row while it executed the
	// run. The run is executed again after a delay, apart from others of which that is true.
	ReasonQuarantined = "Quarantined"
	// ReasonWorkerDeathsExceeded: the worker process has died so often while it executed the run that
	// the run has failed and is not executed again (spec.maxWorkerDeaths of the WorkerPool).
	ReasonWorkerDeathsExceeded = "WorkerDeathsExceeded"
	// ReasonCanceled: the run was canceled, by its spec or in the database.
	ReasonCanceled = "Canceled"
	// ReasonInvalidInput: the run's input or another field cannot be stored, so
	// the run was never started.
	ReasonInvalidInput = "InvalidInput"
	// ReasonKeyConflict: another run holds the run's idempotencyKey, with another input or version
	// or in another namespace. The run was never started.
	ReasonKeyConflict = "KeyConflict"
	// ReasonSourceNotFound: the run that spec.from names does not exist yet, or not any more.
	ReasonSourceNotFound = "SourceNotFound"
	// ReasonSourceNotEnded: the run that spec.from names has not ended.
	ReasonSourceNotEnded = "SourceNotEnded"
	// ReasonInvalidFork: spec.from asks for what the run that it names does not have, so the run was
	// never started.
	ReasonInvalidFork = "InvalidFork"
	// ReasonSuperseded: the run has failed, and a run that was forked from it has completed.
	ReasonSuperseded = "Superseded"
	// ReasonRunMissing: the run was started, but its row is no longer in the database. It is not
	// started again, because its steps may have run.
	ReasonRunMissing = "RunMissing"
)

// ReasonStatusCorrected is the reason of the event about a status that did not come from the run's
// row, and that the manager has replaced.
const ReasonStatusCorrected = "StatusCorrected"

// ReasonStatusRefused is the reason of the event about a status that the API server has refused.
const ReasonStatusRefused = "StatusRefused"

// Reasons of a Backend's conditions; BackendNotFound and BackendNotReady also
// appear on the objects that refer to one.
const (
	// ReasonConnected: the database answers and its schema is current.
	ReasonConnected = "Connected"
	// ReasonBackendNotFound: the Backend an object refers to does not exist.
	ReasonBackendNotFound = "BackendNotFound"
	// ReasonBackendNotReady: the Backend an object refers to cannot be used now.
	ReasonBackendNotReady = "BackendNotReady"
	// ReasonSecretNotFound: the Secret with the database URL, or its key, is missing.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonInvalidURL: the database URL does not parse.
	ReasonInvalidURL = "InvalidURL"
	// ReasonAuthenticationFailed: the database refused the user or the password.
	ReasonAuthenticationFailed = "AuthenticationFailed"
	// ReasonDatabaseMissing: the server has no database of that name.
	ReasonDatabaseMissing = "DatabaseMissing"
	// ReasonUnreachable: the database did not answer.
	ReasonUnreachable = "Unreachable"
	// ReasonSlow: the database accepts connections, but its statements do not end.
	ReasonSlow = "Slow"
	// ReasonMigrating: the schema is being migrated, which takes longer than usual.
	ReasonMigrating = "Migrating"
	// ReasonTLSFailed: the database and the manager did not agree on an encrypted connection.
	ReasonTLSFailed = "TLSFailed"
	// ReasonAddressDenied: the manager does not connect to addresses of this kind.
	ReasonAddressDenied = "AddressDenied"
	// ReasonTooLargeToArchive is of an event: ended runs stay in the tables, as no archive takes them.
	ReasonTooLargeToArchive = "TooLargeToArchive"
	// ReasonReadOnly: the database answers but accepts no writes: it is a standby, or its
	// transactions are read-only by default.
	ReasonReadOnly = "ReadOnly"
	// ReasonListening: notifications of the database reach its clients (WakeUps).
	ReasonListening = "Listening"
	// ReasonPolling: a transaction pooler is before the database, so that workers poll (WakeUps).
	ReasonPolling = "Polling"
	// ReasonTLS: the connection to the database is encrypted (Encrypted).
	ReasonTLS = "TLS"
	// ReasonNotEncrypted: the connection to the database is not encrypted, so that passwords,
	// inputs and results can be read on the way (Encrypted).
	ReasonNotEncrypted = "NotEncrypted"
	// ReasonInsufficientPrivilege: the database user lacks a privilege.
	ReasonInsufficientPrivilege = "InsufficientPrivilege"
	// ReasonSchemaMissing: migrations are pending and spec.migrate is false.
	ReasonSchemaMissing = "SchemaMissing"
	// ReasonSchemaTooNew: the schema was written by a newer release.
	ReasonSchemaTooNew = "SchemaTooNew"
	// ReasonInternalError: a fault of the manager, caused by this Backend's database or URL.
	ReasonInternalError = "InternalError"
	// ReasonUnexpectedAnswer: the server sent more than an answer may have.
	ReasonUnexpectedAnswer = "UnexpectedAnswer"
	// ReasonMigrationFailed: a migration failed.
	ReasonMigrationFailed = "MigrationFailed"
)

// Reasons of a WorkflowSchedule's conditions. It has ReasonSuspended too, while spec.suspend is set, and
// with runs InDatabase BackendNotFound and BackendNotReady.
const (
	// ReasonActive: runs are started when they are due.
	ReasonActive = "Active"
	// ReasonNoMoreSlots: the last slot has passed.
	ReasonNoMoreSlots = "NoMoreSlots"
	// ReasonPausedAfterFailures: no slot starts, because of spec.pauseAfterFailures.
	ReasonPausedAfterFailures = "PausedAfterFailures"
	// ReasonInvalidSchedule: spec.schedules or spec.timeZone cannot be understood.
	ReasonInvalidSchedule = "InvalidSchedule"
	// ReasonInvalidRunTemplate: spec.runTemplate cannot become a WorkflowRun.
	ReasonInvalidRunTemplate = "InvalidRunTemplate"
	// ReasonNameConflict: the newest slot was missed, because its run's name belongs to another object.
	ReasonNameConflict = "NameConflict"
	// ReasonStartFailed: the API server did not accept the run of a slot that is due (a quota, a
	// webhook, an outage). It is tried again.
	ReasonStartFailed = "StartFailed"
	// ReasonTooManyOpenRuns: a slot is due, and waits because 100 runs of the schedule are open.
	ReasonTooManyOpenRuns = "TooManyOpenRuns"
	// ReasonTidyFailed is of an event: runs that are beyond the history, or that a later slot replaces,
	// were not expired or canceled. Slots start all the same.
	ReasonTidyFailed = "TidyFailed"
)

// Reasons of a WorkflowSignal's conditions. It has ReasonWaiting too, while it is kept until a run
// waits for it, and BackendNotFound and BackendNotReady.
const (
	// ReasonDelivered: at least one run has received the signal.
	ReasonDelivered = "Delivered"
	// ReasonNoReceiver: no run waited for a signal with delivery Now. It is not sent again.
	ReasonNoReceiver = "NoReceiver"
	// ReasonExpired: no run has waited for the signal in time.
	ReasonExpired = "Expired"
	// ReasonRunNotFound: the WorkflowRun that spec.target names does not exist, or was not started yet.
	ReasonRunNotFound = "RunNotFound"
	// ReasonRunEnded: the run that spec.target names has ended, and does not wait for the signal.
	ReasonRunEnded = "RunEnded"
	// ReasonInvalidSignal: the signal cannot be stored, so it was never sent.
	ReasonInvalidSignal = "InvalidSignal"
	// ReasonStale: what the approval was about has changed since.
	ReasonStale = "Stale"
	// ReasonAlreadyDecided: somebody else has decided the approval before.
	ReasonAlreadyDecided = "AlreadyDecided"
	// ReasonNotAnApprover: who has created the object may not decide the approval.
	ReasonNotAnApprover = "NotAnApprover"
)

// Reasons of a WorkerPool's conditions.
const (
	// ReasonPodsReady: all pods of the pool are ready and have the current template.
	ReasonPodsReady = "PodsReady"
	// ReasonRollingOut: pods are being created or replaced.
	ReasonRollingOut = "RollingOut"
	// ReasonInvalidTemplate: spec.template cannot become a Deployment.
	ReasonInvalidTemplate = "InvalidTemplate"
	// ReasonApplyFailed: the API server refused an object of the pool (a quota, a webhook, a
	// missing right), or did not answer.
	ReasonApplyFailed = "ApplyFailed"
	// ReasonImagePullFailed: the image of a pod cannot be pulled.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonCrashLooping: a container of a pod exits again and again.
	ReasonCrashLooping = "CrashLooping"
	// ReasonContainerNotStarting: a pod's container cannot be created or started.
	ReasonContainerNotStarting = "ContainerNotStarting"
	// ReasonPodsUnschedulable: a pod fits on no node, or its creation is refused.
	ReasonPodsUnschedulable = "PodsUnschedulable"
	// ReasonContextIgnored: functions do not honor the end of their context (StuckSteps).
	ReasonContextIgnored = "ContextIgnored"
	// ReasonStuckSteps: functions that do not return occupy all slots of a worker, which claims no
	// runs (Ready).
	ReasonStuckSteps = "StuckSteps"
)
