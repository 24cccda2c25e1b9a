//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// The README's first WorkflowRun, word for word.
func TestSampleRunCompletesAndASecondApplyChangesNothing(t *testing.T) {
	c := newCluster(t)
	c.pool(1, 0)
	sample := filepath.Join(root, "config/samples/workflowrun.yaml")
	c.kubectl("-n", c.namespace, "apply", "-f", sample)
	runs := c.runs()
	if len(runs) != 1 {
		t.Fatalf("the sample holds %d runs", len(runs))
	}
	name := runs[0].Name
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "--timeout=60s", "workflowrun/"+name)

	table := c.kubectl("-n", c.namespace, "get", "workflowruns")
	header, row, _ := strings.Cut(table, "\n")
	if got := strings.Join(strings.Fields(header), " "); got != "NAME WORKFLOW STATUS STEPS WORKER AGE DURATION" {
		t.Errorf("columns are %s", got)
	}
	if !regexp.MustCompile(name + ` +checkout +Completed +2/2 +checkout-\S+ +\d+s +[\d.]+m?s`).MatchString(row) {
		t.Errorf("row is %s", row)
	}
	wide, _, _ := strings.Cut(c.kubectl("-n", c.namespace, "get", "wfr", "-o", "wide"), "\n")
	if got := strings.Join(strings.Fields(wide), " "); got != "NAME WORKFLOW STATUS STEPS WORKER AGE DURATION VERSION ATTEMPTS RUN-ID FORKED-FROM SUPERSEDED-BY MESSAGE" {
		t.Errorf("wide columns are %s", got)
	}

	before := c.runs()[0]
	if output := c.kubectl("-n", c.namespace, "apply", "-f", sample); !strings.HasSuffix(output, "unchanged") {
		t.Errorf("second apply printed %s", output)
	}
	if after := c.runs()[0]; after.ResourceVersion != before.ResourceVersion {
		t.Errorf("second apply changed the object:\n%+v\n%+v", before, after)
	}
	c.checkLedger(1)

	if explained := c.kubectl("explain", "workflowrun.spec"); !strings.Contains(explained, "workflowName") || strings.Contains(explained, "<no description>") {
		t.Errorf("kubectl explain printed\n%s", explained)
	}
	status := before.Status
	if status.RunID != string(before.UID) || status.Output == nil || *status.Attempts != 1 || *status.Steps.Completed != 2 {
		t.Errorf("status is %+v", status)
	}
}

func TestImmutableInputIsRejectedByTheAPIServer(t *testing.T) {
	c := newCluster(t)
	c.orders("fixed", 1)
	err := c.refused("patch", "workflowrun", "fixed-0", "--type=merge", "-p", `{"spec": {"input": {"orderID": "other"}}}`)
	if !strings.Contains(err, "spec.input is immutable: delete the WorkflowRun and create another") {
		t.Errorf("refusal is %s", err)
	}
}

// P7: a pool's status says what is wrong with the pool, and a run's what it waits for.
func TestP7BadPoolsSayWhatIsWrong(t *testing.T) {
	c := newCluster(t)
	pool := func(name, image, extra string) {
		c.applyText(fmt.Sprintf(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkerPool
metadata: {name: %s}
spec:
  template:
    spec:
      %s
      containers:
      - {name: worker, image: %q, imagePullPolicy: IfNotPresent, args: [], env: [{name: CHECKOUT_MAIL_LATENCY, value: %q}]}
`, name, extra, image, map[bool]string{true: "soon", false: "0s"}[name == "crashing"]))
	}
	pool("no-image", "localhost/no-such-image:1", "")
	pool("crashing", "localhost/checkout:dev", "")
	pool("restarting", "localhost/checkout:dev", "restartPolicy: Never")
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: unknown}
spec: {workflowName: no-such-workflow}
`)
	for _, want := range []struct{ object, reason, message string }{
		{"workerpool/no-image", v1alpha1.ReasonImagePullFailed, "localhost/no-such-image:1"},
		{"workerpool/crashing", v1alpha1.ReasonCrashLooping, ""},
		{"workerpool/restarting", v1alpha1.ReasonInvalidTemplate, "restartPolicy"},
		{"workflowrun/unknown", v1alpha1.ReasonNoWorker, `no-such-workflow`},
	} {
		t.Run(want.object, func(t *testing.T) {
			c := c.in(t)
			var reason, message string
			c.eventually(90*time.Second, want.object+" to say "+want.reason, func() bool {
				reason = c.condition(want.object, "reason")
				message = c.condition(want.object, "message")
				return reason == want.reason
			})
			if !strings.Contains(message, want.message) {
				t.Errorf("it says %q, want it to contain %q", message, want.message)
			}
			t.Logf("%s: %s", reason, message)
		})
	}
}

// condition returns a member of an object's Ready condition.
func (c *cluster) condition(object, member string) string {
	c.Helper()
	return c.kubectl("-n", c.namespace, "get", object, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].`+member+"}")
}
