//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// attempts returns the step attempts of a WorkflowRun's run, the ledger of what was executed: one
// line each, with the time at which its function was called.
func (c *cluster) attempts(name string) []string {
	c.Helper()
	rows, err := c.database.Query(c.Context(), `
		SELECT a.step_name || ' ' || a.status || ' ' || extract(epoch FROM a.started_at)
		FROM openworkflow.step_attempts a
		JOIN openworkflow.workflow_runs r ON r.namespace_id = a.namespace_id AND r.id = a.workflow_run_id
		WHERE r.context #>> '{kubernetes,name}' = $1
		ORDER BY a.created_at, a.id`, name)
	if err != nil {
		c.Fatal(err)
	}
	defer rows.Close()
	var lines []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			c.Fatal(err)
		}
		lines = append(lines, line)
	}
	if err := rows.Err(); err != nil {
		c.Fatal(err)
	}
	return lines
}

// checkForkedAtStepThree compares the ledgers of a run with three steps and of its fork.
func (c *cluster) checkForkedAtStepThree(source, fork string) {
	c.Helper()
	before, after := c.attempts(source), c.attempts(fork)
	if len(before) != 3 || len(after) != 3 {
		c.Fatalf("the ledgers have %q and %q, want three lines each", before, after)
	}
	for i := range before {
		if again := before[i] != after[i]; again != (i == 2) {
			c.Errorf("step %d was executed again: %v\n%s\n%s", i+1, again, before[i], after[i])
		}
	}
}

// statusOf returns the status of a WorkflowRun.
func (c *cluster) statusOf(name string) v1alpha1.WorkflowRunStatus {
	c.Helper()
	var run v1alpha1.WorkflowRun
	c.get(&run, "workflowrun", name)
	return run.Status
}

// A fork from the third step of a completed run executes neither the first nor the second again.
func TestFork_P1_FromTheThirdStep(t *testing.T) {
	c := newCluster(t)
	c.script("hack/images.sh", "booking")
	manifest, err := os.ReadFile(filepath.Join(root, "examples/booking/booking.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("ghcr.io/openworkflow-operator/booking:latest", "localhost/booking:dev",
		"name: booking-venice", "name: booking-rome", "city: Venice", "city: Rome").Replace(string(manifest))
	c.applyText(text)
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "workflowrun/booking-rome")
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: another-car}
spec: {workflowName: booking, from: {runName: booking-rome, step: book-car}}
`)
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "workflowrun/another-car")
	c.checkForkedAtStepThree("booking-rome", "another-car")
	c.eventually(time.Minute, "the source to show its fork", func() bool {
		return c.statusOf("booking-rome").SupersededBy == c.statusOf("another-car").RunID
	})
	wide := c.kubectl("-n", c.namespace, "get", "workflowruns", "-o", "wide")
	if !strings.Contains(wide, "FORKED-FROM") || strings.Count(wide, c.statusOf("another-car").RunID) != 2 {
		t.Errorf("kubectl get -o wide:\n%s", wide)
	}
}

// A retry with a corrected input charges the card once, and turns the failed object green.
func TestFork_P1_ARetryTurnsAFailedRunGreen(t *testing.T) {
	c := newCluster(t)
	c.pool(1, 0)
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: order-3001-retry}
spec:
  workflowName: checkout
  input: {orderID: order-3001, amountCents: 4999, currency: EUR, email: ada@example.com}
  from: {runName: order-3001, lastFailed: true}
`)
	c.kubectl("-n", c.namespace, "wait", `--for=jsonpath={.status.conditions[?(@.type=="Ready")].reason}=SourceNotFound`, "--timeout=60s", "workflowrun/order-3001-retry")
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: order-3001}
spec:
  workflowName: checkout
  input: {orderID: order-3001, amountCents: 0, currency: EUR, email: ada@example.com}
`)
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "workflowrun/order-3001-retry")
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "--timeout=60s", "workflowrun/order-3001")
	status := c.statusOf("order-3001")
	ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
	if status.State != v1alpha1.RunFailed || ready.Reason != v1alpha1.ReasonSuperseded || meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("the superseded run shows %+v", status)
	}
	c.checkLedger(1)
}

// What a TypeScript worker has executed is forked in the same way.
func TestFork_P8_RunsOfTypeScriptWorkers(t *testing.T) {
	c := newCluster(t)
	c.script("hack/images.sh", "typescript")
	c.kubectl("-n", c.namespace, "apply", "-f", filepath.Join(root, "examples/typescript/typescript.yaml"))
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "workflowrun/hello-typescript")
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: hello-again}
spec: {workflowName: greet-in-typescript, from: {runName: hello-typescript, step: send}}
`)
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "workflowrun/hello-again")
	c.checkForkedAtStepThree("hello-typescript", "hello-again")
}
