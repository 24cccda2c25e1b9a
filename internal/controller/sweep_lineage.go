package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// maxGenerations bounds how far a chain of forks is followed: a database may say that it has no end.
const maxGenerations = 50

// succession is what has become of the runs that supersede a failed one: its newest fork, if that
// has failed its newest fork, and so on.
type succession struct {
	// completed is the one that has completed, nil if none has.
	completed *openworkflow.Run
	// unknown says that the row of one of them is gone, so that it may have.
	unknown bool
}

// possible reports whether the object of the failed run may show that it is superseded.
func (s succession) possible() bool { return s.completed != nil || s.unknown }

// readSuccessions returns the successions of those of the rows that have failed and were forked,
// by id. It reads one row of each generation by primary key.
func readSuccessions(ctx context.Context, conn *backend.Connection, of map[string]*openworkflow.Run) (map[string]succession, error) {
	found := map[string]succession{}
	next := map[string]string{} // by the failed run, the id of the next one to look at
	for id, row := range of {
		if row != nil && row.Status == openworkflow.RunFailed && row.SupersededBy != nil {
			next[id] = *row.SupersededBy
		}
	}
	for range maxGenerations {
		if len(next) == 0 {
			break
		}
		generation, err := readRows(ctx, conn, slices.Collect(maps.Values(next)))
		if err != nil {
			return nil, err
		}
		for id, successor := range next {
			row := generation[successor]
			switch {
			case row == nil:
				found[id] = succession{unknown: true}
			case row.Status == openworkflow.RunCompleted, row.Status == openworkflow.RunSucceeded:
				found[id] = succession{completed: row}
			case row.Status.Terminal() && row.SupersededBy != nil:
				next[id] = *row.SupersededBy
				continue
			}
			delete(next, id)
		}
	}
	return found, nil
}

// readRows reads runs by id, in batches.
func readRows(ctx context.Context, conn *backend.Connection, ids []string) (map[string]*openworkflow.Run, error) {
	slices.Sort(ids)
	rows := make(map[string]*openworkflow.Run, len(ids))
	for batch := range slices.Chunk(slices.Compact(ids), sweepBatch) {
		read, err := conn.Store.RunStates(ctx, batch)
		if err != nil {
			return nil, fmt.Errorf("read runs: %w", err)
		}
		maps.Copy(rows, read)
	}
	return rows, nil
}

// lineageSweep shows on the objects of ended runs which run supersedes them, and that one has
// completed: nothing else compares such an object with its row again. Each fork is noted in the
// database when it is made, by whomever, and forgotten once it has ended and that is shown.
type lineageSweep struct {
	repairer *statusRepairer
	cluster  string
	// shown are the open forks of which the objects of earlier runs show that they were made.
	shown map[string]bool
}

func (s *lineageSweep) run(ctx context.Context) error {
	shown := map[string]bool{}
	for after := ""; ; {
		forks, err := s.repairer.conn.Store.Forks(ctx, after, sweepBatch)
		if err != nil {
			return fmt.Errorf("list forks: %w", err)
		}
		if len(forks) == 0 {
			s.shown = shown
			return nil
		}
		after = forks[len(forks)-1].RunID
		if err := s.show(ctx, forks, shown); err != nil {
			return err
		}
	}
}

// show writes the objects of the runs before a page of forks, and forgets those forks about which
// there is nothing more to show.
func (s *lineageSweep) show(ctx context.Context, forks []store.NotedFork, shown map[string]bool) error {
	before, err := s.before(ctx, forks, shown)
	if err != nil {
		return err
	}
	var objects []*v1alpha1.WorkflowRun
	for _, b := range before {
		objects = append(objects, b.objects...)
	}
	slices.SortFunc(objects, func(a, b *v1alpha1.WorkflowRun) int { return strings.Compare(string(a.UID), string(b.UID)) })
	refused, err := s.repairer.correctEnds(ctx, slices.CompactFunc(objects, func(a, b *v1alpha1.WorkflowRun) bool { return a.UID == b.UID }))
	if err != nil {
		return err
	}
	var done []string
	for _, f := range forks {
		b := before[f.RunID]
		open := b.incomplete || slices.ContainsFunc(refused, func(o *v1alpha1.WorkflowRun) bool { return slices.Contains(b.objects, o) })
		switch {
		case f.Ended && (!open || f.Old):
			done = append(done, f.RunID)
		case !f.Ended && !open:
			shown[f.RunID] = true
		}
	}
	if len(done) == 0 {
		return nil
	}
	if err := s.repairer.conn.Store.ForgetForks(ctx, done); err != nil {
		return fmt.Errorf("forget forks: %w", err)
	}
	return nil
}

// earlierRuns are the objects of the runs from which a fork descends.
type earlierRuns struct {
	objects []*v1alpha1.WorkflowRun
	// incomplete says that there is an object that another manager writes, or one that does not show
	// the end of its run yet.
	incomplete bool
}

// before returns the objects of the runs before those of the forks that are not shown yet, by the
// id of the fork. It reads one row of each generation by primary key.
func (s *lineageSweep) before(ctx context.Context, forks []store.NotedFork, shown map[string]bool) (map[string]earlierRuns, error) {
	found := map[string]earlierRuns{}
	next := map[string]string{}
	for _, f := range forks {
		switch {
		case f.Source == "": // it was removed
		case !f.Ended && s.shown[f.RunID]:
			shown[f.RunID] = true
		default:
			next[f.RunID] = f.Source
		}
	}
	for range maxGenerations {
		if len(next) == 0 {
			break
		}
		rows, err := readRows(ctx, s.repairer.conn, slices.Collect(maps.Values(next)))
		if err != nil {
			return nil, err
		}
		for fork, id := range next {
			row := rows[id]
			if row == nil {
				delete(next, fork)
				continue
			}
			b := found[fork]
			if err := s.addObjects(ctx, row, &b); err != nil {
				return nil, err
			}
			found[fork] = b
			if row.ForkedFrom == nil {
				delete(next, fork)
				continue
			}
			next[fork] = *row.ForkedFrom
		}
	}
	return found, nil
}

// addObjects adds the objects that show a run.
func (s *lineageSweep) addObjects(ctx context.Context, row *openworkflow.Run, to *earlierRuns) error {
	key := s.repairer.conn.Key
	add := func(object *v1alpha1.WorkflowRun) {
		switch {
		case backend.NameOf(object.Spec.BackendRef) != key.Name:
		case object.Status.State.Terminal():
			to.objects = append(to.objects, object)
		default:
			to.incomplete = true
		}
	}
	if o := row.Object(); o != nil && (o.Cluster != s.cluster || o.Namespace != key.Namespace) {
		to.incomplete = true
	} else if o != nil {
		object := &v1alpha1.WorkflowRun{}
		err := s.repairer.cache.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, object, client.UnsafeDisableDeepCopy)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("look for WorkflowRun %s/%s: %w", o.Namespace, o.Name, err)
		}
		if err == nil && string(object.UID) == row.ID {
			add(object)
		}
	}
	if row.IdempotencyKey == nil {
		return nil
	}
	var attached v1alpha1.WorkflowRunList
	if err := s.repairer.cache.List(ctx, &attached, client.InNamespace(key.Namespace),
		client.MatchingFields{indexAttachedByRunID: row.ID}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list WorkflowRuns that show run %s: %w", row.ID, err)
	}
	for i := range attached.Items {
		add(&attached.Items[i])
	}
	return nil
}
