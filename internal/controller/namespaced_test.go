package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// decodeFirst decodes the first document of a file.
func decodeFirst[T any](t *testing.T, file string) T {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	var object T
	if err := yaml.Unmarshal([]byte(strings.Split(strings.TrimPrefix(string(content), "---\n"), "\n---")[0]), &object); err != nil {
		t.Fatal(err)
	}
	return object
}

// verbs returns the verbs of each resource in the rules, apart from those of namespaces.
func verbs(rules []rbacv1.PolicyRule) map[string][]string {
	of := map[string][]string{}
	for _, rule := range rules {
		for _, resource := range rule.Resources {
			if resource != "namespaces" {
				of[rule.APIGroups[0]+"/"+resource] = rule.Verbs
			}
		}
	}
	return of
}

// TestRoles_TheRoleOfANamespaceIsThatOfTheCluster: config/namespaced is written by hand and
// follows the generated role.
func TestRoles_TheRoleOfANamespaceIsThatOfTheCluster(t *testing.T) {
	t.Parallel()
	of := decodeFirst[rbacv1.ClusterRole](t, "config/rbac/role.yaml")
	in := decodeFirst[rbacv1.Role](t, "config/namespaced/tenant/role.yaml")
	if diff := cmp.Diff(verbs(of.Rules), verbs(in.Rules), cmpopts.SortSlices(func(a, b string) bool { return a < b })); diff != "" {
		t.Errorf("rules (-cluster +namespace):\n%s", diff)
	}
}

// TestManager_P9_WorksWithARoleInItsNamespace: a manager without any right in the cluster.
func TestManager_P9_WorksWithARoleInItsNamespace(t *testing.T) {
	w := newWorld(t)
	user, err := addUser("namespaced-" + w.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	role := decodeFirst[rbacv1.Role](t, "config/namespaced/tenant/role.yaml")
	w.create(&role, &rbacv1.RoleBinding{
		ObjectMeta: *role.ObjectMeta.DeepCopy(),
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "namespaced-" + w.Namespace}},
	})
	config := user.Config()
	limited, err := client.New(config, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	awaitAllowed(t, func() error {
		return limited.List(t.Context(), &v1alpha1.WorkflowRunList{}, client.InNamespace(w.Namespace))
	})
	if err := limited.List(t.Context(), &corev1.PodList{}); err == nil {
		t.Error("it may list the pods of the cluster")
	}

	w.start(func(o *managerOptions) { o.config = config })
	w.backend()
	run := newTestRun("order")
	w.create(run, newPool("shop"))
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	owned(w, "shop", &appsv1.Deployment{})
	modify(w, run, func(r *v1alpha1.WorkflowRun) { r.Spec.Cancel = new(true) })
	w.awaitState(run, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
}
