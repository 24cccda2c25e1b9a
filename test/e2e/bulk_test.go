//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Runs that were canceled before they began are retried in bulk by the manager, each once; and a pod
// with the workers' image says what a fork would do without doing it.
func TestBulk_P5_TheManagerRetriesEachRunOnce(t *testing.T) {
	c := newCluster(t)
	c.overlay()
	c.pool(1, 0)
	plugin := filepath.Join(t.TempDir(), "kubectl-workflow")
	c.run("", "go", "build", "-C", root, "-o", plugin, "./cmd/kubectl-workflow")
	workflow := func(args ...string) string {
		t.Helper()
		return c.run("", plugin, append([]string{"-n", c.namespace}, args...)...)
	}

	const runs = 5
	for i := range runs {
		c.run(fmt.Sprintf(`
apiVersion: data.openworkflow.dev/v1alpha1
kind: Run
metadata: {name: later-%d}
spec:
  workflowName: checkout
  availableAt: "2099-01-01T00:00:00Z"
  input: {orderID: later-%[1]d, amountCents: 4999, currency: EUR, email: ada@example.com}
`, i), kubectlPath(), "-n", c.namespace, "create", "-f", "-")
		c.run(`{"apiVersion": "data.openworkflow.dev/v1alpha1", "kind": "RunCancel"}`,
			kubectlPath(), "create", "--raw", fmt.Sprintf("%s%s/runs/later-%d/cancel", dataAPIPath, c.namespace, i), "-f", "-")
	}
	if preview := workflow("retry", "--state", "canceled", "--dry-run"); !strings.HasPrefix(preview, "5 runs would be retried") {
		t.Errorf("preview: %s", preview)
	}
	workflow("retry", "--state", "canceled", "--name", "again", "--wait")
	if list := workflow("bulk", "list", "again", "--no-headers"); strings.Join(strings.Fields(list)[1:6], " ") != "Completed 5 5 0 0" {
		t.Errorf("bulk retry: %s", list)
	}
	completed := func() []string {
		return strings.Fields(c.kubectl("-n", c.namespace, "get", "runs", "--field-selector", "status.state=Completed", "-o", "name"))
	}
	c.eventually(time.Minute, "the retries", func() bool { return len(completed()) == runs })
	c.checkLedger(runs)

	again := workflow("retry", "--state", "canceled", "--dry-run")
	if !strings.HasPrefix(again, "0 runs would be retried") {
		t.Errorf("they would be retried again: %s", again)
	}

	id := strings.TrimPrefix(completed()[0], "run.data.openworkflow.dev/")
	said := workflow("fork", "run/"+id, "--step", "send-email", "--dry-run")
	for _, want := range []string{"kept      1 step: charge-card", "next      send-email (function)"} {
		if !strings.Contains(said, want) {
			t.Errorf("the dry run lacks %q:\n%s", want, said)
		}
	}
	if jobs := c.kubectl("-n", c.namespace, "get", "jobs", "-o", "name"); jobs != "" {
		t.Errorf("left behind: %s", jobs)
	}
	c.checkLedger(runs)
}
