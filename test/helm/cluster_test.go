//go:build helm

package helm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const (
	// release is the name of the operator's release, and of the other one without "-crds".
	release = "openworkflow"
	// manager is the Deployment.
	manager = "openworkflow-manager"
	// delay is the most that Helm may take to notice that the operator is ready: version 3
	// looks every two seconds, and Kubernetes rounds times to seconds.
	delay = 5 * time.Second
)

// image is that of this checkout, which "make helm-test" has loaded into the cluster.
var image = []string{"--set", "image.repository=localhost/manager,image.tag=dev,image.pullPolicy=Never"}

// cluster is the development cluster, with one version of Helm, and a namespace for runs.
type cluster struct {
	helm
	namespace string
}

// TestCharts_OnACluster tells the life of an installation: each part needs the one before.
func TestCharts_OnACluster(t *testing.T) {
	if testing.Short() {
		// Reason: the short form runs without a cluster, and compares what the charts render with config.
		t.Skip("needs the development cluster, which the short form has not: make helm-test starts it and runs this")
	}
	withEach(t, func(h helm) {
		c := cluster{h, fmt.Sprintf("helm%d", h.version)}
		c.clean()
		h.Cleanup(c.clean)
		c.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + c.namespace)
		for _, part := range []struct {
			name string
			test func(cluster)
		}{
			{"P7 it does not get ready without custom resources", cluster.withoutCRDs},
			{"install ends when it is ready", cluster.install},
			{"upgrade ends when it is ready", cluster.upgrade},
			{"P7 wrong values change nothing", cluster.wrongValues},
			{"a failed upgrade stops nothing, and is rolled back", cluster.rollBack},
			{"P6 uninstall keeps custom resources and objects", cluster.uninstall},
			{"P9 it does not get ready without rights", cluster.withoutRights},
			{"take over from kustomize", cluster.takeOver},
			{"P9 in one namespace, with the APIService", cluster.inOneNamespace},
		} {
			if !h.Run(part.name, func(t *testing.T) {
				c.T = t
				part.test(c)
			}) {
				return
			}
		}
	})
}

// kubectl runs kubectl, which must succeed, and returns what it prints.
func (c cluster) kubectl(args ...string) string {
	c.Helper()
	stdout, stderr, err := run(c.Context(), os.Getenv("KUBECTL"), args...)
	if err != nil {
		c.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, stdout, stderr)
	}
	return stdout
}

// apply applies a manifest.
func (c cluster) apply(manifest string) {
	c.Helper()
	command := exec.CommandContext(c.Context(), os.Getenv("KUBECTL"), "apply", "--server-side", "--force-conflicts", "-f", "-")
	command.Stdin = strings.NewReader(manifest)
	if out, err := command.CombinedOutput(); err != nil {
		c.Fatalf("kubectl apply: %v\n%s", err, out)
	}
}

// get decodes an object of the manager's namespace.
func (c cluster) get(object any, args ...string) {
	c.Helper()
	text := c.kubectl(append([]string{"-n", system, "get", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), object); err != nil {
		c.Fatal(err)
	}
}

// clean removes everything that any part leaves; Helm's own records are in the namespace.
func (c cluster) clean() {
	for _, args := range [][]string{
		{"delete", "apiservice", "v1alpha1.data.openworkflow.dev", "--ignore-not-found"}, // first: without its server no namespace is deleted
		{"delete", "namespace", c.namespace, system, "--ignore-not-found"},
		{"delete", "crd,clusterrole,clusterrolebinding,validatingadmissionpolicy,validatingadmissionpolicybinding,mutatingadmissionpolicy,mutatingadmissionpolicybinding",
			"-l", "app.kubernetes.io/part-of=openworkflow"},
		{"-n", "kube-system", "delete", "rolebinding", "openworkflow-data-api-auth", "--ignore-not-found"},
	} {
		var out bytes.Buffer
		command := exec.Command(os.Getenv("KUBECTL"), args...) //nolint:noctx // also after the test
		command.Stdout, command.Stderr = &out, &out
		if err := command.Run(); err != nil {
			c.Errorf("kubectl %v: %v\n%s", args, err, &out)
		}
	}
}

// deploy installs or upgrades a release and waits for it.
func (c cluster) deploy(name, chart string, more ...string) (stderr string, err error) {
	args := append([]string{"upgrade", "--install", name, chart, "-n", system, "--create-namespace", "--wait", "--timeout", "3m"}, more...)
	stdout, stderr, err := c.try(args...)
	return stdout + stderr, err
}

// mustDeploy deploys another revision of the operator, which must be ready when Helm ends.
func (c cluster) mustDeploy(replicas int32, more ...string) {
	c.Helper()
	start := time.Now()
	if text, err := c.deploy(release, operator, append(image, more...)...); err != nil {
		c.Fatalf("helm upgrade: %v\n%s\n%s", err, text, c.logs())
	}
	ended := time.Now()
	ready := c.checkReady(replicas)
	c.Logf("Helm took %v", ended.Sub(start).Truncate(100*time.Millisecond))
	if ready.After(start) && ended.Sub(ready) > delay {
		c.Errorf("Helm ended %v after the last pod was ready", ended.Sub(ready))
	}
}

func (c cluster) mustDeployCRDs(more ...string) {
	c.Helper()
	if text, err := c.deploy(release+"-crds", crds, more...); err != nil {
		c.Fatalf("helm upgrade of the custom resources: %v\n%s", err, text)
	}
}

// logs returns what says why the manager is not ready.
func (c cluster) logs() string {
	out, _, _ := run(c.Context(), os.Getenv("KUBECTL"), "-n", system, "logs", "deployment/"+manager, "--tail=20", "--all-pods")
	events, _, _ := run(c.Context(), os.Getenv("KUBECTL"), "-n", system, "get", "pods,events")
	return out + events
}

// checkReady checks, right after Helm has ended, that all pods of the newest revision say
// themselves that they are ready. It returns when the last of them became so.
func (c cluster) checkReady(replicas int32) time.Time {
	c.Helper()
	var d appsv1.Deployment
	c.get(&d, "deployment", manager)
	if s := d.Status; *d.Spec.Replicas != replicas || s.ObservedGeneration != d.Generation || s.UpdatedReplicas != replicas || s.ReadyReplicas < replicas {
		c.Errorf("Helm ended with %d of %d pods updated and %d ready; want %d", s.UpdatedReplicas, *d.Spec.Replicas, s.ReadyReplicas, replicas)
	}
	var pods corev1.PodList
	c.get(&pods, "pods", "-l", "app.kubernetes.io/component=manager")
	var last time.Time
	for _, pod := range pods.Items {
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue && condition.LastTransitionTime.After(last) {
				last = condition.LastTransitionTime.Time
			}
		}
		answer := c.kubectl("get", "--raw", fmt.Sprintf("/api/v1/namespaces/%s/pods/%s:8081/proxy/readyz", system, pod.Name))
		if strings.TrimSpace(answer) != "ok" {
			c.Errorf("pod %s answers %q", pod.Name, answer)
		}
	}
	if last.IsZero() {
		c.Error("no pod is ready")
	}
	return last
}

// checkServes checks that the operator starts a run that has not been there before.
func (c cluster) checkServes(name string) {
	c.Helper()
	c.apply("apiVersion: openworkflow.dev/v1alpha1\nkind: WorkflowRun\nmetadata:\n  name: " + name +
		"\n  namespace: " + c.namespace + "\nspec:\n  workflowName: nobody-serves-it\n")
	c.kubectl("-n", c.namespace, "wait", "--for=jsonpath={.status.runID}", "--timeout=60s", "workflowrun/"+name)
}

func (c cluster) withoutCRDs() {
	text, err := c.deploy(release, operator, append(image, "--timeout", "20s")...)
	if err == nil {
		c.Errorf("Helm says that it is ready:\n%s", text)
	}
	if notes := c.must("get", "notes", release, "-n", system); !strings.Contains(notes, "Install the chart openworkflow-crds") {
		c.Errorf("the notes are %s", notes)
	}
	if ready := c.kubectl("-n", system, "get", "deployment", manager, "-o", "jsonpath={.status.readyReplicas}"); ready != "" {
		c.Errorf("%s pods are ready", ready)
	}
	c.must("uninstall", release, "-n", system, "--wait")
}

func (c cluster) install() {
	c.mustDeployCRDs()
	c.mustDeploy(1)
	if notes := c.must("get", "notes", release, "-n", system); strings.Contains(notes, "are missing") || !strings.Contains(notes, "manages all namespaces") {
		c.Errorf("the notes are %s", notes)
	}
	url, stderr, err := run(c.Context(), root+"/hack/postgres.sh", "url")
	if err != nil {
		c.Fatal(err, stderr)
	}
	c.apply("apiVersion: v1\nkind: Secret\nmetadata:\n  name: openworkflow-postgres\n  namespace: " + c.namespace +
		"\nstringData:\n  uri: " + strings.TrimSpace(url))
	sample, err := os.ReadFile(filepath.Join(root, "config/samples/backend.yaml"))
	if err != nil {
		c.Fatal(err)
	}
	c.apply(strings.Replace(string(sample), "metadata:\n", "metadata:\n  namespace: "+c.namespace+"\n", 1))
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "--timeout=60s", "backend/default")
	c.checkServes("installed")
	c.checkCreators()
}

// checkCreators checks that the API server writes who has created a signal: the development cluster
// serves MutatingAdmissionPolicy. It takes a policy up within seconds, which only a request shows.
func (c cluster) checkCreators() {
	c.Helper()
	const signal = "apiVersion: openworkflow.dev/v1alpha1\nkind: WorkflowSignal\nmetadata:\n  name: who\nspec:\n  signal: nobody-waits\n"
	file := filepath.Join(c.TempDir(), "signal.yaml")
	if err := os.WriteFile(file, []byte(signal), 0o600); err != nil {
		c.Fatal(err)
	}
	creator := func() string {
		return c.kubectl("-n", c.namespace, "create", "--dry-run=server", "-f", file, "-o", `jsonpath={.metadata.annotations.openworkflow\.dev/created-by}`)
	}
	want := `{"username":"admin","groups":["system:masters","system:authenticated"]}`
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	end := time.After(time.Minute)
	for last := creator(); last != want; last = creator() {
		select {
		case <-look.C:
		case <-end:
			c.Fatalf("the signal is created by %q, want %q", last, want)
		}
	}
	if notes := c.must("get", "notes", release, "-n", system); strings.Contains(notes, "created a WorkflowSignal") {
		c.Errorf("the notes are %s", notes)
	}
}

func (c cluster) upgrade() {
	c.mustDeployCRDs()
	c.mustDeploy(2, "--set", "replicas=2")
	c.checkServes("upgraded")
}

// revisions returns how many revisions of the operator there are.
func (c cluster) revisions() int {
	var history []any
	if err := json.Unmarshal([]byte(c.must("history", release, "-n", system, "-o", "json")), &history); err != nil {
		c.Fatal(err)
	}
	return len(history)
}

func (c cluster) wrongValues() {
	before := c.revisions()
	text, err := c.deploy(release, operator, append(image, "--set", "replicas=two")...)
	if want := "got string, want integer"; err == nil || !strings.Contains(text, want) {
		c.Errorf("%v: %s, want %q", err, text, want)
	}
	if after := c.revisions(); after != before {
		c.Errorf("%d revisions were made", after-before)
	}
	c.checkReady(2)
}

func (c cluster) rollBack() {
	text, err := c.deploy(release, operator, append(image, "--set", "replicas=2,image.tag=missing", "--timeout", "15s")...)
	if err == nil {
		c.Errorf("Helm says that an image that is missing is ready:\n%s", text)
	}
	c.checkServes("while-it-fails")
	c.must("rollback", release, "-n", system, "--wait", "--timeout", "3m")
	c.checkReady(2)
	c.must("rollback", release, "1", "-n", system, "--wait", "--timeout", "3m")
	c.checkReady(1)
	c.checkServes("rolled-back")
}

func (c cluster) uninstall() {
	names := func() string {
		return c.kubectl("get", "crd", "-l", "app.kubernetes.io/part-of=openworkflow", "-o", "name") +
			c.kubectl("-n", c.namespace, "get", "backends,workflowruns", "-o", "name")
	}
	before := names()
	c.must("uninstall", release, "-n", system, "--wait")
	c.must("uninstall", release+"-crds", "-n", system, "--wait")
	if after := names(); after != before || !strings.Contains(before, "/installed\n") {
		c.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if left := c.kubectl("-n", system, "get", "all", "-o", "name"); left != "" {
		c.Errorf("left: %s", left)
	}
	c.mustDeployCRDs() // finds what it has left, and owns it again
	c.mustDeploy(1)
	c.checkServes("installed-again")
}

func (c cluster) withoutRights() {
	text, err := c.deploy(release, operator, append(image, "--set", "dataAPI.enabled=false", "--set", "extraArgs={--data-api-bind-address=:8444}", "--timeout", "20s")...)
	if err == nil {
		c.Errorf("Helm says that the data API is ready, which has no rights:\n%s", text)
	}
	c.checkServes("without-data-api") // the earlier pod, which is left, does
	c.must("uninstall", release, "-n", system, "--wait")
	c.must("uninstall", release+"-crds", "-n", system, "--wait")
}

func (c cluster) takeOver() {
	overlay, err := filepath.EvalSymlinks(c.TempDir())
	if err != nil {
		c.Fatal(err)
	}
	relative, err := filepath.Rel(overlay, absolute(c.T, root+"/config/default"))
	if err != nil {
		c.Fatal(err)
	}
	text := "resources: [" + relative + "]\nimages: [{name: ghcr.io/openworkflow-operator/manager, newName: localhost/manager, newTag: dev}]\n"
	if err := os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), overlay)
	if err != nil {
		c.Fatal(err)
	}
	manifest, err := built.AsYaml()
	if err != nil {
		c.Fatal(err)
	}
	c.apply(string(manifest))
	c.kubectl("-n", system, "rollout", "status", "deployment/"+manager, "--timeout=120s")
	c.checkReady(1)
	if text, err := c.deploy(release, operator, image...); err == nil || !strings.Contains(text, "invalid ownership metadata") {
		c.Errorf("without --take-ownership: %v: %s", err, text)
	}
	take := append(c.force(), "--take-ownership")
	c.mustDeployCRDs(take...)
	c.mustDeploy(1, take...)
	c.mustDeployCRDs(c.force()...)
	c.mustDeploy(2, append(c.force(), "--set", "replicas=2")...)
	c.checkServes("taken-over")
}

// force returns the flag with which Helm 4 changes fields that kubectl has applied, and goes on
// to own; Helm 3 does not ask.
func (c cluster) force() []string {
	if c.version == 3 {
		return nil
	}
	return []string{"--force-conflicts"}
}

func (c cluster) inOneNamespace() {
	c.mustDeploy(1, append(c.force(), "--set", "namespaces={"+c.namespace+"},dataAPI.apiService.enabled=true")...)
	c.checkServes("in-one-namespace")
	c.kubectl("wait", "--for=condition=Available", "--timeout=60s", "apiservice/v1alpha1.data.openworkflow.dev")
	if runs := c.kubectl("-n", c.namespace, "get", "runs.data.openworkflow.dev", "-o", "name"); strings.Count(runs, "\n") < 5 {
		c.Errorf("the data API lists %s", runs)
	}
	if _, _, err := run(c.Context(), os.Getenv("KUBECTL"), "get", "clusterrole", manager); err == nil {
		c.Error("the manager's role for the whole cluster is left")
	}
}
