// Package workerenv names the environment variables by which a WorkerPool configures its
// workers: the manager sets them, packages worker and client read them. It imports nothing, as it is
// linked into authors' programs.
package workerenv

// OpenWorkflow's own names, so that an unmodified OpenWorkflow worker finds the database.
const (
	PostgresURL = "OPENWORKFLOW_POSTGRES_URL"
	NamespaceID = "OPENWORKFLOW_NAMESPACE_ID"
	Schema      = "OPENWORKFLOW_SCHEMA"
)

// How connections to the database are protected, in the names of the libraries that read them, for a
// URL that does not say it itself.
const (
	// SSLMode and SSLRootCert are libpq's: pgx and psql read them. PostgresJSMode is that of
	// postgres.js, OpenWorkflow's client, which knows no variable for the CA; Node.js has one for
	// all that a process connects to.
	SSLMode        = "PGSSLMODE"
	SSLRootCert    = "PGSSLROOTCERT"
	PostgresJSMode = "PGSSL"
	NodeCA         = "NODE_EXTRA_CA_CERTS"
)

// Settings of this module's workers.
const (
	// Concurrency is the number of runs that one worker executes at once.
	Concurrency = "OPENWORKFLOW_CONCURRENCY"
	// LeaseSeconds is how long a claim holds without a heartbeat.
	LeaseSeconds = "OPENWORKFLOW_LEASE_SECONDS"
	// MaxWorkerDeaths is how often in a row a worker may die with a run until the run fails.
	MaxWorkerDeaths = "OPENWORKFLOW_MAX_WORKER_DEATHS"
	// GraceSeconds is how long steps may go on after the worker was told to stop.
	GraceSeconds = "OPENWORKFLOW_GRACE_SECONDS"
	// HealthPort is the port of the health endpoints; 0 turns them off.
	HealthPort = "OPENWORKFLOW_HEALTH_PORT"
	// Pool is the name of the WorkerPool.
	Pool = "OPENWORKFLOW_POOL"
	// Backend is the name of the pool's Backend.
	Backend = "OPENWORKFLOW_BACKEND"
	// DryRun, not empty, makes the process say what a fork of a run would do and end, instead of
	// working. It is JSON, see package dryrun.
	DryRun = "OPENWORKFLOW_DRY_RUN"
	// DryRunNamespaceID is the NamespaceID of a dry run. NamespaceID itself names one without runs then,
	// so that a program that knows no dry runs executes none.
	DryRunNamespaceID = "OPENWORKFLOW_DRY_RUN_NAMESPACE_ID"
	// DryRunResult is the file into which it writes what it says. Empty means standard output.
	DryRunResult = "OPENWORKFLOW_DRY_RUN_RESULT"
)

// Identity of the pod, from the downward API.
const (
	PodName      = "POD_NAME"
	PodNamespace = "POD_NAMESPACE"
	PodUID       = "POD_UID"
)
