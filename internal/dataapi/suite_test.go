package dataapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/jackc/pgx/v5"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	testpg.Main(m, func() {
		if cluster.stop != nil {
			cluster.stop()
		}
		if cluster.env != nil {
			_ = cluster.env.Stop()
		}
	})
}

// cluster is the API server and the data API that the tests share. Each test has its own
// namespace and database.
var cluster struct {
	once   sync.Once
	err    error
	env    *envtest.Environment
	stop   func()
	admin  client.Client
	scheme *runtime.Scheme
	// data reaches the data API, without saying who the caller is.
	data rest.Config
}

const clusterUID = "11111111-2222-3333-4444-555555555555"

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
	cluster.scheme = runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, datav1alpha1.AddToScheme} {
		if err := add(cluster.scheme); err != nil {
			return err
		}
	}
	cluster.env = &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     []string{"../../config/crd/bases"},
		ErrorIfCRDPathMissing: true,
	}
	config, err := cluster.env.Start()
	if err != nil {
		return err
	}
	config.QPS = -1
	if cluster.admin, err = client.New(config, client.Options{Scheme: cluster.scheme}); err != nil {
		return err
	}
	return serve(config)
}

// serve starts the data API on a loopback port.
func serve(config *rest.Config) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		return err
	}
	content, err := dynamiccertificates.NewStaticCertKeyContent("test", cert, key)
	if err != nil {
		return err
	}
	databases := &Databases{Backends: cluster.admin, Secrets: cluster.admin, Open: func(ctx context.Context, o store.Options) (*store.Store, error) {
		return store.Open(ctx, o)
	}}
	server, err := New(databases, Options{Listener: listener, Certificate: content, Config: config, Cluster: clusterUID})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = databases.Start(ctx) })
	running.Go(func() { _ = server.Start(ctx) })
	cluster.stop = func() { cancel(); running.Wait() }
	cluster.data = rest.Config{Host: "https://" + listener.Addr().String(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: cert}}
	return nil
}

// world is a test's own namespace, with a Backend of the name default and its database.
type world struct {
	t *testing.T
	*store.Store
	namespace, url string
}

func setup(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	cluster.once.Do(func() { cluster.err = startCluster() })
	if cluster.err != nil {
		t.Fatalf("Start the API server: %v", cluster.err)
	}
	w := &world{t: t, namespace: "test-" + string(uuid.NewUUID())[:8], url: testpg.New(t)}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}})
	w.Store = w.backend("default", w.url)
	return w
}

// backend creates a Backend and returns its store.
func (w *world) backend(name, url string) *store.Store {
	w.t.Helper()
	s, err := store.Open(w.t.Context(), store.Options{URL: url, NamespaceID: w.namespace})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	if err := s.Migrate(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: w.namespace, Name: name}
	w.create(&corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"uri": url}})
	w.create(&v1alpha1.Backend{ObjectMeta: meta, Spec: v1alpha1.BackendSpec{
		Postgres: v1alpha1.PostgresBackend{URLSecretRef: v1alpha1.SecretKeyRef{Name: name}},
	}})
	return s
}

func (w *world) create(object client.Object) {
	w.t.Helper()
	if err := cluster.admin.Create(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
}

// grant lets a user of this name do what the rule says in the test's namespace.
func (w *world) grant(user string, rules ...rbacv1.PolicyRule) {
	w.t.Helper()
	meta := metav1.ObjectMeta{Namespace: w.namespace, Name: user}
	w.create(&rbacv1.Role{ObjectMeta: meta, Rules: rules})
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	})
}

// rule allows verbs on resources of the data API.
func rule(verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Verbs: verbs, Resources: resources}
}

// as returns a client of the data API with the user's client certificate.
func (w *world) as(user string) *rest.RESTClient {
	w.t.Helper()
	added, err := cluster.env.AddUser(envtest.User{Name: user}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	config := cluster.data
	identity := added.Config()
	config.CertData, config.KeyData = identity.CertData, identity.KeyData
	return w.rest(config)
}

// withToken returns a client of the data API with a bearer token.
func (w *world) withToken(token string) *rest.RESTClient {
	config := cluster.data
	config.BearerToken = token
	return w.rest(config)
}

func (w *world) rest(config rest.Config) *rest.RESTClient {
	w.t.Helper()
	config.GroupVersion, config.APIPath = &datav1alpha1.GroupVersion, "/apis"
	_, codecs := newScheme()
	config.NegotiatedSerializer = codecs.WithoutConversion()
	c, err := rest.RESTClientFor(&config)
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
