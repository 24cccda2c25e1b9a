package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/openworkflow-operator/operator/internal/workerenv"
)

// Config configures a worker. In the pods of a WorkerPool, the manager sets it through the
// environment; see [ConfigFromEnv].
type Config struct {
	// PostgresURL is the URL of the database, for example postgres://user:password@host/db.
	// Required.
	PostgresURL string
	// Schema is the Postgres schema of OpenWorkflow's tables. Default: openworkflow.
	Schema string
	// NamespaceID is OpenWorkflow's namespace within the tables. The worker executes the runs
	// of one. Default: default.
	NamespaceID string
	// Concurrency is the number of runs that execute at the same time. Runs that only wait do
	// not count. Default: 10.
	Concurrency int
	// Lease is how long a claim of a run lasts unless the worker extends it, which it does
	// every third of that time. It bounds how long runs of a dead worker stand still.
	// Default: 10 s.
	Lease time.Duration
	// MaxWorkerDeaths is how many processes may die in a row while they execute a run, without
	// progress of the run, until it fails. A process that dies tells nobody: the manager finds it
	// out, or the next process with the same PodUID. Default: 5.
	MaxWorkerDeaths int
	// Grace is how long running step functions may take to return after the worker was told
	// to stop. Default: 20 s; zero and negative values mean the default.
	Grace time.Duration
	// HealthAddress is the TCP address that serves /healthz and /readyz over HTTP, for example
	// 127.0.0.1:8081. Empty: none.
	HealthAddress string
	// Pool is the name of the worker's WorkerPool. Empty outside Kubernetes.
	Pool string
	// Backend is the name of the pool's Backend. With it, the worker writes the status of no
	// WorkflowRun of another Backend.
	Backend string
	// PodName, PodNamespace and PodUID identify the worker's pod. With a PodNamespace and the
	// pod's service account token, the worker writes the status of its runs to their
	// WorkflowRun objects. Without the token, the manager does.
	PodName, PodNamespace, PodUID string
	// Logger receives the worker's log. Default: slog.Default().
	Logger *slog.Logger
}

// ConfigFromEnv reads the configuration from the environment:
//
//	OPENWORKFLOW_POSTGRES_URL   PostgresURL (required)
//	OPENWORKFLOW_SCHEMA         Schema
//	OPENWORKFLOW_NAMESPACE_ID   NamespaceID
//	OPENWORKFLOW_CONCURRENCY    Concurrency
//	OPENWORKFLOW_LEASE_SECONDS  Lease, in seconds
//	OPENWORKFLOW_MAX_WORKER_DEATHS
//	                            MaxWorkerDeaths
//	OPENWORKFLOW_GRACE_SECONDS  Grace, in seconds
//	OPENWORKFLOW_HEALTH_PORT    HealthAddress: this port on all addresses in a pod, on 127.0.0.1 elsewhere; 0: none
//	OPENWORKFLOW_POOL           Pool
//	OPENWORKFLOW_BACKEND        Backend
//	POD_NAME, POD_NAMESPACE, POD_UID
//
// The numbers are positive and whole. The error names every variable that is missing or
// wrong.
func ConfigFromEnv() (Config, error) {
	var problems []error
	seconds := func(name string) time.Duration {
		n, err := positive(name)
		problems = append(problems, err)
		return time.Duration(n) * time.Second
	}
	count := func(name string) int {
		n, err := positive(name)
		problems = append(problems, err)
		return n
	}
	config := Config{
		PostgresURL: os.Getenv(workerenv.PostgresURL),
		Schema:      os.Getenv(workerenv.Schema),
		NamespaceID: os.Getenv(workerenv.NamespaceID),
		Concurrency: count(workerenv.Concurrency),
		Lease:       seconds(workerenv.LeaseSeconds),
		Grace:       seconds(workerenv.GraceSeconds),

		MaxWorkerDeaths: count(workerenv.MaxWorkerDeaths),

		Pool:         os.Getenv(workerenv.Pool),
		Backend:      os.Getenv(workerenv.Backend),
		PodName:      os.Getenv(workerenv.PodName),
		PodNamespace: os.Getenv(workerenv.PodNamespace),
		PodUID:       os.Getenv(workerenv.PodUID),
	}
	if config.PostgresURL == "" {
		problems = append(problems, errors.New(workerenv.PostgresURL+" is not set: it is the URL of the database, postgres://user:password@host/database"))
	}
	// A WorkerPool whose healthPort is 0 has no health endpoints.
	if os.Getenv(workerenv.HealthPort) != "0" {
		if port := count(workerenv.HealthPort); port > 0 {
			config.HealthAddress = healthAddress(port, config.PodUID != "")
		}
	}
	return config, errors.Join(problems...)
}

// healthAddress listens on all addresses in a pod, and on loopback elsewhere.
func healthAddress(port int, inPod bool) string {
	host := "127.0.0.1"
	if inPod {
		host = ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// positive reads a variable as a positive whole number. It returns 0 when it is not set.
func positive(name string) (int, error) {
	value := os.Getenv(name)
	if value == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(value)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s is %q: it must be a positive whole number", name, value)
	}
	return n, nil
}
