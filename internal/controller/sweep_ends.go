package controller

import (
	"context"
	"slices"
	"sync"
	"weak"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
)

// maxQueuedEnds bounds the queue of one Backend. Beyond it, the oldest are not compared.
const maxQueuedEnds = 1 << 20

// endQueue has the objects that show an end which nobody has compared with their row yet: those
// that have just ended or were written after their end, and at the start of the process all. It
// keeps no object in memory that the cache has dropped.
type endQueue struct {
	mu     sync.Mutex
	queued map[types.NamespacedName][]weak.Pointer[v1alpha1.WorkflowRun] // by Backend
}

func newEndQueue() *endQueue {
	return &endQueue{queued: map[types.NamespacedName][]weak.Pointer[v1alpha1.WorkflowRun]{}}
}

// add queues an object of the cache.
func (q *endQueue) add(run *v1alpha1.WorkflowRun) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := backend.KeyOf(run.Namespace, run.Spec.BackendRef)
	queued := q.queued[key]
	if len(queued) >= maxQueuedEnds {
		queued = slices.DeleteFunc(queued, func(p weak.Pointer[v1alpha1.WorkflowRun]) bool { return p.Value() == nil })
		queued = queued[len(queued)/2:]
	}
	q.queued[key] = append(queued, weak.Make(run))
}

// take removes up to n objects of a Backend, the oldest first, and returns those that the cache
// still has.
func (q *endQueue) take(key types.NamespacedName, n int) (objects []*v1alpha1.WorkflowRun, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	queued := q.queued[key]
	n = min(n, len(queued))
	for _, p := range queued[:n] {
		if object := p.Value(); object != nil {
			objects = append(objects, object)
		}
	}
	if n == len(queued) {
		delete(q.queued, key)
		return objects, false
	}
	q.queued[key] = queued[n:]
	return objects, true
}

// endSweep compares each object that shows an end with its row, once. Workers write ends, and the
// API server lets a terminal state change only by a correction, so an end that did not come from
// the row would stay for ever. An object without a row is left alone: its end may be older than
// the row's retention by hand, and a run that was refused has none. Of a failed run it also shows
// which run supersedes it.
type endSweep struct {
	repairer *statusRepairer
	queue    *endQueue
}

func (s *endSweep) run(ctx context.Context) error {
	var again []*v1alpha1.WorkflowRun
	defer func() { // not before: this turn would take them again
		for _, object := range again {
			s.queue.add(object)
		}
	}()
	for more := true; more; {
		var objects []*v1alpha1.WorkflowRun
		objects, more = s.queue.take(s.repairer.conn.Key, sweepBatch)
		refused, err := s.repairer.correctEnds(ctx, objects)
		if err != nil {
			again = append(again, objects...)
			return err
		}
		again = append(again, refused...)
	}
	return nil
}

// correctEnds replaces the status of those of the ended objects that differ from their row. It
// returns those whose status the API server has refused.
func (r *statusRepairer) correctEnds(ctx context.Context, objects []*v1alpha1.WorkflowRun) (refused []*v1alpha1.WorkflowRun, err error) {
	if len(objects) == 0 {
		return nil, nil
	}
	rows, err := r.rowsOf(ctx, objects)
	if err != nil {
		return nil, err
	}
	successions, err := readSuccessions(ctx, r.conn, rows)
	if err != nil {
		return nil, err
	}
	var differing []runSeen
	for _, o := range objects {
		seen := r.seenWith(o, rows)
		if seen.Row == nil {
			continue
		}
		seen.Succession = successions[seen.Row.ID]
		if forged(&seen) || o.Status.State.Terminal() && behind(&seen) {
			differing = append(differing, seen)
		}
	}
	if err := r.loadSteps(ctx, differing); err != nil {
		return nil, err
	}
	outcomes, err := r.writeAll(ctx, differing)
	for i, outcome := range outcomes {
		if outcome == statusRefused {
			refused = append(refused, differing[i].Run)
		}
	}
	return refused, err
}
