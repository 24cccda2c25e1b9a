package controller

import (
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
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
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
