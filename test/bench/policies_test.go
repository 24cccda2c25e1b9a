//go:build bench

package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// policies is a part of W6: what the policies of config/policy cost. The API server evaluates
// them for each object that is created and for each status, whoever writes it. So bare objects,
// with the status of a completed run, are created with and without policies in turn; which comes
// first alternates.
func (s *session) policies(t *testing.T, c *cluster) {
	policies := readPolicies(t)
	probe := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "policy-probe"},
		Spec:       v1alpha1.WorkflowRunSpec{WorkflowName: workflows.Five.Name()},
	}
	c.create(t, probe)
	for round := range s.slowRounds + 1 {
		measured := map[bool]*bare{}
		for _, policed := range []bool{round%2 == 1, round%2 == 0} {
			if policed {
				c.create(t, policies...)
				c.awaitPolicies(t, probe, true)
			}
			measured[policed] = &bare{status: fiveSteps()}
			c.createBare(t, fmt.Sprintf("policies-%d-%t", round, policed), s.policed, measured[policed])
			if policed {
				c.remove(t, policies...)
				c.awaitPolicies(t, probe, false)
			}
		}
		with, without := measured[true], measured[false]
		sample := report.Sample{
			"objects/s":                       with.rate(),
			"objects/s without":               without.rate(),
			"÷ without":                       with.rate() / without.rate(),
			"API server µs/object":            with.apiServer(),
			"API server µs/object without":    without.apiServer(),
			"API server's CPU ÷ that without": with.apiServer() / without.apiServer(),
		}
		s.report.Add(asIs, "W6 bare objects with policies", sample)
		t.Logf("W6 bare objects with policies, round %d: %v", round+1, sample)
	}
}

// readPolicies reads config/policy.
func readPolicies(t *testing.T) (policies []client.Object) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, "config", "policy", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(content), "\n---") {
			object := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if strings.HasPrefix(object.GetAPIVersion(), "admissionregistration.k8s.io/") {
				policies = append(policies, object)
			}
		}
	}
	return policies
}

// awaitPolicies waits until the API server refuses what a policy forbids, or no longer does:
// policies take effect a moment after they were created.
func (c *cluster) awaitPolicies(t *testing.T, probe *v1alpha1.WorkflowRun, inForce bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for i := 0; ; i++ {
		input := fmt.Appendf(nil, `{"spec":{"input":%d}}`, i)
		err := c.Patch(t.Context(), probe.DeepCopy(), client.RawPatch(types.MergePatchType, input), client.DryRunAll)
		switch refused := apierrors.IsInvalid(err) || apierrors.IsForbidden(err); {
		case refused == inForce && (refused || err == nil):
			return
		case err != nil && !refused, time.Now().After(deadline):
			t.Fatalf("Policies in force: want %t; the last answer is %v", inForce, err)
		}
		<-look.C
	}
}

func (c *cluster) remove(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := c.Delete(t.Context(), object); err != nil {
			t.Fatalf("Delete %T %s: %v", object, object.GetName(), err)
		}
		object.SetResourceVersion("") // so that it can be created again
		object.SetUID("")
	}
}
