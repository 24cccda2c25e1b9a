package controller

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
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
	// tenantReleases is the number of pods of one namespace whose leases are released at once, and
	// concurrentReleases that of all namespaces.
	tenantReleases, concurrentReleases = 8, 64
)

// leaseRequest is a pod whose worker has ended. It carries all that is needed, as the pod
// may be gone.
type leaseRequest struct {
	Namespace, Pod string
	PodUID         types.UID
	// Backend is the pod's LabelBackend.
	Backend string
	// Death identifies the end of the worker's process. It is empty if the pod is gone.
	Death string
	// InPlace says that the process died while the pod lives on: see diedInPlace.
	InPlace bool
	// Pool is the name of the pod's pool.
	Pool string
}

// deathRequest returns the request for the death of a pod's worker, or for the end of the pod
// if death is empty.
func deathRequest(pod *corev1.Pod, death string) leaseRequest {
	return leaseRequest{
		Namespace: pod.Namespace, Pod: pod.Name, PodUID: pod.UID, Backend: pod.Labels[v1alpha1.LabelBackend], Death: death,
		InPlace: death != "" && diedInPlace(pod), Pool: pod.Annotations[v1alpha1.AnnotationPoolName],
	}
}

// cause says in logs and metrics why leases are released.
func (r leaseRequest) cause() string {
	if r.Death == "" {
		return "pod"
	}
	return "container"
}

// deaths remembers the deaths of workers whose leases were released. The leases of each
// death are released once: a pod shows a death until after the worker was restarted, and a
// second release would take the leases of the new process. A pod that is gone is forgotten.
type deaths struct {
	suspects *suspects

	mu       sync.Mutex
	released map[types.UID]string // the last death, by the uid of the pod
	// releasing has the pods of which the leases are being released.
	releasing map[types.UID]bool
	// foreign is when a worker that announces nothing has died in place last, by Backend, for
	// foreignMemory.
	foreign map[types.NamespacedName]time.Time
}

func newDeaths(s *suspects) *deaths {
	return &deaths{
		suspects: s, released: map[types.UID]string{}, releasing: map[types.UID]bool{}, foreign: map[types.NamespacedName]time.Time{},
	}
}

// foreignMemory is how long the death of a worker that announces nothing is remembered: much longer
// than its leases last.
const foreignMemory = 20 * foreignLease

// addForeign remembers the death in place of a worker that announces nothing, and forgets old ones.
func (d *deaths) addForeign(of types.NamespacedName, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.foreign[of] = at
	maps.DeleteFunc(d.foreign, func(_ types.NamespacedName, died time.Time) bool { return at.Sub(died) > foreignMemory })
}

func (d *deaths) lastForeign(of types.NamespacedName) (at time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, ok = d.foreign[of]
	return at, ok
}

// releaseState says who releases the leases of a death.
type releaseState int

const (
	// releaseIsMine means that the caller does, and calls end after that.
	releaseIsMine releaseState = iota
	// releaseIsBusy means that somebody else is doing it.
	releaseIsBusy
	// releaseIsDone means that they were released.
	releaseIsDone
)

// begin says whether the caller releases the leases of a death. The reconciler and a sweep may see
// it at the same time.
func (d *deaths) begin(pod types.UID, death string) releaseState {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.released[pod] == death:
		return releaseIsDone
	case d.releasing[pod]:
		return releaseIsBusy
	}
	d.releasing[pod] = true
	return releaseIsMine
}

// end ends what begin has begun.
func (d *deaths) end(pod types.UID, death string, isReleased bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.releasing, pod)
	if isReleased {
		d.released[pod] = death
	}
}

func (d *deaths) forget(pod types.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.released, pod)
	d.suspects.set(pod, "")
}

// LeaseReconciler clears the leases of a worker as soon as Kubernetes shows that it has
// ended, so that its runs continue elsewhere within milliseconds instead of after the
// lease. It has a queue of its own, so that nothing else delays it.
//
// It clears leases only of a worker that was observed not running, once per death. The end
// of another container of its pod is not the worker's. A restarted worker has
// released the leases of its previous process itself, before its first claim. Clearing the
// lease of a live worker would be safe, as each of its writes is fenced, but would waste
// its work.
type LeaseReconciler struct {
	client.Client
	Backends *backend.Registry

	deaths *deaths
}

// SetupWithManager registers the reconciler.
func (r *LeaseReconciler) SetupWithManager(mgr ctrl.Manager, options controller.TypedOptions[leaseRequest]) error {
	options.MaxConcurrentReconciles = concurrentReleases
	options.NewQueue = newFairQueue(mgr.GetLogger(), tenantReleases, func(req leaseRequest) string { return req.Namespace })
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
	return typedEvents(func(before, after *corev1.Pod) (requests []leaseRequest) {
		if before != nil && (after == nil || before.UID != after.UID) {
			requests = append(requests, deathRequest(before, ""))
		}
		if after == nil {
			return requests
		}
		if death := workerEnded(after); death != "" && (before == nil || death != workerEnded(before)) {
			requests = append(requests, deathRequest(after, death))
		}
		return requests
	})
}

// workerEnded returns what identifies the last death of the pod's worker process, or
// nothing while the worker runs, may be running, or has not started yet. The other
// containers of the pod may end and start as they like.
func workerEnded(pod *corev1.Pod) string {
	worker := poolspec.WorkerContainer(pod)
	for i := range pod.Status.ContainerStatuses {
		c := &pod.Status.ContainerStatuses[i]
		if c.Name != worker {
			continue
		}
		if t := endOf(c); t != nil {
			return deathOf(c, t)
		}
	}
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return string(pod.Status.Phase)
	}
	return ""
}

// workerDeath returns the last end of the pod's worker process, nil while the worker runs, may
// be running, or has not started yet.
func workerDeath(pod *corev1.Pod) *corev1.ContainerStateTerminated {
	worker := poolspec.WorkerContainer(pod)
	for i := range pod.Status.ContainerStatuses {
		if c := &pod.Status.ContainerStatuses[i]; c.Name == worker {
			return endOf(c)
		}
	}
	return nil
}

// endOf returns the last end of a container that has not been started again, else nil.
func endOf(c *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	switch {
	case c.State.Terminated != nil:
		return c.State.Terminated
	case c.State.Waiting != nil:
		return c.LastTerminationState.Terminated
	default:
		return nil
	}
}

// deathOf identifies a death. Each start of a container has an id of its own, but the
// kubelet may have lost it.
func deathOf(c *corev1.ContainerStatus, t *corev1.ContainerStateTerminated) string {
	if t.ContainerID != "" {
		return t.ContainerID
	}
	return fmt.Sprintf("restart %d, %s", c.RestartCount, t.FinishedAt.UTC().Format(time.RFC3339))
}

// Reconcile clears the leases of one pod.
func (r *LeaseReconciler) Reconcile(ctx context.Context, req leaseRequest) (ctrl.Result, error) {
	if req.Death == "" {
		r.deaths.forget(req.PodUID)
	} else if r.restarted(ctx, req) {
		return ctrl.Result{}, nil
	}
	conn := r.connection(req)
	if conn == nil {
		return ctrl.Result{}, nil // the sweep before the Backend becomes ready does it
	}
	state, err := r.deaths.releaseOnce(ctx, conn, req)
	if err != nil {
		r.Backends.Recheck(conn.Key)
		if isTransient(err) {
			return ctrl.Result{RequeueAfter: backoff.Jitter(time.Second)}, nil
		}
		return ctrl.Result{}, err
	}
	switch state {
	case releaseIsBusy:
		return ctrl.Result{RequeueAfter: backoff.Jitter(100 * time.Millisecond)}, nil // in case that fails
	case releaseIsDone:
		return ctrl.Result{}, nil
	case releaseIsMine:
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

// restarted reports whether the worker has been started again since its death, so that the
// release of its leases comes too late: it has done that itself.
func (r *LeaseReconciler) restarted(ctx context.Context, req leaseRequest) bool {
	var pod corev1.Pod
	err := r.Get(ctx, types.NamespacedName{Namespace: req.Namespace, Name: req.Pod}, &pod, client.UnsafeDisableDeepCopy)
	return err == nil && pod.UID == req.PodUID && workerEnded(&pod) != req.Death
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

// releaseOnce clears the leases of a pod's workers, of each death once.
func (d *deaths) releaseOnce(ctx context.Context, conn *backend.Connection, req leaseRequest) (releaseState, error) {
	if req.Death == "" {
		return releaseIsMine, d.release(ctx, conn, req, req.cause())
	}
	state := d.begin(req.PodUID, req.Death)
	if state != releaseIsMine {
		return state, nil
	}
	isReleased := false
	defer func() { d.end(req.PodUID, req.Death, isReleased) }() // also of a panic
	err := d.release(ctx, conn, req, req.cause())
	isReleased = err == nil
	return state, err
}

// release clears the leases of a pod's workers and wakes other workers to claim the runs. A
// death in place counts for each of the runs.
func (d *deaths) release(ctx context.Context, conn *backend.Connection, req leaseRequest, cause string) error {
	request := store.ReleaseRequest{PodUID: string(req.PodUID), Died: req.InPlace}
	if req.InPlace && !announces(conn, string(req.PodUID)) {
		d.addForeign(conn.Key, time.Now())
	}
	if req.InPlace {
		request.MaxDeaths = d.suspects.maxDeaths(ctx, req.Namespace, req.Pool)
	}
	runs, err := conn.Store.ReleaseLeases(ctx, request)
	if err != nil {
		return fmt.Errorf("release leases of pod %s: %w", req.PodUID, err)
	}
	if len(runs) > 0 {
		conn.Wake()
		metrics.LeasesReleased.WithLabelValues(cause).Add(float64(len(runs)))
		ctrl.LoggerFrom(ctx).Info("Released leases of a dead worker", "podUID", req.PodUID, "cause", cause, "runs", len(runs))
	}
	if req.InPlace {
		d.suspects.note(ctx, conn, req, request.MaxDeaths, runs)
	}
	return nil
}

// releaseDead clears the leases of workers whose end was not observed: of pods whose worker
// has ended, and of workers that are silent and have no pod. Both conditions are needed, as
// the workers of another cluster may share the database.
func (d *deaths) releaseDead(ctx context.Context, reader client.Reader, conn *backend.Connection) error {
	var pods corev1.PodList
	if err := reader.List(ctx, &pods, client.InNamespace(conn.Key.Namespace),
		client.MatchingLabels{v1alpha1.LabelBackend: poolspec.LabelValue(conn.Key.Name)}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list worker pods: %w", err)
	}
	for i := range pods.Items {
		death := workerEnded(&pods.Items[i])
		if death == "" {
			continue
		}
		if _, err := d.releaseOnce(ctx, conn, deathRequest(&pods.Items[i], death)); err != nil {
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
		if err := d.release(ctx, conn, leaseRequest{PodUID: types.UID(w.PodUID)}, "worker"); err != nil {
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

// reports reports whether the run's worker is in a pod of this namespace. A worker writes the
// status of objects in its own namespace only, while several namespaces may share the tables. A
// pod that the cache does not have is of another cluster, or is gone.
func (p *podNames) reports(ctx context.Context, run *openworkflow.Run, namespace string) bool {
	uid, _, _ := strings.Cut(ptr.Deref(run.WorkerID, ""), ".")
	var pods corev1.PodList
	err := p.List(ctx, &pods, client.InNamespace(namespace), client.MatchingFields{indexPodUID: uid}, client.UnsafeDisableDeepCopy)
	return err == nil && len(pods.Items) > 0
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
