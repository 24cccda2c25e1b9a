// Package worker makes a program that executes runs of workflows.
//
//	var Greet = workflow.Define("greet", func(ctx context.Context, name string) (string, error) {
//		return step.Run(ctx, "compose", func(context.Context) (string, error) {
//			return "hello, " + name, nil
//		})
//	})
//
//	func main() { worker.Main(Greet) }
//
// The same program runs in the pods of a WorkerPool, where the manager configures it, and
// anywhere else with the URL of a database in OPENWORKFLOW_POSTGRES_URL. Any number of workers
// may share a database. Each run is executed by one of them at a time: a worker claims it with
// a lease and extends the lease while the run executes. If the worker dies, another worker
// claims the run when the lease has ended, or sooner where a manager sees that the pod is gone.
//
// A worker needs the tables of OpenWorkflow. The manager creates them for a Backend; elsewhere,
// client.Open does, with Migrate set.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/reporter"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing/otlp"
	"github.com/openworkflow-operator/operator/internal/workerenv"
	"github.com/openworkflow-operator/operator/workflow"
)

// Main is the whole program of a worker. It executes runs of the workflows until the process
// gets SIGTERM or SIGINT, stops as [Run] does, and returns.
//
// Main reads its configuration from the environment ([ConfigFromEnv]), logs JSON to standard
// error, and sets slog's default logger to do so. If the configuration is wrong, for example
// without a database URL or with two workflows of the same name and version, it logs the
// reasons and exits with status 1. It retries while the database does not answer.
//
// With a request in OPENWORKFLOW_DRY_RUN, Main executes nothing: it says what a fork of a run would
// do with these workflows, and returns. kubectl workflow starts such a process for --dry-run.
func Main(workflows ...workflow.Definition) {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	slog.SetDefault(log)
	config, err := ConfigFromEnv()
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		if request := os.Getenv(workerenv.DryRun); request != "" {
			if id := os.Getenv(workerenv.DryRunNamespaceID); id != "" {
				config.NamespaceID = id
			}
			err = dryRun(ctx, config, request, os.Getenv(workerenv.DryRunResult), workflows)
		} else {
			err = Run(ctx, config, workflows...)
		}
	}
	if err != nil {
		log.Error("Worker cannot work", "error", err)
		os.Exit(1)
	}
}

// Run executes runs of the workflows until ctx ends, for programs that do other things too. It
// returns an error only if the configuration cannot work, and retries while the database does
// not answer.
//
// When ctx ends, Run claims no more runs, waits up to config.Grace for the step functions that
// are running and stores their results, then ends their contexts with workflow.ErrShutdown. It
// releases the runs that have not ended, so that other workers continue them at once, and
// returns nil.
func Run(ctx context.Context, config Config, workflows ...workflow.Definition) error {
	return run(ctx, config, rest.InClusterConfig, workflows)
}

// run is Run with a way to find the API server.
func run(ctx context.Context, config Config, connect func() (*rest.Config, error), workflows []workflow.Definition) error {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.Grace <= 0 {
		config.Grace = 20 * time.Second
	}
	defer delayGC()()
	health, err := serveHealth(ctx, config)
	if err != nil {
		return err
	}
	defer health.close()

	tracer, stopTraces, err := otlp.FromEnv(ctx, "openworkflow-worker")
	if err != nil { // the worker works without traces
		config.Logger.Warn("Traces are off", "error", err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := stopTraces(ctx); err != nil {
			config.Logger.Warn("Could not send the last traces", "error", err)
		}
	}()

	database, err := open(ctx, config)
	if database == nil {
		return err
	}
	defer database.Close()

	report, stopReports := startReporter(ctx, config, connect)
	defer stopReports()
	podName := config.PodName
	if report == nil {
		podName = "" // so announced, the manager does not wait for reports
	}

	definitions := make([]durable.Definition, len(workflows))
	for i, w := range workflows {
		definitions[i] = durable.DefinitionOf(w)
	}
	r, err := runner.New(database, definitions, runner.Options{
		Concurrency: config.Concurrency,
		Lease:       config.Lease,

		MaxWorkerDeaths: config.MaxWorkerDeaths,

		PodUID:   config.PodUID,
		PodName:  podName,
		Pool:     config.Pool,
		Reporter: report,
		Logger:   config.Logger,
		Tracer:   tracer,
	})
	if err != nil {
		return err
	}
	health.attach(r)
	config.Logger.Info("Worker started", "workflows", len(workflows), "namespaceID", config.NamespaceID, "pool", config.Pool)
	return r.Run(ctx, config.Grace)
}

// openBackoff spaces out the attempts to open the database.
var openBackoff = backoff.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}

// open opens the database and retries until it answers. It returns nil, nil when ctx ends
// first, and an error for an invalid URL.
func open(ctx context.Context, config Config) (*store.Store, error) {
	for n := 1; ; n++ {
		database, err := store.Open(ctx, store.Options{
			URL:             config.PostgresURL,
			Schema:          config.Schema,
			NamespaceID:     config.NamespaceID,
			ApplicationName: "openworkflow-worker",
		})
		switch {
		case err == nil:
			return database, nil
		case errors.Is(err, store.ErrInvalidURL):
			return nil, err
		case ctx.Err() != nil:
			return nil, nil //nolint:nilerr // the worker was told to stop; that is no failure
		}
		config.Logger.Warn("Could not open the database; trying again", "error", err)
		if openBackoff.Wait(ctx, n) != nil {
			return nil, nil //nolint:nilerr // as above
		}
	}
}

// startReporter starts the reports of a worker in a pod: it writes the status of its runs to
// the API server, which need not answer yet. Outside a pod there are no reports, nor in a pod
// without a service account's token; the manager writes the status then.
func startReporter(ctx context.Context, config Config, connect func() (*rest.Config, error)) (report runner.Reporter, stop func()) {
	if config.PodNamespace == "" {
		return nil, func() {}
	}
	kubernetes, err := connect()
	var r *reporter.Reporter
	if err == nil {
		r, err = reporter.New(kubernetes, config.PodNamespace, config.PodName, config.Logger)
	}
	if err != nil {
		config.Logger.Warn("The pod has no access to the API server; the manager reports the runs", "error", err)
		return nil, func() {}
	}
	r.Backend = config.Backend
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var task sync.WaitGroup
	task.Go(func() { r.Run(ctx, 3*time.Second) })
	return r, func() {
		cancel()
		task.Wait()
	}
}

// health answers the probes of the kubelet. Anybody in the cluster may call it, so no answer says
// more than that the worker is well, and none changes anything.
type health struct {
	server *http.Server
	log    *slog.Logger

	mu     sync.Mutex
	runner *runner.Runner
}

// healthTimeout bounds each request of a health check, and how long an idle connection stays open.
const healthTimeout = 15 * time.Second

func serveHealth(ctx context.Context, config Config) (*health, error) {
	h := &health{log: config.Logger}
	if config.HealthAddress == "" {
		return h, nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", config.HealthAddress)
	if err != nil {
		return nil, fmt.Errorf("listen for health checks: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", h.ready)
	h.server = &http.Server{Handler: mux, ReadTimeout: healthTimeout, WriteTimeout: healthTimeout, MaxHeaderBytes: 8 << 10}
	go func() {
		if err := h.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("Stopped answering health checks", "error", err)
		}
	}()
	return h, nil
}

func (h *health) attach(r *runner.Runner) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.runner = r
}

func (h *health) attached() *runner.Runner {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.runner
}

// ready answers 200 while the worker reaches the database and claims runs, else 503.
func (h *health) ready(w http.ResponseWriter, _ *http.Request) {
	if r := h.attached(); r == nil || !r.Ready() {
		http.Error(w, "not connected to the database, or draining", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n"))
}

// close ends the server, after the answers in progress.
func (h *health) close() {
	if h.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := h.server.Shutdown(ctx); err != nil {
		h.log.Debug("Could not end the health server in order", "error", err)
	}
}
