//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// scene is a cluster with an honest tenant and two hostile ones, who share a server and a
// database, but no schema.
type scene struct {
	*testing.T
	honest  *tenant
	hostile []*tenant
	manager *managerProcess
	// host is the address of this machine that pods reach, and id that of the cluster.
	host, id string
}

// tenant is a namespace with an administrator, and a login to the database with schemas of its
// own. Its first Backend, "default", and a pool of the example "checkout" are ready.
type tenant struct {
	cluster
	name string
	// login is also the schema of the Backend "default".
	login string
	// admin acts as the administrator of the namespace: the role "admin" of Kubernetes, bound in
	// this namespace. developer has openworkflow-editor alone. worker has the token of the pool.
	admin, developer, worker client.WithWatch
	workerToken              string
}

// in returns the same tenant for a subtest.
func (t *tenant) in(test *testing.T) *tenant {
	sub := *t
	sub.T = test
	return &sub
}

// newScene makes the database and the tenants.
func newScene(t *testing.T) *scene {
	t.Helper()
	base := cluster{T: t}
	stamp := fmt.Sprint(time.Now().UnixMilli() % 1_000_000)
	database := "security_" + stamp
	base.script("hack/postgres.sh", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-c", "CREATE DATABASE "+database,
		"-c", "REVOKE ALL ON DATABASE "+database+" FROM PUBLIC")
	names := []string{"honest", "mallory", "trudy"}
	t.Cleanup(func() {
		dropAfterwards("DATABASE IF EXISTS " + database + " WITH (FORCE)")
		for _, name := range names {
			dropAfterwards("ROLE IF EXISTS " + name + "_" + stamp)
		}
	})
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	server, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, host: server.Hostname(), manager: newManagerProcess(&base)}
	s.id = base.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	for _, name := range names {
		tenant := newTenant(t, config, database, name, stamp)
		if name == "honest" {
			s.honest = tenant
		} else {
			s.hostile = append(s.hostile, tenant)
		}
	}
	return s
}

// secretKind is Kubernetes' own Secret.
var secretKind = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}

// otherBackends are those that each tenant has beside "default". Each has a schema of its own,
// which has the login's name, too.
var otherBackends = []string{"other", "locked", "held", "lying"}

// newTenant makes a tenant as the documentation says: a namespace with the restricted Pod
// Security Standard and a quota, a login with a schema.
func newTenant(t *testing.T, config *rest.Config, database, name, stamp string) *tenant {
	t.Helper()
	login, password := name+"_"+stamp, "secret-"+name+"-"+stamp
	tenant := &tenant{cluster: cluster{T: t, namespace: "sec-" + name + "-" + stamp}, name: name, login: login}
	tenant.createLogin(database, password)
	tenant.url = asUser(withDatabase(tenant.script("hack/postgres.sh", "url"), database), login, password)
	pool, err := pgxpool.New(t.Context(), asUser(withDatabase(tenant.script("hack/postgres.sh", "url", "host"), database), login, password))
	if err != nil {
		t.Fatal(err)
	}
	tenant.database = pool
	tenant.kubectl("create", "namespace", tenant.namespace)
	t.Cleanup(func() {
		pool.Close()
		_ = exec.Command(kubectlPath(), "delete", "namespace", tenant.namespace, "--wait=false").Run() //nolint:noctx // the test's context has ended
	})
	tenant.kubectl("label", "namespace", tenant.namespace, "pod-security.kubernetes.io/enforce=restricted")
	tenant.kubectl("-n", tenant.namespace, "create", "quota", "tenant", "--hard=pods=8")
	tenant.admin = tenant.account(config, "administrator", "admin")
	tenant.developer = tenant.account(config, "developer", "openworkflow-editor")
	tenant.must(tenant.createSecret("db", tenant.url))
	tenant.must(tenant.admin.Create(t.Context(), tenant.newBackend("default", "db", login)))
	for _, name := range otherBackends {
		tenant.must(tenant.admin.Create(t.Context(), tenant.newBackend(name, "db", login+"_"+name)))
	}
	tenant.kubectl("-n", tenant.namespace, "wait", "--for=condition=Ready", "backends", "--all", "--timeout=60s")
	tenant.pool(map[bool]int{true: 2, false: 1}[name == "honest"], 0)
	account := tenant.kubectl("-n", tenant.namespace, "get", "pods", "-l", "openworkflow.dev/worker-pool=checkout",
		"-o", "jsonpath={.items[0].spec.serviceAccountName}")
	tenant.worker, tenant.workerToken = tenant.as(config, account)
	return tenant
}

// createLogin makes a login with its schemas, and no other right in the database.
func (t *tenant) createLogin(database, password string) {
	t.Helper()
	statements := []string{
		"-c", fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s' CONNECTION LIMIT 80", t.login, password),
		"-c", fmt.Sprintf("GRANT %s TO CURRENT_USER", t.login),
		"-c", fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s", database, t.login),
		"-c", fmt.Sprintf("ALTER ROLE %s SET search_path = %[1]s", t.login),
	}
	for _, schema := range append([]string{t.login}, otherBackends...) {
		if schema != t.login {
			schema = t.login + "_" + schema
		}
		statements = append(statements, "-c", fmt.Sprintf("CREATE SCHEMA %s AUTHORIZATION %s", schema, t.login))
	}
	t.script("hack/postgres.sh", append([]string{"psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", database}, statements...)...)
}

// account makes a service account, binds a ClusterRole to it in this namespace, and returns a
// client that acts as it.
func (t *tenant) account(config *rest.Config, name, role string) client.WithWatch {
	t.Helper()
	t.kubectl("-n", t.namespace, "create", "serviceaccount", name)
	t.kubectl("-n", t.namespace, "create", "rolebinding", name, "--clusterrole="+role, "--serviceaccount="+t.namespace+":"+name)
	c, _ := t.as(config, name)
	return c
}

// as returns a client that acts as a service account of the namespace, and the token.
func (t *tenant) as(config *rest.Config, account string) (client.WithWatch, string) {
	t.Helper()
	token := t.kubectl("-n", t.namespace, "create", "token", account, "--duration=1h")
	own := rest.AnonymousClientConfig(config)
	own.BearerToken, own.QPS, own.WarningHandler = token, -1, rest.NoWarnings{}
	c, err := client.NewWithWatch(own, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c, token
}

func (t *tenant) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (t *tenant) createSecret(name, url string) error {
	secret := &unstructured.Unstructured{Object: map[string]any{"stringData": map[string]any{"uri": url}}}
	secret.SetGroupVersionKind(secretKind)
	secret.SetNamespace(t.namespace)
	secret.SetName(name)
	return t.admin.Create(t.Context(), secret)
}

// object returns an object of ours whose spec is any JSON.
func (t *tenant) object(kind, name string, spec any) *unstructured.Unstructured {
	t.Helper()
	encoded, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{Object: map[string]any{"spec": decoded}}
	o.SetAPIVersion("openworkflow.dev/v1alpha1")
	o.SetKind(kind)
	o.SetNamespace(t.namespace)
	o.SetName(name)
	return o
}

// fields are the members of a spec.
type fields = map[string]any

func (t *tenant) newRun(name string, spec fields) *unstructured.Unstructured {
	return t.object("WorkflowRun", name, spec)
}

// newBackend returns a Backend whose URL is in this Secret.
func (t *tenant) newBackend(name, secret, schema string) *unstructured.Unstructured {
	return t.object("Backend", name, fields{"schema": schema, "postgres": fields{"urlSecretRef": fields{"name": secret}}})
}

// order is a run that the tenant's pool completes at once.
func (t *tenant) order(name string) *unstructured.Unstructured {
	return t.newRun(name, fields{"workflowName": "checkout", "input": orderInput(name)})
}

func orderInput(id string) fields {
	return fields{"orderID": id, "amountCents": 4999, "currency": "EUR", "email": id + "@example.com"}
}

// ready returns reason and message of an object's condition Ready, which are empty while it
// cannot be read.
func (t *tenant) ready(o client.Object) (reason, message string) {
	now := &unstructured.Unstructured{}
	now.SetGroupVersionKind(o.GetObjectKind().GroupVersionKind())
	if t.admin.Get(t.Context(), client.ObjectKeyFromObject(o), now) != nil {
		return "", ""
	}
	conditions, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" {
			reason, _ = c["reason"].(string)
			message, _ = c["message"].(string)
		}
	}
	return reason, message
}

// asUser replaces the login of a URL.
func asUser(raw, user, password string) string {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// suffix returns a short name of a subtest that suits objects and schemas.
func suffix(t *testing.T) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(t.Name()))
	return fmt.Sprintf("%08x", h.Sum32())
}

// dig returns a member of an object, as it is if it is text, else as JSON.
func dig(o *unstructured.Unstructured, path ...string) string {
	value, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...)
	if value == nil {
		return ""
	}
	if text, ok := value.(string); ok {
		return text
	}
	encoded, _ := json.Marshal(value)
	return string(encoded)
}

// statusPatch returns a JSON patch of an object's status.
func statusPatch(members fields) client.Patch {
	var operations []fields
	for name, value := range members {
		operations = append(operations, fields{"op": "add", "path": "/status/" + name, "value": value})
	}
	encoded, err := json.Marshal(operations)
	if err != nil {
		panic(err)
	}
	return client.RawPatch("application/json-patch+json", encoded)
}

// dropAfterwards drops something of the database server once the test's context has ended.
func dropAfterwards(what string) {
	_ = exec.Command(filepath.Join(root, "hack/postgres.sh"), "psql", "-q", "-c", "DROP "+what).Run() //nolint:noctx // see above
}

// kubeconfig is the file that kubectl uses.
func kubeconfig() string { return os.Getenv("KUBECONFIG") }
