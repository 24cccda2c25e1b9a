package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/poolspec"
)

// reapplyAfter is the time after which a pool's objects are applied again. Only the
// Deployment is watched, so changes that others make to the other objects are undone then.
const reapplyAfter = 5 * time.Minute

// cacheLag is how long a Deployment that was just applied may be missing from the cache.
const cacheLag = 2 * time.Second

// WorkerPoolReconciler applies the objects of each pool and writes its status.
type WorkerPoolReconciler struct {
	client.Client
	Backends *backend.Registry
	Events   events.EventRecorder
	Clock    clock.PassiveClock

	suspects *suspects

	mu      sync.Mutex
	applied map[types.NamespacedName]appliedPool
}

// appliedPool is what was last applied for a pool, so that a reconcile that would change
// nothing sends nothing.
type appliedPool struct {
	uid  types.UID
	hash string
	at   time.Time
	// generation is that of the Deployment in the API server's answer. An older one in the
	// cache means that the cache lags, a newer one that the Deployment was changed since.
	generation int64
}

// +kubebuilder:rbac:groups=openworkflow.dev,resources=workerpools,verbs=get;list;watch
// +kubebuilder:rbac:groups=openworkflow.dev,resources=workerpools/status,verbs=patch
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=serviceaccounts,verbs=create;patch
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=roles;rolebindings,verbs=create;patch
// +kubebuilder:rbac:groups=policy,resources=poddisruptionbudgets,verbs=create;patch

// SetupWithManager registers the reconciler.
func (r *WorkerPoolReconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	r.applied = map[types.NamespacedName]appliedPool{}
	options.MaxConcurrentReconciles = 4
	options.ReconciliationTimeout = time.Minute
	return ctrl.NewControllerManagedBy(mgr).
		Named("workerpool").
		For(&v1alpha1.WorkerPool{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&appsv1.Deployment{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, pod client.Object) []reconcile.Request {
			name := pod.GetAnnotations()[v1alpha1.AnnotationPoolName]
			if name == "" {
				return nil
			}
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: name}}}
		})).
		WatchesRawSource(source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			r.Backends.Listen(func(key types.NamespacedName) {
				pools, err := poolsOf(ctx, r.Client, key)
				if err != nil {
					return // the manager is stopping: reads are from the cache
				}
				for i := range pools {
					queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pools[i])})
				}
			})
			return nil
		})).
		WithOptions(options).
		Complete(r)
}

// Reconcile applies the objects of one pool and writes its status.
func (r *WorkerPoolReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pool v1alpha1.WorkerPool
	if err := r.Get(ctx, req.NamespacedName, &pool); err != nil {
		if apierrors.IsNotFound(err) {
			r.mu.Lock()
			delete(r.applied, req.NamespacedName)
			r.mu.Unlock()
			metrics.StuckSteps.DeleteLabelValues(req.Namespace, req.Name)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !pool.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	seen, err := r.observe(ctx, &pool)
	if err != nil || !seen.Backend.Known {
		return ctrl.Result{}, err // the registry notifies when the Backend becomes known
	}
	rejected, err := r.apply(ctx, &seen)
	if err != nil {
		return ctrl.Result{}, r.showRefusal(ctx, seen, err)
	}
	seen.Rejected = rejected
	again := backoff.Jitter(reapplyAfter)
	if seen.Deployment == nil && rejected == "" {
		again = cacheLag
	}
	return ctrl.Result{RequeueAfter: again}, r.writeStatus(ctx, &pool, planPoolStatus(seen))
}

// showRefusal writes into the status that an object of the pool could not be applied, and
// returns the error, with which the pool is tried again.
func (r *WorkerPoolReconciler) showRefusal(ctx context.Context, seen poolSeen, err error) error {
	if ctx.Err() != nil {
		return err
	}
	seen.Refused = err.Error()
	return errors.Join(err, r.writeStatus(ctx, seen.Pool, planPoolStatus(seen)))
}

// observe gathers what a pool's status is made from.
func (r *WorkerPoolReconciler) observe(ctx context.Context, pool *v1alpha1.WorkerPool) (poolSeen, error) {
	key := backend.KeyOf(pool.Namespace, pool.Spec.BackendRef)
	state, err := backendState(ctx, r.Client, r.Backends, key)
	if err != nil {
		return poolSeen{}, err
	}
	seen := poolSeen{Pool: pool, Backend: state, Now: r.Clock.Now()}
	if conn := r.Backends.Ready(key); conn != nil {
		seen.Workers = conn.Workers()
	}
	var deployment appsv1.Deployment
	err = r.Get(ctx, types.NamespacedName{Namespace: pool.Namespace, Name: poolspec.ObjectName(pool.Name)}, &deployment)
	switch {
	case err == nil:
		seen.Deployment = &deployment
	case !apierrors.IsNotFound(err):
		return poolSeen{}, fmt.Errorf("get Deployment of pool %s: %w", pool.Name, err)
	}
	var pods corev1.PodList
	if err := r.List(ctx, &pods, client.InNamespace(pool.Namespace), client.MatchingLabels(poolspec.Selector(pool))); err != nil {
		return poolSeen{}, fmt.Errorf("list pods of pool %s: %w", pool.Name, err)
	}
	seen.Pods = pods.Items
	for i := range pods.Items {
		if text := r.suspects.of(pods.Items[i].UID); text != "" {
			seen.suspect(pods.Items[i].Name, text)
		}
	}
	return seen, nil
}

// apply applies the pool's objects unless they are up to date. It returns why the template
// was rejected, for the user. It does nothing until the Backend was ready once: before,
// workers would find no schema, or claim runs of deleted objects. What pods read of the Backend is what its
// last check without an error has found.
func (r *WorkerPoolReconciler) apply(ctx context.Context, seen *poolSeen) (rejected string, err error) {
	pool := seen.Pool
	if text := pool.Unreadable.SpecMessage(); text != "" {
		return text, nil
	}
	template, err := poolspec.DecodeTemplate(pool.Spec.Template.Raw)
	if err != nil {
		return err.Error(), nil
	}
	key := backend.KeyOf(pool.Namespace, pool.Spec.BackendRef)
	conn := r.Backends.EverReady(key)
	if conn == nil {
		return "", nil
	}
	settings := conn.PodSettings()
	objects := poolspec.Objects(poolspec.Input{
		Pool:        pool,
		Template:    template,
		Backend:     key.Name,
		Secret:      settings.Secret,
		Schema:      conn.Schema,
		NamespaceID: conn.NamespaceID,
		SSLMode:     settings.SSLMode,
		CA:          settings.CA,
		BackendHash: settings.Hash,
	})
	hash, err := poolspec.Hash(objects)
	if err != nil {
		return "", err
	}
	if r.upToDate(hash, seen) {
		return "", nil
	}
	for _, object := range objects {
		if err := r.Apply(ctx, object, client.FieldOwner(v1alpha1.FieldManager), client.ForceOwnership); err != nil {
			if text := rejection(err); text != "" {
				return text, nil
			}
			return "", fmt.Errorf("apply objects of pool %s: %w", pool.Name, err)
		}
	}
	seen.Applied = deploymentGeneration(objects)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied[client.ObjectKeyFromObject(pool)] = appliedPool{uid: pool.UID, hash: hash, at: seen.Now, generation: seen.Applied}
	return "", nil
}

// deploymentGeneration returns the generation that the API server gave the Deployment
// among these objects when it was applied.
func deploymentGeneration(objects []runtime.ApplyConfiguration) int64 {
	for _, object := range objects {
		if d, ok := object.(*appsv1ac.DeploymentApplyConfiguration); ok && d.ObjectMetaApplyConfiguration != nil {
			return ptr.Deref(d.Generation, 0)
		}
	}
	return 0
}

// upToDate reports whether objects with this hash were applied lately, and the Deployment
// was not changed since.
func (r *WorkerPoolReconciler) upToDate(hash string, seen *poolSeen) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(seen.Pool)
	done := r.applied[key]
	if done.uid != seen.Pool.UID || done.hash != hash || seen.Now.Sub(done.at) > reapplyAfter {
		return false
	}
	if seen.Deployment == nil {
		return seen.Now.Sub(done.at) < cacheLag // the cache may lag
	}
	seen.Applied = done.generation
	return seen.Deployment.Generation == done.generation ||
		seen.Deployment.Generation < done.generation && seen.Now.Sub(done.at) < cacheLag
}

// rejection returns the API server's message about an object that it will never accept, as
// the template must change, and nothing for other errors.
func rejection(err error) string {
	if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) && !apierrors.IsRequestEntityTooLargeError(err) {
		var status apierrors.APIStatus
		if !errors.As(err, &status) || status.Status().Code != 500 || !strings.Contains(err.Error(), "failed to create typed patch object") {
			return ""
		}
	}
	return "the API server rejects what spec.template becomes: " + truncateText(err.Error(), 700)
}

// writeStatus writes the status of a pool if it has changed, and an event for a new reason.
func (r *WorkerPoolReconciler) writeStatus(ctx context.Context, pool *v1alpha1.WorkerPool, status v1alpha1.WorkerPoolStatus) error {
	metrics.StuckSteps.WithLabelValues(pool.Namespace, pool.Name).Set(float64(ptr.Deref(status.StuckSteps, 0)))
	unreadable := pool.Unreadable.StatusUnreadable()
	if !unreadable && equality.Semantic.DeepEqual(pool.Status, status) {
		return nil
	}
	before := conditionReason(pool.Status.Conditions)
	stuckBefore := meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionStuckSteps)
	patch := statusPatch(pool.DeepCopy(), status, unreadable)
	pool.Status = status
	if err := r.Status().Patch(ctx, pool, patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("write status of WorkerPool %s: %w", pool.Name, err))
	}
	if stuck := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionStuckSteps); stuck != nil && !stuckBefore {
		r.Events.Eventf(pool, nil, corev1.EventTypeWarning, v1alpha1.ConditionStuckSteps, "Execute", "%s", stuck.Message)
	}
	if after := conditionReason(status.Conditions); after != before {
		switch after {
		case v1alpha1.ReasonRollingOut, v1alpha1.ReasonBackendNotReady: // the Deployment or the Backend shows it
		default:
			for _, c := range status.Conditions {
				if c.Type == v1alpha1.ConditionReady {
					r.Events.Eventf(pool, nil, eventType(after == v1alpha1.ReasonPodsReady), after, "Roll", "%s", c.Message)
				}
			}
		}
	}
	return nil
}

// poolsOf lists the pools of a Backend, by name.
func poolsOf(ctx context.Context, reader client.Reader, key types.NamespacedName) ([]v1alpha1.WorkerPool, error) {
	var pools v1alpha1.WorkerPoolList
	if err := reader.List(ctx, &pools, client.InNamespace(key.Namespace)); err != nil {
		return nil, fmt.Errorf("list pools of Backend %s: %w", key, err)
	}
	// The cache has no order, and messages list the pools.
	slices.SortFunc(pools.Items, func(a, b v1alpha1.WorkerPool) int { return strings.Compare(a.Name, b.Name) })
	of := pools.Items[:0]
	for _, p := range pools.Items {
		if backend.NameOf(p.Spec.BackendRef) == key.Name {
			of = append(of, p)
		}
	}
	return of, nil
}
