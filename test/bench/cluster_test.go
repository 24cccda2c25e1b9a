//go:build bench

package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// creators is the number of objects that are created at once.
const creators = 32

// cluster is an API server without nodes.
type cluster struct {
	client.Client
	config *rest.Config
	// kubeconfig is a file for the manager and the worker.
	kubeconfig string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		assets = filepath.Join(cache, "devcluster", "bin")
	}
	env := &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     []string{filepath.Join(repository, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	config, err := env.Start()
	if err != nil {
		t.Fatalf("Start an API server: %v (hack/devcluster/build.sh control builds it)", err)
	}
	t.Cleanup(func() { _ = env.Stop() })
	config.QPS = -1
	if err := v1alpha1.AddToScheme(scheme.Scheme); err != nil {
		t.Fatal(err)
	}
	c := &cluster{config: config, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	if c.Client, err = client.New(config, client.Options{Scheme: scheme.Scheme}); err != nil {
		t.Fatal(err)
	}
	c.login(t)
	return c
}

// standApart gives the API server and its etcd one half of the processors for the rest of
// the test. The other half is for this process and those that it starts from now on. In
// clusters, too, API servers have machines of their own.
func (c *cluster) standApart(t *testing.T) {
	t.Helper()
	all := processors(t)
	if len(all) < 2 {
		t.Fatal("One processor cannot be divided: run the benchmarks where there are two")
	}
	theirs, ours := all[:len(all)/2], all[len(all)/2:]
	servers := []int{child(t, "kube-apiserver"), child(t, "etcd")}
	for _, pid := range servers {
		place(t, pid, theirs)
	}
	place(t, os.Getpid(), ours)
	t.Cleanup(func() {
		for _, pid := range append(servers, os.Getpid()) {
			place(t, pid, all)
		}
	})
}

// processors returns the numbers of the processors that this process may use.
func processors(t *testing.T) (numbers []string) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		list, ok := strings.CutPrefix(line, "Cpus_allowed_list:")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
			begin, end, isRange := strings.Cut(part, "-")
			if !isRange {
				end = begin
			}
			first, err := strconv.Atoi(begin)
			last, err2 := strconv.Atoi(end)
			if err != nil || err2 != nil {
				t.Fatalf("Read the list of processors %q: %v, %v", list, err, err2)
			}
			for n := first; n <= last; n++ {
				numbers = append(numbers, strconv.Itoa(n))
			}
		}
	}
	return numbers
}

// place moves all threads of a process to these processors. It fails if a thread ends
// meanwhile, so it retries.
func place(t *testing.T, pid int, processors []string) {
	t.Helper()
	var out []byte
	var err error
	for range 5 {
		if out, err = exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", //nolint:noctx // short
			strings.Join(processors, ","), strconv.Itoa(pid)).CombinedOutput(); err == nil {
			return
		}
	}
	t.Fatalf("Move a process to processors %v: %v: %s", processors, err, out)
}

// login writes the kubeconfig. As in a cluster, it has the token of a service account.
func (c *cluster) login(t *testing.T) {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bench"}}
	c.create(t, account, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "bench"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: account.Name}},
	})
	token := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(24 * 60 * 60))}}
	if err := c.SubResource("token").Create(t.Context(), account, token); err != nil {
		t.Fatalf("Get a token of the service account: %v", err)
	}
	config := clientcmdapi.NewConfig()
	config.CurrentContext = "bench"
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: c.config.Host, CertificateAuthorityData: c.config.CAData}
	config.AuthInfos["bench"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "bench"}
	if err := clientcmd.WriteToFile(*config, c.kubeconfig); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) create(t testing.TB, objects ...client.Object) {
	t.Helper()
	for _, object := range objects {
		if err := c.Create(t.Context(), object); err != nil {
			t.Fatalf("Create %T %s: %v", object, object.GetName(), err)
		}
	}
}

// forEach calls f for the n objects of a namespace, for some of them at once.
func (c *cluster) forEach(t *testing.T, namespace string, n int, f func(context.Context, *v1alpha1.WorkflowRun) error) {
	t.Helper()
	next := make(chan int)
	var tasks sync.WaitGroup
	for range creators {
		tasks.Go(func() {
			for i := range next {
				run := &v1alpha1.WorkflowRun{
					ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("run-%d", i)},
					Spec:       v1alpha1.WorkflowRunSpec{WorkflowName: workflows.Five.Name()},
				}
				if err := f(t.Context(), run); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	tasks.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// completed reports whether the status of each object is completed. It queries for one that
// is not: listing all objects would cost more than completing them.
func (c *cluster) completed(t *testing.T, namespace string) bool {
	t.Helper()
	var others metav1.PartialObjectMetadataList
	others.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRunList"))
	notCompleted := fields.OneTermNotEqualSelector("status.state", string(v1alpha1.RunCompleted))
	if err := c.List(t.Context(), &others, client.InNamespace(namespace),
		client.MatchingFieldsSelector{Selector: notCompleted}, client.Limit(1)); err != nil {
		t.Fatal(err)
	}
	return len(others.Items) == 0
}

// manage creates a namespace with a Backend and starts a manager for it. It returns when the
// tables exist.
func (c *cluster) manage(t *testing.T, b *base, namespace string) *process {
	t.Helper()
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: namespace, Name: name} }
	c.create(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.Secret{ObjectMeta: meta("db"), StringData: map[string]string{"uri": b.url}},
		&v1alpha1.Backend{ObjectMeta: meta("default"), Spec: v1alpha1.BackendSpec{
			Postgres: v1alpha1.PostgresBackend{URLSecretRef: v1alpha1.SecretKeyRef{Name: "db"}},
		}},
	)
	manager := c.startManager(t, namespace)
	b.await("tables", time.Minute, func() (ready bool) {
		b.scan(`SELECT to_regclass('openworkflow.operator_sweeps') IS NOT NULL`, nil, &ready)
		return ready
	})
	return manager
}

func (c *cluster) startManager(t *testing.T, namespace string) *process {
	t.Helper()
	port, metrics := freePort(t), freePort(t)
	manager := start(t, port, []string{"KUBECONFIG=" + c.kubeconfig}, program(t, "./cmd/manager"),
		"--namespaces="+namespace, "--health-probe-bind-address=127.0.0.1:"+strconv.Itoa(port),
		"--allow-local-databases", "--metrics-secure=false", "--metrics-bind-address=127.0.0.1:"+strconv.Itoa(metrics))
	manager.metrics = metrics
	manager.awaitReady()
	return manager
}

// counts are what a manager has done since it was started.
type counts struct {
	reconciles float64 // of WorkflowRuns
	requests   float64 // to the API server
}

func (p *process) counts() (c counts) {
	p.t.Helper()
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", p.metrics)) //nolint:noctx // local
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	c.reconciles = sum(text, "controller_runtime_reconcile_total{", `controller="workflowrun"`)
	c.requests = sum(text, "rest_client_requests_total{")
	return c
}

// sum adds up the values of a metric's lines that contain all of the texts.
func sum(metrics []byte, name string, texts ...string) (total float64) {
	for line := range strings.Lines(string(metrics)) {
		others := func(text string) bool { return !strings.Contains(line, text) }
		if strings.HasPrefix(line, name) && !slices.ContainsFunc(texts, others) {
			value, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			total += value
		}
	}
	return total
}

// writes counts the requests to the API server that write WorkflowRuns.
func (c *cluster) writes(t *testing.T) (n float64) {
	t.Helper()
	config := rest.CopyConfig(c.config)
	config.NegotiatedSerializer = scheme.Codecs
	raw, err := rest.UnversionedRESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := raw.Get().AbsPath("/metrics").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY"} {
		n += sum(metrics, "apiserver_request_total{", `resource="workflowruns"`, `verb="`+verb+`"`)
	}
	return n
}

// child returns the process of this name that the test has started.
func child(t *testing.T, name string) int {
	t.Helper()
	processes, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range processes {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
		if stat, err := readStat(pid); err == nil && stat.parent == os.Getpid() && strings.TrimSpace(string(comm)) == name {
			return pid
		}
	}
	t.Fatalf("There is no process %s", name)
	return 0
}
