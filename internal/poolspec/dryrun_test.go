package poolspec

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestDryRunJob(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"least": `{"spec":{"containers":[{"name":"worker","image":"example.test/checkout:1"}]}}`,
		"own-words": `{
			"metadata": {"labels": {"team": "shop", "openworkflow.dev/worker-pool": "shop"}},
			"spec": {
				"automountServiceAccountToken": true, "serviceAccountName": "payments", "imagePullSecrets": [{"name": "registry"}],
				"volumes": [{"name": "openworkflow-token", "secret": {"secretName": "mine"}}, {"name": "config", "configMap": {"name": "config"}}],
				"initContainers": [{"name": "database-proxy", "image": "d", "restartPolicy": "Always"}],
				"containers": [
					{"name": "proxy", "image": "p"},
					{"name": "worker", "image": "w", "terminationMessagePath": "/tmp/end", "terminationMessagePolicy": "FallbackToLogsOnError",
					 "env": [{"name": "OPENWORKFLOW_DRY_RUN", "value": "mine"}, {"name": "OPENWORKFLOW_NAMESPACE_ID", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "namespace"}}}, {"name": "STRIPE_KEY", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}}],
					 "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}],
					 "readinessProbe": {"tcpSocket": {"port": 1}}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}
				]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			template, err := DecodeTemplate([]byte(raw))
			if err != nil {
				t.Fatal(err)
			}
			before, _ := json.Marshal(template)
			pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "orders", UID: "pool-uid"}}
			pool.Spec.Template.Raw = []byte(raw)
			in, err := DryRunInput(pool, &v1alpha1.Backend{
				ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "orders"},
				Spec: v1alpha1.BackendSpec{Postgres: v1alpha1.PostgresBackend{
					URLSecretRef: v1alpha1.SecretKeyRef{Name: "db"}, WorkerURLSecretRef: v1alpha1.SecretKeyRef{Name: "db-worker", Key: "uri"},
				}},
			})
			if err != nil {
				t.Fatal(err)
			}
			in.Template = template
			job, err := DryRunJob(in, `{"runID":"r","outputs":{"a":"$(HOME) $$(HOME)"}}`)
			if err != nil {
				t.Fatal(err)
			}
			if after, _ := json.Marshal(template); !bytes.Equal(before, after) {
				t.Error("the template was changed")
			}
			document, err := yaml.Marshal(job)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "dryrun-"+name+".yaml", document)
			if strings.Contains(string(document), "serviceAccountToken") || strings.Contains(string(document), tokenVolume) {
				t.Error("the pod has a token")
			}
			if labels.SelectorFromSet(Selector(pool)).Matches(labels.Set(job.Spec.Template.Labels)) {
				t.Error("the pool's selector finds the pod")
			}
			if got := WorkerContainer(&corev1.Pod{ObjectMeta: job.Spec.Template.ObjectMeta}); got != "worker" {
				t.Errorf("the result is that of container %q", got)
			}
		})
	}
}
