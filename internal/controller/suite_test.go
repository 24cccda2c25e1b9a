package controller

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

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
