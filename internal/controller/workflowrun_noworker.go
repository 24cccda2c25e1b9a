package controller

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// noWorkerAfter is how long a run may be due before its status says that no worker serves
// it.
const noWorkerAfter = 3 * time.Second

// fleet is the pools and live workers of a Backend, and what they serve.
type fleet struct {
	backend string
	pools   []v1alpha1.WorkerPool
	// served has the definitions that live workers serve.
	served map[openworkflow.DefinitionKey]bool
	// byPool has the same by pool, as sorted texts.
	byPool map[string][]string
	// explanations has the messages of definitions that no worker serves, so that each is
	// composed once.
	explanations map[openworkflow.DefinitionKey]string
}

func newFleet(backend string, pools []v1alpha1.WorkerPool, workers []store.Worker) *fleet {
	f := &fleet{backend: backend, pools: pools, served: map[openworkflow.DefinitionKey]bool{}, byPool: map[string][]string{}, explanations: map[openworkflow.DefinitionKey]string{}}
	for _, w := range workers {
		for _, d := range w.Workflows {
			f.served[d.Key()] = true
		}
	}
	for i := range pools {
		pool := &pools[i]
		for _, s := range servedWorkflows(pool, workers) {
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

// noWorker returns the message of a run that no worker serves. It returns nothing for a run
// that is not due or became due less than noWorkerAfter ago, or that a worker will claim as
// soon as it has a free slot.
func (f *fleet) noWorker(row *openworkflow.Run, now time.Time) string {
	if row.Status.Terminal() || row.SuspendedAt != nil || row.AvailableAt == nil || now.Before(row.AvailableAt.Add(noWorkerAfter)) {
		return ""
	}
	d := row.Definition().Key()
	if f.served[d] {
		return ""
	}
	if f.explanations[d] == "" {
		f.explanations[d] = f.explain(row)
	}
	return f.explanations[d]
}

// explain returns the message that no worker serves the run's workflow, and what is served.
func (f *fleet) explain(row *openworkflow.Run) string {
	wanted := fmt.Sprintf("workflow %q", truncateText(row.WorkflowName, 128))
	if row.Version != nil {
		wanted += fmt.Sprintf(" version %q", truncateText(*row.Version, 128))
	}
	return truncateText(fmt.Sprintf("no worker serves %s; %s", wanted, f.describe()), 512)
}

// describe lists the pools and what they serve.
func (f *fleet) describe() string {
	if len(f.pools) == 0 {
		return fmt.Sprintf("there is no WorkerPool for Backend %q in this namespace", f.backend)
	}
	texts := make([]string, 0, len(f.pools))
	for i := range f.pools {
		pool := &f.pools[i]
		text := pool.Name + " serves " + joinNames(f.byPool[pool.Name], 8)
		if ptr.Deref(pool.Status.ReadyReplicas, 0) == 0 {
			switch reason := notReadyReason(pool.Status.Conditions); {
			case ptr.Deref(pool.Spec.Replicas, 1) == 0:
				text += " (scaled to 0)"
			case reason != "":
				text += " (no pod is ready: " + reason + ")"
			default:
				text += " (no pod is ready)"
			}
		}
		texts = append(texts, text)
	}
	return "pools: " + strings.Join(firstOf(texts, 6), "; ")
}

// joinNames lists the first n names.
func joinNames(names []string, n int) string {
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(firstOf(names, n), ", ")
}

// firstOf returns the first n texts and a count of the rest.
func firstOf(texts []string, n int) []string {
	if len(texts) <= n {
		return texts
	}
	return append(texts[:n:n], fmt.Sprintf("and %d more", len(texts)-n))
}

// definitionText returns a definition as a message shows it.
func definitionText(name, version string) string {
	if version == "" {
		return name
	}
	return name + "@" + version
}
