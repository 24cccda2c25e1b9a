package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	if what := os.Getenv(managerVariable); what != "" {
		if err := runManagerProcess(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	testpg.Main(m, func() {
		if cluster.env != nil {
			_ = cluster.env.Stop()
		}
	})
}

// cluster is the API server that the tests share. Each test has its own namespace, database
// and manager.
var cluster struct {
	once sync.Once
	err  error
	env  *envtest.Environment
	// admin has all rights, manager those of config/rbac/role.yaml.
	admin, manager *rest.Config
	scheme         *runtime.Scheme
	// users guards env.AddUser, which numbers certificates without a lock.
	users sync.Mutex
}

// addUser returns a user with a client certificate. Tests may call it in parallel.
func addUser(name string) (*envtest.AuthenticatedUser, error) {
	cluster.users.Lock()
	defer cluster.users.Unlock()
	return cluster.env.AddUser(envtest.User{Name: name}, &rest.Config{})
}

const repository = "../.."

// managerUser is the user name of the manager's service account, which config/policy confines.
const managerUser = "system:serviceaccount:openworkflow-system:openworkflow-manager"

// startCluster starts the API server. Its executables are in KUBEBUILDER_ASSETS, by default
// those of the development cluster.
func startCluster() error {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		assets = filepath.Join(cache, "devcluster", "bin")
	}
	if _, err := os.Stat(filepath.Join(assets, "kube-apiserver")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no kube-apiserver in %s: build it with hack/devcluster/build.sh control", assets)
	}
	scheme, err := NewScheme()
	if err != nil {
		return err
	}
	cluster.scheme = scheme
	cluster.env = &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     []string{filepath.Join(repository, "config/crd/bases")},
		ErrorIfCRDPathMissing: true,
	}
	if cluster.admin, err = cluster.env.Start(); err != nil {
		return err
	}
	cluster.admin.QPS, cluster.admin.Burst = -1, 0
	admin, err := client.New(cluster.admin, client.Options{Scheme: scheme})
	if err != nil {
		return err
	}
	ctx := context.Background()
	files, err := filepath.Glob(filepath.Join(repository, "config/policy/*.yaml"))
	if err != nil {
		return err
	}
	for _, file := range append(files, filepath.Join(repository, "config/rbac/role.yaml")) {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		if err := createAll(ctx, admin, file); err != nil {
			return err
		}
	}
	if err := awaitPolicies(ctx, admin); err != nil {
		return err
	}
	user, err := addUser(managerUser)
	if err != nil {
		return err
	}
	cluster.manager = user.Config()
	cluster.manager.QPS, cluster.manager.Burst = -1, 0
	return admin.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "manager"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "openworkflow-manager"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: managerUser}},
	})
}

// awaitPolicies waits until the API server refuses what config/policy does not allow, which it begins
// to do a moment after the policies were created. It takes them in their order, so the last counts.
func awaitPolicies(ctx context.Context, admin client.Client) error {
	const text = "an approval has no data"
	return wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		bad := newDecision("bad", v1alpha1.DecisionApprove, "digest")
		bad.Namespace, bad.Spec.Data = metav1.NamespaceDefault, &apiextensionsv1.JSON{Raw: []byte("1")}
		err := admin.Create(ctx, bad, client.DryRunAll)
		return err != nil && strings.Contains(err.Error(), text), nil
	})
}

func createAll(ctx context.Context, c client.Client, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for document := range strings.SplitSeq(string(content), "\n---") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if object.GetKind() == "" {
			continue
		}
		if err := c.Create(ctx, object); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// world is a test's own namespace and database.
type world struct {
	t *testing.T
	client.Client
	Namespace string
	URL       string
}

// newWorld creates a namespace and a database. There is no manager yet.
func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return newWorldAt(t, testpg.New(t))
}

func newWorldAt(t *testing.T, url string) *world {
	t.Helper()
	cluster.once.Do(func() { cluster.err = startCluster() })
	if cluster.err != nil {
		t.Fatalf("Start the API server: %v", cluster.err)
	}
	admin, err := client.New(cluster.admin, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, Client: admin, URL: url, Namespace: "test-" + string(uuid.NewUUID())[:8]}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}})
	return w
}

// newManagedWorld is newWorld with a manager and the Backend "default".
func newManagedWorld(t *testing.T, changes ...func(*managerOptions)) *world {
	t.Helper()
	w := newWorld(t)
	w.start(changes...)
	w.backend()
	return w
}

// in returns the world for a subtest, which fails instead of the whole test.
func (w *world) in(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}

// manager is a running manager.
type manager struct {
	t    *testing.T
	stop context.CancelFunc
	done chan error
	logs *logBuffer
}

// managerOptions are what a test changes of a manager.
type managerOptions struct {
	Options
	newClient client.NewClientFunc
	// config defaults to that of a manager.
	config *rest.Config
	// elected managers of a world elect a leader.
	elected bool
	// others are namespaces that it watches too.
	others []string
}

// start starts a manager that watches this world's namespace only. It stops with the test.
func (w *world) start(changes ...func(*managerOptions)) *manager {
	w.t.Helper()
	o := defaultManager(cluster.manager)
	for _, change := range changes {
		change(&o)
	}
	logs := &logBuffer{}
	ctx, cancel := context.WithCancel(context.Background())
	mgr, err := newManager(ctx, w.Namespace, o, logs.logger())
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	m := &manager{t: w.t, stop: cancel, done: make(chan error, 1), logs: logs}
	go func() { m.done <- mgr.Start(ctx) }()
	w.t.Cleanup(func() {
		m.halt()
		if w.t.Failed() {
			w.t.Logf("Log of the manager:\n%s", logs.String())
		}
	})
	return m
}

// defaultManager returns what a test's manager has unless the test changes it.
func defaultManager(config *rest.Config) managerOptions {
	return managerOptions{config: config, Options: Options{
		Cluster:            "test-cluster",
		SkipNameValidation: true,
		Intervals: Intervals{
			Deadline: 100 * time.Millisecond, Rescue: 100 * time.Millisecond, Repair: 100 * time.Millisecond,
			Orphan: 200 * time.Millisecond, FirstReport: 100 * time.Millisecond,
		},
		Backend: BackendOptions{CheckInterval: 500 * time.Millisecond},
	}}
}

// newManager returns a manager of a namespace, not started yet.
func newManager(ctx context.Context, namespace string, o managerOptions, logger logr.Logger) (ctrl.Manager, error) {
	caches, err := CacheOptions(append([]string{namespace}, o.others...)...)
	if err != nil {
		return nil, err
	}
	scheme, err := NewScheme()
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(o.config)
	LimitDepth(config)
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         caches,
		Metrics:                       metricsserver.Options{BindAddress: "0"},
		Logger:                        logger,
		NewClient:                     o.newClient,
		LeaderElection:                o.elected,
		LeaderElectionID:              "manager",
		LeaderElectionNamespace:       namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return nil, err
	}
	return mgr, Setup(ctx, mgr, o.Options)
}

// halt stops the manager and waits for its end.
func (m *manager) halt() {
	m.t.Helper()
	m.stop()
	select {
	case err := <-m.done:
		m.done <- err
		if strings.Contains(m.logs.String(), "is forbidden: User") {
			m.t.Errorf("the manager lacks a right:\n%s", m.logs)
		}
	case <-time.After(60 * time.Second):
		m.t.Error("the manager did not end")
	}
}

// logBuffer collects a manager's log.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
	n  int
}

func (l *logBuffer) logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.n++
		fmt.Fprintln(&l.b, time.Now().Format("15:04:05.000"), prefix, args)
	}, funcr.Options{})
}

// Write adds the output of a process.
func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// create creates objects, in the world's namespace if they are namespaced.
func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		if namespaced, err := w.IsObjectNamespaced(o); err == nil && namespaced {
			o.SetNamespace(w.Namespace)
		}
		if err := w.Create(context.Background(), o); err != nil {
			w.t.Fatalf("Create %T %s: %v", o, o.GetName(), err)
		}
	}
}

// fetch reads an object again.
func fetch[T client.Object](w *world, o T) T {
	w.t.Helper()
	if err := w.Get(context.Background(), client.ObjectKeyFromObject(o), o); err != nil {
		w.t.Fatalf("Get %T %s: %v", o, o.GetName(), err)
	}
	return o
}

// modify patches an object's spec or metadata.
func modify[T client.Object](w *world, o T, change func(T)) {
	w.t.Helper()
	fetch(w, o)
	before, ok := o.DeepCopyObject().(client.Object)
	if !ok {
		w.t.Fatal("not an object")
	}
	change(o)
	if err := w.Patch(context.Background(), o, client.MergeFrom(before)); err != nil {
		w.t.Fatalf("Patch %T %s: %v", o, o.GetName(), err)
	}
}

// backend creates the Backend "default" and its Secret.
func (w *world) backend() *v1alpha1.Backend {
	w.t.Helper()
	w.secret("db", w.URL)
	b := newBackend()
	w.create(b)
	return b
}

func newBackend() *v1alpha1.Backend {
	return &v1alpha1.Backend{
		ObjectMeta: metav1.ObjectMeta{Name: "default"},
		Spec:       v1alpha1.BackendSpec{Postgres: v1alpha1.PostgresBackend{URLSecretRef: v1alpha1.SecretKeyRef{Name: "db"}}},
	}
}

func (w *world) secret(name, url string) *corev1.Secret {
	w.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"uri": url}}
	w.create(s)
	return s
}

// newTestRun returns a WorkflowRun of this name, not created yet.
func newTestRun(name string, changes ...func(*v1alpha1.WorkflowRun)) *v1alpha1.WorkflowRun {
	run := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.WorkflowRunSpec{WorkflowName: "checkout"},
	}
	for _, change := range changes {
		change(run)
	}
	return run
}

// pendingRun creates a WorkflowRun, and waits until its row waits for a worker.
func (w *world) pendingRun(name string, changes ...func(*v1alpha1.WorkflowRun)) *v1alpha1.WorkflowRun {
	w.t.Helper()
	run := newTestRun(name, changes...)
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	return run
}

// store opens the world's database as a worker does. It must be migrated.
func (w *world) store() *store.Store {
	w.t.Helper()
	s, err := store.Open(context.Background(), store.Options{URL: w.URL, NamespaceID: w.Namespace})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// row reads the row of a run's object, nil if there is none.
func (w *world) row(s *store.Store, id types.UID) *openworkflow.Run {
	w.t.Helper()
	rows, err := s.GetRuns(context.Background(), []string{string(id)})
	if err != nil {
		w.t.Fatal(err)
	}
	return rows[string(id)]
}

// eventually calls check until it returns no error, for up to a minute.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	eventuallyWithin(t, time.Minute, check)
}

func eventuallyWithin(t *testing.T, d time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", d, err)
		}
		<-ticker.C
	}
}

// awaitRowsSoon is awaitRows for what takes a fraction of a second, and with workers that are taken
// more than half a minute.
func awaitRowsSoon(t *testing.T, w *world, s *store.Store, runs ...*v1alpha1.WorkflowRun) {
	t.Helper()
	awaitRowsWithin(t, 25*time.Second, w, s, runs...)
}

// awaitRows waits until the runs have rows.
func awaitRows(t *testing.T, w *world, s *store.Store, runs ...*v1alpha1.WorkflowRun) {
	t.Helper()
	awaitRowsWithin(t, time.Minute, w, s, runs...)
}

func awaitRowsWithin(t *testing.T, d time.Duration, w *world, s *store.Store, runs ...*v1alpha1.WorkflowRun) {
	t.Helper()
	eventuallyWithin(t, d, func() error {
		for _, run := range runs {
			if w.row(s, run.UID) == nil {
				return fmt.Errorf("%s has no row", run.Name)
			}
		}
		return nil
	})
}

// awaitRun waits until check accepts a run's object.
func (w *world) awaitRun(run *v1alpha1.WorkflowRun, check func(*v1alpha1.WorkflowRun) error) {
	w.t.Helper()
	eventually(w.t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(run), run); err != nil {
			return err
		}
		return check(run)
	})
}

// awaitState waits for a state, the reason of the Ready condition, and the object's
// generation: a sweep or a worker may write a state before the manager has written which
// spec it observed. ReasonPending stands for ReasonNoWorker too.
func (w *world) awaitState(run *v1alpha1.WorkflowRun, state v1alpha1.RunState, reason string) {
	w.t.Helper()
	w.awaitRun(run, func(run *v1alpha1.WorkflowRun) error {
		if got := conditionReason(run.Status.Conditions); run.Status.State != state || got != reason && got != whilePending(reason) {
			return fmt.Errorf("run %s is %q (%s: %s), want %q (%s)", run.Name, run.Status.State, got, run.Status.Message, state, reason)
		}
		if observed := run.Status.ObservedGeneration; observed != run.Generation {
			return fmt.Errorf("run %s shows generation %d, want %d", run.Name, observed, run.Generation)
		}
		return nil
	})
}

// whilePending returns the other reason that a run has which no worker serves, as in most tests: it
// is ReasonPending until the run has been due for fleet.Patience, and ReasonNoWorker after that,
// which on a slow machine is the first that is shown.
func whilePending(reason string) string {
	if reason == v1alpha1.ReasonPending {
		return v1alpha1.ReasonNoWorker
	}
	return reason
}

// awaitReady waits for the reason of an object's Ready condition and returns its message.
func (w *world) awaitReady(o client.Object, conditions func() []metav1.Condition, reason string) string {
	w.t.Helper()
	message := ""
	eventually(w.t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		c := meta.FindStatusCondition(conditions(), v1alpha1.ConditionReady)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("%T %s: Ready is %+v, want reason %s", o, o.GetName(), c, reason)
		}
		message = c.Message
		return nil
	})
	return message
}

func (w *world) awaitBackend(b *v1alpha1.Backend, reason string) string {
	w.t.Helper()
	return w.awaitReady(b, func() []metav1.Condition { return b.Status.Conditions }, reason)
}

func (w *world) awaitPool(p *v1alpha1.WorkerPool, reason string) string {
	w.t.Helper()
	return w.awaitReady(p, func() []metav1.Condition { return p.Status.Conditions }, reason)
}

// newPool returns a WorkerPool with a minimal template.
func newPool(name string, changes ...func(*v1alpha1.WorkerPool)) *v1alpha1.WorkerPool {
	pool := &v1alpha1.WorkerPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.WorkerPoolSpec{
			Template: runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"worker","image":"example.test/checkout:1"}]}}`)},
		},
	}
	for _, change := range changes {
		change(pool)
	}
	return pool
}

// execute runs SQL on a new connection.
func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

// discard drops events.
type discard struct{}

func (discard) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {}
