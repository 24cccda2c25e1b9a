package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// as returns a client of a user of this name who has these rights in the world's namespace.
func (w *world) as(name string, rules ...rbacv1.PolicyRule) client.Client {
	w.t.Helper()
	name = name + "-" + w.Namespace
	user, err := cluster.env.AddUser(envtest.User{Name: name}, &rest.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.create(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}},
	})
	c, err := client.New(user.Config(), client.Options{Scheme: cluster.scheme})
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
			return fmt.Errorf("the answer is %v, want a refusal with %q", err, text)
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
	awaitRefusal(t, "that no WorkerPool owns", func() error {
		taken := theirs.DeepCopy()
		taken.OwnerReferences = owner
		return manager.Patch(t.Context(), taken, client.MergeFrom(theirs))
	})
	open := newTestRun("open")
	w.create(open)
	awaitRefusal(t, "only runs that have ended", func() error { return manager.Delete(t.Context(), open) })
}
