package fleet

import (
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Pool is what a WorkerPool contributes.
type Pool struct {
	Name           string
	Ready, Desired int32
	// Slots is how many runs the ready pods execute at a time.
	Slots int32
	// Workflows are what the pool serves, as name or name@version, sorted.
	Workflows []string
	// Serves says whether the workflow asked for is one of them.
	Serves bool
}

// Pools returns the pools, and whether each serves a workflow.
func (f *Fleet) Pools(d openworkflow.Definition) []Pool {
	pools := make([]Pool, 0, len(f.pools))
	for i := range f.pools {
		pool := &f.pools[i]
		ready := ptr.Deref(pool.Status.ReadyReplicas, 0)
		p := Pool{
			Name: pool.Name, Ready: ready, Desired: ptr.Deref(pool.Spec.Replicas, 1),
			Slots: ready * ptr.Deref(pool.Spec.Concurrency, 10), Workflows: f.byPool[pool.Name],
		}
		p.Serves = f.serves(pool, d)
		pools = append(pools, p)
	}
	return pools
}

// serves reports whether a pool serves a workflow: its workers announce it, or its spec lists it.
func (f *Fleet) serves(pool *v1alpha1.WorkerPool, d openworkflow.Definition) bool {
	for _, s := range pool.Spec.Workflows {
		listed := openworkflow.Definition{Name: s.Name}
		if s.Version != "" {
			listed.Version = &s.Version
		}
		if listed.Key() == d.Key() {
			return true
		}
	}
	return f.announced[poolKey{pool.Name, d.Key()}]
}

type poolKey struct {
	pool string
	openworkflow.DefinitionKey
}

// Serving returns how many live workers announce a workflow, and how many of these claim nothing
// because functions that do not return occupy their slots.
func (f *Fleet) Serving(d openworkflow.Definition) (workers, blocked int) {
	for i := range f.workers {
		for _, served := range f.workers[i].Workflows {
			if served.Key() == d.Key() {
				workers++
				if f.workers[i].Blocked {
					blocked++
				}
				break
			}
		}
	}
	return workers, blocked
}

// PodOf returns the name of the pod whose process holds a worker id, empty if it is not known.
func (f *Fleet) PodOf(workerID string) string {
	for i := range f.workers {
		w := &f.workers[i]
		prefix := w.PodUID + "." + w.Process + "."
		if w.PodName != "" && len(workerID) > len(prefix) && workerID[:len(prefix)] == prefix {
			return w.PodName
		}
	}
	return ""
}

// Definitions returns up to limit of the workflows that live workers serve, or that the spec of a
// pool with ready pods lists.
func (f *Fleet) Definitions(limit int) (all []openworkflow.Definition) {
	seen := map[openworkflow.DefinitionKey]bool{}
	add := func(d openworkflow.Definition) {
		if k := d.Key(); f.served[k] && !seen[k] && len(all) < limit {
			seen[k] = true
			all = append(all, d)
		}
	}
	for i := range f.workers {
		for _, d := range f.workers[i].Workflows {
			add(d)
		}
	}
	for i := range f.pools {
		for _, s := range f.pools[i].Spec.Workflows {
			d := openworkflow.Definition{Name: s.Name}
			if s.Version != "" {
				d.Version = &s.Version
			}
			add(d)
		}
	}
	return all
}

// Size is the number of live workers.
func (f *Fleet) Size() int { return len(f.workers) }

// Blocked returns the pools with workers that claim nothing, because functions that do not return
// occupy their slots, and how many these are.
func (f *Fleet) Blocked() map[string]int {
	blocked := map[string]int{}
	for i := range f.workers {
		if f.workers[i].Blocked {
			blocked[f.workers[i].Pool]++
		}
	}
	return blocked
}
