//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var k9sSession = flag.String("k9s-session", "", "Write the screens of k9s to this file, as Markdown.")

// k9s is k9s in a terminal, as a user of the namespace.
type k9s struct {
	*terminal
	// title is that of the list that was seen last.
	title string
	// screens is what was seen, as Markdown.
	screens *strings.Builder
}

// newK9s starts k9s with a kubeconfig.
func newK9s(c *cluster, kubeconfig string) *k9s {
	c.Helper()
	program := c.script("hack/tool.sh", "k9s")
	dir := c.TempDir()
	term := newTerminal(c.T, []string{"HOME=" + dir, "K9S_CONFIG_DIR=" + dir, "K9S_LOGS_DIR=" + dir, "KUBECONFIG=" + kubeconfig},
		program, "--namespace", c.namespace, "--command", "serviceaccounts", "--headless", "--logoless", "--splashless", "--readonly")
	term.shows(" serviceaccounts(", "viewer")
	return &k9s{terminal: term, screens: &strings.Builder{}}
}

// emptyLines are those of k9s' frame, which recordings leave out, and the ends of others; and the line
// with the name of the cluster.
var emptyLines = regexp.MustCompile(`(?m)^│ *│\n| *│$|^ +K9s v.*\n`)

// sees records a screen that has the texts.
func (k *k9s) sees(what string, texts ...string) string {
	k.Helper()
	screen := k.shows(texts...)
	shown := emptyLines.ReplaceAllString(screen, "")
	fmt.Fprintf(k.screens, "%s\n\n```\n%s\n```\n\n", what, strings.Trim(shown, "\n"))
	return screen
}

// lists goes to a resource, whose table must show the texts.
func (k *k9s) lists(resource string, texts ...string) {
	k.Helper()
	k.goes(resource)
	k.sees("`:"+resource+"` lists them.", append([]string{k.title}, texts...)...)
}

// goes goes to a resource. Keys that k9s is not ready for are lost, so each is waited for.
func (k *k9s) goes(resource string) {
	k.Helper()
	k.types(":" + resource)
	k.shows("> " + resource)
	k.presses("Enter")
	k.title = " " + resource + "("
	k.shows(k.title)
}

// describes describes the first row.
func (k *k9s) describes(texts ...string) {
	k.Helper()
	k.presses("g", "d")
	k.sees("`d` describes the first one.", append([]string{"Describe("}, texts...)...)
	k.presses("Escape")
	k.shows(k.title)
}

// k9s, as its authors publish it, lists and describes our kinds, and by the overlay the resources of
// the data API, for a user with the right to view the namespace.
func TestK9s_P9_ListsAndDescribesWhatAUserMayView(t *testing.T) {
	if testing.Short() {
		// Reason: a check of each change has no room for the first build of k9s.
		t.Skip("builds k9s, which takes seven minutes the first time: make k9s and make test-e2e run it")
	}
	c := newCluster(t)
	c.overlay()
	c.pool(2, 0)
	c.kubectl("-n", c.namespace, "apply", "-f", filepath.Join(root, "config/samples/workflowschedule.yaml"))
	c.run(k9sBulkRetry, kubectlPath(), "-n", c.namespace, "create", "-f", "-")
	c.orders("order", 2)
	c.allComplete(time.Minute)
	id := c.statusOf("order-1").RunID
	k := newK9s(c, c.kubeconfigOf("viewer", "view"))

	k.lists("workerpools", "WORKFLOWS", "PodsReady", "2 of 2 pods are ready")
	k.describes("Kind:", "WorkerPool")
	k.lists("backends", "SCHEMA", "Connected", "the database answers")
	k.describes("Kind:", "Backend")
	k.lists("workflowruns", "RUN-ID", "order-0", "order-1", "Completed", "2/2", id)
	k.describes("Kind:", "WorkflowRun", "Order ID:")
	k.lists("workflowschedules", "ZONE", "standing-order", "30 2 * * *")
	k.describes("Kind:", "WorkflowSchedule")
	k.lists("runs", "FORKED-FROM", id, "checkout", "Completed", "order-1")
	k.describes("Kind:", "Run", "Finished At:")
	k.lists("workflows", "PER-MINUTE", "checkout", "true")
	k.describes("Kind:", "Workflow", "Runnable:")
	k.lists("diagnoses", "CHECK", "durability", "OK")
	k.describes("Checks:", "Postgres")
	k.lists("bulkretries", "MATCHED", "outage-1", "Completed")
	k.describes("Kind:", "BulkRetry", "Runs Per Minute:")

	// What is listed changes without a watch: k9s lists again every few seconds.
	k.goes("runs")
	k.shows(id)
	c.orders("later", 1)
	k.sees("A run that was started since, two seconds later.", "later-0")

	if *k9sSession != "" {
		if err := os.WriteFile(filepath.Join(root, *k9sSession), []byte(k9sTitle+strings.TrimSpace(k.screens.String())+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// k9sBulkRetry finds nothing to retry, and so ends at once.
const k9sBulkRetry = `
apiVersion: data.openworkflow.dev/v1alpha1
kind: BulkRetry
metadata: {name: outage-1}
spec: {selector: {workflowName: checkout}}
`

// k9sTitle begins the recorded session.
const k9sTitle = `<!-- Recorded by "make k9s". -->

# k9s

k9s, built from its Go module, in a terminal of 170 columns. Its user has the ClusterRole ` + "`view`" + ` in the namespace, and the overlay
` + "`config/apiservice`" + ` is installed. Each list is one of a namespace, and k9s reads it again every two seconds.

`
