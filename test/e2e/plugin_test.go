//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// plugin executes kubectl workflow as a user of the namespace, who reaches the data API through
// a forwarded port.
type plugin struct {
	*cluster
	binary, kubeconfig string
}

// newPlugin builds the plugin, and a kubeconfig with the token of a service account that has the
// ClusterRole edit in the namespace.
func newPlugin(c *cluster) *plugin {
	c.Helper()
	p := &plugin{cluster: c, binary: filepath.Join(c.TempDir(), "kubectl-workflow"), kubeconfig: c.kubeconfigOf("developer", "edit")}
	c.run("", "go", "build", "-o", p.binary, filepath.Join(root, "cmd/kubectl-workflow"))
	binding := c.namespace + "-data-api"
	c.Cleanup(func() {
		_ = exec.Command(kubectlPath(), "-n", "openworkflow-system", "delete", "rolebinding", binding).Run() //nolint:noctx // the test's context has ended
	})
	c.kubectl("-n", "openworkflow-system", "create", "rolebinding", binding, "--role=openworkflow-data-api-connect", "--serviceaccount="+c.namespace+":developer")
	return p
}

// kubeconfigOf makes a service account that has a ClusterRole in the namespace, and returns a kubeconfig
// with its token.
func (c *cluster) kubeconfigOf(account, role string) (file string) {
	c.Helper()
	c.kubectl("-n", c.namespace, "create", "serviceaccount", account)
	c.kubectl("-n", c.namespace, "create", "rolebinding", account, "--clusterrole="+role, "--serviceaccount="+c.namespace+":"+account)
	file = filepath.Join(c.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(c.kubectl("config", "view", "--raw", "--minify")), 0o600); err != nil {
		c.Fatal(err)
	}
	config := []string{"--kubeconfig", file, "config"}
	c.kubectl(append(config, "set-credentials", account, "--token="+c.kubectl("-n", c.namespace, "create", "token", account))...)
	c.kubectl(append(config, "set-context", "--current", "--user="+account, "--namespace="+c.namespace)...)
	return file
}

// exec executes a verb, and returns what it prints and its exit code.
func (p *plugin) exec(args ...string) (output string, code int) {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), p.binary, append([]string{"--kubeconfig", p.kubeconfig}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		p.Fatalf("%v: %v", cmd, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// prints executes a verb that must end with an exit code, and whose output must have a text.
func (p *plugin) prints(code int, text string, args ...string) string {
	p.Helper()
	output, got := p.exec(args...)
	if got != code || !strings.Contains(output, text) {
		p.Fatalf("kubectl workflow %s: exit code %d, want %d with %q:\n%s", strings.Join(args, " "), got, code, text, output)
	}
	return output
}

// A user of a namespace starts, follows, reads and steers runs by the plugin, through a forwarded
// port and with a token of their own.
func TestPlugin_P9_EveryVerbWorksForAUserOfANamespace(t *testing.T) {
	c := newCluster(t)
	c.pool(1, 0)
	p := newPlugin(c)
	order := func(id string) string {
		return `{"orderID": "` + id + `", "amountCents": 4999, "currency": "EUR", "email": "ada@example.com"}`
	}

	p.prints(0, "Completed", "start", "checkout", "--name", "order-1", "--input", order("order-1"), "--follow", "--timeout", "1m")
	started := p.prints(0, "completed", "start", "checkout", "--without-object", "--input", order("order-2"), "--wait", "--timeout", "1m")
	id := strings.TrimPrefix(strings.Fields(started)[0], "run.data.openworkflow.dev/")
	c.checkLedger(2)

	list := p.prints(0, "order-1", "list", "--workflow", "checkout", "--state", "Completed")
	if !strings.Contains(list, id) || strings.Count(list, "Completed") != 2 {
		t.Errorf("the list is\n%s", list)
	}
	p.prints(0, "charge-card", "describe", "order-1")
	p.prints(0, "charge-card", "describe", id)
	p.prints(0, "Completed", "watch", id)
	if output := p.prints(0, "", "output", "order-1"); !json.Valid([]byte(output)) {
		t.Errorf("the output is no JSON: %s", output)
	}
	p.prints(0, "RunHistory", "export", id)
	p.prints(0, "", "logs", "order-1")

	p.prints(0, "created", "start", "nobody-serves-this", "--name", "steered")
	p.prints(0, "suspended", "suspend", "steered")
	p.prints(0, "resumed", "resume", "steered")
	p.prints(0, "canceled", "cancel", "steered")
	p.prints(11, "Canceled", "watch", "steered", "--timeout", "1m")
	p.prints(1, "waits for no signal", "signal", id, "approval")

	p.prints(2, "there is no WorkflowRun and no run", "describe", "nothing")
	p.prints(3, "forbidden", "list", "-n", "openworkflow-system")
	c.eventually(time.Minute, "the completion of names", func() bool {
		output, _ := p.exec("__complete", "describe", "")
		return strings.Contains(output, "order-1") && strings.Contains(output, id)
	})
}

// Exported runs are read by a developer who has a database and no cluster.
func TestPlugin_ImportsIntoADatabase(t *testing.T) {
	c := newCluster(t)
	c.pool(1, 0)
	p := newPlugin(c)
	p.prints(0, "completed", "start", "checkout", "--name", "order-1", "--wait", "--timeout", "1m",
		"--input", `{"orderID": "order-1", "amountCents": 4999, "currency": "EUR", "email": "ada@example.com"}`)
	exported, _ := p.exec("export", "order-1")
	file := filepath.Join(t.TempDir(), "order-1.json")
	if err := os.WriteFile(file, []byte(exported), 0o600); err != nil {
		t.Fatal(err)
	}
	url := c.database.Config().ConnString()
	p.prints(0, "imported", "import", file, "--database-url", url, "--namespace-id", "elsewhere", "--migrate")
	p.prints(1, "already: it was left as it is", "import", file, "--database-url", url, "--namespace-id", "elsewhere")
}
