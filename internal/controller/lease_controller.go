package controller

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/poolspec"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// silentAfter is how long after its last announcement a worker counts as dead if no pod
	// of its uid exists.
	silentAfter = 30 * time.Second
	// silentLookback is the age of the oldest announcement that is considered.
	silentLookback = 24 * time.Hour
	// indexPodUID finds a pod by its uid, with which worker ids begin.
	indexPodUID = "metadata.uid"
)

// leaseRequest is a pod whose worker has ended. It carries all that is needed, as the pod
// may be gone.
type leaseRequest struct {
	Namespace string
	PodUID    types.UID
	// Backend is the pod's LabelBackend.
	Backend string
	Cause   string
}

// LeaseReconciler clears the leases of a worker as soon as Kubernetes shows that it has
// ended, so that its runs continue elsewhere within milliseconds instead of after the
// lease. It has a queue of its own, so that nothing else delays it.
//
// It clears leases only of a worker that was observed not running. A restarted worker has
// released the leases of its previous process itself, before its first claim. Clearing the
// lease of a live worker would be safe, as each of its writes is fenced, but would waste
// its work.
type LeaseReconciler struct {
	client.Client
	Backends *backend.Registry
}

// SetupWithManager registers the reconciler.
func (r *LeaseReconciler) SetupWithManager(mgr ctrl.Manager, options controller.TypedOptions[leaseRequest]) error {
	options.MaxConcurrentReconciles = 8
	options.ReconciliationTimeout = 10 * time.Second
	return builder.TypedControllerManagedBy[leaseRequest](mgr).
		Named("lease").
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &corev1.Pod{}, leaseEvents())).
		WithOptions(options).
		WithLogConstructor(logFor(mgr, "lease", func(req leaseRequest) []any {
			return []any{"namespace", req.Namespace, "podUID", req.PodUID}
		})).
		Complete(r)
}

// leaseEvents requests the release of a pod's leases when its worker has ended, or the pod
// is gone.
func leaseEvents() handler.TypedEventHandler[*corev1.Pod, leaseRequest] {
	request := func(pod *corev1.Pod, cause string) leaseRequest {
		return leaseRequest{Namespace: pod.Namespace, PodUID: pod.UID, Backend: pod.Labels[v1alpha1.LabelBackend], Cause: cause}
	}
	return typedEvents(func(before, after *corev1.Pod) (requests []leaseRequest) {
		if before != nil && (after == nil || before.UID != after.UID) {
			requests = append(requests, request(before, "pod"))
		}
		if after == nil {
			return requests
		}
		if end := workerEnded(after); end != "" && (before == nil || end != workerEnded(before)) {
			requests = append(requests, request(after, "container"))
		}
		return requests
	})
}

// workerEnded returns what identifies the end of the pod's worker process, or
// nothing while the worker runs, may be running, or has not started yet.
func workerEnded(pod *corev1.Pod) string {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return string(pod.Status.Phase)
	}
	if len(pod.Spec.Containers) == 0 {
		return ""
	}
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		if c.Name != pod.Spec.Containers[0].Name {
			continue
		}
		switch {
		case c.State.Terminated != nil:
			return fmt.Sprintf("%d %s", c.RestartCount, c.State.Terminated.ContainerID)
		case c.State.Waiting != nil && c.LastTerminationState.Terminated != nil:
			return fmt.Sprintf("%d %s", c.RestartCount, c.LastTerminationState.Terminated.ContainerID)
		}
	}
	return ""
}

// Reconcile clears the leases of one pod.
func (r *LeaseReconciler) Reconcile(ctx context.Context, req leaseRequest) (ctrl.Result, error) {
	conn := r.connection(req)
	if conn == nil {
		return ctrl.Result{}, nil // the sweep before the Backend becomes ready does it
	}
	if err := release(ctx, conn, string(req.PodUID), req.Cause); err != nil {
		r.Backends.Recheck(conn.Key)
		if isTransient(err) {
			return ctrl.Result{RequeueAfter: backoff.Jitter(time.Second)}, nil
		}
		return ctrl.Result{}, err
	}
	for _, w := range conn.Workers() {
		if w.PodUID == string(req.PodUID) {
			if err := conn.Store.RemoveWorker(ctx, w.PodUID, w.Process); err != nil {
				return ctrl.Result{}, err
			}
		}
	}
	return ctrl.Result{}, nil
}

// connection returns the connection of the pod's Backend, or nil. The label may be a
// shortened form of the Backend's name.
func (r *LeaseReconciler) connection(req leaseRequest) *backend.Connection {
	for _, conn := range r.Backends.ReadyOrLingeringIn(req.Namespace) {
		if poolspec.LabelValue(conn.Key.Name) == req.Backend {
			return conn
		}
	}
	return nil
}

// release clears the leases of a pod's workers and wakes other workers to claim the runs.
func release(ctx context.Context, conn *backend.Connection, podUID, cause string) error {
	runs, err := conn.Store.ReleaseLeases(ctx, podUID, "")
	if err != nil {
		return fmt.Errorf("release leases of pod %s: %w", podUID, err)
	}
	if len(runs) > 0 {
		conn.Wake()
		metrics.LeasesReleased.WithLabelValues(cause).Add(float64(len(runs)))
		ctrl.LoggerFrom(ctx).Info("Released leases of a dead worker", "podUID", podUID, "cause", cause, "runs", len(runs))
	}
	return nil
}

// releaseDead clears the leases of workers whose end was not observed: of pods whose worker
// has ended, and of workers that are silent and have no pod. Both conditions are needed, as
// the workers of another cluster may share the database.
func releaseDead(ctx context.Context, reader client.Reader, conn *backend.Connection) error {
	var pods corev1.PodList
	if err := reader.List(ctx, &pods, client.InNamespace(conn.Key.Namespace),
		client.MatchingLabels{v1alpha1.LabelBackend: poolspec.LabelValue(conn.Key.Name)}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list worker pods: %w", err)
	}
	for i := range pods.Items {
		if workerEnded(&pods.Items[i]) == "" {
			continue
		}
		if err := release(ctx, conn, string(pods.Items[i].UID), "container"); err != nil {
			return err
		}
	}
	silent, err := silentWorkers(ctx, conn.Store)
	if err != nil {
		return err
	}
	names := &podNames{reader}
	for _, w := range silent {
		if names.byUID(ctx, w.PodUID) != "" {
			continue
		}
		if err := release(ctx, conn, w.PodUID, "worker"); err != nil {
			return err
		}
		if err := conn.Store.RemoveWorker(ctx, w.PodUID, w.Process); err != nil {
			return err
		}
	}
	return nil
}

// silentWorkers lists the workers that were live in silentLookback and are not any more.
func silentWorkers(ctx context.Context, s backend.Store) ([]store.Worker, error) {
	known, err := s.Workers(ctx, silentLookback)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	live, err := s.Workers(ctx, silentAfter)
	if err != nil {
		return nil, fmt.Errorf("list live workers: %w", err)
	}
	type process struct{ pod, nonce string }
	isLive := make(map[process]bool, len(live))
	for _, w := range live {
		isLive[process{w.PodUID, w.Process}] = true
	}
	var silent []store.Worker
	for _, w := range known {
		if !isLive[process{w.PodUID, w.Process}] {
			silent = append(silent, w)
		}
	}
	return silent, nil
}

// podNames resolves worker ids to the names of pods.
type podNames struct{ client.Reader }

// holder returns the name of the pod that holds the run or has completed it, empty if it is
// not known.
func (p *podNames) holder(ctx context.Context, run *openworkflow.Run) string {
	if run.WorkerID == nil {
		return ""
	}
	uid, _, _ := strings.Cut(*run.WorkerID, ".")
	return p.byUID(ctx, uid)
}

// byUID returns the name of the pod with this uid, empty if the cache has none.
func (p *podNames) byUID(ctx context.Context, uid string) string {
	var pods corev1.PodList
	if err := p.List(ctx, &pods, client.MatchingFields{indexPodUID: uid}, client.UnsafeDisableDeepCopy); err != nil || len(pods.Items) == 0 {
		return ""
	}
	return pods.Items[0].Name
}

// indexPods adds indexPodUID to the cache of pods.
func indexPods(ctx context.Context, indexer client.FieldIndexer) error {
	err := indexer.IndexField(ctx, &corev1.Pod{}, indexPodUID, func(object client.Object) []string {
		return []string{string(object.GetUID())}
	})
	if err != nil {
		return fmt.Errorf("index pods by uid: %w", err)
	}
	return nil
}
