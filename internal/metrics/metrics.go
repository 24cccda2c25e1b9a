// Package metrics holds the manager's own metrics, defined together so that they stay few.
// They are served beside those of controller-runtime (queue depths, reconcile times, API
// calls). Except for two gauges and two histograms, all are counters.
//
//	metric                               labels              meaning
//	openworkflow_backend_up              namespace, backend  gauge: 1 while the database can be used
//	openworkflow_pool_stuck_steps        namespace, pool     gauge: functions in the pool's workers that do not return
//	                                                         although their runs have ended or moved on
//	openworkflow_runs_mirrored_total     outcome             objects inserted, attached (to the run of an idempotency
//	                                                         key) or rejected (invalid input)
//	openworkflow_runs_canceled_total     cause               runs canceled: spec, deleted (object), orphaned (object
//	                                                         gone, its deletion not seen), replaced (by a later slot
//	                                                         of a schedule with runs InDatabase)
//	openworkflow_runs_expired_total      -                   runs failed by the deadline sweep
//	openworkflow_runs_rescued_total      -                   runs rescued: their wait was over, and nothing woke them
//	openworkflow_runs_removed_total      -                   ended runs deleted by the Backend's retention
//	openworkflow_runs_archived_total     -                   of these, runs that were archived before
//	openworkflow_bulk_retried_total      outcome             runs that requests to retry many have gone through: started,
//	                                                         skipped (forked already), failed (cannot be forked)
//	openworkflow_signals_finished_total  reason              WorkflowSignals that were delivered or can be no more, by the
//	                                                         reason of their conditions
//	openworkflow_status_writes_total     outcome             status patches: written, corrected, stale (dropped),
//	                                                         gone (object deleted), refused, error
//	openworkflow_leases_released_total   cause               leases cleared: container (ended), pod (deleted), worker
//	                                                         (not announced in time)
//	openworkflow_runs_quarantined_total  -                   runs whose worker has died with them for the second time in a
//	                                                         row, or a later time
//	openworkflow_sweep_duration_seconds  sweep               histogram: one sweep of deadline, rescue, takeover, repair,
//	                                                         end, lineage, orphan, retention, bulkretry or signal
//	openworkflow_schedule_slots_total    outcome             slots of WorkflowSchedules decided: Started, Buffered, SkippedOverlap,
//	                                                         SkippedSuspended, SkippedGap, Missed or Coalesced; and Backfilled
//	openworkflow_schedule_lateness_seconds  -                histogram: from when a slot was due to the creation of its run;
//	                                                         also of slots that were buffered or caught up
//	openworkflow_panics_total            work                panics in work for one Backend, which were contained: create,
//	                                                         read, cancel, notify, close, check, status or a sweep's name
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

// The manager's metrics. The package comment explains each.
var (
	BackendUp = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "openworkflow_backend_up",
		Help: "1 while the Backend's database can be used, else 0.",
	}, []string{"namespace", "backend"})

	StuckSteps = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "openworkflow_pool_stuck_steps",
		Help: "Functions in the workers of a WorkerPool that do not return although their runs have ended or moved on.",
	}, []string{"namespace", "pool"})

	RunsMirrored = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_runs_mirrored_total",
		Help: "WorkflowRuns mirrored into the database, by outcome: inserted, attached, rejected.",
	}, []string{"outcome"})

	RunsCanceled = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_runs_canceled_total",
		Help: "Runs canceled by the manager, by cause: spec, deleted, orphaned, replaced.",
	}, []string{"cause"})

	RunsExpired = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_expired_total",
		Help: "Runs failed by the manager after their deadline.",
	})

	RunsRescued = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_rescued_total",
		Help: "Runs rescued by the manager: their wait was over, and nothing had woken them.",
	})

	SignalsFinished = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_signals_finished_total",
		Help: "WorkflowSignals that were delivered or can be no more, by the reason of their conditions.",
	}, []string{"reason"})

	RunsRemoved = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_removed_total",
		Help: "Ended runs deleted by the manager under the Backend's retention.",
	})

	RunsArchived = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_archived_total",
		Help: "Ended runs archived by the manager before it deleted them.",
	})

	BulkRetried = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_bulk_retried_total",
		Help: "Runs that bulk retries have gone through, by outcome: started, skipped, failed.",
	}, []string{"outcome"})

	StatusWrites = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_status_writes_total",
		Help: "Status patches of WorkflowRuns sent by the manager, by outcome: written, corrected, stale, gone, refused, error.",
	}, []string{"outcome"})

	LeasesReleased = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_leases_released_total",
		Help: "Leases of dead workers cleared by the manager, by cause: container, pod, worker.",
	}, []string{"cause"})

	RunsQuarantined = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "openworkflow_runs_quarantined_total",
		Help: "Runs quarantined after the second or a later death in a row of their worker.",
	})

	ScheduleSlots = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_schedule_slots_total",
		Help: "Slots of WorkflowSchedules decided by the manager, by outcome.",
	}, []string{"outcome"})

	ScheduleLateness = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "openworkflow_schedule_lateness_seconds",
		Help:    "Time from when a slot of a WorkflowSchedule was due to the creation of its run.",
		Buckets: []float64{.1, .5, 1, 2, 5, 15, 60, 300, 3600},
	})

	Panics = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "openworkflow_panics_total",
		Help: "Panics in the manager's work for one Backend that were contained, by work.",
	}, []string{"work"})

	SweepDuration = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "openworkflow_sweep_duration_seconds",
		Help:    "Duration of one sweep over a Backend, by sweep: deadline, rescue, takeover, repair, end, lineage, orphan, retention, bulkretry.",
		Buckets: []float64{.005, .025, .1, .5, 1, 5, 30},
	}, []string{"sweep"})
)

func init() {
	metrics.Registry.MustRegister(
		BackendUp, StuckSteps, RunsMirrored, RunsCanceled, RunsExpired, RunsRescued, RunsRemoved, RunsArchived, RunsQuarantined,
		BulkRetried, SignalsFinished, StatusWrites, LeasesReleased, SweepDuration, ScheduleSlots, ScheduleLateness, Panics)
}
