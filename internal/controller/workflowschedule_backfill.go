package controller

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/schedulespec"
)

const (
	// backfillPortion is how many runs of a backfill are created between two statuses, and
	// backfillPace the time between them. So a backfill creates 50 runs a second at most.
	backfillPortion = 10
	backfillPace    = 200 * time.Millisecond
	// backfillTime bounds how long the slots of a schedule that are due wait for those of its backfill.
	backfillTime = 250 * time.Millisecond
	// backfillCheck is the time after which a backfill is looked at again that waits for its runs.
	backfillCheck = 5 * time.Second
)

// planBackfills takes what has become of the runs of backfills into the status, and decides about the
// next portion of the first backfill that is not done. It returns what is to be created once the
// status is written, nil for nothing.
func (p *schedulePlan) planBackfills() *backfillWork {
	before := make(map[string]*v1alpha1.BackfillStatus, len(p.status.Backfills))
	for i := range p.status.Backfills {
		before[p.status.Backfills[i].Name] = &p.status.Backfills[i]
	}
	runs := p.states()
	var work *backfillWork
	var list []v1alpha1.BackfillStatus
	ahead := ""
	next, _ := nextBackfill(p.seen.Schedule)
	for i := range p.seen.Schedule.Spec.Backfills {
		request := &p.seen.Schedule.Spec.Backfills[i]
		status := &v1alpha1.BackfillStatus{Name: request.Name, State: v1alpha1.BackfillWaiting}
		if known := before[request.Name]; known != nil {
			status = known.DeepCopy()
		}
		settleBackfill(status, runs)
		if !status.State.Terminal() {
			if ahead == "" && schedulespec.IsInDatabase(p.seen.Schedule) && request.Name != next.Name {
				ahead = next.Name
			}
			if reason := p.holdsBackfill(ahead); reason != "" {
				status.State, status.Message = v1alpha1.BackfillWaiting, reason
			} else {
				work = p.advance(request, status)
			}
		}
		if !status.State.Terminal() && ahead == "" {
			ahead = request.Name
		}
		list = append(list, *status)
	}
	p.status.Backfills = list
	return work
}

// states returns the states of the runs that were seen, by their names.
func (p *schedulePlan) states() map[string]v1alpha1.RunState {
	runs := make(map[string]v1alpha1.RunState, len(p.seen.Runs))
	for i := range p.seen.Runs {
		runs[p.seen.Runs[i].Name] = p.seen.Runs[i].Status.State
	}
	return runs
}

// settleBackfill counts the runs that have ended, and finds those that were created.
func settleBackfill(status *v1alpha1.BackfillStatus, runs map[string]v1alpha1.RunState) {
	var starting, active []string
	for _, name := range status.Starting {
		if _, created := runs[name]; created {
			status.Active = append(status.Active, name)
		} else {
			starting = append(starting, name)
		}
	}
	for _, name := range status.Active {
		switch state, exists := runs[name]; {
		case exists && !state.Terminal():
			active = append(active, name)
		case state == v1alpha1.RunCompleted:
			status.Completed++
		case state == v1alpha1.RunFailed:
			status.Failed++
		default: // canceled, or deleted
			status.Canceled++
		}
	}
	slices.Sort(active)
	status.Starting, status.Active = starting, active
}

// holdsBackfill returns why no slot of a backfill starts, empty if it may.
func (p *schedulePlan) holdsBackfill(ahead string) string {
	switch {
	case ahead != "":
		return fmt.Sprintf("waits for the backfill %q", ahead)
	case p.planner == nil:
		return "waits until the schedule is valid"
	case p.planner.Policy.Suspend:
		return "waits: the schedule is suspended"
	case p.planner.FailedTooOften():
		return "waits: the schedule is paused after failures"
	default:
		return ""
	}
}

// advance decides about the next slots of a backfill, if all runs of the last portion were created.
func (p *schedulePlan) advance(request *v1alpha1.Backfill, status *v1alpha1.BackfillStatus) *backfillWork {
	now := p.seen.Now
	if status.StartedAt != nil {
		now = request.EndAt.Time // it has passed, by the clock of another manager
	}
	b, err := schedulespec.NewBackfill(p.seen.Schedule, request, slices.Concat(p.startedRuns(), p.lookedUp), now)
	if err == nil && request.EndAt.After(p.seen.Now) {
		status.State, status.Message = v1alpha1.BackfillWaiting, fmt.Sprintf("waits until endAt %s has passed", request.EndAt.UTC().Format(time.RFC3339))
		return &backfillWork{request: request, waits: true}
	}
	if err == nil && status.StartedAt == nil {
		err = p.beginBackfill(b, request, status)
	}
	if err != nil {
		status.State, status.Message = v1alpha1.BackfillInvalid, truncateText(err.Error(), 1000)
		return nil
	}
	if ptr.Deref(request.DryRun, false) {
		return p.countBackfill(b, request, status)
	}
	if next, ok := p.planner.Timing.Next(p.planner.State.DecidedUntil); ok && !next.After(request.EndAt.Time) {
		status.Message = "waits until the slots that are due have started" // endAt is not long ago
		return &backfillWork{request: request, waits: true}
	}
	status.State = v1alpha1.BackfillRunning
	if len(status.Starting) > 0 {
		return &backfillWork{request: request, names: slices.Clone(status.Starting)}
	}
	status.Message = ""
	limit := p.backfillRoom(request, status)
	if limit <= 0 && request.OverlapPolicy == "Forbid" {
		status.Message = "waits until no run of the schedule is open"
	}
	slots, skipped, until := b.Next(status.DecidedUntil.Time, limit)
	for _, slot := range slots {
		status.Starting = append(status.Starting, schedulespec.NameOf(p.seen.Schedule, slot, schedulespec.BackfillSuffix(request.Name)))
	}
	status.Started += int32(len(slots))
	status.Skipped += int32(skipped)
	if until.After(status.DecidedUntil.Time) {
		status.DecidedUntil = optionalTime(until)
	}
	if len(status.Starting)+len(status.Active) == 0 && !status.DecidedUntil.Time.Before(b.End()) {
		status.State, status.FinishedAt = v1alpha1.BackfillCompleted, optionalTime(p.seen.Now)
		return nil
	}
	return &backfillWork{request: request, names: slices.Clone(status.Starting), waits: limit <= 0}
}

// backfillRoom returns how many slots of a backfill may start now.
func (p *schedulePlan) backfillRoom(request *v1alpha1.Backfill, status *v1alpha1.BackfillStatus) int {
	room := min(backfillPortion, int(cmp.Or(request.MaxParallel, 10))-len(status.Active))
	if request.OverlapPolicy == "Forbid" {
		if len(p.active) > 0 || len(status.Active) > 0 {
			return 0
		}
		return min(room, 1)
	}
	return room
}

// countBackfill counts the next slots that a dry run would start.
func (p *schedulePlan) countBackfill(b *schedulespec.Backfill, request *v1alpha1.Backfill, status *v1alpha1.BackfillStatus) *backfillWork {
	slots, skipped, until := b.Next(status.DecidedUntil.Time, schedulespec.MaxBackfill)
	status.Started += int32(len(slots))
	status.Skipped += int32(skipped)
	if until.Before(b.End()) {
		status.State, status.DecidedUntil = v1alpha1.BackfillRunning, optionalTime(until)
		status.Message = fmt.Sprintf("dry run: %d of %d slots are counted", status.Started+status.Skipped, status.Slots)
		return &backfillWork{request: request}
	}
	status.State, status.FinishedAt, status.DecidedUntil = v1alpha1.BackfillCompleted, optionalTime(p.seen.Now), nil
	status.Message = fmt.Sprintf("dry run: %d of %d slots would start", status.Started, status.Slots)
	return nil
}

// beginBackfill counts the slots of a backfill.
func (p *schedulePlan) beginBackfill(b *schedulespec.Backfill, request *v1alpha1.Backfill, status *v1alpha1.BackfillStatus) error {
	slots, _, err := b.Count()
	if err != nil {
		return err
	}
	status.Slots, status.StartedAt = int32(slots), optionalTime(p.seen.Now)
	status.DecidedUntil = optionalTime(request.StartAt.Add(-time.Second))
	return nil
}

// startedRuns returns the runs that were seen, and those that were started since.
func (p *schedulePlan) startedRuns() []v1alpha1.WorkflowRun {
	runs := p.seen.Runs
	for _, name := range p.active {
		if !slices.ContainsFunc(p.seen.Runs, func(r v1alpha1.WorkflowRun) bool { return r.Name == name }) {
			runs = append(slices.Clip(runs), v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
	}
	return runs
}

// backfillsOpen reports whether a backfill of a schedule is to be carried out.
func backfillsOpen(s *v1alpha1.WorkflowSchedule) bool {
	request, _ := nextBackfill(s)
	return request != nil
}

// backfillWork is what is to be created for a backfill.
type backfillWork struct {
	request *v1alpha1.Backfill
	names   []string
	// waits is true if nothing starts before a run has ended.
	waits bool
}

// backfill creates the runs of a portion, for a bounded time. It returns when to go on.
func (r *WorkflowScheduleReconciler) backfill(ctx context.Context, plan *schedulePlan, work *backfillWork) (time.Duration, error) {
	s, began := plan.seen.Schedule, time.Now()
	for _, name := range work.names {
		wake := plan.planner.Wake
		if time.Since(began) > backfillTime || !wake.IsZero() && !r.Clock.Now().Before(wake) {
			return time.Millisecond, nil // slots that are due go first
		}
		err := r.startBackfilled(ctx, s, work.request.Name, name)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return 0, err
		}
		_, message := startFailure(err)
		for i := range plan.status.Backfills {
			if status := &plan.status.Backfills[i]; status.Name == work.request.Name {
				status.Message = message
			}
		}
		return backoff.Jitter(retryStart), r.writeStatus(ctx, s, plan.finish())
	}
	if work.waits {
		return backfillCheck, nil
	}
	return backfillPace, nil
}

// startBackfilled creates a run of a backfill, unless it exists.
func (r *WorkflowScheduleReconciler) startBackfilled(ctx context.Context, s *v1alpha1.WorkflowSchedule, backfill, name string) error {
	slot, suffix, ok := schedulespec.ParseName(s, name)
	if !ok {
		return fmt.Errorf("status.backfills names a run %q, which is none of this schedule's", name)
	}
	if schedulespec.IsInDatabase(s) {
		inserted, _, err := r.createRow(ctx, s, slot, suffix)
		if inserted {
			metrics.ScheduleSlots.WithLabelValues("Backfilled").Inc()
		}
		return err
	}
	run, err := schedulespec.Run(s, slot, suffix)
	if err != nil {
		return err
	}
	run.Labels[v1alpha1.LabelBackfill] = backfill
	err = r.Create(ctx, run, client.FieldOwner(v1alpha1.FieldManager))
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return fmt.Errorf("create run %s: %w", name, err)
		}
		metrics.ScheduleSlots.WithLabelValues("Backfilled").Inc()
		return nil
	}
	var other v1alpha1.WorkflowRun
	if err := r.live.Get(ctx, client.ObjectKeyFromObject(run), &other); err != nil {
		return fmt.Errorf("get run %s, which exists: %w", name, err)
	}
	if !metav1.IsControlledBy(&other, s) {
		return fmt.Errorf("a WorkflowRun %s exists that this schedule does not own: delete it", name)
	}
	return nil
}

// backfillPacer keeps the statuses and portions of a schedule's backfills apart, however often events
// call for a reconcile.
type backfillPacer struct {
	mu   sync.Mutex
	last map[types.NamespacedName]time.Time
}

// next returns how long to wait before a schedule's backfills are looked at, zero for now. A schedule
// without backfills is forgotten.
func (p *backfillPacer) next(schedule types.NamespacedName, has bool) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !has {
		delete(p.last, schedule)
		return 0
	}
	now := time.Now()
	if pause := backfillPace - now.Sub(p.last[schedule]); pause > 0 {
		return pause
	}
	if p.last == nil {
		p.last = map[types.NamespacedName]time.Time{}
	}
	p.last[schedule] = now
	return 0
}
