package v1alpha1

// Condition types. Ready is on every kind. Reconciling and Stalled follow the
// kstatus contract: they are present only while true, so that Flux, Argo CD and
// "kubectl wait" can tell progress from a dead end.
const (
	// ConditionReady is true when the object is as its spec asks: a Backend can
	// be used, a WorkerPool has all its pods, a WorkflowRun has ended well or was
	// canceled on request.
	ConditionReady = "Ready"

	// ConditionReconciling is true while the object is on its way.
	ConditionReconciling = "Reconciling"

	// ConditionStalled is true when the object will not get further by itself. A
	// failed run is stalled; one that waits, is suspended or was canceled is not.
	ConditionStalled = "Stalled"

	// ConditionComplete is true once a WorkflowRun has returned its output.
	ConditionComplete = "Complete"

	// ConditionFailed is true once a WorkflowRun has failed for good.
	ConditionFailed = "Failed"
)

// ReasonNotObserved is the reason of Ready=Unknown, with which the API server creates
// every object, until the manager has seen it.
const ReasonNotObserved = "NotObserved"

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
	// ReasonRetrying: an attempt failed; the run goes on after a backoff.
	ReasonRetrying = "Retrying"
	// ReasonSuspended: spec.suspend holds the run back.
	ReasonSuspended = "Suspended"
	// ReasonNoWorker: no live worker serves the run's workflow and version.
	ReasonNoWorker = "NoWorker"
	// ReasonCompleted: the workflow returned.
	ReasonCompleted = "Completed"
	// ReasonWorkflowFailed: the workflow failed and has no attempts left.
	ReasonWorkflowFailed = "WorkflowFailed"
	// ReasonDeadlineExceeded: the run did not end before its deadline.
	ReasonDeadlineExceeded = "DeadlineExceeded"
	// ReasonCanceled: the run was canceled, by its spec or in the database.
	ReasonCanceled = "Canceled"
	// ReasonInvalidInput: the run's input or another field cannot be stored, so
	// the run was never started.
	ReasonInvalidInput = "InvalidInput"
	// ReasonRunMissing: the run was started, but its row is no longer in the
	// database. It is not started again, as its steps may have run.
	ReasonRunMissing = "RunMissing"
)

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
	// ReasonAuthenticationFailed: the database refused user or password.
	ReasonAuthenticationFailed = "AuthenticationFailed"
	// ReasonDatabaseMissing: the server has no database of that name.
	ReasonDatabaseMissing = "DatabaseMissing"
	// ReasonUnreachable: the database did not answer.
	ReasonUnreachable = "Unreachable"
	// ReasonInsufficientPrivilege: the database user lacks a right that is needed.
	ReasonInsufficientPrivilege = "InsufficientPrivilege"
	// ReasonSchemaMissing: migrations are pending and spec.migrate is false.
	ReasonSchemaMissing = "SchemaMissing"
	// ReasonSchemaTooNew: the schema was written by a newer release.
	ReasonSchemaTooNew = "SchemaTooNew"
	// ReasonMigrationFailed: a migration did not succeed.
	ReasonMigrationFailed = "MigrationFailed"
)

// Reasons of a WorkerPool's conditions.
const (
	// ReasonPodsReady: all pods of the pool are ready and current.
	ReasonPodsReady = "PodsReady"
	// ReasonRollingOut: pods are being created or replaced.
	ReasonRollingOut = "RollingOut"
	// ReasonInvalidTemplate: spec.template cannot become a Deployment.
	ReasonInvalidTemplate = "InvalidTemplate"
	// ReasonImagePullFailed: a pod cannot get its image.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonCrashLooping: a pod's container keeps ending.
	ReasonCrashLooping = "CrashLooping"
	// ReasonContainerNotStarting: a pod's container cannot be created or started.
	ReasonContainerNotStarting = "ContainerNotStarting"
	// ReasonPodsUnschedulable: a pod fits on no node, or may not be created.
	ReasonPodsUnschedulable = "PodsUnschedulable"
)
