package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
)

// runRequest is a WorkflowRun to reconcile or, with Deleted, one that was deleted.
type runRequest struct {
	types.NamespacedName
	// Deleted is the uid of the object that was deleted. The request carries it, because
	// the object cannot be read any more.
	Deleted types.UID
	// Backend is the deleted object's Backend.
	Backend string
}

// needsReconcile reports whether a run may need its reconciler: it is new, its spec has
// changed, or it is to be deleted. The workers and the sweeps do the rest.
func (r *WorkflowRunReconciler) needsReconcile(run *v1alpha1.WorkflowRun) bool {
	switch {
	case run.Status.ObservedGeneration != run.Generation:
		return true
	case run.Status.State.Terminal():
		return run.DeletionTimestamp.IsZero() && r.ttls.of(run) != nil
	default:
		return run.Status.RunID == "" || !run.DeletionTimestamp.IsZero()
	}
}

// runEvents requests a reconcile for a new object, a changed spec, an end (for the ttl) and
// a deletion, but not for the progress that workers report. It calls onProgress with each
// status that shows a start or an end for the first time, and onEnded with each version of an
// object that shows an end.
func (r *WorkflowRunReconciler) runEvents(onProgress, onEnded func(*v1alpha1.WorkflowRun)) handler.TypedEventHandler[*v1alpha1.WorkflowRun, runRequest] {
	return typedEvents(func(before, after *v1alpha1.WorkflowRun) (requests []runRequest) {
		if before != nil && after != nil && progressed(before, after) {
			onProgress(after)
		}
		if after != nil && after.Status.State.Terminal() && (before == nil || before.ResourceVersion != after.ResourceVersion) {
			onEnded(after)
		}
		// With the watch down, a deletion and a creation under the same name are one update.
		replaced := before != nil && after != nil && before.UID != after.UID
		if before != nil && (after == nil || replaced) && !before.Status.State.Terminal() {
			requests = append(requests, runRequest{
				NamespacedName: client.ObjectKeyFromObject(before),
				Deleted:        before.UID,
				Backend:        backend.NameOf(before.Spec.BackendRef),
			})
		}
		if after != nil && (before == nil || replaced || changed(before, after)) && r.needsReconcile(after) {
			requests = append(requests, runRequest{NamespacedName: client.ObjectKeyFromObject(after)})
		}
		return requests
	})
}

// changed reports whether something changed that a reconcile may depend on.
func changed(before, after *v1alpha1.WorkflowRun) bool {
	return before.Generation != after.Generation ||
		before.DeletionTimestamp.IsZero() != after.DeletionTimestamp.IsZero() ||
		before.Status.State.Terminal() != after.Status.State.Terminal()
}

// progressed reports whether the status shows a start or an end for the first time.
func progressed(before, after *v1alpha1.WorkflowRun) bool {
	return before.Status.State.Terminal() != after.Status.State.Terminal() ||
		before.Status.StartedAt.IsZero() != after.Status.StartedAt.IsZero()
}

// observeReport tells the tracker of reports about a status that shows progress.
func (r *WorkflowRunReconciler) observeReport(run *v1alpha1.WorkflowRun) {
	if run.Status.RunID != string(run.UID) { // the run of an earlier object, which may have ended long ago
		return
	}
	r.reports.Confirm(client.ObjectKeyFromObject(run), run.UID)
	if conn := r.Backends.Ready(backend.KeyOf(run.Namespace, run.Spec.BackendRef)); conn != nil {
		now := r.Clock.Now()
		r.reports.Observe(&run.Status, conn.Workers(), now, conn.Store.ServerTime(now))
	}
}

// backendChanged requests a reconcile of the runs that wait for their Backend: those that
// have no row yet, and those whose spec has changed.
func (r *WorkflowRunReconciler) backendChanged(ctx context.Context, key types.NamespacedName, queue workqueue.TypedRateLimitingInterface[runRequest]) {
	var runs v1alpha1.WorkflowRunList
	if err := r.List(ctx, &runs, client.InNamespace(key.Namespace), client.MatchingFields{indexOpenByBackend: key.Name},
		client.UnsafeDisableDeepCopy); err != nil {
		return // the manager is stopping: reads are from the cache
	}
	for i := range runs.Items {
		if run := &runs.Items[i]; r.needsReconcile(run) {
			queue.Add(runRequest{NamespacedName: client.ObjectKeyFromObject(run)})
		}
	}
}
