//go:build e2e

package e2e

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const dataAPIPath = "/apis/data.openworkflow.dev/v1alpha1/namespaces/"

// overlay applies config/apiservice for the test.
func (c *cluster) overlay() {
	c.Helper()
	overlay := filepath.Join(root, "config/apiservice")
	c.Cleanup(func() {
		_ = exec.Command(kubectlPath(), "delete", "-k", overlay, "--ignore-not-found").Run() //nolint:noctx // the test's context has ended
	})
	c.kubectl("apply", "-k", overlay)
	c.kubectl("wait", "--for=condition=Available", "apiservice/v1alpha1.data.openworkflow.dev", "--timeout=90s") // the manager looks for it every 30 s
}

// runState returns the state of a run of the data API.
func (c *cluster) runState(id string) string {
	c.Helper()
	var run datav1alpha1.Run
	if err := json.Unmarshal([]byte(c.kubectl("get", "--raw", dataAPIPath+c.namespace+"/runs/"+id)), &run); err != nil {
		c.Fatal(err)
	}
	return run.Status.State
}

// Plain kubectl reads, starts and cancels runs through the API server, as far as the caller's
// own rights go.
func TestDataAPI_P9_KubectlReachesRunsByTheOverlay(t *testing.T) {
	c := newCluster(t)
	c.overlay()
	c.pool(1, 0)
	c.orders("order", 3)
	c.allComplete(time.Minute)

	list := c.kubectl("-n", c.namespace, "get", "runs")
	if n := strings.Count(list, "Completed"); n != 3 || !strings.Contains(list, "order-1") {
		t.Errorf("kubectl get runs:\n%s", list)
	}
	if list := c.kubectl("-n", c.namespace, "get", "runs", "--field-selector", "status.state=Failed", "-o", "name"); list != "" {
		t.Errorf("failed runs: %s", list)
	}

	id := strings.TrimPrefix(c.run(`
apiVersion: data.openworkflow.dev/v1alpha1
kind: Run
spec:
  workflowName: checkout
  input: {orderID: plain, amountCents: 4999, currency: EUR, email: ada@example.com}
`, kubectlPath(), "-n", c.namespace, "create", "-o", "name", "-f", "-"), "run.data.openworkflow.dev/")
	c.eventually(time.Minute, "a run without an object", func() bool { return c.runState(id) == "Completed" })
	c.checkLedger(4)
	steps := c.kubectl("get", "--raw", dataAPIPath+c.namespace+"/runs/"+id+"/steps")
	if !strings.Contains(steps, "charge-card") {
		t.Errorf("the steps are %s", steps)
	}

	c.kubectl("-n", c.namespace, "create", "serviceaccount", "viewer")
	c.kubectl("-n", c.namespace, "create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount="+c.namespace+":viewer")
	as := []string{"--as=system:serviceaccount:" + c.namespace + ":viewer"}
	if list := c.kubectl(append(as, "-n", c.namespace, "get", "runs", "-o", "name")...); strings.Count(list, "\n") != 3 {
		t.Errorf("a viewer sees:\n%s", list)
	}
	for _, path := range []string{c.namespace + "/runs/" + id + "/payload", "default/runs"} {
		if output := c.refused(append(as, "get", "--raw", dataAPIPath+path)...); !strings.Contains(output, "Forbidden") && !strings.Contains(output, "forbidden") {
			t.Errorf("a viewer reads %s: %s", path, output)
		}
	}
}
