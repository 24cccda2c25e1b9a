package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// as returns a client of a user of this name who has these rights in the world's namespace.
func (w *world) as(name string, rules ...rbacv1.PolicyRule) client.Client {
	w.t.Helper()
	name = name + "-" + w.Namespace
	user, err := addUser(name)
	if err != nil {
		w.t.Fatal(err)
	}
	w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}},
	})
	config := user.Config()
	config.QPS = -1 // no limit
	c, err := client.New(config, client.Options{Scheme: cluster.scheme})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// reports are the rights of a pool's service account.
func reports(backend string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"workflowruns/status"}, Verbs: []string{"patch", "update"}},
		{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"backends"}, ResourceNames: []string{backend}, Verbs: []string{"report"}},
	}
}

// patchStatus sets members of a run's status, as whoever holds a pool's token may try.
func patchStatus(c client.Client, run *v1alpha1.WorkflowRun, members map[string]any) error {
	body, err := json.Marshal(map[string]any{"status": members})
	if err != nil {
		return err
	}
	return c.Status().Patch(context.Background(), run.DeepCopy(), client.RawPatch("application/merge-patch+json", body))
}

// awaitRefusal waits until a request is refused with this text. A role or a policy takes effect
// a moment after its creation.
func awaitRefusal(t *testing.T, text string, request func() error) {
	t.Helper()
	eventually(t, func() error {
		if err := request(); err == nil || !strings.Contains(err.Error(), text) {
			return fmt.Errorf("the answer is %v, want a refusal with %q", err, text) //nolint:errorlint // err may be nil
		}
		return nil
	})
}

// awaitAllowed waits until a request is allowed.
func awaitAllowed(t *testing.T, request func() error) {
	t.Helper()
	eventually(t, request)
}

// TestPolicy_P9_APoolReportsOnlyRunsOfItsBackend: the right to patch the status of runs is not
// enough to write that of a run of another Backend, or of one that has ended.
func TestPolicy_P9_APoolReportsOnlyRunsOfItsBackend(t *testing.T) {
	w := newWorld(t)
	mine := newTestRun("mine", func(r *run) { r.Spec.BackendRef.Name = "mine" })
	other := newTestRun("other")
	w.create(mine, other)
	pool := w.as("pool", reports("mine")...)

	awaitAllowed(t, func() error { return patchStatus(pool, mine, map[string]any{"message": "executing"}) })
	for name, forged := range map[string]map[string]any{
		"end":      {"state": "Completed", "output": "forged"},
		"revision": {"revision": 1 << 50},
		"message":  {"message": "forged"},
	} {
		t.Run(name, func(t *testing.T) {
			awaitRefusal(t, "may not report to Backend default", func() error { return patchStatus(pool, other, forged) })
		})
	}
	awaitRefusal(t, "the run has ended", func() error { return patchStatus(pool, mine, map[string]any{"corrections": 1}) })
	awaitAllowed(t, func() error { return patchStatus(pool, mine, map[string]any{"state": "Failed"}) })
	awaitRefusal(t, "the run has ended", func() error { return patchStatus(pool, mine, map[string]any{"output": "forged"}) })
}

// TestPolicy_P9_TheManagerWritesOnlyWhatAPoolOwns: with its wide role the manager neither takes
// over what somebody else made nor creates rights that are not a worker's.
func TestPolicy_P9_TheManagerWritesOnlyWhatAPoolOwns(t *testing.T) {
	w := newWorld(t)
	manager, err := client.New(cluster.manager, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, "only objects that a WorkerPool owns", func() error {
		return manager.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "stray"}})
	})
	owner := []metav1.OwnerReference{{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkerPool", Name: "pool", UID: "uid", Controller: new(true),
	}}
	awaitRefusal(t, "and nothing else", func() error {
		return manager.Create(t.Context(), &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "wide", OwnerReferences: owner},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get"}}},
		})
	})
	awaitRefusal(t, "only the role of a WorkerPool", func() error {
		return manager.Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "wide", OwnerReferences: owner},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "openworkflow-manager"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "default", Namespace: w.Namespace}},
		})
	})
	theirs := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}
	w.create(theirs)
	var refusal error
	awaitRefusal(t, "that no WorkerPool owns", func() error {
		taken := theirs.DeepCopy()
		taken.OwnerReferences = owner
		refusal = manager.Patch(t.Context(), taken, client.MergeFrom(theirs))
		return refusal
	})
	if !apierrors.IsForbidden(refusal) { // an invalid object would be a fault of the pool's template
		t.Errorf("the refusal is %v", refusal)
	}
	open := newTestRun("open")
	w.create(open)
	awaitRefusal(t, "only runs that have ended", func() error { return manager.Delete(t.Context(), open) })
}

// TestPolicy_P9_ABackendNamesOnlySecretsThatItsAuthorMayRead: a Backend would otherwise show any
// Secret to the pods of its author.
func TestPolicy_P9_ABackendNamesOnlySecretsThatItsAuthorMayRead(t *testing.T) {
	w := newWorld(t)
	backends := rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"backends"}, Verbs: []string{"create", "get", "patch"}}
	author := w.as("author", backends, rbacv1.PolicyRule{
		APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"db", "worker"}, Verbs: []string{"get"},
	})
	named := func(name string, change func(*v1alpha1.PostgresBackend)) *v1alpha1.Backend {
		b := newBackend()
		b.Namespace, b.Name = w.Namespace, name
		change(&b.Spec.Postgres)
		return b
	}
	mine := named("mine", func(p *v1alpha1.PostgresBackend) { p.WorkerURLSecretRef.Name = "worker" })
	awaitAllowed(t, func() error { return client.IgnoreAlreadyExists(author.Create(t.Context(), mine)) })
	for name, change := range map[string]func(*v1alpha1.PostgresBackend){
		"url":       func(p *v1alpha1.PostgresBackend) { p.URLSecretRef.Name = "theirs" },
		"worker":    func(p *v1alpha1.PostgresBackend) { p.WorkerURLSecretRef.Name = "theirs" },
		"migration": func(p *v1alpha1.PostgresBackend) { p.MigrationURLSecretRef.Name = "theirs" },
		"ca":        func(p *v1alpha1.PostgresBackend) { p.CASecretRef.Name = "theirs" },
	} {
		awaitRefusal(t, "only Secrets that its author may read", func() error { return author.Create(t.Context(), named(name, change)) })
		awaitRefusal(t, "only Secrets that its author may read", func() error {
			before := fetch(w, mine).DeepCopy()
			after := before.DeepCopy()
			change(&after.Spec.Postgres)
			return author.Patch(t.Context(), after, client.MergeFrom(before))
		})
	}
	other := w.as("other", backends) // may change what concerns no Secret
	awaitAllowed(t, func() error {
		before := fetch(w, mine).DeepCopy()
		after := before.DeepCopy()
		after.Spec.Retention.TTLSecondsAfterFinished = 86400
		return other.Patch(t.Context(), after, client.MergeFrom(before))
	})
}

// TestPolicy_P9_APoolNeedsTheRightsOfItsDeployment: a WorkerPool is a way to run pods, so it
// takes what a Deployment takes.
func TestPolicy_P9_APoolNeedsTheRightsOfItsDeployment(t *testing.T) {
	w := newWorld(t)
	pools := rbacv1.PolicyRule{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"workerpools"}, Verbs: []string{"create", "get", "patch"}}
	deployments := rbacv1.PolicyRule{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"create"}}
	account := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, ResourceNames: []string{"mine"}, Verbs: []string{"impersonate"}}
	pool := func(name, account string) *v1alpha1.WorkerPool {
		p := newPool(name)
		p.Namespace = w.Namespace
		if account != "" {
			p.Spec.Template.Raw = fmt.Appendf(nil, `{"spec":{"serviceAccountName":%q,"containers":[{"name":"worker","image":"i"}]}}`, account)
		}
		return p
	}
	none, some := w.as("none", pools), w.as("some", pools, deployments, account)
	awaitRefusal(t, "the right to create Deployments", func() error { return none.Create(t.Context(), pool("refused", "")) })
	awaitAllowed(t, func() error { return client.IgnoreAlreadyExists(some.Create(t.Context(), pool("plain", ""))) })
	awaitAllowed(t, func() error { return client.IgnoreAlreadyExists(some.Create(t.Context(), pool("own-account", "mine"))) })
	awaitRefusal(t, "act as service account theirs", func() error { return some.Create(t.Context(), pool("other-account", "theirs")) })

	scaled := fetch(w, pool("plain", ""))
	awaitAllowed(t, func() error {
		after := scaled.DeepCopy()
		after.Spec.Replicas = new(int32(3))
		return none.Patch(t.Context(), after, client.MergeFrom(scaled))
	})
	awaitRefusal(t, "the right to create Deployments", func() error {
		after := scaled.DeepCopy()
		after.Spec.Template.Raw = []byte(`{"spec":{"containers":[{"name":"worker","image":"evil"}]}}`)
		return none.Patch(t.Context(), after, client.MergeFrom(scaled))
	})
}
