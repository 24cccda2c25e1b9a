package controller

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
	"github.com/openworkflow-operator/operator/internal/store"
)

// The runs of a schedule with runs InDatabase have no objects, so no event says that one has ended.
// Their rows are looked at when a slot is due, and after these times.
const (
	// rowsCheck is the time between two looks at open runs, and waitCheck that while a slot or a
	// backfill waits for the end of one.
	rowsCheck, waitCheck = 5 * time.Second, time.Second
)

var (
	errNotReady   = errors.New("the Backend is not ready")
	errUnstorable = errors.New("the database cannot store what spec.runTemplate becomes")
)

// backendOf returns the Backend of a schedule's runs.
func backendOf(s *v1alpha1.WorkflowSchedule) types.NamespacedName {
	return backend.KeyOf(s.Namespace, s.Spec.RunTemplate.BackendRef)
}

// enqueueOf requests a reconcile of the schedules whose runs are in the database of a Backend.
func (r *WorkflowScheduleReconciler) enqueueOf(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Backends.Listen(func(key types.NamespacedName) {
		var schedules v1alpha1.WorkflowScheduleList
		if err := r.List(ctx, &schedules, client.InNamespace(key.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return // the manager is stopping: reads are from the cache
		}
		for i := range schedules.Items {
			if s := &schedules.Items[i]; schedulespec.IsInDatabase(s) && backendOf(s) == key {
				queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(s)})
			}
		}
	})
	return nil
}

// observeRows reads the rows of the runs that a plan has to know of. It reports false if nothing may
// be concluded, as the Backend was not checked yet.
func (r *WorkflowScheduleReconciler) observeRows(ctx context.Context, s *v1alpha1.WorkflowSchedule) (seen scheduleSeen, ok bool, err error) {
	seen = scheduleSeen{Schedule: s, Now: r.Clock.Now()}
	key := backendOf(s)
	conn := r.Backends.Ready(key)
	if conn == nil {
		state, err := backendState(ctx, r.Client, r.Backends, key)
		seen.unavailable(key.Name, state)
		return seen, state.Known, err
	}
	seen.Runs, err = r.readRows(ctx, conn, expectedRuns(&s.Status))
	return seen, err == nil, err
}

// readRows reads rows of runs by their ids.
func (r *WorkflowScheduleReconciler) readRows(ctx context.Context, conn *backend.Connection, ids []string) (runs []v1alpha1.WorkflowRun, err error) {
	for batch := range slices.Chunk(ids, sweepBatch) {
		rows, err := conn.Store.RunStates(ctx, batch)
		if err != nil {
			r.Backends.Recheck(conn.Key)
			return nil, fmt.Errorf("read the runs of a WorkflowSchedule: %w", err)
		}
		for _, row := range rows {
			runs = append(runs, shownAsRun(row))
		}
	}
	return runs, nil
}

// lookUp reads the rows that say which slots of the next portion of a backfill start. Those that are due
// have started before.
func (r *WorkflowScheduleReconciler) lookUp(ctx context.Context, plan *schedulePlan) (err error) {
	ids := plan.lookups()
	if len(ids) == 0 {
		return nil
	}
	conn := r.Backends.Ready(backendOf(plan.seen.Schedule))
	if conn == nil {
		return errNotReady
	}
	plan.lookedUp, err = r.readRows(ctx, conn, ids)
	return err
}

// unavailable says that the rows could not be read.
func (s *scheduleSeen) unavailable(name string, state backend.State) {
	s.Reason, s.Message = backendReason(state), backendMessage(name, state)
}

// lookups returns the ids of the runs that say which slots of the next portion of a backfill start, none
// if none may start.
func (p *schedulePlan) lookups() []string {
	request, known := nextBackfill(p.seen.Schedule)
	if request == nil || !schedulespec.IsInDatabase(p.seen.Schedule) || p.holdsBackfill("") != "" || request.EndAt.After(p.seen.Now) {
		return nil
	}
	after, status := request.StartAt.Add(-time.Second), &v1alpha1.BackfillStatus{}
	if known != nil {
		status = known.DeepCopy()
		settleBackfill(status, p.states())
	}
	if len(status.Starting) > 0 || p.backfillRoom(request, status) <= 0 {
		return nil
	}
	if status.DecidedUntil != nil {
		after = status.DecidedUntil.Time
	}
	return schedulespec.Lookups(p.seen.Schedule, request, after)
}

// nextBackfill returns the first backfill that is not done, with what the status says of it, which may
// be nil. With runs InDatabase only this one is advanced, as only its rows are read.
func nextBackfill(s *v1alpha1.WorkflowSchedule) (*v1alpha1.Backfill, *v1alpha1.BackfillStatus) {
	for i := range s.Spec.Backfills {
		request := &s.Spec.Backfills[i]
		at := slices.IndexFunc(s.Status.Backfills, func(b v1alpha1.BackfillStatus) bool { return b.Name == request.Name })
		if at < 0 {
			return request, nil
		}
		if status := &s.Status.Backfills[at]; !status.State.Terminal() {
			return request, status
		}
	}
	return nil, nil
}

// shownAsRun returns what a plan has to know of a row, as the WorkflowRun would that shows it.
func shownAsRun(row *openworkflow.Run) v1alpha1.WorkflowRun {
	run := v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: row.ID, CreationTimestamp: metav1.Time{Time: row.CreatedAt}}}
	run.Status.State, _ = projection.State(row)
	if row.FinishedAt != nil {
		run.Status.FinishedAt = &metav1.Time{Time: *row.FinishedAt}
	}
	return run
}

// createRow inserts the row of a run, unless it exists. It reports whether it was inserted now, and
// whether the run is open.
func (r *WorkflowScheduleReconciler) createRow(ctx context.Context, s *v1alpha1.WorkflowSchedule, slot time.Time, suffix string) (inserted, open bool, err error) {
	run, err := schedulespec.Run(s, slot, suffix)
	if err != nil {
		return false, false, err
	}
	key := backendOf(s)
	conn := r.Backends.Ready(key)
	if conn == nil {
		return false, false, errNotReady
	}
	created, err := conn.CreateRun(ctx, r.rowOf(s, run, slot))
	if err == nil && errors.Is(created.Err, store.ErrLocked) {
		err = created.Err
	}
	switch {
	case err != nil:
		r.Backends.Recheck(key)
		return false, false, fmt.Errorf("create run %s: %w", run.Name, err)
	case created.Err != nil:
		return false, false, fmt.Errorf("%w: %s", errUnstorable, strings.TrimPrefix(created.Err.Error(), store.ErrInvalidJSON.Error()+": "))
	case created.Inserted:
		return true, true, nil
	}
	row, err := conn.RunState(ctx, run.Name)
	if err != nil {
		return false, false, fmt.Errorf("read run %s, which exists: %w", run.Name, err)
	}
	return false, row != nil && !shownAsRun(row).Status.State.Terminal(), nil
}

// rowOf returns the row of the run of a slot.
func (r *WorkflowScheduleReconciler) rowOf(s *v1alpha1.WorkflowSchedule, run *v1alpha1.WorkflowRun, slot time.Time) store.NewRun {
	now := r.Clock.Now()
	run.CreationTimestamp = metav1.Time{Time: now}
	row := newRun(run, r.Cluster, now)
	row.ID = run.Name
	row.Context = openworkflow.RunContext{Schedule: &openworkflow.ScheduleRef{
		Cluster: r.Cluster, Namespace: s.Namespace, Name: s.Name, UID: string(s.UID), ScheduledAt: slot.UTC().Format(time.RFC3339),
	}}.Encode()
	return row
}

// startRow starts the run of a slot in the database. The status says so already.
func (r *WorkflowScheduleReconciler) startRow(ctx context.Context, plan *schedulePlan, slot time.Time) error {
	inserted, open, err := r.createRow(ctx, plan.seen.Schedule, slot, "")
	if err != nil {
		return err
	}
	if inserted {
		metrics.ScheduleLateness.Observe(plan.planner.Lateness(slot, r.Clock.Now()).Seconds())
	}
	plan.started(slot, schedulespec.NameOf(plan.seen.Schedule, slot, ""), open)
	return nil
}

// cancelRows cancels the runs that a later slot replaces. It returns when to look at the schedule
// again.
func (r *WorkflowScheduleReconciler) cancelRows(ctx context.Context, plan *schedulePlan) (time.Duration, error) {
	var ids []string
	for _, run := range plan.replaced() {
		ids = append(ids, run.Name)
	}
	if len(ids) == 0 {
		return math.MaxInt64, nil
	}
	key := backendOf(plan.seen.Schedule)
	conn := r.Backends.Ready(key)
	if conn == nil {
		return math.MaxInt64, nil // its return is an event
	}
	if _, err := conn.Store.CancelRuns(ctx, ids); err != nil {
		r.Backends.Recheck(key)
		return 0, fmt.Errorf("cancel runs that a later slot replaces: %w", err)
	}
	metrics.RunsCanceled.WithLabelValues("replaced").Add(float64(len(ids)))
	conn.Ended()
	return retryConflict, nil
}

// checkRows returns when to look at the rows of a schedule again.
func (r *WorkflowScheduleReconciler) checkRows(plan *schedulePlan) time.Duration {
	s := plan.seen.Schedule
	switch {
	case !schedulespec.IsInDatabase(s) || plan.seen.Reason != "":
		return math.MaxInt64
	case s.Status.BufferedTime != nil, plan.planner != nil && plan.planner.Waiting, backfillsOpen(s) && plan.holdsBackfill("") == "":
		return min(waitCheck, r.Check)
	case len(expectedRuns(&s.Status)) > 0:
		return min(rowsCheck, r.Check)
	default:
		return math.MaxInt64
	}
}
