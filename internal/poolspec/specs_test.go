package poolspec

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file below testdata, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil { //nolint:gosec // to be read by all
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestObjects(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		backend  string // its name
		template string
		change   func(*v1alpha1.WorkerPool)
		sslMode  string
		ca       string // the name of its Secret
	}{
		"least": {backend: "default", template: `{"spec":{"containers":[{"name":"worker","image":"example.test/checkout:1"}]}}`},
		"own-words": {
			backend: "default",
			template: `{
				"metadata": {"labels": {"team": "shop", "openworkflow.dev/worker-pool": "hijack"}, "annotations": {"note": "mine"}},
				"spec": {
					"restartPolicy": "Always", "serviceAccountName": "payments", "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 90,
					"securityContext": {"runAsUser": 0, "seccompProfile": {"type": "Localhost", "localhostProfile": "p"}},
					"initContainers": [{"name": "init", "image": "i"}],
					"containers": [
						{"name": "worker", "image": "w",
						 "env": [{"name": "OPENWORKFLOW_POSTGRES_URL", "value": "postgres://pooler/db"}, {"name": "OPENWORKFLOW_CONCURRENCY", "value": "3"}],
						 "readinessProbe": {"tcpSocket": {"port": 1}},
						 "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
						 "securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}, "readOnlyRootFilesystem": true}},
						{"name": "sidecar", "image": "s", "securityContext": {"privileged": true}}
					]}}`,
			change: func(p *v1alpha1.WorkerPool) { p.Spec.Replicas = new(int32(0)) },
		},
		"worker-not-first": { // what a worker needs goes into the container of that name alone
			backend: "default",
			template: `{
				"metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "proxy", "openworkflow.dev/worker-container": "proxy"}},
				"spec": {
					"initContainers": [{"name": "migrate", "image": "m"}, {"name": "database-proxy", "image": "d", "restartPolicy": "Always"}],
					"containers": [
						{"name": "proxy", "image": "p", "ports": [{"containerPort": 9}]},
						{"name": "worker", "image": "w"},
						{"name": "logger", "image": "l"}
					]}}`,
		},
		"root-beside-the-worker": { // no user is set, and what is added refuses no container that the template runs as root
			backend: "default",
			template: `{"spec":{
				"hostUsers": false,
				"initContainers": [{"name": "chown", "image": "c", "securityContext": {"runAsUser": 0}}],
				"containers": [
					{"name": "worker", "image": "w", "securityContext": {"readOnlyRootFilesystem": true, "appArmorProfile": {"type": "RuntimeDefault"}}},
					{"name": "agent", "image": "a", "securityContext": {"privileged": true}}
				]}}`,
		},
		"own-token": { // the kubelet mounts the account's token into all containers, as the template says
			backend:  "default",
			template: `{"spec":{"automountServiceAccountToken":true,"containers":[{"name":"worker","image":"w"},{"name":"agent","image":"a"}]}}`,
		},
		"own-mounts": { // of the worker's token, and of another for a sidecar
			backend: "default",
			template: `{"spec":{
				"volumes": [{"name": "vault", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault", "path": "token"}}]}}],
				"containers": [
					{"name": "worker", "image": "w", "volumeMounts": [{"name": "vault", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]},
					{"name": "agent", "image": "a", "volumeMounts": [{"name": "vault", "mountPath": "/vault"}]}
				]}}`,
		},
		"encrypted": { // the template's own words about it stay
			backend: "default", ca: "db-ca",
			template: `{"spec":{"containers":[{"name":"worker","image":"w","env":[{"name":"NODE_EXTRA_CA_CERTS","value":"/mine"}]},{"name":"agent","image":"a"}]}}`,
		},
		"unencrypted": {
			backend: "default", sslMode: "disable", template: `{"spec":{"containers":[{"name":"worker","image":"w"}]}}`,
		},
		"first-is-the-worker": {
			backend:  "default",
			template: `{"spec":{"containers":[{"name":"checkout","image":"w"},{"name":"checkout-2","image":"w"}]}}`,
		},
		"no-health-port": {
			backend:  strings.Repeat("long.", 20) + "end",
			template: `{"spec":{"containers":[{"name":"worker","image":"node"}]}}`,
			change: func(p *v1alpha1.WorkerPool) {
				p.Spec.HealthPort = new(int32(0))
				p.Spec.Concurrency, p.Spec.LeaseDurationSeconds = new(int32(2)), new(int32(60))
				p.Name = strings.Repeat("pool.", 30) + "end"
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			template, err := DecodeTemplate([]byte(test.template))
			if err != nil {
				t.Fatal(err)
			}
			pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "orders", UID: "pool-uid"}}
			if test.change != nil {
				test.change(pool)
			}
			before, _ := json.Marshal(template)
			objects := Objects(Input{
				Pool: pool, Template: template, Backend: test.backend, Secret: v1alpha1.SecretKeyRef{Name: "db", Key: "uri"},
				Schema: "openworkflow", NamespaceID: "orders", BackendHash: "0123456789",
				SSLMode: test.sslMode, CA: v1alpha1.CASecretKeyRef{Name: test.ca, Key: "ca.crt"},
			})
			if after, _ := json.Marshal(template); !bytes.Equal(before, after) {
				t.Error("the template was changed")
			}
			golden(t, "pool-"+name+".yaml", documents(t, objects))
		})
	}
}

// TestObjects_P9_OnlyTheWorkerHasAToken: a sidecar, an init container, or a container that is
// injected does not get the right to write status.
func TestObjects_P9_OnlyTheWorkerHasAToken(t *testing.T) {
	t.Parallel()
	template, err := DecodeTemplate([]byte(`{"spec":{
		"initContainers": [{"name": "init", "image": "i"}, {"name": "proxy", "image": "p", "restartPolicy": "Always"}],
		"containers": [{"name": "logger", "image": "l"}, {"name": "worker", "image": "w"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "orders"}}
	spec := workerTemplate(Input{Pool: pool, Template: template}).Spec
	if mount := spec.AutomountServiceAccountToken; mount == nil || *mount {
		t.Error("the kubelet mounts the token into all containers")
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if has := len(c.VolumeMounts) > 0; has != (*c.Name == "worker") {
			t.Errorf("container %s has mounts: %t", *c.Name, has)
		}
	}
	encoded, err := json.Marshal(spec.Volumes)
	if err != nil {
		t.Fatal(err)
	}
	var volumes []corev1.Volume
	if err := json.Unmarshal(encoded, &volumes); err != nil {
		t.Fatal(err)
	}
	if len(volumes) != 1 {
		t.Fatalf("%d volumes", len(volumes))
	}
	var files []string
	for _, source := range volumes[0].Projected.Sources {
		switch {
		case source.ServiceAccountToken != nil:
			files = append(files, source.ServiceAccountToken.Path)
			if source.ServiceAccountToken.Audience != "" || *source.ServiceAccountToken.ExpirationSeconds > 3600 {
				t.Errorf("the token is %+v", source.ServiceAccountToken)
			}
		case source.ConfigMap != nil:
			files = append(files, source.ConfigMap.Items[0].Path)
		case source.DownwardAPI != nil:
			files = append(files, source.DownwardAPI.Items[0].Path)
		}
	}
	if want := []string{"token", "ca.crt", "namespace"}; !cmp.Equal(want, files) {
		t.Errorf("the mounted files are %q, want those of the kubelet's own mount %q", files, want)
	}
}

func documents(t *testing.T, objects []runtime.ApplyConfiguration) []byte {
	t.Helper()
	var b bytes.Buffer
	for i, o := range objects {
		if i > 0 {
			b.WriteString("---\n")
		}
		document, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(document)
	}
	return b.Bytes()
}

func TestNames(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{"a", "shop", "shop.v2", "shop-v2", strings.Repeat("x", 200), strings.Repeat("x", 199) + "y", strings.Repeat("a.", 99) + "b"} {
		child, label := ObjectName(name), LabelValue(name)
		if errs := validation.IsDNS1123Label(child); len(errs) > 0 || len(child) > maxObjectName {
			t.Errorf("ObjectName(%q) is %q: %v", name, child, errs)
		}
		if errs := validation.IsValidLabelValue(label); len(errs) > 0 {
			t.Errorf("LabelValue(%q) is %q: %v", name, label, errs)
		}
		for _, short := range []string{"child " + child, "label " + label} {
			if other, ok := seen[short]; ok {
				t.Errorf("%q and %q share the %s", name, other, short)
			}
			seen[short] = name
		}
	}
}

// A pod's worker is found although a webhook has added containers and changed their order.
func TestWorkerContainer(t *testing.T) {
	t.Parallel()
	pod := func(annotation string, names ...string) *corev1.Pod {
		p := &corev1.Pod{}
		if annotation != "" {
			p.Annotations = map[string]string{v1alpha1.AnnotationWorkerContainer: annotation}
		}
		for _, name := range names {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: name})
		}
		return p
	}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"first":                    {pod("checkout", "checkout", "proxy"), "checkout"},
		"behind a proxy":           {pod("checkout", "proxy", "checkout"), "checkout"},
		"beside one named worker":  {pod("checkout", "worker", "checkout"), "checkout"},
		"named worker":             {pod("", "proxy", "worker"), "worker"},
		"of an older release":      {pod("", "checkout", "logger"), "checkout"},
		"in a pod of no container": {pod(""), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := WorkerContainer(test.pod); got != test.want {
				t.Errorf("the worker is %q, want %q", got, test.want)
			}
		})
	}
}
