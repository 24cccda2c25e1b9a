//go:build bench

package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// creators is the number of objects that are created at once.
const creators = 32

// objects is W6: WorkflowRuns through a real API server, with the manager and a worker
// that reports.
func (s *session) objects(t *testing.T) {
	c := startCluster(t)
	d := startDisk(t, asIs)
	t.Run("executed", func(t *testing.T) {
		for round := range min(s.slowRounds, 3) {
			sample := c.round(t, d, fmt.Sprintf("bench-%d", round), s.sizes.objects, s.idle)
			s.report.Add(asIs, "W6 objects", sample)
			t.Logf("W6 objects, round %d: %v", round+1, sample)
		}
	})
	t.Run("waiting", func(t *testing.T) {
		sample := c.waiting(t, d, "bench-waiting", s.sizes.objects, s.idle)
		s.report.Add(asIs, "W6 waiting objects", sample)
		t.Logf("W6 waiting objects: %v", sample)
	})
}

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

// round creates n WorkflowRuns in a namespace of their own, and deletes them once all
// have completed.
func (c *cluster) round(t *testing.T, d *disk, namespace string, n int, idle time.Duration) report.Sample {
	t.Helper()
	b := d.emptyBase(t)
	defer b.drop()
	// The bare objects come before and after ours: the machine's speed drifts.
	small := &bare{status: v1alpha1.WorkflowRunStatus{State: v1alpha1.RunCompleted}}
	same := &bare{status: fiveSteps()}
	around := func(when string) {
		c.createBare(t, namespace+"-small-"+when, n/2, small)
		c.createBare(t, namespace+"-same-"+when, n/2, same)
	}
	around("before")

	manager := c.manage(t, b, namespace)
	reporting := start(t, 0, []string{
		"BENCH_KUBECONFIG=" + c.kubeconfig,
		"BENCH_OBJECTS=" + namespace,
		"OPENWORKFLOW_NAMESPACE_ID=" + namespace,
		"OPENWORKFLOW_POSTGRES_URL=" + b.url,
		"OPENWORKFLOW_CONCURRENCY=" + strconv.Itoa(slots),
		"POD_NAME=bench",
	}, program(t, "./test/bench/worker"))

	spent := func() map[string]time.Duration {
		return map[string]time.Duration{
			"API server": processorTime(t, child(t, "kube-apiserver")),
			"etcd":       processorTime(t, child(t, "etcd")),
			"manager":    processorTime(t, manager.cmd.Process.Pid),
			"worker":     processorTime(t, reporting.cmd.Process.Pid),
			"Postgres":   processorTime(t, d.server.PID()),
		}
	}
	before := spent()
	writes, began := c.writes(t), time.Now()
	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error { return c.Create(ctx, run) })
	created := time.Since(began)
	var ended time.Time
	b.await("completed objects", patience, func() bool {
		var rows int
		b.scan(`SELECT count(*) FROM openworkflow.workflow_runs WHERE namespace_id = $1 AND status = 'completed'`,
			[]any{namespace}, &rows)
		ended = time.Now()
		return rows == n && c.completed(t, namespace)
	})
	after := spent()
	perRun := (c.writes(t) - writes) / float64(n)
	live := resident(t, manager.cmd.Process.Pid)
	stop([]*process{reporting})

	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error { return c.Delete(ctx, run) })
	idleFor(b, idle) // the manager's collector gives memory back little by little
	gone := resident(t, manager.cmd.Process.Pid)
	stop([]*process{manager})
	around("after")

	rate := float64(n) / ended.Sub(began).Seconds()
	sample := report.Sample{
		"objects/s":                     rate,
		"objects created/s":             float64(n) / created.Seconds(),
		"bare objects/s":                small.rate(),
		"bare API server µs/object":     small.apiServer(),
		"objects ÷ bare":                rate / small.rate(),
		"objects ÷ bare, same status":   rate / same.rate(),
		"API writes/run":                perRun,
		"manager MiB, all objects live": live / (1 << 20),
		"manager MiB, all objects gone": gone / (1 << 20),
	}
	for name := range after {
		sample[name+" µs/object"] = float64((after[name] - before[name]).Microseconds()) / float64(n)
	}
	return sample
}

// manage starts a manager for a namespace that it creates, with a Backend. It returns
// when the tables are there.
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
	port := freePort(t)
	manager := start(t, port, []string{"KUBECONFIG=" + c.kubeconfig}, program(t, "./cmd/manager"),
		"--namespaces="+namespace, "--health-probe-bind-address=127.0.0.1:"+strconv.Itoa(port))
	manager.awaitReady()
	b.await("tables", time.Minute, func() (ready bool) {
		b.scan(`SELECT to_regclass('openworkflow.operator_sweeps') IS NOT NULL`, nil, &ready)
		return ready
	})
	return manager
}

// waiting creates n WorkflowRuns that nobody executes, and looks at what they cost once
// all of them say so.
func (c *cluster) waiting(t *testing.T, d *disk, namespace string, n int, idle time.Duration) report.Sample {
	t.Helper()
	b := d.emptyBase(t)
	defer b.drop()
	manager := c.manage(t, b, namespace)
	before := c.writes(t)
	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error { return c.Create(ctx, run) })
	const calm = 10 * time.Second // longer than it takes until somebody says that there is no worker
	writes, since := c.writes(t), time.Now()
	b.await("calm", patience, func() bool {
		if now := c.writes(t); now != writes {
			writes, since = now, time.Now()
		}
		return time.Since(since) > calm
	})
	busy, postgres := processorTime(t, manager.cmd.Process.Pid), processorTime(t, d.server.PID())
	began := time.Now()
	idleFor(b, idle)
	took := time.Since(began).Seconds()
	sample := report.Sample{
		"API writes/object": (writes - before) / float64(n),
		"manager MiB":       resident(t, manager.cmd.Process.Pid) / (1 << 20),
		"manager CPU %":     100 * (processorTime(t, manager.cmd.Process.Pid) - busy).Seconds() / took,
		"Postgres CPU %":    100 * (processorTime(t, d.server.PID()) - postgres).Seconds() / took,
	}
	stop([]*process{manager})
	return sample
}

// bare sums up what it takes a client to create objects that nobody watches, and to
// patch their status once.
type bare struct {
	status     v1alpha1.WorkflowRunStatus
	objects    int
	took, busy time.Duration // by the clock, and of the API server's processors
}

func (b *bare) rate() float64      { return float64(b.objects) / b.took.Seconds() }
func (b *bare) apiServer() float64 { return float64(b.busy.Microseconds()) / float64(b.objects) }

// createBare adds n objects in a namespace of their own to b.
func (c *cluster) createBare(t *testing.T, namespace string, n int, b *bare) {
	t.Helper()
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	patch, err := json.Marshal(map[string]any{"status": b.status})
	if err != nil {
		t.Fatal(err)
	}
	server := child(t, "kube-apiserver")
	busy, began := processorTime(t, server), time.Now()
	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error {
		if err := c.Create(ctx, run); err != nil {
			return err
		}
		return c.Status().Patch(ctx, run, client.RawPatch(types.MergePatchType, patch))
	})
	b.objects += n
	b.took += time.Since(began)
	b.busy += processorTime(t, server) - busy
}

// fiveSteps is the status of a completed run of five steps, as a worker reports it.
func fiveSteps() v1alpha1.WorkflowRunStatus {
	now := time.Now()
	steps := openworkflow.StepSummary{Completed: 5, Names: 5}
	for i := range 5 {
		steps.Newest = append(steps.Newest, openworkflow.StepAttempt{
			StepName: fmt.Sprintf("step:%d", i), Kind: openworkflow.KindFunction, Status: openworkflow.StepCompleted,
			StartedAt: &now, FinishedAt: &now,
		})
	}
	return projection.Status(&openworkflow.Run{
		ID: openworkflow.NewID(), Status: openworkflow.RunCompleted, Attempts: 1, Output: []byte("10"),
		StartedAt: &now, FinishedAt: &now, CreatedAt: now, UpdatedAt: now,
	}, steps, "bench")
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

// completed reports whether all objects say that they have completed. It asks for one
// that does not: to list them all would cost more than to complete them.
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

// writes counts what the API server was asked to write of WorkflowRuns.
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
	lines := bufio.NewScanner(bytes.NewReader(metrics))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "apiserver_request_total{") || !strings.Contains(line, `resource="workflowruns"`) {
			continue
		}
		for _, verb := range []string{"POST", "PUT", "PATCH", "APPLY"} {
			if strings.Contains(line, `verb="`+verb+`"`) {
				value, _ := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
				n += value
			}
		}
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
