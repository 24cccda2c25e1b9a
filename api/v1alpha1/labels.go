package v1alpha1

const (
	// LabelWorkerPool is on every object that a WorkerPool owns, its pods
	// included, and holds the pool's name (or, when that is too long for a
	// label, a shortened form of it that ends in a hash).
	LabelWorkerPool = "openworkflow.dev/worker-pool"

	// LabelBackend is on every worker pod and holds the name of the Backend it
	// works for, so that the leases of a dead pod can be released after its pool
	// is gone.
	LabelBackend = "openworkflow.dev/backend"

	// AnnotationPoolName holds the full name of a worker pod's pool.
	AnnotationPoolName = "openworkflow.dev/worker-pool-name"

	// AnnotationBackendHash is on the pod template of a pool and changes with
	// everything of the Backend that pods read only at their start, so that a
	// new database URL rolls the pods.
	AnnotationBackendHash = "openworkflow.dev/backend-hash"

	// FieldManager is the manager's name in server-side apply.
	FieldManager = "openworkflow-manager"
)
