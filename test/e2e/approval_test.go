//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// release applies the pool of examples/release, and waits for it.
func (c *cluster) releasePool() {
	c.Helper()
	sample, err := os.ReadFile(filepath.Join(root, "examples/release/release.yaml"))
	if err != nil {
		c.Fatal(err)
	}
	pool, _, _ := strings.Cut(string(sample), "\n---\n")
	c.applyText(strings.Replace(pool, "ghcr.io/openworkflow-operator/release:latest", "localhost/release:dev", 1))
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "workerpool/release", "--timeout=120s")
}

// releaseRun applies a run of it, and returns its id.
func (c *cluster) releaseRun(name, input string) (id string) {
	c.Helper()
	c.applyText(fmt.Sprintf(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: %s}
spec: {workflowName: release, input: %s}
`, name, input))
	return c.kubectl("-n", c.namespace, "get", "workflowrun", name, "-o", "jsonpath={.metadata.uid}")
}

// decision is a WorkflowSignal about a run of releaseRun.
func (c *cluster) decision(name, id, decision string, users ...string) string {
	c.Helper()
	_, digest, err := openworkflow.ApprovalRequest{
		RunID: id, Step: "release", Prompt: "Release 1.2.0?", Required: 1, Details: json.RawMessage(`{"version":"1.2.0"}`),
		Approvers: openworkflow.Approvers{Users: users},
	}.Canonical()
	if err != nil {
		c.Fatal(err)
	}
	return fmt.Sprintf(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowSignal
metadata: {name: %s}
spec:
  approval: {runID: %q, step: release, digest: %s, decision: %s, comment: from a file}
`, name, id, digest, decision)
}

// output waits until a run has completed, and returns its output.
func (c *cluster) output(name string) string {
	c.Helper()
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "workflowrun/"+name, "--timeout=60s")
	var compact bytes.Buffer
	if err := json.Compact(&compact, c.statusOf(name).Output.Raw); err != nil {
		c.Fatal(err)
	}
	return compact.String()
}

// stampCreators has the API server write who creates a WorkflowSignal, and waits until it does.
func (c *cluster) stampCreators() {
	c.Helper()
	c.kubectl("apply", "-k", filepath.Join(root, "config/created-by"))
	c.eventually(time.Minute, "the API server writes who creates a signal", func() bool {
		out := c.kubectl("-n", c.namespace, "create", "--dry-run=server", "-o", "yaml", "-f", filepath.Join(root, "config/samples/workflowsignal.yaml"))
		return strings.Contains(out, v1alpha1.AnnotationCreatedBy)
	})
}

// delivered waits until a signal is finished, and returns the reason of its condition Delivered.
func (c *cluster) delivered(name string) string {
	c.Helper()
	c.kubectl("-n", c.namespace, "wait", "--for=jsonpath={.status.finishedAt}", "workflowsignal/"+name, "--timeout=60s")
	return c.kubectl("-n", c.namespace, "get", "workflowsignal", name, "-o", `jsonpath={.status.conditions[?(@.type=="Delivered")].reason}`)
}

// An approval by files alone: the run is applied, then the decision before the run asks, and the run
// goes on once it does. Other decisions are refused.
func TestApproval_ByFiles(t *testing.T) {
	c := newCluster(t)
	c.stampCreators()
	c.releasePool()

	early := c.releaseRun("early", `{version: 1.2.0, soakSeconds: 5}`)
	c.applyText(c.decision("early-approve", early, "Approve"))
	if state := c.kubectl("-n", c.namespace, "get", "workflowsignal", "early-approve", "-o", "jsonpath={.status.finishedAt}"); state != "" {
		t.Errorf("the decision is finished at %s, before the run asks", state)
	}
	if got := c.output("early"); !strings.Contains(got, `"status":"released"`) || !strings.Contains(got, "from a file") || !strings.Contains(got, `"by":["admin"]`) {
		t.Errorf("output is %s", got)
	}
	if got := c.delivered("early-approve"); got != v1alpha1.ReasonDelivered {
		t.Errorf("the decision is %s", got)
	}

	asked := c.releaseRun("asked", `{version: 1.2.0}`)
	c.eventually(time.Minute, "the run asks", func() bool {
		return strings.Contains(c.statusOf("asked").Message, `waiting for the approval of step "release"`)
	})
	c.applyText(strings.Replace(c.decision("stale", asked, "Approve"), "digest: ", "digest: f00d", 1))
	if got := c.delivered("stale"); got != v1alpha1.ReasonStale {
		t.Errorf("a decision about something else is %s", got)
	}
	c.applyText(c.decision("deny", asked, "Deny"))
	if got := c.output("asked"); !strings.Contains(got, `"status":"denied"`) {
		t.Errorf("output is %s", got)
	}
	c.applyText(c.decision("late", asked, "Approve"))
	if got := c.delivered("late"); got != v1alpha1.ReasonAlreadyDecided {
		t.Errorf("a decision after the end is %s", got)
	}
}

// A person decides with the plugin. The run names who it was.
func TestApproval_ByThePlugin(t *testing.T) {
	c := newCluster(t)
	c.releasePool()
	p := newPlugin(c)
	developer := "system:serviceaccount:" + c.namespace + ":developer"

	c.releaseRun("mine", fmt.Sprintf(`{version: 1.2.0, approvers: [%q]}`, developer))
	c.releaseRun("others", `{version: 1.2.0, approvers: [somebody-else]}`)
	c.eventually(time.Minute, "both runs ask", func() bool {
		inbox, _ := p.exec("inbox", "--no-headers")
		return strings.Contains(inbox, "mine") && strings.Contains(inbox, "others")
	})
	p.prints(0, "approved", "approve", "mine", "--comment", "as agreed", "--timeout", "60s")
	if got := c.output("mine"); !strings.Contains(got, `"status":"released"`) || !strings.Contains(got, developer) || !strings.Contains(got, "as agreed") {
		t.Errorf("output is %s", got)
	}
	p.prints(1, "the decision was refused: ", "approve", "others", "--timeout", "60s")
	if state := c.statusOf("others").State; state == v1alpha1.RunCompleted {
		t.Errorf("the run that asks somebody else is %s", state)
	}
}
