//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/poolspec"
)

// objectAttacks use nothing but the API server.
var objectAttacks = []attack{
	{"objects/dates-of-other-dialects", tryDates},
	{"objects/large-inputs", tryLargeInputs},
	{"objects/thousands-of-runs", tryThousands},
	{"objects/control-characters", tryControlCharacters},
	{"objects/keys-of-others", tryKeysOfOthers},
	{"objects/delete-and-create-again", tryChurn},
	{"objects/annotations", tryAnnotations},
	{"objects/foreign-service-accounts", tryServiceAccounts},
	{"objects/privileged-pods", tryPrivilegedPods},
	{"objects/foreign-deployments", tryForeignDeployment},
	{"objects/foreign-secrets", tryForeignSecrets},
	{"objects/own-rights", tryOwnRights},
	{"objects/other-namespaces", tryOtherNamespaces},
}

// datesOfOtherDialects are what validators of date-time accept, one or another. Go's parser of
// Kubernetes' times does not read all of them.
var datesOfOtherDialects = []string{
	"2027-01-01t00:00:00z", "2027-01-01T00:00:00z", "2027-01-01 00:00:00Z", "2027-01-01T00:00:00,5Z", "2027-01-01T00:00:60Z",
	"2027-01-01T24:00:00Z", "2027-01-01T00:00:00+24:00", "2027-01-01T00:00:00.0000000000000000001Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59Z",
	"2027-02-30T00:00:00Z", "2027-01-01T00:00:00-00:00", "+12027-01-01T00:00:00Z", "",
}

// Such a date is refused, or its object alone is unwell: the manager still sees all others.
func tryDates(a *attacker) {
	for i, date := range datesOfOtherDialects {
		for _, field := range []string{"availableAt", "deadlineAt"} {
			run := a.newRun(fmt.Sprintf("date-%s-%d", strings.ToLower(field), i), fields{"workflowName": "nobody-serves", field: date})
			if err := a.create(run); err != nil && !apierrors.IsInvalid(err) {
				a.Errorf("%s %q: %v", field, date, err)
			}
		}
	}
	a.goodRun(patience)
}

// Inputs of 900 KB that wait for a Backend which does not exist stay out of the manager's memory.
func tryLargeInputs(a *attacker) {
	n := 300
	if testing.Short() {
		n = 60
	}
	input := strings.Repeat("x", 900_000)
	var last *unstructured.Unstructured
	a.repeat(min(time.Second, *attacked/time.Duration(n)), func(i int) {
		if i < n {
			last = a.newRun(fmt.Sprintf("large-%d", i), fields{"workflowName": "checkout", "backendRef": fields{"name": "missing"}, "input": input})
			last.SetLabels(map[string]string{"size": "large"})
			a.must(a.create(last))
		}
	})
	if reason, _ := a.reason(last); reason != v1alpha1.ReasonBackendNotFound {
		a.Errorf("the last large run says %s", reason)
	}
	a.must(a.admin.DeleteAllOf(a.Context(), a.newRun("", fields{}), client.InNamespace(a.namespace), client.MatchingLabels{"size": "large"}))
}

// Thousands of runs that nobody serves cost only their own tenant.
func tryThousands(a *attacker) {
	n := 3000
	if testing.Short() {
		n = 500
	}
	var last *unstructured.Unstructured
	a.repeat(50*time.Millisecond, func(i int) {
		if i < n {
			last = a.newRun(fmt.Sprintf("many-%d", i), fields{"workflowName": "nobody-serves", "input": i})
			a.must(a.create(last))
		}
	})
	a.awaitReason(time.Minute, last, v1alpha1.ReasonNoWorker)
}

// Texts that no database or terminal likes are refused, or the object says what is wrong.
func tryControlCharacters(a *attacker) {
	texts := []string{
		"a\x00b", "a\nb", "a\x1b[2Jb", "\u202eabc", "\ufffd", "'; DROP SCHEMA honest CASCADE; --", "%s%n", "a\\u0000b", "\u2028",
		strings.Repeat("é", 120), " ", "../honest", "{{.}}", "$(id)",
	}
	var runs []*unstructured.Unstructured
	for i, text := range texts {
		for field, spec := range map[string]fields{
			"name":    {"workflowName": text},
			"version": {"workflowName": "checkout", "version": text},
			"key":     {"workflowName": "nobody-serves", "idempotencyKey": text},
			"input":   {"workflowName": "nobody-serves", "input": fields{text: text}},
			"backend": {"workflowName": "nobody-serves", "backendRef": fields{"name": text}},
		} {
			run := a.newRun(fmt.Sprintf("text-%s-%d", field, i), spec)
			if err := a.create(run); err == nil {
				runs = append(runs, run)
			} else if !apierrors.IsInvalid(err) {
				a.Errorf("%s %q: %v", field, text, err)
			}
		}
	}
	for _, run := range runs {
		reason, message := a.reason(run)
		if strings.ContainsFunc(message, func(r rune) bool { return r < ' ' }) {
			a.Errorf("run %s says %s: %q, with control characters", run.GetName(), reason, message)
		}
	}
}

// A key is known by its tenant's own runs only, in whatever way its Backend is spelled.
func tryKeysOfOthers(a *attacker) {
	honest := a.scene.honest
	kept := honest.newRun("kept", fields{})
	a.must(honest.admin.Get(a.Context(), client.ObjectKeyFromObject(kept), kept))
	for i, ref := range []string{"default", honest.namespace + "/default", "../" + honest.namespace + "/default", honest.namespace + ".default"} {
		mine := a.newRun(fmt.Sprintf("key-%d", i), fields{"workflowName": "checkout", "input": orderInput("kept"), "idempotencyKey": keptKey,
			"cancel": true, "backendRef": fields{"name": ref}})
		a.must(a.create(mine))
		want := v1alpha1.ReasonBackendNotFound
		if ref == "default" {
			want = v1alpha1.ReasonCanceled
		}
		a.awaitReason(time.Minute, mine, want)
		a.must(a.admin.Get(a.Context(), client.ObjectKeyFromObject(mine), mine))
		if id := dig(mine, "status", "runID"); id == string(kept.GetUID()) || dig(mine, "status", "output") != "" {
			a.Errorf("the run with somebody else's key shows run %s with output %s", id, dig(mine, "status", "output"))
		}
	}
	honest.in(a.T).mustSay(kept, v1alpha1.ReasonScheduled)
}

// mustSay asserts the reason of an object's condition Ready.
func (t *tenant) mustSay(o client.Object, want string) {
	t.Helper()
	if reason, message := t.ready(o); reason != want {
		t.Errorf("%s says %s: %s; want %s", o.GetName(), reason, message, want)
	}
}

// Objects that come and go under one name leave nothing behind: the last one is mirrored.
func tryChurn(a *attacker) {
	a.repeat(250*time.Millisecond, func(i int) {
		for _, o := range []client.Object{
			a.newRun("churn", fields{"workflowName": "nobody-serves", "idempotencyKey": fmt.Sprintf("churn-%d", i%3)}),
			a.newBackend("churn", "no-such-secret", a.login),
		} {
			_ = a.create(o)
			_ = a.admin.Delete(a.Context(), o)
		}
	})
	last := a.newRun("churn-end", fields{"workflowName": "nobody-serves"})
	a.must(a.create(last))
	a.awaitReason(time.Minute, last, v1alpha1.ReasonNoWorker)
}

// Writes of metadata, as large as it may be, do not keep the manager busy.
func tryAnnotations(a *attacker) {
	run := a.newRun("annotated", fields{"workflowName": "nobody-serves"})
	a.must(a.create(run))
	a.repeat(time.Second, func(i int) {
		text := strings.Repeat(string(rune('a'+i%26)), 100_000)
		patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata": {"annotations": {"spam": %q}}}`, text))
		for _, o := range []client.Object{run, a.newBackend("default", "db", a.login), a.object("WorkerPool", "checkout", fields{})} {
			a.must(a.admin.Patch(a.Context(), o, patch))
		}
	})
	a.mustSay(a.newBackend("default", "db", a.login), v1alpha1.ReasonConnected)
	a.awaitReason(patience, a.object("WorkerPool", "checkout", fields{}), v1alpha1.ReasonPodsReady)
}

// newPool returns a pool with this pod template's spec.
func (t *tenant) newPool(name string, pod, container fields) *unstructured.Unstructured {
	t.Helper()
	worker := fields{"name": "worker", "image": "localhost/checkout:dev", "imagePullPolicy": "IfNotPresent"}
	maps.Copy(worker, container)
	spec := fields{"containers": []any{worker}}
	maps.Copy(spec, pod)
	return t.object("WorkerPool", name, fields{"template": fields{"spec": spec}})
}

// Pods act as the service account of their template. Who may not act as it may not name it; and
// one of another namespace cannot be named at all.
func tryServiceAccounts(a *attacker) {
	pool := a.newPool("account-developer", fields{"serviceAccountName": "administrator"}, nil)
	a.refused("a pool of a developer", a.developer.Create(a.Context(), pool), "needs the right to create Deployments in this namespace")
	for name, account := range map[string]string{"account-manager": "openworkflow-manager", "account-path": "../openworkflow-system/openworkflow-manager"} {
		pool := a.newPool(name, fields{"serviceAccountName": account}, nil)
		a.must(a.create(pool))
		if reason, _ := a.reason(pool); reason == v1alpha1.ReasonPodsReady {
			a.Errorf("a pool has pods of service account %q", account)
		}
	}
}

// The Pod Security Standard of the namespace holds for pods of a pool, and so does its quota.
func tryPrivilegedPods(a *attacker) {
	large := a.newPool("pods-many", nil, nil)
	a.must(unstructured.SetNestedField(large.Object, int64(1000), "spec", "replicas"))
	pools := []*unstructured.Unstructured{
		large,
		a.newPool("pods-host", fields{"hostNetwork": true, "hostPID": true}, nil),
		a.newPool("pods-root", nil, fields{"securityContext": fields{"privileged": true, "runAsUser": 0}}),
		a.newPool("pods-path", fields{"volumes": []any{fields{"name": "host", "hostPath": fields{"path": "/"}}}}, nil),
	}
	for _, pool := range pools {
		a.must(a.create(pool))
	}
	for _, pool := range pools {
		message := a.awaitReason(time.Minute, pool, v1alpha1.ReasonPodsUnschedulable)
		if !strings.Contains(message, "violates PodSecurity") && !strings.Contains(message, "exceeded quota") {
			a.Errorf("pool %s says %s", pool.GetName(), message)
		}
	}
}

// A pool never takes over a Deployment that somebody else has made.
func tryForeignDeployment(a *attacker) {
	labels := fields{v1alpha1.LabelWorkerPool: "taken"}
	deployment := a.object("Deployment", poolspec.ObjectName("taken"), fields{
		"replicas": 0, "selector": fields{"matchLabels": labels},
		"template": fields{"metadata": fields{"labels": labels},
			"spec": fields{"containers": []any{fields{"name": "other", "image": "localhost/other:1"}}}},
	})
	deployment.SetAPIVersion("apps/v1")
	a.must(a.create(deployment))
	pool := a.newPool("taken", nil, nil)
	a.must(a.create(pool))
	if message := a.awaitReason(time.Minute, pool, v1alpha1.ReasonApplyFailed); !strings.Contains(message, "that no WorkerPool owns") {
		a.Errorf("the pool says %s", message)
	}
	a.must(a.admin.Get(a.Context(), client.ObjectKeyFromObject(deployment), deployment))
	if owners := deployment.GetOwnerReferences(); len(owners) > 0 {
		a.Errorf("the Deployment is now owned by %v", owners)
	}
}

// A Backend shows a Secret's content to pods. Who may not read the Secret may not name it; and
// one of another namespace cannot be named at all.
func tryForeignSecrets(a *attacker) {
	b := a.newBackend("secret-developer", "db", a.login)
	a.refused("a Backend with a Secret that its author may not read", a.developer.Create(a.Context(), b), "needs the right to get db")
	for i, name := range []string{
		"../../" + a.scene.honest.namespace + "/secrets/db", a.scene.honest.namespace + "/db", "..%2f..%2fsecrets", "db?watch=true", "db\x00", ".", "..", "*",
	} {
		b := a.newBackend(fmt.Sprintf("secret-%d", i), name, a.login)
		if err := a.create(b); err != nil {
			if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
				a.Errorf("Secret %q: %v", name, err)
			}
			continue
		}
		a.awaitReason(time.Minute, b, v1alpha1.ReasonSecretNotFound)
	}
}

// An administrator of a namespace gives nobody rights that only the manager has.
func tryOwnRights(a *attacker) {
	role := func(name string, rule fields) *unstructured.Unstructured {
		o := a.object("Role", name, fields{})
		o.SetAPIVersion("rbac.authorization.k8s.io/v1")
		o.Object["rules"] = []any{rule}
		delete(o.Object, "spec")
		return o
	}
	for verb, resource := range map[string]string{"report": "backends", "correct": "backends", "patch": "workflowruns/status"} {
		err := a.create(role("own-"+verb, fields{"apiGroups": []any{"openworkflow.dev"}, "resources": []any{resource}, "verbs": []any{verb}}))
		a.refused("a Role with "+verb, err, "attempting to grant RBAC permissions not currently held")
	}
	binding := role("own-manager", nil)
	binding.SetKind("RoleBinding")
	delete(binding.Object, "rules")
	binding.Object["roleRef"] = fields{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "openworkflow-manager"}
	binding.Object["subjects"] = []any{fields{"kind": "ServiceAccount", "name": "administrator", "namespace": a.namespace}}
	a.refused("a RoleBinding of the manager's role", a.create(binding), "attempting to grant RBAC permissions not currently held")
	own := a.newRun("own-status", fields{"workflowName": "nobody-serves"})
	a.must(a.create(own))
	a.refused("a status by an administrator", a.admin.Status().Patch(a.Context(), own, statusPatch(fields{"state": "Completed"})), "forbidden")
}

// Nothing of another namespace can be read or written, by none of a tenant's identities.
func tryOtherNamespaces(a *attacker) {
	for who, c := range map[string]client.Client{"administrator": a.admin, "developer": a.developer, "pool": a.worker} {
		for _, namespace := range []string{a.scene.honest.namespace, "openworkflow-system"} {
			for _, kind := range []schema.GroupVersionKind{
				secretKind, v1alpha1.GroupVersion.WithKind("WorkflowRun"), v1alpha1.GroupVersion.WithKind("WorkerPool"), v1alpha1.GroupVersion.WithKind("Backend"),
			} {
				list, object := &unstructured.UnstructuredList{}, &unstructured.Unstructured{}
				list.SetGroupVersionKind(kind)
				what := fmt.Sprintf("%s: %s in %s", who, kind.Kind, namespace)
				a.refused("list by "+what, c.List(a.Context(), list, client.InNamespace(namespace)), "forbidden")
				object.SetGroupVersionKind(kind)
				object.SetNamespace(namespace)
				object.SetName("default")
				a.refused("create by "+what, c.Create(a.Context(), object), "forbidden")
				a.refused("delete by "+what, c.Delete(a.Context(), object), "forbidden")
			}
		}
	}
}
