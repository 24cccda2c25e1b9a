package dataapi

import (
	"context"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dataapi/dataapitest"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	testpg.Main(m, shared.Stop)
}

// shared is the API server and the data API of all tests. Each test has its own namespace and
// database.
var shared dataapitest.Cluster

// cluster is what tests use of it.
var cluster struct {
	env    *envtest.Environment
	admin  client.Client
	scheme *runtime.Scheme
}

const clusterUID = dataapitest.ClusterUID

// serve returns what serves the data API.
func serve(s dataapitest.Serving) (func(context.Context), error) {
	databases := &Databases{Backends: s.Admin, Secrets: s.Admin, Open: func(ctx context.Context, o store.Options) (*store.Store, error) {
		return store.Open(ctx, o)
	}}
	server, err := New(databases, Options{Listener: s.Listener, Certificate: s.Certificate, Config: s.Config, Cluster: clusterUID})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		var running sync.WaitGroup
		running.Go(func() { _ = databases.Start(ctx) })
		_ = server.Start(ctx)
		running.Wait()
	}, nil
}

// world is a test's own namespace, with a Backend of the name default and its database.
type world struct {
	*dataapitest.World
	t              *testing.T
	namespace, url string
}

var alias sync.Once

func setup(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	return setupAlone(t)
}

// setupAlone is setup for a test that measures the process: no other one runs meanwhile.
func setupAlone(t *testing.T) *world {
	t.Helper()
	shared.Start(t, "../..", serve)
	alias.Do(func() { cluster.env, cluster.admin, cluster.scheme = shared.Env, shared.Admin, shared.Scheme })
	w := shared.NewWorld(t)
	return &world{World: w, t: t, namespace: w.Namespace, url: w.URL}
}

func (w *world) backend(name, url string) *store.Store         { return w.Backend(name, url) }
func (w *world) create(object client.Object)                   { w.t.Helper(); w.Create(object) }
func (w *world) grant(user string, rules ...rbacv1.PolicyRule) { w.t.Helper(); w.Grant(user, rules...) }

// rule allows verbs on resources of the data API.
func rule(verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Verbs: verbs, Resources: resources}
}

// as returns a client of the data API with the user's client certificate.
func (w *world) as(user string) *rest.RESTClient {
	w.t.Helper()
	return w.rest(shared.DataAs(w.User(user).Config()))
}

// withToken returns a client of the data API with a bearer token.
func (w *world) withToken(token string) *rest.RESTClient {
	return w.rest(shared.DataAs(&rest.Config{BearerToken: token}))
}

func (w *world) rest(config *rest.Config) *rest.RESTClient {
	w.t.Helper()
	config.GroupVersion, config.APIPath = &datav1alpha1.GroupVersion, "/apis"
	_, codecs := newScheme()
	config.NegotiatedSerializer = codecs.WithoutConversion()
	c, err := rest.RESTClientFor(config)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// user grants all of the data API to a new user, and returns their client.
func (w *world) user() *rest.RESTClient {
	w.t.Helper()
	name := "user-" + w.namespace
	w.grant(name, rule([]string{"*"}, "*"))
	return w.as(name)
}

func testpgNew(t *testing.T) string { return testpg.New(t) }

// query reads one row.
func (w *world) query(sql string, args []any, into ...any) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	if err := conn.QueryRow(w.t.Context(), sql, args...).Scan(into...); err != nil {
		w.t.Fatal(err)
	}
}

// testpgExec executes a statement.
func testpgExec(t *testing.T, url, sql string, args ...any) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}
