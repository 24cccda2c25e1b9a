// Package dataapitest gives tests a real API server with a data API beside it, and namespaces
// with a database each. It does not import the package that serves the data API, so that the
// tests of that package use it too.
package dataapitest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	certutil "k8s.io/client-go/util/cert"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// ClusterUID is the uid of the cluster as runs name it.
const ClusterUID = "11111111-2222-3333-4444-555555555555"

// ServiceName is the name for which the certificate of the data API is valid, beside localhost.
const ServiceName = "openworkflow-data-api.openworkflow-system.svc"

// Serving is what a data API is served with.
type Serving struct {
	Admin       client.Client
	Listener    net.Listener
	Certificate dynamiccertificates.CertKeyContentProvider
	// Config reaches the API server.
	Config *rest.Config
}

// Cluster is an API server and a data API.
type Cluster struct {
	Env    *envtest.Environment
	Admin  client.Client
	Scheme *runtime.Scheme
	// Data reaches the data API, without saying who the caller is.
	Data rest.Config

	start sync.Once
	err   error
	// users guards Env.AddUser, which numbers certificates without a lock.
	users   sync.Mutex
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Start starts both, once. The root is that of the repository. Serve returns what runs until its
// context ends.
func (c *Cluster) Start(t *testing.T, root string, serve func(Serving) (run func(context.Context), err error)) {
	t.Helper()
	c.start.Do(func() {
		if c.err = c.startServer(root); c.err == nil {
			c.err = c.serve(serve)
		}
	})
	if c.err != nil {
		t.Fatalf("Start the API server: %v", c.err)
	}
}

// Stop ends both.
func (c *Cluster) Stop() {
	if c.cancel != nil {
		c.cancel()
		c.running.Wait()
	}
	if c.Env != nil {
		_ = c.Env.Stop()
	}
}

func (c *Cluster) startServer(root string) error {
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
	c.Scheme = runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, datav1alpha1.AddToScheme} {
		if err := add(c.Scheme); err != nil {
			return err
		}
	}
	c.Env = &envtest.Environment{
		BinaryAssetsDirectory: assets,
		CRDDirectoryPaths:     []string{filepath.Join(root, "config/crd/bases")},
		ErrorIfCRDPathMissing: true,
	}
	config, err := c.Env.Start()
	if err != nil {
		return err
	}
	config.QPS = -1
	c.Admin, err = client.New(config, client.Options{Scheme: c.Scheme})
	return err
}

// serve starts the data API on a loopback port.
func (c *Cluster) serve(serve func(Serving) (func(context.Context), error)) error {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cert, key, err := certutil.GenerateSelfSignedCertKey("localhost", []net.IP{net.IPv4(127, 0, 0, 1)}, []string{ServiceName})
	if err != nil {
		return err
	}
	content, err := dynamiccertificates.NewStaticCertKeyContent("test", cert, key)
	if err != nil {
		return err
	}
	run, err := serve(Serving{Admin: c.Admin, Listener: listener, Certificate: content, Config: c.Env.Config})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.running.Go(func() { run(ctx) })
	c.Data = rest.Config{Host: "https://" + listener.Addr().String(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: cert}}
	return nil
}

// World is a test's own namespace, with a Backend of the name default and its database.
type World struct {
	*store.Store
	Namespace, URL string

	t       *testing.T
	cluster *Cluster
}

// NewWorld makes a namespace.
func (c *Cluster) NewWorld(t *testing.T) *World {
	t.Helper()
	w := &World{t: t, cluster: c, Namespace: "test-" + string(uuid.NewUUID())[:8], URL: testpg.New(t)}
	w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace}})
	w.Store = w.Backend("default", w.URL)
	return w
}

// Backend creates a Backend and returns its store.
func (w *World) Backend(name, url string) *store.Store {
	w.t.Helper()
	s, err := store.Open(w.t.Context(), store.Options{URL: url, NamespaceID: w.Namespace})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	if err := s.Migrate(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: w.Namespace, Name: name}
	w.Create(&corev1.Secret{ObjectMeta: meta, StringData: map[string]string{"uri": url}})
	w.Create(&v1alpha1.Backend{ObjectMeta: meta, Spec: v1alpha1.BackendSpec{
		Postgres: v1alpha1.PostgresBackend{URLSecretRef: v1alpha1.SecretKeyRef{Name: name}},
	}})
	return s
}

// Create creates an object as an administrator.
func (w *World) Create(object client.Object) {
	w.t.Helper()
	if err := w.cluster.Admin.Create(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
}

// Grant lets a user of this name do what the rules say in the namespace. It returns once the API
// server knows, which is a moment after the objects were created. The data API remembers for some
// seconds what it was told.
func (w *World) Grant(user string, rules ...rbacv1.PolicyRule) {
	w.t.Helper()
	meta := metav1.ObjectMeta{Namespace: w.Namespace, Name: user}
	w.Create(&rbacv1.Role{ObjectMeta: meta, Rules: rules})
	w.Create(&rbacv1.RoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: user},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	})
	w.AwaitAllowed(user, &rules[0]) // and so what the other rules of the role say
}

// AwaitAllowed waits until the API server says that a user may do the first of what a rule says.
func (w *World) AwaitAllowed(user string, rule *rbacv1.PolicyRule) {
	w.t.Helper()
	resource, subresource, _ := strings.Cut(rule.Resources[0], "/")
	attributes := &authorizationv1.ResourceAttributes{
		Namespace: w.Namespace, Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: resource, Subresource: subresource,
	}
	if len(rule.ResourceNames) > 0 {
		attributes.Name = rule.ResourceNames[0]
	}
	if err := wait.PollUntilContextTimeout(w.t.Context(), 10*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: attributes}}
		err := w.cluster.Admin.Create(ctx, review)
		return review.Status.Allowed, err
	}); err != nil {
		w.t.Fatalf("%s may not %s %s: %v", user, attributes.Verb, rule.Resources[0], err)
	}
}

// User returns a user with a client certificate. Config is theirs for the API server.
func (w *World) User(name string) *envtest.AuthenticatedUser {
	w.t.Helper()
	user, err := w.cluster.AddUser(envtest.User{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	return user
}

// AddUser returns a user with a client certificate. Tests may call it in parallel.
func (c *Cluster) AddUser(user envtest.User) (*envtest.AuthenticatedUser, error) {
	c.users.Lock()
	defer c.users.Unlock()
	return c.Env.AddUser(user, nil)
}

// DataAs returns how the data API is reached with the identity of a configuration.
func (c *Cluster) DataAs(identity *rest.Config) *rest.Config {
	config := c.Data
	config.CertData, config.KeyData, config.BearerToken = identity.CertData, identity.KeyData, identity.BearerToken
	return &config
}
