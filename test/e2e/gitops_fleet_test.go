//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	fluxNamespace = "flux-system"
	gitopsPage    = "docs/gitops.md"
	// retryInterval and runsTimeout stand in for the minutes of the page.
	retryInterval = "2s"
	runsTimeout   = "45s"
)

// fleet is the Git repository of docs/gitops.md, which Flux applies to the cluster. Its files are
// those of the page.
type fleet struct {
	*cluster
	dir   string            // the work tree
	files map[string]string // the files of the page, by path
}

// newFleet makes an empty repository and a server for it.
func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{cluster: newNamespace(t, "orders"), dir: filepath.Join(t.TempDir(), "fleet")}
	t.Cleanup(f.removeFlux)
	projects := filepath.Dir(f.dir)
	f.run("", "git", "init", "-q", "--bare", "-b", "main", filepath.Join(projects, "fleet.git"))
	f.run("", "git", "clone", "-q", filepath.Join(projects, "fleet.git"), f.dir)
	backend := filepath.Join(f.run("", "git", "--exec-path"), "git-http-backend")
	server := httptest.NewServer(&cgi.Handler{Path: backend, Env: []string{"GIT_PROJECT_ROOT=" + projects, "GIT_HTTP_EXPORT_ALL=1"}})
	t.Cleanup(server.Close)
	f.files = f.page(server.URL)
	return f
}

// page returns the files that the page shows, with what differs between the reader's cluster and this one.
func (f *fleet) page(server string) map[string]string {
	f.Helper()
	text, err := os.ReadFile(filepath.Join(root, gitopsPage))
	if err != nil {
		f.Fatal(err)
	}
	here := strings.NewReplacer("https://git.example.com", server, "ghcr.io/openworkflow-operator/", "localhost/", ":latest", ":dev",
		"retryInterval: 1m", "retryInterval: "+retryInterval, "timeout: 30m", "timeout: "+runsTimeout)
	files := map[string]string{}
	for _, block := range regexp.MustCompile("(?s)```yaml\n# (\\S+/\\S+\\.yaml)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		files[block[1]] = here.Replace(block[2])
	}
	if len(files) != 13 {
		f.Fatalf("%s shows %d files", gitopsPage, len(files))
	}
	return files
}

// removeFlux removes what Flux applies, before the namespaces and the server go.
func (f *fleet) removeFlux() {
	for _, args := range [][]string{
		{"delete", "kustomization", "--all", "--timeout=60s"}, {"delete", "gitrepository", "--all", "--timeout=60s"},
	} {
		if output, err := exec.Command(kubectlPath(), append([]string{"-n", fluxNamespace}, args...)...).CombinedOutput(); err != nil { //nolint:noctx // the test's context has ended
			f.Errorf("kubectl %v: %v\n%s", args, err, output)
		}
	}
}

// in returns the fleet for a subtest.
func (f *fleet) in(t *testing.T) *fleet {
	sub := *f
	sub.cluster = f.cluster.in(t)
	return &sub
}

// add adds files of the page to the work tree.
func (f *fleet) add(paths ...string) {
	f.Helper()
	for _, path := range paths {
		if f.files[path] == "" {
			f.Fatalf("%s does not show %s", gitopsPage, path)
		}
		f.write(path, f.files[path])
	}
}

func (f *fleet) write(path, content string) {
	f.Helper()
	file := filepath.Join(f.dir, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		f.Fatal(err)
	}
}

// edit replaces a text that occurs once in a file of the work tree.
func (f *fleet) edit(path, before, after string) {
	f.Helper()
	content, err := os.ReadFile(filepath.Join(f.dir, path))
	if err != nil || strings.Count(string(content), before) != 1 {
		f.Fatalf("%s has no %q, or several (%v)", path, before, err)
	}
	f.write(path, strings.Replace(string(content), before, after, 1))
}

func (f *fleet) git(args ...string) string {
	f.Helper()
	return f.run("", "git", append([]string{"-C", f.dir, "-c", "user.name=ada", "-c", "user.email=ada@example.com"}, args...)...)
}

// commit commits the work tree.
func (f *fleet) commit(message string) {
	f.Helper()
	f.git("add", "--all")
	f.git("commit", "-q", "-m", message)
}

// push sends the commits to the server, has Flux fetch them as "flux reconcile" does, and returns the
// revision that Flux calls the last one.
func (f *fleet) push() string {
	f.Helper()
	f.git("push", "-q", "origin", "main")
	if f.exists("gitrepository/fleet") {
		f.reconcile("gitrepository/fleet")
	}
	return "main@sha1:" + f.git("rev-parse", "HEAD")
}

func (f *fleet) exists(object string) bool {
	f.Helper()
	return f.kubectl("-n", fluxNamespace, "get", object, "--ignore-not-found", "-o", "name") != ""
}

// reconcile has Flux look at an object now, as "flux reconcile" does.
func (f *fleet) reconcile(object string) {
	f.Helper()
	f.kubectl("-n", fluxNamespace, "annotate", "--overwrite", object, "reconcile.fluxcd.io/requestedAt="+time.Now().Format(time.RFC3339Nano))
}

// kustomization is what Flux says of a Kustomization.
type kustomization struct {
	Status struct {
		Conditions             []metav1.Condition
		LastAppliedRevision    string
		LastAttemptedRevision  string
		LastHandledReconcileAt string
	}
}

func (k *kustomization) ready() metav1.Condition {
	if c := meta.FindStatusCondition(k.Status.Conditions, "Ready"); c != nil {
		return *c
	}
	return metav1.Condition{}
}

func (f *fleet) kustomization(name string) kustomization {
	f.Helper()
	var k kustomization
	if err := json.Unmarshal([]byte(f.kubectl("-n", fluxNamespace, "get", "kustomization", name, "-o", "json")), &k); err != nil {
		f.Fatal(err)
	}
	return k
}

// awaitApplied waits until Flux has applied a revision and each object of it is Current.
func (f *fleet) awaitApplied(revision string, names ...string) {
	f.Helper()
	for _, name := range names {
		var last kustomization
		f.eventually(3*time.Minute, fmt.Sprintf("%s to be ready at %s", name, revision), func() bool {
			if !f.exists("kustomization/" + name) {
				return false
			}
			last = f.kustomization(name)
			return last.Status.LastAppliedRevision == revision && last.ready().Status == metav1.ConditionTrue
		})
		f.Logf("%s: %s", name, last.ready().Message)
	}
}

// awaitUnhealthy waits until Flux says that an object of a revision is not healthy, and returns the message.
func (f *fleet) awaitUnhealthy(revision, name, object string) string {
	f.Helper()
	var ready metav1.Condition
	f.eventually(3*time.Minute, fmt.Sprintf("%s to say that %s is not healthy", name, object), func() bool {
		k := f.kustomization(name)
		ready = k.ready()
		return k.Status.LastAttemptedRevision == revision && ready.Status == metav1.ConditionFalse &&
			ready.Reason == "HealthCheckFailed" && strings.Contains(ready.Message, object)
	})
	f.Logf("%s: %s: %s", name, ready.Reason, ready.Message)
	return ready.Message
}
