package fleet_test

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestNoWorker(t *testing.T) {
	t.Parallel()
	pool := func(name string, change func(*v1alpha1.WorkerPool)) v1alpha1.WorkerPool {
		p := v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
		p.Status.ReadyReplicas = new(int32(1))
		if change != nil {
			change(&p)
		}
		return p
	}
	worker := func(pool string, workflows ...openworkflow.Definition) store.Worker {
		return store.Worker{Pool: pool, Workflows: workflows}
	}
	v2 := new("2")
	serves := func(ready int32) v1alpha1.WorkerPool {
		return pool("ts", func(p *v1alpha1.WorkerPool) {
			p.Spec.Workflows, p.Status.ReadyReplicas = []v1alpha1.ServedWorkflow{{Name: "x", Version: "2"}}, &ready
		})
	}
	x2 := openworkflow.Definition{Name: "x", Version: v2}
	for name, test := range map[string]struct {
		version *string
		due     time.Duration // ago
		pools   []v1alpha1.WorkerPool
		workers []store.Worker
		want    string
	}{
		"served":             {version: v2, due: time.Hour, workers: []store.Worker{worker("a", x2)}},
		"due a moment ago":   {version: v2, due: 2 * time.Second},
		"not due":            {version: v2, due: -time.Hour},
		"declared and ready": {version: v2, due: time.Hour, pools: []v1alpha1.WorkerPool{serves(1)}},
		"no pools": {
			due:  time.Hour,
			want: `no worker serves workflow "x"; there is no WorkerPool for Backend "default" in this namespace`,
		},
		"another version does not serve it": {
			due:     time.Hour,
			pools:   []v1alpha1.WorkerPool{pool("a", nil)},
			workers: []store.Worker{worker("a", x2, openworkflow.Definition{Name: "checkout"})},
			want:    `no worker serves workflow "x"; pools: a serves checkout, x@2`,
		},
		"declared, but no pods": {
			version: v2, due: time.Hour, pools: []v1alpha1.WorkerPool{serves(0)},
			want: `no worker serves workflow "x" version "2"; pools: ts serves x@2 (no pod is ready)`,
		},
		"scaled to 0": {
			due: time.Hour,
			pools: []v1alpha1.WorkerPool{pool("a", func(p *v1alpha1.WorkerPool) {
				p.Spec.Replicas, p.Status.ReadyReplicas = new(int32(0)), nil
			})},
			want: `no worker serves workflow "x"; pools: a serves nothing (scaled to 0)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			row := &openworkflow.Run{
				WorkflowName: "x", Version: test.version, Status: openworkflow.RunPending, AvailableAt: new(noon.Add(-test.due)),
			}
			if got := fleet.New("default", test.pools, test.workers).NoWorker(row, noon); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
