package controller

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// retentionPage is the number of ended runs, or of deliveries, that are read at once.
	retentionPage = 1000
	// archivePage is the number of archives that are removed at once.
	archivePage = 20
	// maxEmptyPages is the number of pages in a row in which a turn may find nothing to
	// remove. It bounds the cost of a turn however many runs have to stay; later turns
	// get past them.
	maxEmptyPages = 10
	// retentionBudget is how long a turn may remove runs. It is well below loopTimeout, so
	// that a turn ends by itself.
	retentionBudget = 30 * time.Second

	// indexAttachedByRunID finds the WorkflowRuns that show the run of an earlier object
	// with the same idempotency key.
	indexAttachedByRunID = "attached.runID"
)

// retentionSweep removes the rows of runs that ended long ago, as the retention of its
// Backend says.
type retentionSweep struct {
	cache   client.Reader
	conn    *backend.Connection
	cluster string
	events  events.EventRecorder
	// after and afterDelivery are the cursors of the round through ended runs and
	// deliveries; zero values start a round.
	after         openworkflow.Cursor
	afterDelivery string
	// afterSignal is the cursor of the round through signals that are kept or have finished.
	afterSignal string
	// tooLarge is the number of runs of this round that cannot be archived, and so stay, and
	// saidTooLarge that of the last event about them.
	tooLarge, saidTooLarge int
	// removed says that this round has removed a run. Another round follows then, as a
	// parent can be removed after its children.
	removed bool
}

// run removes what is due, for a limited time. Without a retention that is only what is left of signals and
// slots.
func (s *retentionSweep) run(ctx context.Context) error {
	var total store.Removed
	err := s.removeDue(ctx, &total)
	if total != (store.Removed{}) {
		metrics.RunsRemoved.Add(float64(total.Runs))
		metrics.RunsArchived.Add(float64(total.Archived))
		ctrl.LoggerFrom(ctx).Info("Removed ended runs", "runs", total.Runs, "deliveries", total.Deliveries, "archived", total.Archived)
	}
	return err
}

func (s *retentionSweep) removeDue(ctx context.Context, total *store.Removed) error {
	end := time.Now().Add(retentionBudget)
	for empty := 0; empty < maxEmptyPages && time.Now().Before(end); {
		before := total.Runs
		done, err := s.removeRuns(ctx, end, total)
		if err != nil {
			return err
		}
		if done {
			break
		}
		if empty++; total.Runs > before {
			empty = 0
		}
		if s.after == (openworkflow.Cursor{}) {
			if !s.removed {
				break
			}
			s.removed = false
		}
	}
	if err := s.removeDeliveries(ctx, end, total); err != nil {
		return err
	}
	if err := s.removeSignals(ctx, end); err != nil {
		return err
	}
	if err := s.removeSlots(ctx, end); err != nil {
		return err
	}
	return s.removeArchives(ctx, end)
}

// removeRuns reads one page of ended runs and removes those that are due. Done says that
// the turn is over: there is no retention any more, or no time.
func (s *retentionSweep) removeRuns(ctx context.Context, end time.Time, total *store.Removed) (done bool, err error) {
	policy := s.conn.Retention()
	if policy == nil {
		return true, nil
	}
	runs, next, err := s.conn.Store.EndedRuns(ctx, *policy, s.after, retentionPage)
	if err != nil {
		return false, fmt.Errorf("list ended runs: %w", err)
	}
	due, err := s.withoutObject(ctx, runs)
	if err != nil {
		return false, err
	}
	for len(due) > 0 {
		if policy = s.conn.Retention(); policy == nil || time.Now().After(end) {
			return true, nil // the next turn reads this page again
		}
		var removed store.Removed
		if removed, due, err = s.conn.Store.RemoveRuns(ctx, *policy, due); err != nil {
			return false, fmt.Errorf("remove ended runs: %w", err)
		}
		total.Runs += removed.Runs
		total.Deliveries += removed.Deliveries
		total.Archived += removed.Archived
		s.tooLarge += removed.TooLarge
		s.removed = s.removed || removed.Runs > 0
	}
	if s.after = next; next == (openworkflow.Cursor{}) {
		s.sayTooLarge(ctx)
		s.tooLarge = 0
	}
	return false, nil
}

// sayTooLarge tells those who look at the Backend that runs stay, once for each number of them.
func (s *retentionSweep) sayTooLarge(ctx context.Context) {
	if s.tooLarge == s.saidTooLarge {
		return
	}
	s.saidTooLarge = s.tooLarge
	var object v1alpha1.Backend
	if s.tooLarge == 0 || s.cache.Get(ctx, s.conn.Key, &object) != nil {
		return
	}
	s.events.Eventf(&object, nil, eventType(false), v1alpha1.ReasonTooLargeToArchive, "Archive",
		"%d runs ended long ago and stay in the tables: each has more than 64 MiB, or a row of more than 16 MiB, which no archive takes; remove their rows by hand", s.tooLarge)
}

// removeArchives removes the archives whose time is over.
func (s *retentionSweep) removeArchives(ctx context.Context, end time.Time) error {
	for {
		policy := s.conn.Retention()
		if policy == nil || policy.ArchivesFor == 0 {
			return nil
		}
		removed, err := s.conn.Store.RemoveArchives(ctx, policy.ArchivesFor, archivePage)
		if err != nil {
			return fmt.Errorf("remove archives: %w", err)
		}
		if removed < archivePage || time.Now().After(end) {
			return nil
		}
	}
}

// removeSignals removes signals of which nobody needs to know any more, also without a retention.
func (s *retentionSweep) removeSignals(ctx context.Context, end time.Time) error {
	for {
		keyedAfter := time.Duration(0)
		if policy := s.conn.Retention(); policy != nil {
			keyedAfter = policy.KeyedAfter
		}
		next, _, err := s.conn.Store.RemoveSignals(ctx, keyedAfter, s.afterSignal, retentionPage)
		if err != nil {
			return fmt.Errorf("remove signals: %w", err)
		}
		if s.afterSignal = next; next == "" || time.Now().After(end) {
			return nil
		}
	}
}

// removeSlots removes the outcomes of slots that were long ago, also without a retention.
func (s *retentionSweep) removeSlots(ctx context.Context, end time.Time) error {
	for {
		removed, err := s.conn.Store.RemoveSlots(ctx, slotTTL(s.conn), retentionPage)
		if err != nil {
			return fmt.Errorf("remove outcomes of slots: %w", err)
		}
		if removed < retentionPage || time.Now().After(end) {
			return nil
		}
	}
}

// removeDeliveries removes the deliveries of runs that are gone, page by page until a page
// has none.
func (s *retentionSweep) removeDeliveries(ctx context.Context, end time.Time, total *store.Removed) error {
	for {
		policy := s.conn.Retention()
		if policy == nil {
			return nil
		}
		next, removed, err := s.conn.Store.RemoveStrayDeliveries(ctx, *policy, s.afterDelivery, retentionPage)
		if err != nil {
			return fmt.Errorf("remove deliveries of runs that are gone: %w", err)
		}
		total.Deliveries += removed
		if s.afterDelivery = next; removed == 0 || next == "" || time.Now().After(end) {
			return nil
		}
	}
}

// withoutObject returns the ids of the runs that no object shows.
func (s *retentionSweep) withoutObject(ctx context.Context, runs []store.EndedRun) ([]string, error) {
	var ids []string
	for i := range runs {
		shown, err := s.hasObject(ctx, &runs[i])
		if err != nil {
			return nil, err
		}
		if !shown {
			ids = append(ids, runs[i].ID)
		}
	}
	return ids, nil
}

// hasObject reports whether an object shows the run or is about to fork it, or may do so where this manager
// cannot read: in another cluster, or in a namespace that it does not watch.
//
// Unlike for open runs, the cache is believed when it says that an object is gone. A
// deleted object never returns, and this one existed when its run was inserted, at least a
// day ago. No cache is that old.
func (s *retentionSweep) hasObject(ctx context.Context, run *store.EndedRun) (bool, error) {
	if o := run.Object; o != nil {
		if o.Cluster != s.cluster || o.UID == "" {
			return true, nil
		}
		var object v1alpha1.WorkflowRun
		err := s.cache.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, &object, client.UnsafeDisableDeepCopy)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		if err == nil && object.UID == types.UID(o.UID) || err != nil && !apierrors.IsNotFound(err) {
			return true, nil
		}
	}
	var forks v1alpha1.WorkflowRunList // that wait, for example for their Backend
	if err := s.cache.List(ctx, &forks, client.InNamespace(s.conn.Key.Namespace), client.MatchingFields{indexWaitingForks: sourceOfID(run.ID)},
		client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list WorkflowRuns that fork run %s: %w", run.ID, err)
	}
	if len(forks.Items) > 0 {
		return true, nil
	}
	if !run.Keyed {
		return false, nil
	}
	var attached v1alpha1.WorkflowRunList
	if err := s.cache.List(ctx, &attached, client.MatchingFields{indexAttachedByRunID: run.ID}, client.UnsafeDisableDeepCopy); err != nil {
		return false, fmt.Errorf("list WorkflowRuns that show run %s: %w", run.ID, err)
	}
	return len(attached.Items) > 0, nil
}

// indexAttachedRuns adds the index of WorkflowRuns by the run that they show. It holds
// ended runs too, but only those that show the run of another object.
func indexAttachedRuns(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &v1alpha1.WorkflowRun{}, indexAttachedByRunID, attachedRunID); err != nil {
		return fmt.Errorf("index WorkflowRuns by %s: %w", indexAttachedByRunID, err)
	}
	return nil
}

func attachedRunID(object client.Object) []string {
	run, ok := object.(*v1alpha1.WorkflowRun)
	if !ok || run.Status.RunID == "" || run.Status.RunID == string(run.UID) {
		return nil
	}
	return []string{run.Status.RunID}
}
