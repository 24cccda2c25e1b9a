package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// awaitEncrypted waits for the reason of the condition Encrypted.
func (w *world) awaitEncrypted(b *v1alpha1.Backend, reason string) {
	w.t.Helper()
	eventually(w.t, func() error {
		c := meta.FindStatusCondition(fetch(w, b).Status.Conditions, v1alpha1.ConditionEncrypted)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("Encrypted is %+v, want %s", c, reason)
		}
		return nil
	})
}

// TestBackend_P9_SaysThatAConnectionIsNotEncrypted also on loopback, as in this test.
func TestBackend_P9_SaysThatAConnectionIsNotEncrypted(t *testing.T) {
	w := newWorld(t)
	w.start()
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	w.awaitEncrypted(b, v1alpha1.ReasonNotEncrypted)
	if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionEncrypted); c.Status != metav1.ConditionFalse || !strings.Contains(c.Message, "caSecretRef") {
		t.Errorf("the condition is %+v", c)
	}
}

// TestBackend_P9_TrustsTheCAThatItNames: without a file in the manager; a CA that is changed has the
// manager connect anew, and rolls the pods that read it.
func TestBackend_P9_TrustsTheCAThatItNames(t *testing.T) {
	t.Parallel()
	server := testpg.StartTLS(t)
	w := newWorldAt(t, server.URL())
	w.start()
	w.secret("db", server.URLFor("localhost", ""))
	b := newBackend()
	b.Spec.Postgres.SSLMode, b.Spec.Postgres.CASecretRef.Name = "verify-full", "ca"
	w.create(b, newPool("shop"))
	if message := w.awaitBackend(b, v1alpha1.ReasonSecretNotFound); !strings.Contains(message, `create it with the certificates of the database's CA under the key "ca.crt"`) {
		t.Errorf("message is %q", message)
	}
	ca := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "ca"}, Data: map[string][]byte{"ca.crt": testpg.NewCA(t)}}
	w.create(ca)
	w.awaitBackend(b, v1alpha1.ReasonTLSFailed)
	modify(w, ca, func(s *corev1.Secret) { s.Data["ca.crt"] = []byte("no certificate") })
	eventually(t, func() error {
		if message := w.awaitBackend(b, v1alpha1.ReasonTLSFailed); !strings.Contains(message, `the key "ca.crt" of Secret "ca" holds no certificate`) {
			return fmt.Errorf("message is %q", message)
		}
		return nil
	})
	modify(w, ca, func(s *corev1.Secret) { s.Data["ca.crt"] = server.CA })
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	w.awaitEncrypted(b, v1alpha1.ReasonTLS)

	before := owned(w, "shop", &appsv1.Deployment{}).Spec.Template
	worker := before.Spec.Containers[0]
	want := map[string]string{
		"PGSSLMODE": "verify-full", "PGSSL": "verify-full",
		"PGSSLROOTCERT": "/var/run/secrets/openworkflow.dev/postgres/ca.crt", "NODE_EXTRA_CA_CERTS": "/var/run/secrets/openworkflow.dev/postgres/ca.crt",
	}
	for _, e := range worker.Env {
		if e.Value == want[e.Name] {
			delete(want, e.Name)
		}
	}
	if len(want) > 0 {
		t.Errorf("the worker lacks the variables %v", want)
	}
	// Another CA beside the right one: nothing fails, all is read again.
	modify(w, ca, func(s *corev1.Secret) { s.Data["ca.crt"] = append(testpg.NewCA(t), server.CA...) })
	eventually(t, func() error {
		if after := owned(w, "shop", &appsv1.Deployment{}).Spec.Template; after.Annotations[v1alpha1.AnnotationBackendHash] == before.Annotations[v1alpha1.AnnotationBackendHash] {
			return fmt.Errorf("the pods are not rolled")
		}
		return nil
	})
	modify(w, ca, func(s *corev1.Secret) { s.Data["ca.crt"] = testpg.NewCA(t) })
	w.awaitBackend(b, v1alpha1.ReasonTLSFailed) // the open connections do not hide it
}

// TestBackend_P9_SSLModeIsNotContradicted: a URL cannot take back what the Backend says, neither the
// manager's nor the workers'.
func TestBackend_P9_SSLModeIsNotContradicted(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.secret("db", w.URL) // sslmode=disable
	w.secret("other", strings.Replace(w.URL, "sslmode=disable", "sslmode=require", 1))
	manager := newBackend()
	manager.Name, manager.Spec.Postgres.SSLMode = "manager", "require"
	workers := newBackend()
	workers.Name, workers.Spec.Postgres.SSLMode, workers.Spec.Postgres.WorkerURLSecretRef.Name = "workers", "disable", "other"
	w.create(manager, workers)
	for b, secret := range map[*v1alpha1.Backend]string{manager: "db", workers: "other"} {
		message := w.awaitBackend(b, v1alpha1.ReasonInvalidURL)
		if !strings.Contains(message, fmt.Sprintf("Secret %q", secret)) || !strings.Contains(message, "spec.postgres.sslMode") {
			t.Errorf("%s: message is %q", b.Name, message)
		}
	}
	bad := newBackend()
	bad.Namespace, bad.Name, bad.Spec.Postgres.SSLMode = w.Namespace, "bad", "sure"
	if err := w.Create(context.Background(), bad); err == nil || !strings.Contains(err.Error(), "spec.postgres.sslMode") {
		t.Errorf("a mode that there is not: %v", err)
	}
}
