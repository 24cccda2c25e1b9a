package controller

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/poolspec"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// foreignLease is the lease of OpenWorkflow's workers, which beat every 15 s (R47).
	foreignLease = 30 * time.Second
	// silentLease is how much of such a lease is left at most when its holder is silent: it has
	// missed a heartbeat by five seconds.
	silentLease = 10 * time.Second
	// delayedFrom is the first death in a row after which a run is not due at once.
	delayedFrom = 3
)

// takeoverSweep counts the deaths of OpenWorkflow's TypeScript workers for the runs that they
// executed. Their worker ids say nothing about their pods, so a death is inferred, and
// only where all of this was seen:
//
//   - the holder of a run sent no heartbeat for 20 s,
//   - another such worker then claimed the run,
//   - the run has made no progress since, and was not started anew after a failure of its own,
//   - the worker's container of a pod that announces no worker of ours died in place, at a time at
//     which the holder's silence may have begun.
//
// In doubt nothing counts, so the bound comes late, which is better than a run that fails
// wrongly. What a sweep has seen is in memory only.
//
// OpenWorkflow's workers know no quarantine. After the third death in a row the sweep itself takes
// the run from its holder, whose writes are refused then, and makes it due later or, at the
// bound, fails it.
type takeoverSweep struct {
	cache  client.Reader
	conn   *backend.Connection
	deaths *deaths
	seen   map[string]store.ForeignClaim // by run
	number int
}

func (s *takeoverSweep) run(ctx context.Context) error {
	foreign, err := s.hasForeignPods(ctx)
	if err != nil || !foreign {
		s.seen = nil
		return err
	}
	claims, err := s.conn.Store.ForeignClaims(ctx, sweepBatch)
	if err != nil {
		return fmt.Errorf("list runs of OpenWorkflow's workers: %w", err)
	}
	seen := make(map[string]store.ForeignClaim, len(claims))
	for _, c := range claims {
		if before, ok := s.seen[c.RunID]; ok && s.deathSeen(before, c) {
			if err := s.count(ctx, before, c); err != nil {
				return err
			}
		}
		seen[c.RunID] = c
	}
	s.seen = seen
	return nil
}

// hasForeignPods reports whether a pod of the Backend's pools announces no worker of ours.
func (s *takeoverSweep) hasForeignPods(ctx context.Context) (bool, error) {
	var pods corev1.PodList
	if err := s.cache.List(ctx, &pods, client.InNamespace(s.conn.Key.Namespace),
		client.MatchingLabels{v1alpha1.LabelBackend: poolspec.LabelValue(s.conn.Key.Name)}, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list worker pods: %w", err)
	}
	for i := range pods.Items {
		if !announces(s.conn, string(pods.Items[i].UID)) {
			return true, nil
		}
	}
	return false, nil
}

// announces reports whether the pod has announced a worker of ours lately.
func announces(conn *backend.Connection, podUID string) bool {
	for _, w := range conn.Workers() {
		if w.PodUID == podUID {
			return true
		}
	}
	return false
}

// takenOver reports whether the silent holder of a run has lost it to another worker.
func takenOver(before, after store.ForeignClaim) bool {
	sameStart := before.StartedAt != nil && after.StartedAt != nil && before.StartedAt.Equal(*after.StartedAt)
	return after.WorkerID != before.WorkerID && after.Attempts > before.Attempts && sameStart &&
		before.LeaseEnd.Sub(before.SeenAt) < silentLease && !after.SeenAt.Before(before.LeaseEnd)
}

// deathSeen reports whether the run was taken over from a holder that may have died with a
// container.
func (s *takeoverSweep) deathSeen(before, after store.ForeignClaim) bool {
	if !takenOver(before, after) {
		return false
	}
	died, ok := s.deaths.lastForeign(s.conn.Key)
	if !ok {
		return false
	}
	at := s.conn.Store.ServerTime(died)
	// The holder's last heartbeat was a lease before the end; the next one did not come.
	return at.After(before.LeaseEnd.Add(-foreignLease-time.Second)) && at.Before(before.LeaseEnd)
}

// count counts the death, and takes the run from its holder if it must not go on.
func (s *takeoverSweep) count(ctx context.Context, before, after store.ForeignClaim) error {
	bound, err := s.bound(ctx)
	if err != nil {
		return err
	}
	s.number++
	own := openworkflow.Lease{RunID: after.RunID, WorkerID: fmt.Sprintf("manager.%s.%d", openworkflow.NewID(), s.number)}
	from := min(bound, delayedFrom)
	deaths, err := s.conn.Store.CountTakeover(ctx, after.Lease, before.SeenAt, from, own.WorkerID)
	if err != nil || deaths == 0 {
		return err
	}
	ctrl.LoggerFrom(ctx).Info("A worker of OpenWorkflow's has died with a run", "run", after.RunID, "deaths", deaths)
	if deaths > 1 {
		metrics.RunsQuarantined.Inc()
	}
	if deaths < from {
		return nil
	}
	write := store.RunWrite{Lease: own, HasParent: true, Op: store.RunSetAside, At: after.SeenAt.Add(openworkflow.DeathDelay(deaths, bound))}
	if deaths >= bound {
		steps, err := s.conn.Store.StepSummaries(ctx, []string{after.RunID}, projection.NewestSteps)
		if err != nil {
			return err // the lease of the manager ends, and another worker claims the run
		}
		failure := openworkflow.WorkerDeathsError(openworkflow.SuspectedStep(steps[after.RunID].Newest), deaths)
		write.Op, write.Error, write.Failure = store.RunFail, failure.Encode(), true
	}
	_, err = s.conn.Store.ApplyAndClaim(ctx, store.Batch{Runs: []store.RunWrite{write}, Hints: store.Hints{Due: true, Ends: true}})
	return err
}

// bound is the largest maxWorkerDeaths of the Backend's pools.
func (s *takeoverSweep) bound(ctx context.Context) (int, error) {
	pools, err := poolsOf(ctx, s.cache, s.conn.Key)
	bound := 0
	for i := range pools {
		bound = max(bound, int(ptr.Deref(pools[i].Spec.MaxWorkerDeaths, poolspec.DefaultMaxWorkerDeaths)))
	}
	if bound == 0 {
		bound = poolspec.DefaultMaxWorkerDeaths
	}
	return bound, err
}
