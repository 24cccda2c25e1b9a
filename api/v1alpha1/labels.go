package v1alpha1

const (
	// LabelWorkerPool is on every object that a WorkerPool owns, including its pods. Its value is
	// the name of the pool, or, if that is too long for a label, a short form with a hash.
	LabelWorkerPool = "openworkflow.dev/worker-pool"

	// LabelBackend is on every worker pod. Its value is the name of the Backend whose runs the
	// pod executes, so that the leases of a dead pod can be released after its pool was deleted.
	LabelBackend = "openworkflow.dev/backend"

	// AnnotationPoolName is on every worker pod. Its value is the full name of the pool.
	AnnotationPoolName = "openworkflow.dev/worker-pool-name"

	// AnnotationWorkerContainer is on every worker pod. Its value is the name of the container that
	// is the worker. Webhooks may put other containers before it.
	AnnotationWorkerContainer = "openworkflow.dev/worker-container"

	// AnnotationBackendHash is on the pod template of a pool. It changes with the settings of the
	// Backend that pods read only when they start, so that a new database URL rolls the pods. It is
	// made from the version of the Secret, not from its content.
	AnnotationBackendHash = "openworkflow.dev/backend-hash"

	// LabelSchedule is on every WorkflowRun that a WorkflowSchedule has started. Its value is the name
	// of the schedule, or, if that is too long for a label, a short form with a hash.
	LabelSchedule = "openworkflow.dev/schedule"

	// LabelBackfill is on every WorkflowRun that a backfill of a WorkflowSchedule has started. Its value
	// is the name of the backfill.
	LabelBackfill = "openworkflow.dev/backfill"

	// AnnotationScheduledAt is on every WorkflowRun that a WorkflowSchedule has started. Its value is
	// the time of the slot.
	AnnotationScheduledAt = "openworkflow.dev/scheduled-at"

	// AnnotationCreatedBy is on a WorkflowSignal. Its value is the JSON of a Creator: who has created
	// the object, as the API server knew it. It never changes.
	AnnotationCreatedBy = "openworkflow.dev/created-by"

	// FieldManager is the field manager of the manager's server-side apply.
	FieldManager = "openworkflow-manager"
)
