// Package metrics holds the manager's own metrics, defined together so that they
// stay few. They are served beside those of controller-runtime (queue depths,
// reconcile times, API calls).
//
//	metric                                      type       labels              meaning
//	openworkflow_backend_up                     gauge      namespace, backend  1 while the database can be used
//	openworkflow_runs_mirrored_total            counter    outcome             WorkflowRuns taken over: inserted, attached (idempotency key), rejected (bad input)
//	openworkflow_runs_canceled_total            counter    cause               runs canceled: spec, deleted (object), orphaned (object gone unseen)
//	openworkflow_runs_expired_total             counter    -                   runs failed by the deadline sweep
//	openworkflow_runs_healed_total              counter    -                   runs woken because what they wait for had come unnoticed
//	openworkflow_runs_removed_total             counter    -                   ended runs removed as the Backend's retention says
//	openworkflow_status_writes_total            counter    outcome             status patches: written, stale (dropped), gone (object deleted), error
//	openworkflow_leases_released_total          counter    cause               leases cleared: container (ended), pod (gone), worker (silent)
//	openworkflow_sweep_duration_seconds         histogram  sweep               time of one sweep: deadline, heal, repair, orphan, retention
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// The manager's metrics; the package comment says what each means.
var (
	BackendUp = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "openworkflow_backend_up",
		Help: "1 while the Backend's database can be used, 0 while it cannot.",
	}, []string{"namespace", "backend"})

	RunsMirrored = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_runs_mirrored_total",
		Help: "WorkflowRuns taken over into the database, by outcome: inserted, attached, rejected.",
	}, []string{"outcome"})

	RunsCanceled = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_runs_canceled_total",
		Help: "Runs canceled by the manager, by cause: spec, deleted, orphaned.",
	}, []string{"cause"})

	RunsExpired = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_expired_total",
		Help: "Runs failed by the manager because their deadline had passed.",
	})

	RunsHealed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_healed_total",
		Help: "Runs woken by the manager because what they wait for had come unnoticed.",
	})

	RunsRemoved = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_removed_total",
		Help: "Ended runs removed by the manager as the Backend's retention says.",
	})

	StatusWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_status_writes_total",
		Help: "Status patches of WorkflowRuns sent by the manager, by outcome: written, stale, gone, error.",
	}, []string{"outcome"})

	LeasesReleased = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_leases_released_total",
		Help: "Leases of dead workers cleared by the manager, by cause: container, pod, worker.",
	}, []string{"cause"})

	SweepDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "openworkflow_sweep_duration_seconds",
		Help:    "Duration of one sweep over a Backend, by sweep: deadline, heal, repair, orphan, retention.",
		Buckets: []float64{.005, .025, .1, .5, 1, 5, 30},
	}, []string{"sweep"})
)

func init() {
	metrics.Registry.MustRegister(
		BackendUp, RunsMirrored, RunsCanceled, RunsExpired, RunsHealed, RunsRemoved, StatusWrites, LeasesReleased, SweepDuration)
}
