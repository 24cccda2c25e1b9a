package controller

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/wake"
)

const (
	// sweepBatch is the number of runs in one statement.
	sweepBatch = 500
	// sweepPauseFactor makes a sweep rest for nine times its duration, so that it takes a
	// tenth of the time at most, and maxSweepPause bounds that rest.
	sweepPauseFactor, maxSweepPause = 9, 30 * time.Second
	// loopTimeout bounds one turn of a sweep.
	loopTimeout = time.Minute
)

// Intervals are the times between two turns of each sweep over an open database, and the
// wait for the first report of a run. Zero values mean the defaults.
type Intervals struct {
	// Deadline is for runs past their deadline. Defaults to 1 s.
	Deadline time.Duration
	// Rescue is for runs that wait for something that has happened, and for takeovers from
	// workers of OpenWorkflow's. Defaults to 3 s.
	Rescue time.Duration
	// Repair is for objects whose status differs from their row, or from what has become of their
	// forks. Defaults to 3 s.
	Repair time.Duration
	// Orphan is for runs whose object is gone, and for dead workers. Defaults to 30 s.
	Orphan time.Duration
	// Retention is for runs that ended long ago. Defaults to 1 min.
	Retention time.Duration
	// BulkRetry is for requests to retry many runs. Defaults to 1 s.
	BulkRetry time.Duration
	// FirstReport is how long a worker may take to report a new run before the manager
	// does. Defaults to 2 s.
	FirstReport time.Duration
	// Signal is for signals that are kept, and for which no worker has announced a wait. Defaults to
	// 1 s.
	Signal time.Duration
	// Outcome is for outcomes of slots that are not stored. Defaults to 1 s.
	Outcome time.Duration
	// Schedule is the longest sleep of a WorkflowSchedule's timer. When the clock is set forward,
	// slots start up to this time late. Defaults to 10 min.
	Schedule time.Duration
}

func (i Intervals) withDefaults() Intervals {
	return Intervals{
		Deadline:    cmp.Or(i.Deadline, time.Second),
		Rescue:      cmp.Or(i.Rescue, 3*time.Second),
		Repair:      cmp.Or(i.Repair, 3*time.Second),
		Orphan:      cmp.Or(i.Orphan, 30*time.Second),
		Retention:   cmp.Or(i.Retention, time.Minute),
		BulkRetry:   cmp.Or(i.BulkRetry, time.Second),
		FirstReport: cmp.Or(i.FirstReport, 2*time.Second),
		Signal:      cmp.Or(i.Signal, time.Second),
		Outcome:     cmp.Or(i.Outcome, time.Second),
		Schedule:    cmp.Or(i.Schedule, 10*time.Minute),
	}
}

// Sweeper runs the sweeps over each open database. They find whatever an event would have
// told, so that no event is needed for correctness.
type Sweeper struct {
	// Client reads objects from the cache.
	Client    client.Reader
	Backends  *backend.Registry
	Clock     clock.PassiveClock
	Log       logr.Logger
	Intervals Intervals

	orphans  *orphanSweep
	status   *runStatusWriter
	pods     *podNames
	reports  *ReportTracker
	ends     *endQueue
	events   events.EventRecorder
	kept     *keptSignals
	outcomes *outcomeLog

	attachAcrossNamespaces bool
}

// sweep is one periodic duty.
type sweep struct {
	name     string // in metrics and logs
	interval time.Duration
	run      func(context.Context) error
	// look, not nil, makes a turn come early.
	look wake.Flag
}

// sweeps returns those over one database.
func (s *Sweeper) sweeps(conn *backend.Connection, signals *signalSweep, outcomes *outcomeSweep) []sweep {
	repairer := &statusRepairer{
		cache: s.Client, conn: conn, clock: s.Clock, interval: s.Intervals.Repair,
		status: s.status, pods: s.pods, reports: s.reports, attachAcrossNamespaces: s.attachAcrossNamespaces,
	}
	deadlines := &deadlineSweep{conn: conn, repairer: repairer}
	rescue := &rescueSweep{conn: conn, repairer: repairer, every: s.Intervals.Rescue / 2}
	takeovers := &takeoverSweep{cache: s.Client, conn: conn, deaths: s.orphans.deaths}
	status := &repairSweep{repairer: repairer, backends: s.Backends}
	ends := &endSweep{repairer: repairer, queue: s.ends}
	lineage := &lineageSweep{repairer: repairer, cluster: s.orphans.cluster}
	retention := &retentionSweep{cache: s.Client, conn: conn, cluster: s.orphans.cluster, events: s.events}
	bulk := &bulkRetrySweep{conn: conn}
	orphans := func(ctx context.Context) error { return s.orphans.run(ctx, conn) }
	return []sweep{
		{"deadline", s.Intervals.Deadline, deadlines.run, nil},
		{"rescue", s.Intervals.Rescue, rescue.run, nil},
		{"takeover", s.Intervals.Rescue, takeovers.run, nil},
		{"repair", s.Intervals.Repair, status.run, nil},
		{"end", s.Intervals.Repair, ends.run, nil},
		{"lineage", s.Intervals.Repair, lineage.run, nil},
		{"orphan", s.Intervals.Orphan, orphans, nil},
		{"retention", s.Intervals.Retention, retention.run, nil},
		{"bulkretry", s.Intervals.BulkRetry, bulk.run, nil},
		{"signal", s.Intervals.Signal, signals.run, signals.local.look},
		{"outcome", s.Intervals.Outcome, outcomes.run, outcomes.local.look},
	}
}

// Run runs the sweeps over one database until ctx ends. They pause while its Backend is
// not ready.
func (s *Sweeper) Run(ctx context.Context, conn *backend.Connection) {
	var loops sync.WaitGroup
	local, release := s.kept.use(conn.Key)
	defer release()
	signals := &signalSweep{conn: conn, kept: s.kept, local: local}
	unstored, forget := s.outcomes.use(conn.Key)
	defer forget()
	outcomes := &outcomeSweep{conn: conn, cluster: s.orphans.cluster, log: s.outcomes, local: unstored}
	for _, sweep := range s.sweeps(conn, signals, outcomes) {
		loops.Go(func() { s.loop(ctx, conn, sweep) })
	}
	loops.Go(func() { signals.listen(ctx) })
	loops.Wait()
}

// loop runs a sweep at its interval, less some jitter, while the Backend is ready.
func (s *Sweeper) loop(ctx context.Context, conn *backend.Connection, sweep sweep) {
	ctx = logr.NewContext(ctx, s.Log.WithValues("namespace", conn.Key.Namespace, "backend", conn.Key.Name, "sweep", sweep.name))
	timer := time.NewTimer(backoff.Jitter(sweep.interval))
	defer timer.Stop()
	var turns turnResults
	var earliest time.Time // when the next turn may come
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-sweep.look:
			if wait := time.Until(earliest); wait > 0 {
				timer.Reset(wait)
				continue
			}
		}
		pause := sweep.interval
		if s.Backends.Ready(conn.Key) == conn {
			start := time.Now()
			err := conn.Contain(ctx, sweep.name, func() error { return within(ctx, loopTimeout, sweep.run) })
			took := time.Since(start)
			metrics.SweepDuration.WithLabelValues(sweep.name).Observe(took.Seconds())
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				s.Backends.Recheck(conn.Key)
			}
			rest := turns.add(ctx, took, err)
			pause, earliest = max(pause, rest), time.Now().Add(rest)
		}
		timer.Reset(backoff.Jitter(pause))
	}
}

// turnResults is what one loop remembers of its last turns.
type turnResults struct {
	lastError string
	failures  int // in a row
}

// add returns how long to rest after a turn. It logs an error once, and none that means
// that the database does not answer: the check of the Backend reports that.
func (t *turnResults) add(ctx context.Context, took time.Duration, err error) time.Duration {
	if err == nil {
		*t = turnResults{}
		return min(sweepPauseFactor*took, maxSweepPause)
	}
	if text := err.Error(); !isTransient(err) && text != t.lastError {
		logr.FromContextOrDiscard(ctx).Error(err, "Sweep failed")
		t.lastError = text
	}
	t.failures++
	return backoff.Policy{First: time.Second, Max: 30 * time.Second}.Delay(t.failures)
}
