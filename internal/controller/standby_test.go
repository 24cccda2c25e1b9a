package controller

import (
	"fmt"
	"net/http"
	"path"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// watches counts the watches that a manager starts, by resource.
type watches struct {
	http.RoundTripper
	mu      *sync.Mutex
	started map[string]int
}

func (w watches) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "" {
		w.mu.Lock()
		w.started[path.Base(r.URL.Path)]++
		w.mu.Unlock()
	}
	return w.RoundTripper.RoundTrip(r)
}

// A manager that stands by has filled its caches before it takes over. Otherwise it would
// first have to list all objects.
func TestP6StandbyTakesOverWithWhatItHasSeen(t *testing.T) {
	w := newWorld(t)
	seen := watches{mu: &sync.Mutex{}, started: map[string]int{}}
	config := rest.CopyConfig(cluster.admin)
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		return watches{inner, seen.mu, seen.started}
	})
	elected := func(o *managerOptions) { o.config, o.elected = cluster.admin, true }
	first := w.start(elected)
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	before := newTestRun("before")
	w.create(before)
	w.awaitState(before, v1alpha1.RunPending, v1alpha1.ReasonPending)

	w.start(elected, func(o *managerOptions) { o.config = config })
	resources := []string{"workflowruns", "backends", "workerpools", "workflowschedules", "pods", "deployments"}
	started := func() map[string]int {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		counts := map[string]int{}
		for _, resource := range resources {
			counts[resource] = seen.started[resource]
		}
		return counts
	}
	eventually(t, func() error {
		for resource, n := range started() {
			if n == 0 {
				return fmt.Errorf("the standby does not watch %s", resource)
			}
		}
		return nil
	})
	watched := started()
	first.halt()
	after := newTestRun("after")
	w.create(after)
	w.awaitState(after, v1alpha1.RunPending, v1alpha1.ReasonPending)
	for resource, n := range started() {
		if n != watched[resource] {
			t.Errorf("the standby watched %s %d times when it took over, and %d times before", resource, n-watched[resource], watched[resource])
		}
	}
}
