//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// A run that no worker serves says so, and names the pool; the workflows and the diagnosis of the
// Backend are read by plain kubectl.
func TestDataAPI_P7_SaysWhyARunWaits(t *testing.T) {
	c := newCluster(t)
	c.overlay()
	c.pool(1, 0)
	c.orders("order", 1)
	c.allComplete(time.Minute)

	id := strings.TrimPrefix(c.run(`
apiVersion: data.openworkflow.dev/v1alpha1
kind: Run
spec: {workflowName: chekout}
`, kubectlPath(), "-n", c.namespace, "create", "-o", "name", "-f", "-"), "run.data.openworkflow.dev/")
	var why datav1alpha1.RunWhy
	c.readData("/runs/"+id+"/why", &why)
	if why.Reason != "NoWorker" || !strings.HasPrefix(why.Message, `no worker serves workflow "chekout"; pools: checkout serves `) || len(why.Pools) != 1 {
		t.Errorf("the run waits because of %+v", why)
	}

	var workflows datav1alpha1.WorkflowList
	c.readData("/workflows", &workflows)
	seen := map[string]datav1alpha1.WorkflowStatus{}
	for _, w := range workflows.Items {
		seen[w.Name] = w.Status
	}
	if s := seen["checkout"]; !s.Served || s.Completed != 1 {
		t.Errorf("checkout is %+v", s)
	}
	if s := seen["chekout"]; s.Served || s.Runnable != 1 {
		t.Errorf("chekout is %+v", s)
	}
	diagnosis := c.kubectl("-n", c.namespace, "get", "diagnoses")
	if !strings.Contains(diagnosis, "all migrations of this release are applied") {
		t.Errorf("kubectl get diagnoses:\n%s", diagnosis)
	}
}

// readData reads a path of the data API below the test's namespace.
func (c *cluster) readData(path string, into any) {
	c.Helper()
	if err := json.Unmarshal([]byte(c.kubectl("get", "--raw", dataAPIPath+c.namespace+path)), into); err != nil {
		c.Fatal(err)
	}
}
