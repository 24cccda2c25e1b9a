package controller

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

// keptCheck is the time after which an ended run is looked at again that its schedule has not
// accounted for.
const keptCheck = 5 * time.Second

// objectTTLs are the ttls that Backends set for WorkflowRuns without one. They are in memory,
// because each end of a run looks for one. Its methods may be called concurrently.
type objectTTLs struct {
	mu        sync.Mutex
	byBackend map[types.NamespacedName]int32
}

// of returns how many seconds after its end an object is deleted, nil for never.
func (d *objectTTLs) of(run *v1alpha1.WorkflowRun) *int32 {
	if run.Spec.TTLSecondsAfterFinished != nil {
		return run.Spec.TTLSecondsAfterFinished
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if ttl, ok := d.byBackend[backend.KeyOf(run.Namespace, run.Spec.BackendRef)]; ok {
		return &ttl
	}
	return nil
}

// set changes the ttl of a Backend, nil for none, and reports whether there is another one now.
func (d *objectTTLs) set(key types.NamespacedName, ttl *int32) (changed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before, had := d.byBackend[key]
	if ttl == nil {
		delete(d.byBackend, key)
		return false
	}
	if d.byBackend == nil {
		d.byBackend = map[types.NamespacedName]int32{}
	}
	d.byBackend[key] = *ttl
	return !had || before != *ttl
}

// ttlEvents follows the ttls of Backends. One that is set or changed requests a reconcile of the
// ended objects that it is for, after all other work: there may be very many. A ttl that was longer
// or is gone needs none, as a reconcile at its end looks again.
func (r *WorkflowRunReconciler) ttlEvents() handler.TypedEventHandler[*v1alpha1.Backend, runRequest] {
	type queue = workqueue.TypedRateLimitingInterface[runRequest]
	observe := func(ctx context.Context, object *v1alpha1.Backend, q queue) {
		if key := client.ObjectKeyFromObject(object); r.ttls.set(key, object.Spec.Retention.ObjectTTLSecondsAfterFinished) {
			r.ttlChanged(ctx, key, q)
		}
	}
	return handler.TypedFuncs[*v1alpha1.Backend, runRequest]{
		CreateFunc: func(ctx context.Context, e event.TypedCreateEvent[*v1alpha1.Backend], q queue) {
			observe(ctx, e.Object, q)
		},
		UpdateFunc: func(ctx context.Context, e event.TypedUpdateEvent[*v1alpha1.Backend], q queue) {
			observe(ctx, e.ObjectNew, q)
		},
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[*v1alpha1.Backend], _ queue) {
			r.ttls.set(client.ObjectKeyFromObject(e.Object), nil)
		},
	}
}

// ttlChanged requests a reconcile of a Backend's ended objects without a ttl of their own.
func (r *WorkflowRunReconciler) ttlChanged(ctx context.Context, key types.NamespacedName, queue workqueue.TypedRateLimitingInterface[runRequest]) {
	var runs v1alpha1.WorkflowRunList
	if err := r.List(ctx, &runs, client.InNamespace(key.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return // the manager is stopping: reads are from the cache
	}
	for i := range runs.Items {
		run := &runs.Items[i]
		if run.Status.State.Terminal() && run.Spec.TTLSecondsAfterFinished == nil && backend.NameOf(run.Spec.BackendRef) == key.Name {
			addLowPriority(queue, runRequest{NamespacedName: client.ObjectKeyFromObject(run)})
		}
	}
}

// keptBySchedule returns for how long the object of an ended run stays, whatever its ttl is, because
// the object is what keeps the slot from starting again: settleTime after its creation, and until
// its schedule has accounted for it. A schedule that is gone, or is being deleted, keeps none.
func (r *WorkflowRunReconciler) keptBySchedule(ctx context.Context, run *v1alpha1.WorkflowRun, now time.Time) (time.Duration, error) {
	owner := metav1.GetControllerOfNoCopy(run)
	if owner == nil || owner.Kind != "WorkflowSchedule" {
		return 0, nil
	}
	var s v1alpha1.WorkflowSchedule
	err := r.Get(ctx, types.NamespacedName{Namespace: run.Namespace, Name: owner.Name}, &s, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("get the WorkflowSchedule %s of run %s: %w", owner.Name, run.Name, err)
	case s.UID != owner.UID || !s.DeletionTimestamp.IsZero():
		return 0, nil
	}
	if young := settleTime - now.Sub(run.CreationTimestamp.Time); young > 0 {
		return young, nil
	}
	if !accountedFor(&s, run.Name) {
		return keptCheck, nil
	}
	return 0, nil
}

// accountedFor reports whether the status of a schedule says what has become of a run that has ended,
// so that it would not be created again. The status may be older than the run.
func accountedFor(s *v1alpha1.WorkflowSchedule, run string) bool {
	if slices.Contains(expectedRuns(&s.Status), run) || s.Status.Starting != nil && s.Status.Starting.Run == run {
		return false
	}
	slot, suffix, ok := schedulespec.ParseName(s, run)
	switch {
	case !ok || suffix == schedulespec.Manual:
		return true
	case suffix == "":
		return !slot.After(timeOf(s.Status.DecidedUntil))
	}
	for i := range s.Status.Backfills {
		if b := &s.Status.Backfills[i]; schedulespec.BackfillSuffix(b.Name) == suffix {
			return b.State.Terminal() || !slot.After(timeOf(b.DecidedUntil))
		}
	}
	return !slices.ContainsFunc(s.Spec.Backfills, func(b v1alpha1.Backfill) bool { return schedulespec.BackfillSuffix(b.Name) == suffix })
}
