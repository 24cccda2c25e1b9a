package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/store"
)

// tenantSignals is the number of WorkflowSignals of one namespace that are reconciled at once, and
// concurrentSignals that of all. They wait for the database.
const tenantSignals, concurrentSignals = 8, 64

// WorkflowSignalReconciler sends the signals of objects, once each, and writes what became of them.
// The database has that before the status does, so a reconcile may end anywhere and be repeated.
type WorkflowSignalReconciler struct {
	client.Client
	Backends *backend.Registry
	Events   events.EventRecorder
	Clock    clock.PassiveClock
	// Cluster identifies the cluster in the context of runs.
	Cluster string

	kept   *keptSignals
	inputs *inputLoader
}

// signalRequest is a WorkflowSignal to reconcile or, with Deleted, one that was deleted.
type signalRequest struct {
	types.NamespacedName
	// Deleted is the uid of the object that was deleted, and Backend the name of its Backend.
	Deleted types.UID
	Backend string
}

// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowsignals,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowsignals/status,verbs=patch

// SetupWithManager registers the reconciler.
func (r *WorkflowSignalReconciler) SetupWithManager(mgr ctrl.Manager, options controller.TypedOptions[signalRequest]) error {
	options.MaxConcurrentReconciles = concurrentSignals
	options.NewQueue = newFairQueue(mgr.GetLogger(), tenantSignals, func(req signalRequest) string { return req.Namespace })
	options.ReconciliationTimeout = 30 * time.Second
	return builder.TypedControllerManagedBy[signalRequest](mgr).
		Named("workflowsignal").
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &v1alpha1.WorkflowSignal{}, typedEvents(signalEvents))).
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &v1alpha1.WorkflowRun{}, typedEvents(r.targetEvents))).
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &v1alpha1.Backend{}, typedEvents(r.retentionEvents))).
		WatchesRawSource(source.TypedFunc[signalRequest](func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[signalRequest]) error {
			r.Backends.Listen(func(key types.NamespacedName) {
				for _, request := range r.ofBackend(ctx, key, func(s *v1alpha1.WorkflowSignal) bool { return !signalFinished(s) }) {
					queue.Add(request)
				}
			})
			r.kept.onSettled(func(key types.NamespacedName) { queue.Add(signalRequest{NamespacedName: key}) })
			return nil
		})).
		WithOptions(options).
		WithLogConstructor(logFor(mgr, "workflowsignal", func(req signalRequest) []any {
			return []any{"namespace", req.Namespace, "name", req.Name, "deleted", req.Deleted}
		})).
		Complete(r)
}

// signalFinished reports whether nothing is to be done for a signal any more but to delete it.
func signalFinished(s *v1alpha1.WorkflowSignal) bool { return s.Status.FinishedAt != nil }

// signalEvents requests a reconcile of a signal that is new, that has finished, or whose ttl has
// changed, and the withdrawal of one that was deleted before it had finished.
func signalEvents(before, after *v1alpha1.WorkflowSignal) (requests []signalRequest) {
	replaced := before != nil && after != nil && before.UID != after.UID
	if before != nil && (after == nil || replaced) && !signalFinished(before) {
		requests = append(requests, deletedSignal(before))
	}
	if after != nil && (before == nil || replaced || before.Generation != after.Generation || signalFinished(before) != signalFinished(after)) {
		requests = append(requests, signalRequest{NamespacedName: client.ObjectKeyFromObject(after)})
	}
	return requests
}

// deletedSignal requests the withdrawal of a signal.
func deletedSignal(s *v1alpha1.WorkflowSignal) signalRequest {
	return signalRequest{NamespacedName: client.ObjectKeyFromObject(s), Deleted: s.UID, Backend: backend.NameOf(s.Spec.BackendRef)}
}

// targetEvents requests a reconcile of the signals that wait until a run is started.
func (r *WorkflowSignalReconciler) targetEvents(before, after *v1alpha1.WorkflowRun) (requests []signalRequest) {
	if after == nil || after.Status.RunID == "" || before != nil && before.Status.RunID != "" && before.UID == after.UID {
		return nil
	}
	for _, key := range r.kept.awaiting(client.ObjectKeyFromObject(after)) {
		requests = append(requests, signalRequest{NamespacedName: key})
	}
	return requests
}

// retentionEvents requests a reconcile of the finished signals of a Backend whose ttl for objects
// has changed.
func (r *WorkflowSignalReconciler) retentionEvents(before, after *v1alpha1.Backend) []signalRequest {
	if before == nil || after == nil ||
		equality.Semantic.DeepEqual(before.Spec.Retention.ObjectTTLSecondsAfterFinished, after.Spec.Retention.ObjectTTLSecondsAfterFinished) {
		return nil
	}
	return r.ofBackend(context.Background(), client.ObjectKeyFromObject(after), signalFinished)
}

// ofBackend returns a Backend's signals that are chosen.
func (r *WorkflowSignalReconciler) ofBackend(ctx context.Context, key types.NamespacedName, chosen func(*v1alpha1.WorkflowSignal) bool) (requests []signalRequest) {
	var signals v1alpha1.WorkflowSignalList
	if err := r.List(ctx, &signals, client.InNamespace(key.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the manager is stopping: reads are from the cache
	}
	for i := range signals.Items {
		if s := &signals.Items[i]; backend.NameOf(s.Spec.BackendRef) == key.Name && chosen(s) {
			requests = append(requests, signalRequest{NamespacedName: client.ObjectKeyFromObject(s)})
		}
	}
	return requests
}

// Reconcile sends one signal, and writes its status.
func (r *WorkflowSignalReconciler) Reconcile(ctx context.Context, req signalRequest) (ctrl.Result, error) {
	if req.Deleted != "" {
		return ctrl.Result{}, r.withdraw(ctx, req)
	}
	s := &v1alpha1.WorkflowSignal{}
	if err := r.Get(ctx, req.NamespacedName, s); apierrors.IsNotFound(err) {
		r.kept.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	} else if err != nil {
		return ctrl.Result{}, err
	}
	if !s.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	if signalFinished(s) {
		r.kept.remove(s.UID, req.NamespacedName)
		return r.expire(ctx, s)
	}
	seen, err := r.observe(ctx, s)
	if err != nil {
		return r.handleError(s, err)
	}
	if isGone, err := r.isGone(ctx, s); err != nil {
		return ctrl.Result{}, err
	} else if isGone {
		return ctrl.Result{}, r.withdraw(ctx, deletedSignal(s))
	}
	if err := r.writeStatus(ctx, s, signalStatus(seen)); apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: retryConflict}, nil // the database is asked again
	} else if err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: seen.recheck()}, nil
}

// observe sends a signal, or finds out why it cannot be sent.
func (r *WorkflowSignalReconciler) observe(ctx context.Context, s *v1alpha1.WorkflowSignal) (signalSeen, error) {
	seen := signalSeen{Signal: s, Cluster: r.Cluster, Now: r.Clock.Now()}
	if s.Unreadable.SpecMessage() != "" {
		seen.Refused, seen.Message = v1alpha1.ReasonUnreadable, s.Unreadable.SpecMessage()
		return seen, nil
	}
	if s.Spec.Data != nil {
		if size, _ := valueSize(s.Spec.Data); size > maxInput {
			seen.Refused, seen.Message = v1alpha1.ReasonInvalidSignal, fmt.Sprintf(
				"spec.data has %d bytes, the limit is %d: keep the data elsewhere and pass a reference to it", size, maxInput)
			return seen, nil
		}
	}
	key := backend.KeyOf(s.Namespace, s.Spec.BackendRef)
	conn := r.Backends.Ready(key)
	if conn == nil {
		state, err := backendState(ctx, r.Client, r.Backends, key)
		state.Ready = false // if it has become ready just now, a listener queues the signal again
		seen.Backend = state
		return seen, err
	}
	seen.Backend, seen.ServerNow = backend.State{Known: true, Ready: true}, conn.Store.ServerTime(seen.Now)
	if s.Spec.Approval != nil && s.Spec.Approval.Step != nil {
		return seen, r.decide(ctx, conn, &seen)
	}
	return seen, r.send(ctx, conn, &seen)
}

// send delivers a signal that is kept, or keeps it.
func (r *WorkflowSignalReconciler) send(ctx context.Context, conn *backend.Connection, seen *signalSeen) error {
	s := seen.Signal
	var result store.SignalResult
	err := store.ErrNotFound
	if meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionDelivered) != nil {
		result, err = conn.Store.DeliverKept(ctx, string(s.UID))
	}
	if errors.Is(err, store.ErrNotFound) {
		var isFound bool
		if isFound, err = r.resolve(ctx, seen); err != nil || !isFound {
			return err
		}
		result, err = r.keep(ctx, conn, seen)
	}
	switch {
	case errors.Is(err, store.ErrReservedSignal):
		seen.Refused, seen.Message = v1alpha1.ReasonInvalidSignal, fmt.Sprintf(
			"the name %q is that of an approval: create a WorkflowSignal with spec.approval to decide about it", s.Spec.Signal)
		return nil
	case errors.Is(err, store.ErrInvalidJSON), errors.Is(err, store.ErrTooLarge):
		seen.Refused, seen.Message = v1alpha1.ReasonInvalidSignal, "the signal cannot be stored: "+serverText(err)+
			": correct it (no U+0000 in texts, no numbers beyond what Postgres holds) and create it anew"
		return nil
	case err != nil:
		return fmt.Errorf("send the signal: %w", err)
	}
	seen.Result = &result
	if name := client.ObjectKeyFromObject(s); result.State == store.SignalWaiting {
		r.kept.add(conn.Key, s.UID, name)
	} else {
		r.kept.remove(s.UID, name)
	}
	if result.State == store.SignalDelivered {
		conn.Wake()
	}
	return nil
}

// resolve finds the id of the run that receives a signal, if it names one. It returns false if the
// run was not started yet.
func (r *WorkflowSignalReconciler) resolve(ctx context.Context, seen *signalSeen) (isFound bool, err error) {
	name, id := targetOf(seen.Signal)
	if seen.RunID = id; name == "" {
		return true, nil
	}
	key := types.NamespacedName{Namespace: seen.Signal.Namespace, Name: name}
	signal := client.ObjectKeyFromObject(seen.Signal)
	r.kept.await(key, signal) // before the look, so that no event is missed
	var run v1alpha1.WorkflowRun
	err = r.Get(ctx, key, &run)
	if isNow := signalExpiry(seen.Signal) == nil; isNow && (apierrors.IsNotFound(err) || err == nil && run.Status.RunID == "") {
		run, err = r.liveRun(ctx, key)
	}
	switch {
	case apierrors.IsNotFound(err):
		seen.Missing = fmt.Sprintf("WorkflowRun %q does not exist in this namespace", name)
	case err != nil:
		return false, fmt.Errorf("get WorkflowRun %s: %w", name, err)
	case backend.NameOf(run.Spec.BackendRef) != backend.NameOf(seen.Signal.Spec.BackendRef):
		seen.Missing = fmt.Sprintf("WorkflowRun %q is of Backend %q, not of %q",
			name, backend.NameOf(run.Spec.BackendRef), backend.NameOf(seen.Signal.Spec.BackendRef))
	case run.Status.RunID == "":
		seen.Missing = fmt.Sprintf("WorkflowRun %q was not started yet", name)
	default:
		r.kept.forget(signal)
		seen.RunID = run.Status.RunID
		return true, nil
	}
	return false, nil
}

// liveRun reads a run from the API server. The cache may be behind what the sender of a signal has
// seen, and one that is not kept gets no second look.
func (r *WorkflowSignalReconciler) liveRun(ctx context.Context, key types.NamespacedName) (run v1alpha1.WorkflowRun, err error) {
	if !r.inputs.take(key.Namespace, maxInput) {
		return run, errInputsBusy
	}
	defer r.inputs.give(key.Namespace, maxInput)
	err = r.inputs.live.Get(ctx, key, &run)
	return run, err
}

// keep stores a signal and delivers it if somebody waits for it.
func (r *WorkflowSignalReconciler) keep(ctx context.Context, conn *backend.Connection, seen *signalSeen) (store.SignalResult, error) {
	s := seen.Signal
	k := store.KeptSignal{ID: string(s.UID), Name: s.Spec.Signal, Key: s.Spec.IdempotencyKey, RunID: seen.RunID}
	if expiresAt := signalExpiry(s); expiresAt != nil {
		k.ExpiresAt = expiresAt.Time
	}
	if s.Spec.Target != nil {
		k.Step = s.Spec.Target.Step
	}
	if data := s.Spec.Data; data != nil {
		raw, release, err := r.data(ctx, s)
		if err != nil {
			return store.SignalResult{}, err
		}
		defer release()
		k.Data = raw
	}
	return conn.Store.KeepSignal(ctx, k)
}

// data returns the data of a signal, which the caller releases when it is stored. The cache leaves
// out large data.
func (r *WorkflowSignalReconciler) data(ctx context.Context, s *v1alpha1.WorkflowSignal) (data []byte, release func(), err error) {
	size, isLeftOut := valueSize(s.Spec.Data)
	if !isLeftOut {
		return s.Spec.Data.Raw, func() {}, nil
	}
	if !r.inputs.take(s.Namespace, size) {
		return nil, nil, errInputsBusy
	}
	release = func() { r.inputs.give(s.Namespace, size) }
	var whole v1alpha1.WorkflowSignal
	err = r.inputs.live.Get(ctx, client.ObjectKeyFromObject(s), &whole, &client.GetOptions{Raw: &metav1.GetOptions{ResourceVersion: s.ResourceVersion}})
	if apierrors.IsNotFound(err) || err == nil && (whole.UID != s.UID || whole.Spec.Data == nil) {
		err = errObjectGone
	}
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("read the data of WorkflowSignal %s/%s: %w", s.Namespace, s.Name, err)
	}
	return whole.Spec.Data.Raw, release, nil
}

// handleError has a signal tried again.
func (r *WorkflowSignalReconciler) handleError(s *v1alpha1.WorkflowSignal, err error) (ctrl.Result, error) {
	switch {
	case errors.Is(err, errObjectGone):
		return ctrl.Result{}, nil
	case errors.Is(err, errInputsBusy):
		return ctrl.Result{RequeueAfter: backoff.Jitter(inputsPause)}, nil
	case store.LockTimeout(err):
		return ctrl.Result{RequeueAfter: backoff.Jitter(lockedPause)}, nil
	}
	r.Backends.Recheck(backend.KeyOf(s.Namespace, s.Spec.BackendRef))
	if isTransient(err) {
		return ctrl.Result{RequeueAfter: backoff.Jitter(3 * time.Second)}, nil
	}
	return ctrl.Result{}, err
}

// isGone reports whether a signal was deleted since it was read. Its withdrawal may have come before what
// was kept of it. One that is deleted after this look is withdrawn by its event, as the cache changes first.
func (r *WorkflowSignalReconciler) isGone(ctx context.Context, s *v1alpha1.WorkflowSignal) (bool, error) {
	var now v1alpha1.WorkflowSignal
	if err := r.Get(ctx, client.ObjectKeyFromObject(s), &now); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("look for WorkflowSignal %s: %w", s.Name, err)
	}
	return now.UID != s.UID, nil
}

// withdraw removes a signal that nobody has received from the database. If that fails, the row stays
// without an object, and is not delivered.
func (r *WorkflowSignalReconciler) withdraw(ctx context.Context, req signalRequest) error {
	r.kept.remove(req.Deleted, req.NamespacedName)
	conn := r.Backends.ReadyOrLingering(types.NamespacedName{Namespace: req.Namespace, Name: req.Backend})
	if conn == nil {
		return nil
	}
	if err := conn.Store.WithdrawSignals(ctx, []string{string(req.Deleted)}); err != nil && !isTransient(err) {
		return fmt.Errorf("withdraw the signal: %w", err)
	}
	return nil
}

// expire deletes a finished signal after its ttl. The end is by the database's clock, and the ttl
// starts no earlier than the object, as for runs.
func (r *WorkflowSignalReconciler) expire(ctx context.Context, s *v1alpha1.WorkflowSignal) (ctrl.Result, error) {
	ttl := s.Spec.TTLSecondsAfterFinished
	if ttl == nil {
		var object v1alpha1.Backend
		if err := r.Get(ctx, backend.KeyOf(s.Namespace, s.Spec.BackendRef), &object); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		ttl = object.Spec.Retention.ObjectTTLSecondsAfterFinished
	}
	if ttl == nil {
		return ctrl.Result{}, nil
	}
	now := r.Clock.Now()
	serverNow := now
	if conn := r.Backends.Ready(backend.KeyOf(s.Namespace, s.Spec.BackendRef)); conn != nil {
		serverNow = conn.Store.ServerTime(now)
	}
	passed := min(now.Sub(s.CreationTimestamp.Time), serverNow.Sub(s.Status.FinishedAt.Time))
	if left := time.Duration(*ttl)*time.Second - passed; left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	err := r.Delete(ctx, s, client.Preconditions{UID: &s.UID})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return ctrl.Result{}, fmt.Errorf("delete finished signal: %w", err)
	}
	return ctrl.Result{}, nil
}

// writeStatus writes the status of a signal if it has changed, and an event when it has finished. Unless
// the signal was delivered, it fails with a conflict if the object was changed since it was read: another
// manager may have written meanwhile that it was (P4).
func (r *WorkflowSignalReconciler) writeStatus(ctx context.Context, s *v1alpha1.WorkflowSignal, status *v1alpha1.WorkflowSignalStatus) error {
	if status == nil || !s.Unreadable.StatusUnreadable() && equality.Semantic.DeepEqual(s.Status, *status) {
		return nil
	}
	changes := []map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": s.UID},
		{"op": "add", "path": "/status", "value": status},
	}
	if !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionDelivered) {
		changes = append(changes, map[string]any{"op": "add", "path": "/metadata/resourceVersion", "value": s.ResourceVersion})
	}
	patch, err := json.Marshal(changes)
	if err != nil {
		return fmt.Errorf("status of WorkflowSignal %s: %w", s.Name, err)
	}
	err = r.Status().Patch(ctx, s.DeepCopy(), client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(v1alpha1.FieldManager))
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of WorkflowSignal %s: %w", s.Name, err)
	}
	if status.FinishedAt != nil {
		reason := conditionReason(status.Conditions)
		metrics.SignalsFinished.WithLabelValues(reason).Inc()
		r.Events.Eventf(s, nil, eventType(reason == v1alpha1.ReasonDelivered), reason, "Send", "%s", readyMessage(status.Conditions))
	}
	return nil
}
