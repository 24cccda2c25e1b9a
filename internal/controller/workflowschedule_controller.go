package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

const (
	// tenantSchedules is the number of WorkflowSchedules of one namespace that are reconciled at
	// once, and concurrentSchedules that of all.
	tenantSchedules, concurrentSchedules = 16, 64
	// maxScheduleWrites bounds the runs that one reconcile creates, and those that it lets expire.
	maxScheduleWrites = 50
	// retryStart is the time after which a start that has failed is tried again.
	retryStart = 5 * time.Second
	// retryTidy is the time after which runs are expired again that could not be. maxRetry bounds the
	// time until a schedule is looked at again after an error.
	retryTidy, maxRetry = 30 * time.Second, time.Minute
	// retryConflict is the time after which a schedule is read again that was changed meanwhile.
	retryConflict = 50 * time.Millisecond
	// reconcileTimeout bounds one reconcile. A manager that was paused for longer writes nothing more.
	reconcileTimeout = 30 * time.Second
	// settleTime is longer than a reconcile may take. For this long a WorkflowRun is kept after its
	// creation, as a manager that takes itself for the leader may be about to create it, too; and a
	// start is tried for this long before another slot may start instead.
	settleTime = 2 * reconcileTimeout
)

// WorkflowScheduleReconciler creates the runs of schedules. The name of a run follows from its slot,
// so that a slot cannot start twice. What was decided is in the status before something is done that
// could not be repeated: runs are canceled, and expire, after it is written. Where the decision to
// start a slot depends on open runs, the status says so before the run is created:
//
//	decide ──> status.starting = slot ──> create the run ──> status.active, outcome Started
//	           (fails if the object has changed)   (fails if it exists)
//
// Whoever finds a slot in status.starting creates its run, if it does not exist. The status of a
// schedule with runs InDatabase always says so before: no list of runs tells what a manager has
// created before it died.
type WorkflowScheduleReconciler struct {
	client.Client
	Backends *backend.Registry
	Events   events.EventRecorder
	Clock    clock.PassiveClock
	// Cluster identifies the cluster; see ClusterID.
	Cluster string
	// Check is the longest sleep of a schedule's timer, after which a clock that was set is noticed.
	Check time.Duration

	// live reads objects without a cache.
	live client.Reader
	// refused are the starts that the API server has refused, and pace is that of backfills.
	refused refusedStarts
	pace    backfillPacer
	// outcomes knows what of the statuses is to be stored in the databases.
	outcomes *outcomeLog
}

// refusedStarts remembers since when the starts of a schedule are refused. That is lost at a restart,
// which costs settleTime once more.
type refusedStarts struct {
	mu    sync.Mutex
	since map[types.NamespacedName]time.Time
}

// note takes the result of a start, whose slot may not start if the API server has answered that.
func (r *refusedStarts) note(schedule types.NamespacedName, err error, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if status := apierrors.APIStatus(nil); err == nil || !errors.As(err, &status) {
		delete(r.since, schedule) // of a request without an answer, nobody knows what became of it
	} else if _, ok := r.since[schedule]; !ok {
		if r.since == nil {
			r.since = map[types.NamespacedName]time.Time{}
		}
		r.since[schedule] = now
	}
}

// forLong reports whether the starts of a schedule have been refused for settleTime.
func (r *refusedStarts) forLong(schedule types.NamespacedName, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, ok := r.since[schedule]
	return ok && now.Sub(since) > settleTime
}

// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowschedules,verbs=get;list;watch
// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowschedules/status,verbs=patch
// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowruns,verbs=create;patch

// SetupWithManager registers the reconciler.
func (r *WorkflowScheduleReconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	options.MaxConcurrentReconciles = concurrentSchedules
	options.NewQueue = newFairQueue(mgr.GetLogger(), tenantSchedules, func(req reconcile.Request) string { return req.Namespace })
	options.ReconciliationTimeout = reconcileTimeout
	options.RateLimiter = workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](5*time.Millisecond, maxRetry)
	owner := handler.EnqueueRequestForOwner(mgr.GetScheme(), mgr.GetRESTMapper(), &v1alpha1.WorkflowSchedule{}, handler.OnlyControllerOwner())
	return ctrl.NewControllerManagedBy(mgr).
		Named("workflowschedule").
		For(&v1alpha1.WorkflowSchedule{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: scheduleChanged})).
		Watches(&v1alpha1.WorkflowRun{}, owner, builder.WithPredicates(ownedRunEvents)).
		WatchesRawSource(source.Func(r.enqueueOf)).
		WithOptions(options).
		Complete(r)
}

// scheduleChanged reports whether an update of a schedule calls for a reconcile: of its spec, or of
// the runs and slots that it waits for. The end of such a run may have been seen before the status.
func scheduleChanged(e event.UpdateEvent) bool {
	before, ok := e.ObjectOld.(*v1alpha1.WorkflowSchedule)
	after, isToo := e.ObjectNew.(*v1alpha1.WorkflowSchedule)
	return !ok || !isToo || before.Generation != after.Generation || before.UID != after.UID ||
		!equality.Semantic.DeepEqual(before.Status.Active, after.Status.Active) ||
		!before.Status.BufferedTime.Equal(after.Status.BufferedTime)
}

// ownedRunEvents are those of runs that matter to their schedule: an end, and a deletion before it.
var ownedRunEvents = predicate.Funcs{
	CreateFunc:  func(event.CreateEvent) bool { return false },
	GenericFunc: func(event.GenericEvent) bool { return false },
	UpdateFunc: func(e event.UpdateEvent) bool {
		return metav1.GetControllerOfNoCopy(e.ObjectNew) != nil && !hasEnded(e.ObjectOld) && hasEnded(e.ObjectNew)
	},
	DeleteFunc: func(e event.DeleteEvent) bool {
		return metav1.GetControllerOfNoCopy(e.Object) != nil && !hasEnded(e.Object)
	},
}

func hasEnded(object client.Object) bool {
	run, ok := object.(*v1alpha1.WorkflowRun)
	return ok && run.Status.State.Terminal()
}

// Reconcile starts the slots of one schedule that are due, writes its status, and does what follows
// from it.
func (r *WorkflowScheduleReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var s v1alpha1.WorkflowSchedule
	if err := r.Get(ctx, req.NamespacedName, &s); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !s.DeletionTimestamp.IsZero() {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	seen, ok, err := r.observe(ctx, &s)
	if err != nil || !ok {
		return ctrl.Result{}, err
	}
	seen.Unstored = r.outcomes.unstored(&s)
	plan := planSchedule(seen)
	wake, err := r.carryOut(ctx, plan)
	switch {
	case apierrors.IsConflict(err): // a later version decides: what was created is found there
		return ctrl.Result{RequeueAfter: retryConflict}, nil
	case err != nil:
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	return ctrl.Result{RequeueAfter: wake}, nil
}

// forget drops what is remembered of a schedule.
func (r *WorkflowScheduleReconciler) forget(schedule types.NamespacedName) {
	r.refused.note(schedule, nil, time.Time{})
	r.pace.next(schedule, false)
}

// carryOut starts slots, writes the status, and does what follows from it. It returns when to look at
// the schedule again.
func (r *WorkflowScheduleReconciler) carryOut(ctx context.Context, plan *schedulePlan) (time.Duration, error) {
	s := plan.seen.Schedule
	wake, err := r.start(ctx, plan)
	if err != nil {
		return 0, err
	}
	var work *backfillWork
	if pause := r.pace.next(client.ObjectKeyFromObject(s), backfillsOpen(s)); pause > 0 {
		wake = min(wake, pause)
	} else if plan.seen.Reason == "" {
		if err := r.lookUp(ctx, plan); err == nil {
			work = plan.planBackfills()
		} else {
			ctrl.LoggerFrom(ctx).Error(err, "A backfill waits")
			wake = min(wake, backoff.Jitter(retryStart), r.Check)
		}
	}
	if err := r.writeStatus(ctx, s, plan.finish()); err != nil {
		return 0, err
	}
	plan.count()
	again, err := r.tidy(ctx, plan)
	if err != nil {
		if ctx.Err() != nil {
			return 0, err
		}
		again = r.tidyFailed(ctx, plan, err)
	}
	wake = min(wake, again, r.checkRows(plan))
	if work == nil {
		return wake, nil
	}
	again, err = r.backfill(ctx, plan, work)
	return min(wake, again), err
}

// observe reads the runs of a schedule. The cache may lack those that were created just now, and the
// status knows them. It reports false if nothing may be concluded yet.
func (r *WorkflowScheduleReconciler) observe(ctx context.Context, s *v1alpha1.WorkflowSchedule) (seen scheduleSeen, ok bool, err error) {
	if schedulespec.IsInDatabase(s) && s.Unreadable.SpecMessage() == "" {
		return r.observeRows(ctx, s)
	}
	var owned v1alpha1.WorkflowRunList
	if err := r.List(ctx, &owned, client.InNamespace(s.Namespace), client.MatchingFields{indexByOwner: string(s.UID)}); err != nil {
		return scheduleSeen{}, false, fmt.Errorf("list the runs of WorkflowSchedule %s: %w", s.Name, err)
	}
	known := make(map[string]bool, len(owned.Items))
	for i := range owned.Items {
		known[owned.Items[i].Name] = true
	}
	for _, name := range expectedRuns(&s.Status) {
		if known[name] {
			continue
		}
		var run v1alpha1.WorkflowRun
		err := r.live.Get(ctx, types.NamespacedName{Namespace: s.Namespace, Name: name}, &run)
		if client.IgnoreNotFound(err) != nil {
			return scheduleSeen{}, false, fmt.Errorf("get run %s: %w", name, err)
		}
		if err == nil && metav1.IsControlledBy(&run, s) {
			owned.Items = append(owned.Items, run)
		}
	}
	return scheduleSeen{Schedule: s, Runs: owned.Items, Now: r.Clock.Now()}, true, nil
}

// start creates the runs of the slots that are due. It returns when to look at the schedule again. A
// start that has failed is in the plan's reason; an error means that nothing more may be done.
func (r *WorkflowScheduleReconciler) start(ctx context.Context, plan *schedulePlan) (time.Duration, error) {
	if plan.planner == nil {
		return r.sleep(plan.seen.Now, time.Time{}), nil
	}
	s := plan.seen.Schedule
	key := client.ObjectKeyFromObject(s)
	if r.refused.forLong(key, plan.seen.Now) {
		plan.planner.State.Starting = time.Time{}
	}
	room := r.outcomes.room(s, plan.seen.Unstored, r.Backends.Ready(backendOf(s)) != nil)
	for range room {
		slot, ok := plan.planner.Next()
		if !ok {
			return r.sleep(plan.seen.Now, plan.planner.Wake), nil
		}
		if plan.planner.NeedsIntent(slot) {
			plan.planner.Intend(slot)
			if err := r.writeStatus(ctx, s, plan.finish()); err != nil {
				return 0, err
			}
		}
		err := r.startSlot(ctx, plan, slot)
		r.refused.note(key, err, plan.seen.Now)
		if err != nil {
			if ctx.Err() != nil {
				return 0, err
			}
			plan.reason, plan.message = startFailure(err)
			if plan.reason == v1alpha1.ReasonInvalidRunTemplate { // a change of the spec is an event
				return r.sleep(plan.seen.Now, time.Time{}), nil
			}
			return min(backoff.Jitter(retryStart), r.Check), nil
		}
	}
	if room < maxScheduleWrites {
		return retryOutcomes, nil
	}
	return time.Millisecond, nil
}

// sleep returns the time until a schedule is looked at again.
func (r *WorkflowScheduleReconciler) sleep(now, wake time.Time) time.Duration {
	if wake.IsZero() {
		return backoff.Jitter(r.Check)
	}
	return max(min(wake.Sub(now), r.Check), time.Millisecond)
}

// startSlot creates the run of a slot, unless the schedule has created it before.
func (r *WorkflowScheduleReconciler) startSlot(ctx context.Context, plan *schedulePlan, slot time.Time) error {
	if schedulespec.IsInDatabase(plan.seen.Schedule) {
		return r.startRow(ctx, plan, slot)
	}
	run, err := schedulespec.Run(plan.seen.Schedule, slot, "")
	if err != nil {
		return err
	}
	if _, exists := slices.BinarySearchFunc(plan.planner.Existing, slot, time.Time.Compare); exists {
		plan.started(slot, run.Name, false)
		return nil
	}
	err = r.Create(ctx, run, client.FieldOwner(v1alpha1.FieldManager))
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return fmt.Errorf("create run %s: %w", run.Name, err)
		}
		metrics.ScheduleLateness.Observe(plan.planner.Lateness(slot, r.Clock.Now()).Seconds())
		plan.started(slot, run.Name, true)
		return nil
	}
	var other v1alpha1.WorkflowRun
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(run), &other); err != nil {
		return fmt.Errorf("get run %s, which exists: %w", run.Name, err)
	}
	if !metav1.IsControlledBy(&other, plan.seen.Schedule) {
		plan.planner.Conflict(slot, run.Name, fmt.Sprintf(
			"the slot of %s was missed: a WorkflowRun %s exists that this schedule does not own; delete it, or rename the schedule", slot.Format(time.RFC3339), run.Name))
		return nil
	}
	plan.started(slot, run.Name, !other.Status.State.Terminal())
	return nil
}

// started says that the run of a slot exists. It stays active until its end is settled.
func (p *schedulePlan) started(slot time.Time, run string, isNewlyOpen bool) {
	p.planner.Started(slot, run)
	if !isNewlyOpen { // it has ended, or was counted
		p.planner.Open--
	}
	p.active = append(p.active, run)
}

// startFailure returns the reason and the message of a start that has failed.
func startFailure(err error) (reason, message string) {
	text := truncateText(err.Error(), 700)
	if errors.Is(err, errUnstorable) {
		return v1alpha1.ReasonInvalidRunTemplate, text
	}
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err) {
		return v1alpha1.ReasonInvalidRunTemplate, "the API server rejects what spec.runTemplate becomes: " + text
	}
	return v1alpha1.ReasonStartFailed, "a slot is due, and is tried again: " + text
}

// writeStatus writes the status of a schedule if it has changed, and an event for a new reason. It
// fails if the object was changed since it was read, or deleted.
func (r *WorkflowScheduleReconciler) writeStatus(ctx context.Context, s *v1alpha1.WorkflowSchedule, status v1alpha1.WorkflowScheduleStatus) error {
	if !s.Unreadable.StatusUnreadable() && equality.Semantic.DeepEqual(s.Status, status) {
		return nil
	}
	before := conditionReason(s.Status.Conditions)
	patched := s.DeepCopy()
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": s.UID},
		{"op": "add", "path": "/metadata/resourceVersion", "value": s.ResourceVersion},
		{"op": "add", "path": "/status", "value": status},
	})
	if err != nil {
		return fmt.Errorf("status of WorkflowSchedule %s: %w", s.Name, err)
	}
	err = r.Status().Patch(ctx, patched, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(v1alpha1.FieldManager))
	if apierrors.IsConflict(err) {
		return err
	}
	if err != nil {
		return fmt.Errorf("write status of WorkflowSchedule %s: %w", s.Name, err)
	}
	s.Status, s.ResourceVersion = status, patched.ResourceVersion
	if after := conditionReason(status.Conditions); after != before && notReadyReason(status.Conditions) != "" {
		for _, c := range status.Conditions {
			if c.Type == v1alpha1.ConditionReady {
				r.Events.Eventf(s, nil, eventType(false), after, "Schedule", "%s", c.Message)
			}
		}
	}
	return nil
}

// tidy cancels the runs that a later slot replaces, and lets those expire that are beyond the
// history. It returns the time until there are more of them.
func (r *WorkflowScheduleReconciler) tidy(ctx context.Context, plan *schedulePlan) (time.Duration, error) {
	if schedulespec.IsInDatabase(plan.seen.Schedule) {
		return r.cancelRows(ctx, plan)
	}
	var errs []error
	for _, run := range plan.replaced() {
		if err := r.setRun(ctx, run, "cancel", true); err != nil {
			errs = append(errs, fmt.Errorf("cancel run %s, which a later slot replaces: %w", run.Name, err))
		}
	}
	ended, again := plan.beyondHistory()
	for _, run := range ended[:min(len(ended), maxScheduleWrites)] {
		// The run's reconciler deletes it, after it has asked the row whether it has ended.
		if err := r.setRun(ctx, run, "ttlSecondsAfterFinished", 0); err != nil {
			errs = append(errs, fmt.Errorf("expire run %s, which is beyond the history limit: %w", run.Name, err))
		}
	}
	if len(ended) > maxScheduleWrites {
		again = retryConflict
	}
	return again, errors.Join(errs...)
}

// tidyFailed reports an error of tidy, on which no slot depends: those that are due start at their time.
// It returns when to try again.
func (r *WorkflowScheduleReconciler) tidyFailed(ctx context.Context, plan *schedulePlan, err error) time.Duration {
	ctrl.LoggerFrom(ctx).Error(err, "Runs were not canceled or expired")
	r.Events.Eventf(plan.seen.Schedule, nil, eventType(false), v1alpha1.ReasonTidyFailed, "Tidy", "%s", truncateText(err.Error(), 1000))
	retry := retryTidy
	if len(plan.replaced()) > 0 { // a slot waits for their end
		retry = retryStart
	}
	return min(backoff.Jitter(retry), r.Check)
}

// setRun sets a field of a run's spec, if the run still exists.
func (r *WorkflowScheduleReconciler) setRun(ctx context.Context, run *v1alpha1.WorkflowRun, field string, value any) error {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": run.UID},
		{"op": "add", "path": "/spec/" + field, "value": value},
	})
	if err != nil {
		return err
	}
	target := &metav1.PartialObjectMetadata{} // the answer has no input
	target.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
	target.Namespace, target.Name = run.Namespace, run.Name
	return client.IgnoreNotFound(r.Patch(ctx, target, client.RawPatch(types.JSONPatchType, patch), client.FieldOwner(v1alpha1.FieldManager)))
}
