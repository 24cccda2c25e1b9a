//go:build e2e

// Package e2e holds the tests that need a real cluster: a kubelet that runs real
// pods, the operator deployed from config/default, and Postgres beside it. "make
// test-e2e" brings all of that up and runs them; "make test-e2e-short" runs the
// short form.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	corev1 "k8s.io/api/core/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// root is the checkout.
const root = "../.."

// cluster is a namespace of the cluster, with a database of its own.
type cluster struct {
	*testing.T
	namespace string
	database  *pgxpool.Pool
	url       string // the database, as pods see it
}

// newCluster makes a namespace with a database and a Backend named default.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	name := "e2e-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	if len(name) > 40 {
		name = name[:40]
	}
	c := newNamespace(t, fmt.Sprintf("%s-%d", strings.TrimRight(name, "-"), time.Now().UnixMilli()%1_000_000))
	c.backend()
	return c
}

// newNamespace makes a namespace and a database, without a Backend.
func newNamespace(t *testing.T, name string) *cluster {
	t.Helper()
	c := &cluster{T: t, namespace: name}
	database := strings.ReplaceAll(name, "-", "_")
	c.script("hack/postgres.sh", "psql", "-q", "-c", "CREATE DATABASE "+database)
	fromHere := withDatabase(c.script("hack/postgres.sh", "url", "host"), database)
	c.url = withDatabase(c.script("hack/postgres.sh", "url"), database)
	pool, err := pgxpool.New(t.Context(), fromHere)
	if err != nil {
		t.Fatal(err)
	}
	c.database = pool
	c.kubectl("create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			c.explainFailure()
		}
		pool.Close()
		_ = exec.Command(kubectlPath(), "delete", "namespace", name, "--wait=false").Run() //nolint:noctx // the test's context has ended
		_ = exec.Command(filepath.Join(root, "hack/postgres.sh"), "psql", "-q", "-c",      //nolint:noctx // likewise
			"DROP DATABASE IF EXISTS "+database+" WITH (FORCE)").Run()
	})
	c.secret()
	return c
}

// secret creates the Secret with the database's URL.
func (c *cluster) secret() {
	c.Helper()
	c.kubectl("-n", c.namespace, "create", "secret", "generic", "openworkflow-postgres", "--from-literal=uri="+c.url)
}

// in returns the same namespace for a subtest.
func (c *cluster) in(t *testing.T) *cluster {
	sub := *c
	sub.T = t
	return &sub
}

// backend applies the sample's Backend, with this database, and waits for it.
func (c *cluster) backend() {
	c.Helper()
	c.kubectl("-n", c.namespace, "apply", "-f", filepath.Join(root, "config/samples/backend.yaml"))
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "backend/default", "--timeout=60s")
}

// explainFailure logs the objects, events and logs that explain a failure.
func (c *cluster) explainFailure() {
	for _, args := range [][]string{
		{"-n", c.namespace, "get", "backends,workerpools,workflowruns,pods", "-o", "wide"},
		{"-n", c.namespace, "get", "events", "--sort-by=.lastTimestamp"},
		{"-n", "openworkflow-system", "logs", "deployment/openworkflow-manager", "--tail=60"},
		{"-n", c.namespace, "logs", "-l", v1alpha1.LabelWorkerPool, "--tail=40", "--prefix"},
	} {
		output, _ := exec.Command(kubectlPath(), args...).CombinedOutput() //nolint:noctx // the test's context has ended
		c.Logf("kubectl %s\n%s", strings.Join(args, " "), output)
	}
}

// pool applies the checkout pool of config/samples with these changes, and waits for it.
func (c *cluster) pool(replicas int, mailLatency time.Duration) {
	c.Helper()
	sample, err := os.ReadFile(filepath.Join(root, "config/samples/workerpool.yaml"))
	if err != nil {
		c.Fatal(err)
	}
	lines := strings.Split(string(sample), "\n")
	for i, line := range lines {
		if before, _, ok := strings.Cut(line, "image:"); ok && strings.Contains(line, "/checkout:") {
			lines[i] = before + "image: localhost/checkout:dev"
		}
	}
	c.applyText(c.run(strings.Join(lines, "\n"), kubectlPath(), "patch", "--local", "-f", "-", "-o", "yaml", "--type=json", "-p", fmt.Sprintf(`[
		{"op": "add", "path": "/spec/replicas", "value": %d},
		{"op": "add", "path": "/spec/concurrency", "value": 5},
		{"op": "add", "path": "/spec/template/spec/containers/0/env", "value": [{"name": "CHECKOUT_MAIL_LATENCY", "value": "%s"}]}
	]`, replicas, mailLatency)))
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "workerpool/checkout", "--timeout=120s")
}

// orders applies n checkout runs.
func (c *cluster) orders(prefix string, n int) {
	c.Helper()
	var manifests strings.Builder
	for i := range n {
		fmt.Fprintf(&manifests, `---
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowRun
metadata: {name: %[1]s-%[2]d}
spec:
  workflowName: checkout
  input: {orderID: %[1]s-%[2]d, amountCents: 4999, currency: EUR, email: ada@example.com}
`, prefix, i)
	}
	c.applyText(manifests.String())
}

func (c *cluster) applyText(manifests string) string {
	c.Helper()
	return c.run(manifests, kubectlPath(), "-n", c.namespace, "apply", "-f", "-")
}

// allComplete waits until every run of the namespace has completed.
func (c *cluster) allComplete(within time.Duration) {
	c.Helper()
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Complete", "workflowruns", "--all", "--timeout="+within.String())
}

// checkLedger is the oracle: n orders, each charged once and each with its email.
func (c *cluster) checkLedger(n int) {
	c.Helper()
	var charges, charged, mailed int
	err := c.database.QueryRow(c.Context(), `
		SELECT (SELECT count(*) FROM checkout_ledger), (SELECT count(DISTINCT run_id) FROM checkout_ledger),
		       (SELECT count(DISTINCT run_id) FROM checkout_mailbox)`).Scan(&charges, &charged, &mailed)
	if err != nil {
		c.Fatal(err)
	}
	if charges != n || charged != n || mailed != n {
		c.Errorf("%d orders: %d charges on %d cards, %d customers with an email", n, charges, charged, mailed)
	}
}

// runs returns the namespace's WorkflowRuns.
func (c *cluster) runs() []v1alpha1.WorkflowRun {
	c.Helper()
	var list v1alpha1.WorkflowRunList
	c.get(&list, "workflowruns")
	return list.Items
}

func (c *cluster) pods() []corev1.Pod {
	c.Helper()
	var list corev1.PodList
	c.get(&list, "pods", "-l", v1alpha1.LabelWorkerPool)
	return list.Items
}

func (c *cluster) get(into any, args ...string) {
	c.Helper()
	output := c.kubectl(append([]string{"-n", c.namespace, "get", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(output), into); err != nil {
		c.Fatalf("decode %v: %v", args, err)
	}
}

// eventually polls until ok, for at most the time given.
func (c *cluster) eventually(within time.Duration, what string, ok func() bool) {
	c.Helper()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(within); !ok(); <-ticker.C {
		if time.Now().After(end) {
			c.Fatalf("gave up waiting for %s after %s", what, within)
		}
	}
}

func (c *cluster) kubectl(args ...string) string {
	c.Helper()
	return c.run("", kubectlPath(), args...)
}

func (c *cluster) script(path string, args ...string) string {
	c.Helper()
	return c.run("", filepath.Join(root, path), args...)
}

// run runs a program and returns what it prints; the test fails when the program does.
func (c *cluster) run(input, program string, args ...string) string {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 3*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	command.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		c.Fatalf("%s %s: %v\n%s%s", filepath.Base(program), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String())
}

// kubectlPath is the kubectl that was built with the cluster.
func kubectlPath() string {
	if path := os.Getenv("KUBECTL"); path != "" {
		return path
	}
	return "kubectl"
}

func withDatabase(url, name string) string {
	at := strings.LastIndex(url, "/")
	_, query, _ := strings.Cut(url[at:], "?")
	return url[:at+1] + name + "?" + query
}

// refused runs kubectl, which must fail, and returns its output.
func (c *cluster) refused(args ...string) string {
	c.Helper()
	output, err := exec.CommandContext(c.Context(), kubectlPath(), append([]string{"-n", c.namespace}, args...)...).CombinedOutput()
	if err == nil {
		c.Fatalf("kubectl %s was not refused: %s", strings.Join(args, " "), output)
	}
	return string(output)
}
