package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// statusWriters is the number of patches of one sweep that are under way at once.
const statusWriters = 8

// expireBatch is the number of runs that one statement may fail at their deadline.
const expireBatch = 500

// statusSweeper keeps the status of one Backend's open objects equal to the rows. It
// finds what workers could not report: TypeScript workers never do, dead ones
// cannot, and a run that waits has none.
type statusSweeper struct {
	*Sweeper
	conn *backend.Connection
	// matched has, by object, what a row looked like when the object's status was
	// last found or made equal to it. A row that still looks so, and that nobody
	// executes, needs no second look. Executing has those that a worker executes. Only
	// sweep touches both.
	matched   map[types.UID]rowMark
	executing map[types.UID]passMark
	served    string
}

// rowMark tells whether a row has changed.
type rowMark struct {
	updatedAt time.Time
	noWorker  string
}

// passMark is what is remembered of a run that a worker executes. Its steps change
// without its row, so they are looked at now and then, at growing intervals as those of
// the reports of a worker.
type passMark struct {
	claim int
	// revision is that of the object at the last look: when it has another at the next
	// one, the worker reports by itself.
	revision int64
	next     time.Time
	wait     time.Duration
}

// maxProgressInterval is the longest time between two looks at a run that is executed.
const maxProgressInterval = time.Minute

// check decides whether to look at the steps of a run that a worker executes, and what
// to remember of it.
func (m passMark) check(shown *v1alpha1.WorkflowRunStatus, claim int, every time.Duration, now time.Time) (passMark, bool) {
	revision := ptr.Deref(shown.Revision, 0)
	switch {
	case m.claim != claim:
		shownRunning := shown.State == v1alpha1.RunRunning && ptr.Deref(shown.Attempts, 0) == int32(claim)
		return passMark{claim: claim, revision: revision, next: now.Add(every), wait: every}, !shownRunning
	case now.Before(m.next):
		return m, false
	default:
		wait := min(2*m.wait, maxProgressInterval)
		return passMark{claim: claim, revision: revision, next: now.Add(wait), wait: wait}, m.revision == revision
	}
}

// sweep looks at all open objects of the Backend.
func (r *statusSweeper) sweep(ctx context.Context) error {
	f, err := r.refreshFleet(ctx)
	if err != nil {
		return err
	}
	objects, err := r.openObjects(ctx, client.InNamespace(r.conn.Key.Namespace), client.MatchingFields{indexOpenByBackend: r.conn.Key.Name})
	if err != nil {
		return err
	}
	before := *r
	r.matched, r.executing = make(map[types.UID]rowMark, len(objects)), map[types.UID]passMark{}
	for batch := range slices.Chunk(objects, sweepBatch) {
		if err := r.repair(ctx, batch, f, &before); err != nil {
			return err
		}
	}
	return nil
}

// expire fails the runs that are past their deadline and shows it at once.
func (r *statusSweeper) expire(ctx context.Context) error {
	for {
		ids, err := r.conn.Store.FailExpired(ctx, expireBatch)
		if err != nil {
			return fmt.Errorf("fail runs past their deadline: %w", err)
		}
		if err := r.showExpired(ctx, ids); err != nil {
			return err
		}
		if len(ids) < expireBatch {
			return nil
		}
	}
}

// showExpired shows runs that have just been failed at their deadline.
func (r *statusSweeper) showExpired(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	metrics.RunsExpired.Add(float64(len(ids)))
	r.conn.Ended()
	var objects []*v1alpha1.WorkflowRun
	for _, id := range ids {
		of, err := r.openObjects(ctx, client.InNamespace(r.conn.Key.Namespace), client.MatchingFields{indexOpenByRunID: id})
		if err != nil {
			return err
		}
		objects = append(objects, of...)
	}
	return (&statusSweeper{Sweeper: r.Sweeper, conn: r.conn}).repair(ctx, objects, nil, &statusSweeper{})
}

// rescue wakes runs that wait for something that has come, which a worker that died
// between two writes, or OpenWorkflow's own deadline sweep, leaves behind (R44, R171).
func (r *statusSweeper) rescue(ctx context.Context) error {
	swept, err := r.conn.Store.Sweep(ctx, r.Intervals.Rescue/2, sweepBatch)
	if err != nil {
		return fmt.Errorf("wake runs that were left asleep: %w", err)
	}
	if len(swept.Rescued) > 0 {
		metrics.RunsHealed.Add(float64(len(swept.Rescued)))
		r.conn.Wake()
		r.Log.Info("Woke runs that were left asleep", "namespace", r.conn.Key.Namespace, "backend", r.conn.Key.Name, "runs", len(swept.Rescued))
	}
	return r.showExpired(ctx, swept.Expired)
}

// openObjects lists objects from the cache, without a copy: they are not to be changed.
func (r *statusSweeper) openObjects(ctx context.Context, options ...client.ListOption) ([]*v1alpha1.WorkflowRun, error) {
	var list v1alpha1.WorkflowRunList
	if err := r.List(ctx, &list, append(options, client.UnsafeDisableDeepCopy)...); err != nil {
		return nil, fmt.Errorf("list open WorkflowRuns: %w", err)
	}
	objects := make([]*v1alpha1.WorkflowRun, 0, len(list.Items))
	for i := range list.Items {
		if list.Items[i].Status.RunID != "" { // others have no row yet: that is the reconciler's matter
			objects = append(objects, &list.Items[i])
		}
	}
	return objects, nil
}

// repair compares a batch of objects with their rows and patches those that
// differ. Steps are read only of runs whose row has changed since the sweep before, or
// that a worker has executed for a while.
func (r *statusSweeper) repair(ctx context.Context, objects []*v1alpha1.WorkflowRun, f *fleet, before *statusSweeper) error {
	if len(objects) == 0 {
		return nil
	}
	ids := make([]string, len(objects))
	for i, o := range objects {
		ids[i] = o.Status.RunID
	}
	rows, err := r.conn.Store.RunStates(ctx, ids)
	if err != nil {
		return fmt.Errorf("read runs: %w", err)
	}
	var differ []runSeen
	var claimed []string
	for _, o := range objects {
		seen := runSeen{Run: o, RunID: o.Status.RunID, Row: rows[o.Status.RunID], Backend: backend.State{Known: true, Ready: true}, Now: r.Clock.Now()}
		if seen.Row == nil {
			if notReadyReason(o.Status.Conditions) != v1alpha1.ReasonRunMissing {
				if _, err := r.status.write(ctx, o, missingStatus(seen)); err != nil {
					return err
				}
			}
			continue
		}
		if f != nil {
			seen.NoWorker = f.noWorker(seen.Row, seen.Now)
		}
		seen.ReportDelay, seen.WorkerReports = r.reports.ReportDelay(seen.Row, r.conn.Workers(), seen.Now)
		if !r.changed(&seen, before) || r.endReportPending(&seen) {
			continue
		}
		differ = append(differ, seen)
		if seen.Row.Attempts > 0 {
			claimed = append(claimed, seen.RunID)
		}
	}
	steps := map[string]openworkflow.StepSummary{}
	if len(claimed) > 0 {
		if steps, err = r.conn.Store.StepSummaries(ctx, claimed, projection.NewestSteps); err != nil {
			return fmt.Errorf("read steps: %w", err)
		}
	}
	for i := range differ {
		differ[i].Steps = steps[differ[i].RunID]
		differ[i].Worker = r.pods.holder(ctx, differ[i].Row)
	}
	outcomes, err := r.writeAll(ctx, differ)
	for i, outcome := range outcomes {
		seen := &differ[i]
		// Matched is only what the cache confirms: a status that was just written
		// is compared once more.
		if r.matched != nil && outcome == statusUnchanged {
			r.matched[seen.Run.UID] = rowMark{seen.Row.UpdatedAt, seen.NoWorker}
		}
		if mark, ok := r.executing[seen.Run.UID]; ok && outcome == statusWritten {
			mark.revision = projection.Revision(seen.Row, seen.Steps)
			r.executing[seen.Run.UID] = mark
		}
	}
	return err
}

// writeAll writes the status of runs, some at once, and returns what became of each:
// nothing for those that it did not come to, because of the error of another.
func (r *statusSweeper) writeAll(ctx context.Context, runs []runSeen) ([]writeOutcome, error) {
	outcomes, errs := make([]writeOutcome, len(runs)), make([]error, len(runs))
	var next atomic.Int64
	var failed atomic.Bool
	var tasks sync.WaitGroup
	for range min(statusWriters, len(runs)) {
		tasks.Go(func() {
			for i := int(next.Add(1) - 1); i < len(runs) && !failed.Load(); i = int(next.Add(1) - 1) {
				if outcomes[i], errs[i] = r.status.write(ctx, runs[i].Run, runStatus(runs[i])); errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	tasks.Wait()
	return outcomes, errors.Join(errs...)
}

// endReportPending reports whether the run has ended and its worker is about to say so.
func (r *statusSweeper) endReportPending(seen *runSeen) bool {
	if !seen.Row.Status.Terminal() {
		return false
	}
	wait, overdue := seen.reportWait()
	if overdue {
		r.reports.MarkUnresponsive(seen.Row, seen.Now)
	}
	return wait > 0
}

// changed reports whether the object may show something else than the row, going by
// what the sweep before has found, and keeps that for the next one.
func (r *statusSweeper) changed(seen *runSeen, before *statusSweeper) bool {
	uid := seen.Run.UID
	if seen.Row.Status == openworkflow.RunRunning && seen.Row.WorkerID != nil {
		mark, look := before.executing[uid].check(&seen.Run.Status, seen.Row.Attempts, r.Intervals.Repair, seen.Now)
		if r.executing != nil {
			r.executing[uid] = mark
		}
		return look
	}
	mark := rowMark{seen.Row.UpdatedAt, seen.NoWorker}
	if before.matched[uid] != mark {
		return true
	}
	r.matched[uid] = mark
	return false
}

// refreshFleet asks who is live, and has the pools look when it has changed.
func (r *statusSweeper) refreshFleet(ctx context.Context) (*fleet, error) {
	workers, err := r.conn.Store.Workers(ctx, liveWithin)
	if err != nil {
		return nil, fmt.Errorf("list live workers: %w", err)
	}
	r.conn.SetWorkers(workers)
	r.reports.Prune(r.Clock.Now())
	pools, err := poolsOf(ctx, r.Client, r.conn.Key)
	if err != nil {
		return nil, err
	}
	f := newFleet(r.conn.Key.Name, pools, workers)
	if served := servedText(workers); served != r.served {
		r.served = served
		r.Backends.Notify(r.conn.Key)
	}
	return f, nil
}

// servedText changes when what any pool's live workers serve does.
func servedText(workers []store.Worker) string {
	var texts []string
	for _, w := range workers {
		for _, d := range w.Workflows {
			version := "\x00"
			if d.Version != nil {
				version = *d.Version
			}
			texts = append(texts, w.Pool+"\x00"+d.Name+"\x00"+version)
		}
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), "\x01")
}
