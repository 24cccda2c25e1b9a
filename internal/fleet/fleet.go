package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Patience is how long a run may be due before NoWorker says that no worker serves it.
const Patience = 3 * time.Second

// LiveWithin is how recently a worker must have announced itself to count as live.
const LiveWithin = 30 * time.Second

// maxServed is the number of workflows of a pool that Served lists at most.
const maxServed = 256

// Fleet is the pools and live workers of a Backend, and what they serve. It is not safe for
// concurrent use.
type Fleet struct {
	backend string
	pools   []v1alpha1.WorkerPool
	workers []store.Worker
	// announced has what the live workers of each pool announce.
	announced map[poolKey]bool
	// served has the definitions that live workers serve.
	served map[openworkflow.DefinitionKey]bool
	// byPool has the same by pool, as sorted texts.
	byPool map[string][]string
	// explanations has the messages of definitions that no worker serves, so that each is
	// composed once.
	explanations map[openworkflow.DefinitionKey]string
}

// New returns the fleet of the Backend of this name.
func New(backend string, pools []v1alpha1.WorkerPool, workers []store.Worker) *Fleet {
	f := &Fleet{backend: backend, pools: pools, workers: workers, announced: map[poolKey]bool{},
		served: map[openworkflow.DefinitionKey]bool{}, byPool: map[string][]string{}, explanations: map[openworkflow.DefinitionKey]string{}}
	for _, w := range workers {
		for _, d := range w.Workflows {
			f.served[d.Key()] = true
			f.announced[poolKey{w.Pool, d.Key()}] = true
		}
	}
	for i := range pools {
		pool := &pools[i]
		for _, s := range Served(pool, workers) {
			f.byPool[pool.Name] = append(f.byPool[pool.Name], definitionText(s.Name, s.Version))
		}
		if ptr.Deref(pool.Status.ReadyReplicas, 0) == 0 {
			continue
		}
		for _, s := range pool.Spec.Workflows { // for workers that announce nothing
			d := openworkflow.Definition{Name: s.Name}
			if s.Version != "" {
				d.Version = &s.Version
			}
			f.served[d.Key()] = true
		}
	}
	return f
}

// NoWorker returns the message of a run that no worker serves. It returns nothing for a run that
// something else holds back, that became due less than Patience ago, or that a worker will claim
// as soon as it has a free slot.
func (f *Fleet) NoWorker(row *openworkflow.Run, now time.Time) string {
	if store.HoldOf(row, now.Add(-Patience), f.served) != store.HoldUnserved {
		return ""
	}
	return f.Unserved(row)
}

// ServedKeys returns the workflows that live workers serve. The caller does not change it.
func (f *Fleet) ServedKeys() map[openworkflow.DefinitionKey]bool { return f.served }

// Unserved returns the message that no worker serves the run's workflow, and what is served.
func (f *Fleet) Unserved(row *openworkflow.Run) string {
	d := row.Definition().Key()
	if f.explanations[d] == "" {
		f.explanations[d] = f.explain(row)
	}
	return f.explanations[d]
}

// explain returns the message that no worker serves the run's workflow, and what is served.
func (f *Fleet) explain(row *openworkflow.Run) string {
	wanted := fmt.Sprintf("workflow %q", openworkflow.Truncate(row.WorkflowName, 128))
	if row.Version != nil {
		wanted += fmt.Sprintf(" version %q", openworkflow.Truncate(*row.Version, 128))
	}
	return openworkflow.Truncate(fmt.Sprintf("no worker serves %s; %s", wanted, f.describe()), 512)
}

// describe lists the pools and what they serve.
func (f *Fleet) describe() string {
	if len(f.pools) == 0 {
		return fmt.Sprintf("there is no WorkerPool for Backend %q in this namespace", f.backend)
	}
	texts := make([]string, 0, len(f.pools))
	for i := range f.pools {
		pool := &f.pools[i]
		text := pool.Name + " serves " + joinNames(f.byPool[pool.Name], 8)
		if ptr.Deref(pool.Status.ReadyReplicas, 0) == 0 {
			ready := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionReady)
			switch {
			case ptr.Deref(pool.Spec.Replicas, 1) == 0:
				text += " (scaled to 0)"
			case ready != nil && ready.Status != metav1.ConditionTrue:
				text += " (no pod is ready: " + ready.Reason + ")"
			default:
				text += " (no pod is ready)"
			}
		}
		texts = append(texts, text)
	}
	return "pools: " + strings.Join(openworkflow.FirstOf(texts, 6), "; ")
}

// joinNames lists the first n names.
func joinNames(names []string, n int) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(openworkflow.FirstOf(names, n), ", ")
}

// definitionText returns a definition as a message shows it.
func definitionText(name, version string) string {
	if version == "" {
		return name
	}
	return name + "@" + version
}

// Served returns the workflows that the pool's live workers have announced, and
// those that its spec lists for workers that announce nothing.
func Served(pool *v1alpha1.WorkerPool, workers []store.Worker) []v1alpha1.ServedWorkflow {
	served := slices.Clone(pool.Spec.Workflows)
	for _, w := range workers {
		if w.Pool != pool.Name {
			continue
		}
		for _, d := range w.Workflows {
			if d.Name == "" { // anybody may announce it, and no status may show it
				continue
			}
			served = append(served, v1alpha1.ServedWorkflow{
				Name:    openworkflow.Truncate(d.Name, 253),
				Version: openworkflow.Truncate(ptr.Deref(d.Version, ""), 253),
			})
		}
	}
	slices.SortFunc(served, func(a, b v1alpha1.ServedWorkflow) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	served = slices.Compact(served)
	if len(served) > maxServed {
		served = served[:maxServed]
	}
	if len(served) == 0 {
		return nil
	}
	return served
}
