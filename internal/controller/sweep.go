package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

const (
	// sweepBatch is the number of runs in one statement.
	sweepBatch = 500
	// liveWithin is how long after its last report a worker counts as live.
	liveWithin = 30 * time.Second
	// maxSweepPause bounds the rest after a turn of a loop that took long.
	maxSweepPause = 30 * time.Second
	// loopTimeout bounds one turn of a loop.
	loopTimeout = time.Minute
)

// Intervals are the times between the sweeps over an open database, and before the
// first report. Zero values mean the defaults.
type Intervals struct {
	// Deadline is for runs past their deadline. Defaults to 1 s.
	Deadline time.Duration
	// Rescue is for runs that wait for something that has come. Defaults to 3 s.
	Rescue time.Duration
	// Repair is for objects whose status is not what the rows say. Defaults to 3 s.
	Repair time.Duration
	// Orphan is for runs whose object is gone, and for dead workers. Defaults to 30 s.
	Orphan time.Duration
	// Retention is for runs that ended long ago. Defaults to 1 min.
	Retention time.Duration
	// FirstReport is how long a worker may take to report a new run before the manager
	// does. Defaults to 2 s.
	FirstReport time.Duration
}

func (i Intervals) withDefaults() Intervals {
	for field, value := range map[*time.Duration]time.Duration{
		&i.Deadline: time.Second, &i.Rescue: 3 * time.Second, &i.Repair: 3 * time.Second, &i.Orphan: 30 * time.Second,
		&i.Retention:   time.Minute,
		&i.FirstReport: 2 * time.Second,
	} {
		if *field == 0 {
			*field = value
		}
	}
	return i
}

// Sweeper runs the loops beside each open database. They are what makes events
// dispensable: whatever was missed, they find.
type Sweeper struct {
	client.Client
	// Live reads objects without a cache.
	Live      client.Reader
	Backends  *backend.Registry
	Clock     clock.PassiveClock
	Log       logr.Logger
	Cluster   string
	Intervals Intervals

	status  *runStatusWriter
	pods    *podNames
	reports *ReportTracker
}

// Run runs the loops of one connection until ctx ends. They stand still while
// its Backend is not ready.
func (s *Sweeper) Run(ctx context.Context, conn *backend.Connection) {
	repair := &statusSweeper{Sweeper: s, conn: conn}
	var loops sync.WaitGroup
	loops.Go(func() { s.loop(ctx, conn, "deadline", s.Intervals.Deadline, repair.expire) })
	loops.Go(func() { s.loop(ctx, conn, "heal", s.Intervals.Rescue, repair.rescue) })
	loops.Go(func() { s.loop(ctx, conn, "repair", s.Intervals.Repair, repair.sweep) })
	loops.Go(func() {
		s.loop(ctx, conn, "orphan", s.Intervals.Orphan, func(ctx context.Context) error { return s.Sweep(ctx, conn) })
	})
	loops.Go(func() {
		s.loop(ctx, conn, "retention", s.Intervals.Retention, (&retentionSweeper{Sweeper: s, conn: conn}).sweep)
	})
	loops.Wait()
}

// loop calls sweep at the interval, less some jitter, while the Backend is ready.
// A failure is the Backend's matter, which is checked and reports it; what is
// logged here is trouble of another kind, once per kind.
func (s *Sweeper) loop(ctx context.Context, conn *backend.Connection, name string, interval time.Duration, sweep func(context.Context) error) {
	log := s.Log.WithValues("namespace", conn.Key.Namespace, "backend", conn.Key.Name, "sweep", name)
	ctx = logr.NewContext(ctx, log)
	timer := time.NewTimer(backoff.Jitter(interval))
	defer timer.Stop()
	lastError, failures := "", 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := interval
		if s.Backends.Ready(conn.Key) == conn {
			start := time.Now()
			err := within(ctx, loopTimeout, sweep)
			metrics.SweepDuration.WithLabelValues(name).Observe(time.Since(start).Seconds())
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				lastError, failures = "", 0
				next = max(interval, min(9*time.Since(start), maxSweepPause)) // a tenth of the time at most
			default:
				s.Backends.Recheck(conn.Key)
				if text := err.Error(); !isTransient(err) && text != lastError {
					log.Error(err, "Sweep failed")
					lastError = text
				}
				failures++
				next = max(interval, backoff.Policy{First: time.Second, Max: 30 * time.Second}.Delay(failures))
			}
		}
		timer.Reset(backoff.Jitter(next))
	}
}

// Sweep does what events would have brought about had they been seen: it cancels
// the runs of objects that are gone and clears the leases of dead workers. It
// runs before a Backend becomes ready, and now and then afterwards.
func (s *Sweeper) Sweep(ctx context.Context, conn *backend.Connection) error {
	if err := s.sweepOrphans(ctx, conn); err != nil {
		return err
	}
	return releaseDead(ctx, s.Client, conn)
}

func (s *Sweeper) sweepOrphans(ctx context.Context, conn *backend.Connection) error {
	for after := ""; ; {
		runs, err := conn.Store.OpenObjectRuns(ctx, s.Cluster, after, sweepBatch)
		if err != nil {
			return fmt.Errorf("list open runs: %w", err)
		}
		if len(runs) == 0 {
			return nil
		}
		after = runs[len(runs)-1].RunID
		var orphans []string
		for _, run := range runs {
			gone, err := s.objectGone(ctx, types.NamespacedName{Namespace: run.Object.Namespace, Name: run.Object.Name}, types.UID(run.Object.UID))
			if err != nil {
				return err
			}
			if gone {
				orphans = append(orphans, run.RunID)
			}
		}
		if len(orphans) > 0 {
			canceled, err := conn.Store.CancelRuns(ctx, orphans)
			if err != nil {
				return fmt.Errorf("cancel runs of deleted objects: %w", err)
			}
			for _, status := range canceled {
				if status == openworkflow.RunCanceled {
					metrics.RunsCanceled.WithLabelValues("orphaned").Inc()
				}
			}
			conn.Ended()
			s.Log.Info("Canceled runs whose objects are gone", "namespace", conn.Key.Namespace, "backend", conn.Key.Name, "runs", len(orphans))
		}
	}
}

// objectGone reports whether an object is known to exist no more. The cache may only
// say that it exists; that it does not must come from the API server itself.
func (s *Sweeper) objectGone(ctx context.Context, key types.NamespacedName, uid types.UID) (bool, error) {
	var run v1alpha1.WorkflowRun
	if err := s.Get(ctx, key, &run, client.UnsafeDisableDeepCopy); err == nil && run.UID == uid {
		return false, nil
	}
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
	switch err := s.Live.Get(ctx, key, meta); {
	case apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsForbidden(err): // a namespace that this manager may not look into
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for WorkflowRun %s: %w", key, err)
	default:
		return meta.UID != uid, nil
	}
}
