package main

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// memoryCluster remembers what was deployed, once for each key.
type memoryCluster struct {
	mu       sync.Mutex
	deployed map[string]string
}

func (c *memoryCluster) Deploy(_ context.Context, key, _, version string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deployed == nil {
		c.deployed = map[string]string{}
	}
	c.deployed[strings.Fields(key)[1]] = version
	return nil
}

func TestRelease(t *testing.T) {
	t.Parallel()
	input := Release{Version: "1.2.0", SoakSeconds: 3600, Approvers: []string{"ann", "bob"}}
	staging := map[string]string{"staging": "1.2.0"}
	for name, test := range map[string]struct {
		decide   func(env *workflowtest.Env)
		want     Result
		deployed map[string]string
	}{
		"approved": {
			func(env *workflowtest.Env) {
				env.Approve("release", workflowtest.Approver{User: "ann", Comment: "as agreed"})
			},
			Result{Status: "released", By: []string{"ann"}, Comments: []string{"as agreed"}},
			map[string]string{"staging": "1.2.0", "production": "1.2.0"},
		},
		"denied": {
			func(env *workflowtest.Env) { env.Deny("release", workflowtest.Approver{User: "bob"}) },
			Result{Status: "denied", By: []string{"bob"}, Comments: []string{""}}, staging,
		},
		"nobody decides": {func(*workflowtest.Env) {}, Result{Status: "expired"}, staging},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := &memoryCluster{}
			w := ReleaseWorkflow(cluster)
			env := workflowtest.New(t, w)
			test.decide(env)
			got, err := workflowtest.Start(env, w, input).Result()
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Errorf("error %v, result (-want +got):\n%s", err, diff)
			}
			if diff := cmp.Diff(test.deployed, cluster.deployed); diff != "" {
				t.Errorf("deployed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRelease_SurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	w := ReleaseWorkflow(&memoryCluster{})
	workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
		env.Approve("release", workflowtest.Approver{User: "ann"})
		workflowtest.Start(env, w, Release{Version: "1.2.0"})
	}, w)
}
