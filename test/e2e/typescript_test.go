//go:build e2e

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// P8: a pool of OpenWorkflow's own workers. The worker knows nothing of Kubernetes; the
// objects show what it does all the same.
func TestP8TypeScriptWorkersAreAWorkerPool(t *testing.T) {
	c := newCluster(t)
	c.script("hack/images.sh", "typescript")
	c.kubectl("-n", c.namespace, "apply", "-f", filepath.Join(root, "examples/typescript/typescript.yaml"))
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "workerpool/typescript", "--timeout=60s")
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: nobody}
spec: {workflowName: greet-in-typescript, input: {name: ""}}
---
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: later}
spec: {workflowName: greet-in-typescript, input: {name: Grace}, timeoutSeconds: 1}
`)
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "workflowrun/hello-typescript", "--timeout=60s")
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Failed", "workflowrun/nobody", "workflowrun/later", "--timeout=60s")

	status := map[string]v1alpha1.WorkflowRunStatus{}
	for _, run := range c.runs() {
		status[run.Name] = run.Status
	}
	hello := status["hello-typescript"]
	var output struct {
		Text   string
		SentAt time.Time
	}
	if err := json.Unmarshal(hello.Output.Raw, &output); err != nil || output.Text != "Hello, Ada!" || output.SentAt.IsZero() {
		t.Errorf("output is %s (%v)", hello.Output.Raw, err)
	}
	t.Logf("worker %q, steps %s", hello.Worker, hello.Steps.Summary)
	if hello.State != v1alpha1.RunCompleted || *hello.Steps.Completed != 3 {
		t.Errorf("status is %+v", hello)
	}
	for name, want := range map[string]string{"nobody": "name is empty", "later": "deadline exceeded"} {
		t.Run(name, func(t *testing.T) {
			if got := status[name]; got.Error == nil || !strings.Contains(got.Error.Message, want) {
				t.Errorf("it says %+v, want an error with %q", got.Error, want)
			}
		})
	}

	// A pod that is deleted gives nothing up: what sleeps goes on in the next one.
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: handed-over}
spec: {workflowName: greet-in-typescript, input: {name: Alan}}
`)
	c.eventually(30*time.Second, "the run to sleep", func() bool {
		var asleep bool
		err := c.database.QueryRow(t.Context(), `SELECT EXISTS (
			SELECT FROM openworkflow.step_attempts WHERE kind = 'sleep' AND status = 'running')`).Scan(&asleep)
		return err == nil && asleep
	})
	c.kubectl("-n", c.namespace, "delete", "pods", "-l", v1alpha1.LabelWorkerPool+"=typescript")
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "workflowrun/handed-over", "--timeout=90s")
	var repeated int
	if err := c.database.QueryRow(t.Context(), `
		SELECT count(*) FROM (SELECT FROM openworkflow.step_attempts WHERE kind = 'function'
			GROUP BY workflow_run_id, step_name HAVING count(*) > 1) AS steps`).Scan(&repeated); err != nil || repeated > 0 {
		t.Errorf("%d steps were executed again (%v)", repeated, err)
	}
}
