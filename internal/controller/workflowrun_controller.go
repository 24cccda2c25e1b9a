package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Indexes of the WorkflowRun cache. Both hold only runs that have not ended, so that their
// size follows live work.
const (
	indexOpenByBackend = "open.backend"
	indexOpenByRunID   = "open.runID"
)

const (
	// tenantReconciles is the number of WorkflowRuns of one namespace that are reconciled at
	// once. They wait for the database, whose calls they share.
	tenantReconciles = 2 * backend.FullAt
	// concurrentReconciles is that of all namespaces. A worker that has nothing to do costs a few
	// kilobytes.
	concurrentReconciles = 8 * tenantReconciles
)

// WorkflowRunReconciler mirrors runs into the database and does what their specs ask for:
// cancel, suspend, resume, delete after the ttl. Workers execute them.
type WorkflowRunReconciler struct {
	client.Client
	Backends *backend.Registry
	Events   events.EventRecorder
	Clock    clock.PassiveClock
	// Cluster identifies the cluster in the context of runs.
	Cluster string

	// AttachAcrossNamespaces allows an idempotency key to find the run of an object in another
	// namespace, where namespaces share the tables.
	AttachAcrossNamespaces bool

	// FirstReport is how long a worker may take to report a new run before the manager
	// does. It saves one write for each run that is executed at once.
	FirstReport time.Duration

	status  *runStatusWriter
	pods    *podNames
	reports *ReportTracker
	ends    *endQueue
	inputs  *inputLoader
	ttls    objectTTLs
}

// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowruns,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=openworkflow.dev,resources=workflowruns/status,verbs=patch;update

// SetupWithManager registers the reconciler.
func (r *WorkflowRunReconciler) SetupWithManager(mgr ctrl.Manager, options controller.TypedOptions[runRequest]) error {
	options.MaxConcurrentReconciles = concurrentReconciles
	options.NewQueue = newFairQueue(mgr.GetLogger(), tenantReconciles, func(req runRequest) string { return req.Namespace })
	options.ReconciliationTimeout = 30 * time.Second
	return builder.TypedControllerManagedBy[runRequest](mgr).
		Named("workflowrun").
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &v1alpha1.WorkflowRun{}, r.runEvents(r.observeReport, r.ends.add))).
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &v1alpha1.WorkflowRun{}, sourceEvents(context.Background(), mgr.GetCache()))).
		WatchesRawSource(source.TypedKind(mgr.GetCache(), &v1alpha1.Backend{}, r.ttlEvents())).
		WatchesRawSource(source.TypedFunc[runRequest](func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[runRequest]) error {
			r.Backends.Listen(func(key types.NamespacedName) { r.backendChanged(ctx, key, queue) })
			r.reports.OnTimeout = func(key types.NamespacedName) { addLowPriority(queue, runRequest{NamespacedName: key}) }
			return nil
		})).
		WithOptions(options).
		WithLogConstructor(logFor(mgr, "workflowrun", func(req runRequest) []any {
			return []any{"namespace", req.Namespace, "name", req.Name, "deleted", req.Deleted}
		})).
		Complete(r)
}

// Reconcile does what the spec of one WorkflowRun asks for and writes its status.
func (r *WorkflowRunReconciler) Reconcile(ctx context.Context, req runRequest) (ctrl.Result, error) {
	if req.Deleted != "" {
		return ctrl.Result{}, r.cancelDeleted(ctx, req)
	}
	run, known, err := r.get(ctx, req.NamespacedName)
	if err != nil || run == nil {
		return ctrl.Result{}, err
	}
	r.reports.Track(req.NamespacedName, run.UID, backend.NameOf(run.Spec.BackendRef))
	defer r.reports.Release(req.NamespacedName) // unless its report is expected
	seen, conn, err := r.observe(ctx, run, known)
	if err != nil {
		return r.handleError(ctx, &seen, err)
	}
	plan, err := r.carryOut(ctx, conn, &seen, planRun(seen))
	if err != nil {
		return r.handleError(ctx, &seen, err)
	}
	if err := r.writeStatus(ctx, conn, &seen, plan); err != nil {
		return ctrl.Result{}, err
	}
	r.reports.ExpectWithin(req.NamespacedName, plan.ExpectReportWithin)
	if retry := r.status.refused.retryIn(run.UID); retry > 0 && plan.Status != nil {
		return ctrl.Result{RequeueAfter: retry}, nil
	}
	return ctrl.Result{RequeueAfter: plan.RequeueAfter}, nil
}

// unreported is what the tracker knows of an object whose status does not show its row.
type unreported struct {
	// hasRow is true if its row may exist.
	hasRow bool
	// wait is how much longer its first report is expected.
	wait time.Duration
}

// get returns the object, which must not be changed, or nil when there is nothing to do
// for it.
func (r *WorkflowRunReconciler) get(ctx context.Context, key types.NamespacedName) (*v1alpha1.WorkflowRun, unreported, error) {
	run := &v1alpha1.WorkflowRun{}
	if err := r.Get(ctx, key, run, client.UnsafeDisableDeepCopy); client.IgnoreNotFound(err) != nil {
		return nil, unreported{}, err
	}
	tracked, backendName, wait := r.reports.Remove(key)
	if tracked != "" && tracked != run.UID {
		// The deletion of the previous object may have been handled before its row existed.
		if err := r.cancelDeleted(ctx, runRequest{NamespacedName: key, Deleted: tracked, Backend: backendName}); err != nil {
			return nil, unreported{}, err
		}
	}
	if run.UID == "" || !r.needsReconcile(run) { // it is gone, or was reported after it was queued
		return nil, unreported{}, nil
	}
	if tracked != run.UID {
		return run, unreported{}, nil
	}
	return run, unreported{hasRow: true, wait: wait}, nil
}

// observe gathers what a plan is made from. It reads the row only when the plan depends on
// it.
func (r *WorkflowRunReconciler) observe(ctx context.Context, run *v1alpha1.WorkflowRun, known unreported) (runSeen, *backend.Connection, error) {
	seen := runSeen{
		Run: run, Cluster: r.Cluster, RunID: startedRunID(run),
		FirstReport: r.FirstReport, FirstReportLeft: known.wait, Now: r.Clock.Now(),
	}
	if run.Status.State.Terminal() {
		return seen, nil, r.observeEnded(ctx, &seen)
	}
	if known.hasRow && seen.RunID == "" {
		seen.RunID = string(run.UID)
	}
	key := backend.KeyOf(run.Namespace, run.Spec.BackendRef)
	conn := r.Backends.Ready(key)
	if conn != nil {
		seen.Backend, seen.ServerAhead = backend.State{Known: true, Ready: true}, serverAhead(conn, seen.Now)
		seen.ReportDelay = r.reports.SlowestReportDelay(conn.Workers(), seen.Now)
	} else {
		state, err := backendState(ctx, r.Client, r.Backends, key)
		if err != nil {
			return seen, nil, err
		}
		state.Ready = false // if it has become ready just now, a listener queues the run again
		seen.Backend = state
	}
	if conn == nil || seen.RunID == "" {
		return seen, conn, nil
	}
	return seen, conn, r.load(ctx, conn, &seen)
}

// serverAhead returns by how much the database's clock is ahead of the manager's.
func serverAhead(conn *backend.Connection, now time.Time) time.Duration {
	return conn.Store.ServerTime(now).Sub(now)
}

// observeEnded gathers what the deletion of an ended run depends on. The row is read only once nothing
// else keeps the object.
func (r *WorkflowRunReconciler) observeEnded(ctx context.Context, seen *runSeen) (err error) {
	seen.TTL = r.ttls.of(seen.Run)
	if seen.TTL == nil || !seen.Run.DeletionTimestamp.IsZero() {
		return nil
	}
	if seen.Kept, err = r.keptBySchedule(ctx, seen.Run, seen.Now); err != nil || seen.Kept > 0 {
		return err
	}
	return r.confirmEnd(ctx, seen)
}

// confirmEnd looks for the end of a run that will be deleted after its ttl. The status alone is
// not believed: deleting an open run's object cancels the run. Without a Backend there is nobody
// to ask, and nothing to cancel.
func (r *WorkflowRunReconciler) confirmEnd(ctx context.Context, seen *runSeen) error {
	run := seen.Run
	key := backend.KeyOf(run.Namespace, run.Spec.BackendRef)
	if conn := r.Backends.Ready(key); conn != nil {
		seen.ServerAhead = serverAhead(conn, seen.Now)
		err := r.loadRow(ctx, conn, seen)
		seen.Unconfirmed = seen.Row != nil && !seen.Row.Status.Terminal()
		return err
	}
	state, err := backendState(ctx, r.Client, r.Backends, key)
	seen.Unconfirmed = state.Reason != v1alpha1.ReasonBackendNotFound
	return err
}

// load reads the run's row and, unless its worker is about to report them, its steps.
func (r *WorkflowRunReconciler) load(ctx context.Context, conn *backend.Connection, seen *runSeen) (err error) {
	if err := r.loadRow(ctx, conn, seen); err != nil {
		return err
	}
	seen.Steps, seen.Worker, seen.WorkerReports, seen.ReportDelay = openworkflow.StepSummary{}, "", false, 0
	if seen.Row == nil || seen.Row.Attempts == 0 {
		return nil
	}
	seen.ReportDelay, seen.WorkerReports = r.reports.ReportDelay(seen.Row, conn.Workers(), seen.Now)
	seen.WorkerReports = seen.WorkerReports && r.pods.reports(ctx, seen.Row, seen.Run.Namespace)
	if wait, _ := seen.firstReportWait(); wait > 0 {
		return nil
	}
	steps, err := conn.Store.StepSummaries(ctx, []string{seen.RunID}, projection.NewestSteps)
	if err != nil {
		return fmt.Errorf("read the steps of run %s: %w", seen.RunID, err)
	}
	seen.Steps = steps[seen.RunID]
	seen.Worker = r.pods.holder(ctx, seen.Row)
	return nil
}

// loadRow reads the row that the object may show.
func (r *WorkflowRunReconciler) loadRow(ctx context.Context, conn *backend.Connection, seen *runSeen) error {
	ids := rowCandidates(seen.Run, seen.RunID)
	rows := make(map[string]*openworkflow.Run, len(ids))
	for _, id := range ids {
		row, err := conn.RunState(ctx, id)
		if err != nil {
			return fmt.Errorf("read run %s: %w", id, err)
		}
		rows[id] = row
	}
	seen.Row = rowOf(seen.Run, ids, rows, r.AttachAcrossNamespaces)
	if seen.Row != nil {
		seen.RunID = seen.Row.ID
	}
	return nil
}

// maxActions bounds the actions of one reconcile. Two are enough to mirror a run and then
// do what its spec asks for; more are planned only while others change the row.
const maxActions = 4

// carryOut does what the plan says, plans again from the outcome until nothing is left to
// do, and returns the last plan.
func (r *WorkflowRunReconciler) carryOut(ctx context.Context, conn *backend.Connection, seen *runSeen, plan runPlan) (runPlan, error) {
	for plan.Action != runNothing {
		if len(seen.Done) == maxActions {
			return plan, fmt.Errorf("run %s is still to be changed (%s) after %d actions", seen.RunID, plan.Action, maxActions)
		}
		if err := r.act(ctx, conn, seen, plan); err != nil {
			return plan, err
		}
		seen.Done = append(seen.Done, plan.Action)
		if plan.Action == runDelete {
			return runPlan{}, nil
		}
		plan = planRun(*seen)
	}
	return plan, nil
}

// act carries out the action of a plan and reads the run's row again.
func (r *WorkflowRunReconciler) act(ctx context.Context, conn *backend.Connection, seen *runSeen, plan runPlan) error {
	switch plan.Action {
	case runMirror:
		if err := r.mirror(ctx, conn, seen, plan.NewRun); err != nil {
			return err
		}
		if seen.Refused != "" || seen.JustInserted {
			return nil
		}
	case runFork:
		if err := r.fork(ctx, conn, seen, plan.NewRun); err != nil {
			return err
		}
		if seen.RunID == "" || seen.JustInserted {
			return nil
		}
	case runCancel:
		if _, err := conn.Store.CancelRuns(ctx, []string{seen.RunID}); err != nil {
			return fmt.Errorf("cancel run %s: %w", seen.RunID, err)
		}
		metrics.RunsCanceled.WithLabelValues("spec").Inc()
		conn.Ended()
	case runSuspend:
		if _, err := conn.Store.SuspendRuns(ctx, []string{seen.RunID}); err != nil {
			return fmt.Errorf("suspend run %s: %w", seen.RunID, err)
		}
	case runResume:
		if _, err := conn.Store.ResumeRuns(ctx, []string{seen.RunID}); err != nil {
			return fmt.Errorf("resume run %s: %w", seen.RunID, err)
		}
		conn.Wake()
	case runDelete:
		err := r.Delete(ctx, seen.Run, client.Preconditions{UID: &seen.Run.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete ended run: %w", err)
		}
		return nil
	case runNothing:
		return nil
	}
	return r.load(ctx, conn, seen)
}

// mirror inserts the run's row, or finds the existing one.
func (r *WorkflowRunReconciler) mirror(ctx context.Context, conn *backend.Connection, seen *runSeen, row store.NewRun) error {
	if size, isLeftOut := inputSize(seen.Run); isLeftOut {
		input, release, err := r.inputs.load(ctx, seen.Run, size)
		if err != nil {
			return err
		}
		defer release()
		row.Input = input
	}
	c, err := conn.CreateRun(ctx, row)
	if err != nil {
		return fmt.Errorf("create run: %w", err)
	}
	if c.Err == nil && c.RunID != row.ID {
		return r.attach(ctx, conn, seen, row, c.RunID)
	}
	if errors.Is(c.Err, store.ErrLocked) { // by an open transaction
		return fmt.Errorf("create run: %w", c.Err)
	}
	seen.RunID = c.RunID
	switch {
	case c.Err != nil:
		seen.RefusedReason = v1alpha1.ReasonInvalidInput
		seen.Refused = unstorable(c.Err)
		metrics.RunsMirrored.WithLabelValues("rejected").Inc()
	case c.Inserted:
		seen.JustInserted = !row.Suspended
		metrics.RunsMirrored.WithLabelValues("inserted").Inc()
	}
	return nil
}

// unstorable says what to do about a value that the database has refused.
func unstorable(err error) string {
	return "the run cannot be stored: " + strings.TrimPrefix(err.Error(), store.ErrInvalidJSON.Error()+": ") + ": correct the input (no U+0000 in texts, no numbers beyond what Postgres holds) and create the run anew"
}

// attach makes the object show the run that holds its idempotency key, unless that is another
// run than the object asks for, or one of another namespace. A key is no secret, so it must not
// be enough to learn or change anything of somebody else's run.
func (r *WorkflowRunReconciler) attach(ctx context.Context, conn *backend.Connection, seen *runSeen, row store.NewRun, holderID string) error {
	holder, err := conn.Store.KeyHolder(ctx, holderID, row)
	if err != nil {
		return fmt.Errorf("compare with run %s, which has the same idempotency key: %w", holderID, err)
	}
	if seen.Refused = keyConflict(seen.Run, holderID, holder, r.AttachAcrossNamespaces); seen.Refused != "" {
		seen.RefusedReason = v1alpha1.ReasonKeyConflict
		metrics.RunsMirrored.WithLabelValues("rejected").Inc()
		return nil
	}
	seen.RunID = holderID
	metrics.RunsMirrored.WithLabelValues("attached").Inc()
	return nil
}

// writeStatus writes the status of a plan and records events, if the plan has a status.
func (r *WorkflowRunReconciler) writeStatus(ctx context.Context, conn *backend.Connection, seen *runSeen, plan runPlan) error {
	if plan.Overdue {
		r.reports.MarkUnresponsive(seen.Row, seen.Now)
	}
	if plan.Status == nil {
		return nil
	}
	status := *plan.Status
	status.ObservedGeneration = seen.Run.Generation
	outcome, err := r.status.write(ctx, seen.Run, status)
	if err == nil && outcome == statusStale && seen.Run.Status.ObservedGeneration != seen.Run.Generation {
		outcome, err = r.status.writeGeneration(ctx, seen.Run)
	}
	if err != nil {
		return err
	}
	if outcome == statusGone && conn != nil && seen.own() && !status.State.Terminal() {
		// The deletion of the object may have been handled before its row existed.
		if err := cancelDeletedRun(ctx, conn, seen.RunID); err != nil {
			return err
		}
	}
	for _, action := range seen.Done {
		r.event(seen, action)
	}
	return nil
}

// cancelDeleted cancels the run of an object that was deleted. An object that only showed
// the run of an earlier one has no row of its own id, so that run goes on. What cannot be
// done now is left to the sweep of orphans.
func (r *WorkflowRunReconciler) cancelDeleted(ctx context.Context, req runRequest) error {
	conn := r.Backends.ReadyOrLingering(types.NamespacedName{Namespace: req.Namespace, Name: req.Backend})
	if conn == nil {
		return nil
	}
	if err := cancelDeletedRun(ctx, conn, string(req.Deleted)); err != nil {
		r.Backends.Recheck(conn.Key)
		if isTransient(err) {
			return nil
		}
		return err
	}
	return nil
}

// cancelDeletedRun cancels the run of an object that was deleted.
func cancelDeletedRun(ctx context.Context, conn *backend.Connection, id string) error {
	status, err := conn.CancelRun(ctx, id)
	if err != nil {
		return fmt.Errorf("cancel the run of a deleted object: %w", err)
	}
	if status == openworkflow.RunCanceled {
		metrics.RunsCanceled.WithLabelValues("deleted").Inc()
	}
	conn.Ended()
	return nil
}

// handleError has the Backend checked after an error. A database that does not answer is no
// error of this run, which is retried every few seconds.
func (r *WorkflowRunReconciler) handleError(ctx context.Context, seen *runSeen, err error) (ctrl.Result, error) {
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctrl.Result{}, nil // the manager is stopping
	}
	run := seen.Run
	key := backend.KeyOf(run.Namespace, run.Spec.BackendRef)
	switch {
	case errors.Is(err, errObjectGone):
		return ctrl.Result{}, nil
	case errors.Is(err, errInputsBusy):
		return ctrl.Result{RequeueAfter: backoff.Jitter(inputsPause)}, nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		if conn := r.Backends.Ready(key); conn != nil {
			conn.Blocked()
		}
	}
	if store.LockTimeout(err) {
		return r.waitForKey(ctx, seen)
	}
	r.Backends.Recheck(key)
	if isTransient(err) {
		return ctrl.Result{RequeueAfter: backoff.Jitter(3 * time.Second)}, nil
	}
	if seen.RunID == "" && !run.Status.State.Terminal() {
		// The cause is not in the run, but its status is where a user looks first.
		state := backend.State{Known: true, Reason: v1alpha1.ReasonBackendNotReady, Message: "the database refused a statement: " + serverText(err)}
		status := waitingStatus(*seen, state.Reason, backendMessage(key.Name, state))
		if _, werr := r.status.write(ctx, run, status); werr != nil {
			return ctrl.Result{}, errors.Join(err, werr)
		}
	}
	return ctrl.Result{}, err
}

const (
	// keyPatience is how long the start of a run waits for the lock of its idempotency key.
	keyPatience = 50 * time.Millisecond
	// lockedPause is the time between two tries of a run that others have locked.
	lockedPause = 2 * time.Second
	// inputsPause is the time between two tries of a run whose input is large.
	inputsPause = 200 * time.Millisecond
)

// waitForKey has a run tried again that others have locked. Of a run that is not started yet, that
// is the idempotency key.
func (r *WorkflowRunReconciler) waitForKey(ctx context.Context, seen *runSeen) (ctrl.Result, error) {
	if key := seen.Run.Spec.IdempotencyKey; key != "" && seen.RunID == "" {
		status := waitingStatus(*seen, v1alpha1.ReasonKeyLocked, fmt.Sprintf(
			"an open transaction holds idempotencyKey %q; the run starts, or shows the one that has the key, once that has ended", key))
		status.ObservedGeneration = seen.Run.Generation
		if _, err := r.status.write(ctx, seen.Run, status); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: backoff.Jitter(lockedPause)}, nil
}

// isTransient reports whether an error means that the database does not answer at the
// moment.
func isTransient(err error) bool {
	return errors.Is(err, store.ErrUnreachable) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, backend.ErrClosed) ||
		errors.Is(err, backend.ErrSlow)
}

// event records an action, after the status shows it. The start of a run has no event,
// which would be as expensive as the object: its status shows the start.
func (r *WorkflowRunReconciler) event(seen *runSeen, action runAction) {
	switch {
	case action == runMirror && seen.Refused == "" && !seen.own():
		r.Events.Eventf(seen.Run, nil, eventType(true), "Attached", "Mirror", "Shows run %s, which was started earlier with idempotencyKey %q%s",
			seen.RunID, seen.Run.Spec.IdempotencyKey, attachedHint(seen.Run))
	case action == runResume:
		r.Events.Eventf(seen.Run, nil, eventType(true), "Resumed", "Resume", "Run goes on")
	}
}

// indexOpenRuns adds the indexes of open runs to the WorkflowRun cache.
func indexOpenRuns(ctx context.Context, indexer client.FieldIndexer) error {
	for name, value := range map[string]func(*v1alpha1.WorkflowRun) string{
		indexOpenByBackend: func(run *v1alpha1.WorkflowRun) string { return backend.NameOf(run.Spec.BackendRef) },
		indexOpenByRunID:   func(run *v1alpha1.WorkflowRun) string { return run.Status.RunID },
	} {
		if err := indexer.IndexField(ctx, &v1alpha1.WorkflowRun{}, name, func(object client.Object) []string {
			run, ok := object.(*v1alpha1.WorkflowRun)
			if !ok || run.Status.State.Terminal() || value(run) == "" {
				return nil
			}
			return []string{value(run)}
		}); err != nil {
			return fmt.Errorf("index WorkflowRuns by %s: %w", name, err)
		}
	}
	return nil
}
