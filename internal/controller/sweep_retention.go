package controller

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// retentionPage is the number of ended runs, or of deliveries, in one look.
	retentionPage = 1000
	// maxEmptyPages is how many looks of a turn may find nothing to remove. So a turn
	// costs next to nothing however many runs have to stay, and comes past them in time.
	maxEmptyPages = 10
	// retentionBudget is how long a turn removes what it finds. It is well below
	// loopTimeout, as a turn is to end by itself.
	retentionBudget = 30 * time.Second

	// indexAttachedByRunID finds the WorkflowRuns that show the run of an earlier one
	// with the same idempotency key.
	indexAttachedByRunID = "attached.runID"
)

// retentionSweeper removes the rows of runs that ended long ago, as its Backend's retention
// says. Only its loop uses it.
type retentionSweeper struct {
	*Sweeper
	conn *backend.Connection
	// after and afterDelivery are how far the round through ended runs and deliveries
	// has come; the zero values begin one. They live no longer than the connection.
	after         openworkflow.Cursor
	afterDelivery string
	// removed says that this round has removed a run. Another follows it then, as a
	// parent goes after its children.
	removed bool
}

// sweep removes what is due, for a while. Without a retention it does nothing.
func (r *retentionSweeper) sweep(ctx context.Context) error {
	var total store.Removed
	err := r.removeDue(ctx, &total)
	if total != (store.Removed{}) {
		metrics.RunsRemoved.Add(float64(total.Runs))
		r.Log.Info("Removed what ended long ago", "namespace", r.conn.Key.Namespace, "backend", r.conn.Key.Name,
			"runs", total.Runs, "deliveries", total.Deliveries)
	}
	return err
}

func (r *retentionSweeper) removeDue(ctx context.Context, total *store.Removed) error {
	end := time.Now().Add(retentionBudget)
	for looks := 0; looks < maxEmptyPages && time.Now().Before(end); {
		before := total.Runs
		done, err := r.removeRuns(ctx, end, total)
		if err != nil {
			return err
		}
		if done {
			break
		}
		if looks++; total.Runs > before {
			looks = 0
		}
		if r.after == (openworkflow.Cursor{}) {
			if !r.removed {
				break
			}
			r.removed = false
		}
	}
	return r.removeDeliveries(ctx, end, total)
}

// removeRuns looks at some ended runs and removes those that are due. It is done for
// this turn when there is no retention any more, or no time.
func (r *retentionSweeper) removeRuns(ctx context.Context, end time.Time, total *store.Removed) (done bool, err error) {
	policy := r.conn.Retention()
	if policy == nil {
		return true, nil
	}
	runs, next, err := r.conn.Store.EndedRuns(ctx, *policy, r.after, retentionPage)
	if err != nil {
		return false, fmt.Errorf("list ended runs: %w", err)
	}
	var due []string
	for i := range runs {
		shown, err := r.hasObject(ctx, &runs[i])
		if err != nil {
			return false, err
		}
		if !shown {
			due = append(due, runs[i].ID)
		}
	}
	for len(due) > 0 {
		if policy = r.conn.Retention(); policy == nil || time.Now().After(end) {
			return true, nil // the rest is looked for once more
		}
		var removed store.Removed
		if removed, due, err = r.conn.Store.RemoveRuns(ctx, *policy, due); err != nil {
			return false, fmt.Errorf("remove ended runs: %w", err)
		}
		total.Runs += removed.Runs
		total.Deliveries += removed.Deliveries
		r.removed = r.removed || removed.Runs > 0
	}
	r.after = next
	return false, nil
}

// removeDeliveries looks at some deliveries, and at more as long as it finds any whose
// run is gone.
func (r *retentionSweeper) removeDeliveries(ctx context.Context, end time.Time, total *store.Removed) error {
	for {
		policy := r.conn.Retention()
		if policy == nil {
			return nil
		}
		next, removed, err := r.conn.Store.RemoveStrayDeliveries(ctx, *policy, r.afterDelivery, retentionPage)
		if err != nil {
			return fmt.Errorf("remove deliveries of runs that are gone: %w", err)
		}
		total.Deliveries += removed
		if r.afterDelivery = next; removed == 0 || next == "" || time.Now().After(end) {
			return nil
		}
	}
}

// hasObject reports whether an object shows the run, or may do so where this manager cannot
// look: in another cluster, or in a namespace that it does not watch.
//
// The cache may say that an object is gone, other than for runs that are open: an
// object that is gone never comes back, and this one was there when its run began, a
// day ago at least. A cache that is older than that is none.
func (r *retentionSweeper) hasObject(ctx context.Context, run *store.EndedRun) (bool, error) {
	if o := run.Object; o != nil {
		if o.Cluster != r.Cluster || o.UID == "" {
			return true, nil
		}
		var object v1alpha1.WorkflowRun
		err := r.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, &object, client.UnsafeDisableDeepCopy)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err == nil && object.UID == types.UID(o.UID) || err != nil && !apierrors.IsNotFound(err) {
			return true, nil
		}
	}
	if !run.Keyed {
		return false, nil
	}
	var attached v1alpha1.WorkflowRunList
	if err := r.List(ctx, &attached, client.MatchingFields{indexAttachedByRunID: run.ID}, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list WorkflowRuns that show run %s: %w", run.ID, err)
	}
	return len(attached.Items) > 0, nil
}

// indexAttachedRuns adds the index of the WorkflowRun cache. It holds ended runs too,
// but only those that are not their own.
func indexAttachedRuns(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &v1alpha1.WorkflowRun{}, indexAttachedByRunID, attachedRunID); err != nil {
		return fmt.Errorf("index WorkflowRuns by %s: %w", indexAttachedByRunID, err)
	}
	return nil
}

func attachedRunID(object client.Object) []string {
	run, ok := object.(*v1alpha1.WorkflowRun)
	if !ok || run.Status.RunID == "" || run.Status.RunID == string(run.UID) {
		return nil
	}
	return []string{run.Status.RunID}
}
