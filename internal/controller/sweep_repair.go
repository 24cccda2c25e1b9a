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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// statusWriters is the number of status patches that one sweep sends at once.
	statusWriters = 8
	// maxProgressInterval is the longest time between two reads of the steps of a run that
	// a worker executes.
	maxProgressInterval = time.Minute
)

// repairSweep keeps the status of one Backend's open objects equal to their rows. It
// writes what workers did not report: OpenWorkflow's own workers never report, dead ones
// cannot, and a run that waits has no worker.
type repairSweep struct {
	repairer *statusRepairer
	backends *backend.Registry
	// memo is that of the previous sweep, and announced what its live workers had announced.
	memo      memo
	announced string
}

// memo is what one sweep remembers for the next one, by the uid of the object.
type memo struct {
	// matched has the rows that the status of their object was equal to. Such a row needs
	// no second comparison until it changes.
	matched map[types.UID]rowMark
	// executing has the runs that a worker executed. Their steps change without their row.
	executing map[types.UID]passMark
}

func newMemo(objects int) memo {
	return memo{matched: make(map[types.UID]rowMark, objects), executing: map[types.UID]passMark{}}
}

// rowMark tells whether a row or its object has changed.
type rowMark struct {
	updatedAt time.Time
	noWorker  string
	// shown is the resource version of the object: its status may have changed too.
	shown string
}

// passMark is what is remembered of a run that a worker executes. Its steps are read at
// growing intervals, as those of a worker's own reports, unless the worker reports them.
type passMark struct {
	claim int
	// revision is that of the status at the last check. If the status has another revision
	// at the next check, the worker reports by itself.
	revision int64
	next     time.Time
	wait     time.Duration
}

// check decides whether to read the steps of a run that a worker executes, and what to
// remember of it.
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

// run compares all open objects of the Backend with their rows.
func (s *repairSweep) run(ctx context.Context) error {
	f, err := s.refreshFleet(ctx)
	if err != nil {
		return err
	}
	objects, err := s.repairer.openObjects(ctx, client.MatchingFields{indexOpenByBackend: s.repairer.conn.Key.Name})
	if err != nil {
		return err
	}
	round := repairRound{fleet: f, before: s.memo, after: newMemo(len(objects))}
	s.memo = round.after // also when a batch fails: what follows it is compared again
	for batch := range slices.Chunk(objects, sweepBatch) {
		if err := s.repairer.repair(ctx, round, batch); err != nil {
			return err
		}
	}
	return nil
}

// refreshFleet reads which workers are live, and notifies the pools when what they serve, or
// the number of their functions that do not return, has changed.
func (s *repairSweep) refreshFleet(ctx context.Context) (*fleet.Fleet, error) {
	conn := s.repairer.conn
	workers, err := conn.Store.Workers(ctx, fleet.LiveWithin)
	if err != nil {
		return nil, fmt.Errorf("list live workers: %w", err)
	}
	conn.SetWorkers(workers)
	s.repairer.reports.Prune(s.repairer.clock.Now())
	s.repairer.status.refused.prune()
	pools, err := poolsOf(ctx, s.repairer.cache, conn.Key)
	if err != nil {
		return nil, err
	}
	f := fleet.New(conn.Key.Name, pools, workers)
	if announced := announcedText(workers); announced != s.announced {
		s.announced = announced
		s.backends.Notify(conn.Key)
	}
	return f, nil
}

// announcedText returns a text that changes when what any pool's live workers serve does, or how
// many functions of a worker do not return.
func announcedText(workers []store.Worker) string {
	var texts []string
	for _, w := range workers {
		if w.StuckSteps > 0 {
			texts = append(texts, fmt.Sprintf("%s\x00%s\x00%s\x00%d\x00%v", w.Pool, w.PodUID, w.Process, w.StuckSteps, w.Blocked))
		}
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

// statusRepairer writes the status of objects that differ from their rows.
type statusRepairer struct {
	cache    client.Reader
	conn     *backend.Connection
	clock    clock.PassiveClock
	interval time.Duration // of the sweep
	status   *runStatusWriter
	pods     *podNames
	reports  *ReportTracker

	attachAcrossNamespaces bool
}

// repairRound is one sweep: what is known before it, and what the next one needs.
type repairRound struct {
	fleet         *fleet.Fleet // nil: no missing worker is explained
	before, after memo
}

// repair compares a batch of objects with their rows and patches those that differ. It
// reads steps only of runs whose row has changed since the previous sweep, or that a
// worker has executed for a while.
func (r *statusRepairer) repair(ctx context.Context, round repairRound, objects []*v1alpha1.WorkflowRun) error {
	if len(objects) == 0 {
		return nil
	}
	differing, err := r.findDiffering(ctx, round, objects)
	if err != nil {
		return err
	}
	if err := r.loadSteps(ctx, differing); err != nil {
		return err
	}
	outcomes, err := r.writeAll(ctx, differing)
	for i, outcome := range outcomes {
		seen := &differing[i]
		// Only the cache confirms that a status matches: one that was just written is
		// compared once more.
		if outcome == statusUnchanged {
			round.after.matched[seen.Run.UID] = rowMark{seen.Row.UpdatedAt, seen.NoWorker, seen.Run.ResourceVersion}
		}
		if mark, ok := round.after.executing[seen.Run.UID]; ok && outcome == statusWritten {
			mark.revision = projection.Revision(seen.Row, seen.Steps)
			round.after.executing[seen.Run.UID] = mark
		}
	}
	return err
}

// findDiffering returns those of the objects whose status may differ from their row. It
// writes the status of objects whose row is missing.
func (r *statusRepairer) findDiffering(ctx context.Context, round repairRound, objects []*v1alpha1.WorkflowRun) ([]runSeen, error) {
	rows, err := r.rowsOf(ctx, objects)
	if err != nil {
		return nil, err
	}
	var differing []runSeen
	for _, o := range objects {
		seen := r.seenWith(o, rows)
		if seen.Row == nil {
			if notReadyReason(o.Status.Conditions) == v1alpha1.ReasonRunMissing || o.Unreadable.SpecMessage() != "" {
				continue
			}
			if _, err := r.status.write(ctx, o, missingStatus(seen)); err != nil {
				return nil, err
			}
			continue
		}
		if round.fleet != nil {
			seen.NoWorker = round.fleet.NoWorker(seen.Row, seen.serverNow())
		}
		seen.ReportDelay, seen.WorkerReports = r.reports.ReportDelay(seen.Row, r.conn.Workers(), seen.Now)
		seen.WorkerReports = seen.WorkerReports && r.pods.reports(ctx, seen.Row, o.Namespace)
		if changed := r.changed(&seen, round); forged(&seen) || changed && !r.endReportExpected(&seen) {
			differing = append(differing, seen)
		}
	}
	return differing, nil
}

// rowsOf reads the rows that the objects may show.
func (r *statusRepairer) rowsOf(ctx context.Context, objects []*v1alpha1.WorkflowRun) (map[string]*openworkflow.Run, error) {
	ids := make([]string, 0, len(objects))
	for _, o := range objects {
		ids = append(ids, rowCandidates(o, o.Status.RunID)...)
	}
	rows, err := r.conn.Store.RunStates(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read runs: %w", err)
	}
	return rows, nil
}

// seenWith returns what is seen of an object with its row, which is one of these or missing.
func (r *statusRepairer) seenWith(o *v1alpha1.WorkflowRun, rows map[string]*openworkflow.Run) runSeen {
	now := r.clock.Now()
	seen := runSeen{
		Run: o, RunID: startedRunID(o), Row: rowOf(o, rowCandidates(o, o.Status.RunID), rows, r.attachAcrossNamespaces),
		Backend: backend.State{Known: true, Ready: true}, Now: now, ServerAhead: serverAhead(r.conn, now),
	}
	if seen.Row != nil {
		seen.RunID = seen.Row.ID
	}
	return seen
}

// changed reports whether the status of an object may differ from its row, by what the
// previous sweep has found, and remembers that for the next one.
func (r *statusRepairer) changed(seen *runSeen, round repairRound) bool {
	uid := seen.Run.UID
	if seen.Row.Status == openworkflow.RunRunning && seen.Row.WorkerID != nil {
		mark, check := round.before.executing[uid].check(&seen.Run.Status, seen.Row.Attempts, r.interval, seen.Now)
		round.after.executing[uid] = mark
		return check
	}
	mark := rowMark{seen.Row.UpdatedAt, seen.NoWorker, seen.Run.ResourceVersion}
	if round.before.matched[uid] != mark {
		return true
	}
	round.after.matched[uid] = mark
	return false
}

// endReportExpected reports whether the run has ended and its worker is about to report
// that.
func (r *statusRepairer) endReportExpected(seen *runSeen) bool {
	if !seen.Row.Status.Terminal() {
		return false
	}
	wait, overdue := seen.reportWait()
	if overdue {
		r.reports.MarkUnresponsive(seen.Row, seen.Now)
	}
	return wait > 0
}

// loadSteps reads the steps of runs that were claimed once, and the names of their pods.
func (r *statusRepairer) loadSteps(ctx context.Context, runs []runSeen) error {
	var claimed []string
	for i := range runs {
		if runs[i].Row.Attempts > 0 {
			claimed = append(claimed, runs[i].RunID)
		}
	}
	steps := map[string]openworkflow.StepSummary{}
	if len(claimed) > 0 {
		var err error
		if steps, err = r.conn.Store.StepSummaries(ctx, claimed, projection.NewestSteps); err != nil {
			return fmt.Errorf("read steps: %w", err)
		}
	}
	for i := range runs {
		runs[i].Steps = steps[runs[i].RunID]
		runs[i].Worker = r.pods.holder(ctx, runs[i].Row)
	}
	return nil
}

// writeAll writes the status of runs, several at once, and returns the outcome of each. A refusal
// is an outcome; writeAll stops at the first error, which would meet the others too. The outcome of
// runs that it did not write is empty.
func (r *statusRepairer) writeAll(ctx context.Context, runs []runSeen) ([]writeOutcome, error) {
	outcomes, errs := make([]writeOutcome, len(runs)), make([]error, len(runs))
	var next atomic.Int64
	var failed atomic.Bool
	var tasks sync.WaitGroup
	for range min(statusWriters, len(runs)) {
		tasks.Go(func() {
			for i := int(next.Add(1) - 1); i < len(runs) && !failed.Load(); i = int(next.Add(1) - 1) {
				outcomes[i], errs[i] = r.status.writeRow(ctx, runs[i])
				if apierrors.IsConflict(errs[i]) { // others write this object now; it is compared again
					errs[i] = nil
				}
				if errs[i] != nil {
					failed.Store(true)
				}
			}
		})
	}
	tasks.Wait()
	return outcomes, errors.Join(errs...)
}

// showExpired shows runs that were just failed at their deadline.
func (r *statusRepairer) showExpired(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	metrics.RunsExpired.Add(float64(len(ids)))
	r.conn.Ended()
	var objects []*v1alpha1.WorkflowRun
	for _, id := range ids {
		of, err := r.openObjects(ctx, client.MatchingFields{indexOpenByRunID: id})
		if err != nil {
			return err
		}
		objects = append(objects, of...)
	}
	return r.repair(ctx, repairRound{before: newMemo(0), after: newMemo(0)}, objects)
}

// openObjects lists the open objects of the Backend's namespace that match and have a row.
// Others are the reconciler's. They come from the cache without a copy: do not change them.
func (r *statusRepairer) openObjects(ctx context.Context, match client.MatchingFields) ([]*v1alpha1.WorkflowRun, error) {
	var list v1alpha1.WorkflowRunList
	if err := r.cache.List(ctx, &list, client.InNamespace(r.conn.Key.Namespace), match, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list open WorkflowRuns: %w", err)
	}
	objects := make([]*v1alpha1.WorkflowRun, 0, len(list.Items))
	for i := range list.Items {
		if o := &list.Items[i]; o.Status.RunID != "" && backend.NameOf(o.Spec.BackendRef) == r.conn.Key.Name {
			objects = append(objects, o)
		}
	}
	return objects, nil
}
