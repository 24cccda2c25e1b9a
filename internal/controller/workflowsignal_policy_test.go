package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// signals are the rights to create signals, and to send them to runs of a Backend.
func signals(backend string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"workflowsignals"}, Verbs: []string{"create", "get", "patch", "update"}},
		{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"backends"}, ResourceNames: []string{backend}, Verbs: []string{"signal"}},
	}
}

// stampCreators applies config/created-by to the world's namespace.
func (w *world) stampCreators() {
	w.t.Helper()
	content, err := os.ReadFile(filepath.Join(repository, "config/created-by/workflowsignal_creator.yaml"))
	if err != nil {
		w.t.Fatal(err)
	}
	for document := range strings.SplitSeq(string(content), "\n---") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), object); err != nil {
			w.t.Fatal(err)
		}
		object.SetName(w.Namespace)
		if object.GetKind() == "MutatingAdmissionPolicyBinding" {
			selector := map[string]any{"matchLabels": map[string]any{"kubernetes.io/metadata.name": w.Namespace}}
			for path, value := range map[string]any{"policyName": w.Namespace, "matchResources": map[string]any{"namespaceSelector": selector}} {
				if err := unstructured.SetNestedField(object.Object, value, "spec", path); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		w.create(object)
		w.t.Cleanup(func() { _ = w.Delete(context.Background(), object) })
	}
}

// creatorOf reads who has created a signal.
func (w *world) creatorOf(s *sig) v1alpha1.Creator {
	w.t.Helper()
	creator, err := v1alpha1.ParseCreator(fetch(w, s).Annotations)
	if err != nil {
		w.t.Fatal(err)
	}
	return creator
}

// TestPolicy_P9_SignalsNeedTheRightToSignalTheirBackend: to create WorkflowSignals is not enough.
func TestPolicy_P9_SignalsNeedTheRightToSignalTheirBackend(t *testing.T) {
	w := newWorld(t)
	user := w.as("ann", signals("mine")...)
	send := func(backend string) error {
		s := newSignal("", func(s *sig) { s.GenerateName, s.Namespace, s.Spec.BackendRef.Name = "s-", w.Namespace, backend })
		return user.Create(context.Background(), s)
	}
	awaitAllowed(t, func() error { return send("mine") })
	awaitRefusal(t, "a WorkflowSignal reaches runs: ann-"+w.Namespace+" needs the right to signal Backend other", func() error { return send("other") })
}

// TestPolicy_P9_TheManagerDeletesOnlySignalsThatHaveFinished.
func TestPolicy_P9_TheManagerDeletesOnlySignalsThatHaveFinished(t *testing.T) {
	w := newWorld(t)
	s := newSignal("approve")
	w.create(s)
	manager, err := client.New(cluster.manager, client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	awaitRefusal(t, "the manager may delete only signals that have finished", func() error { return manager.Delete(context.Background(), s) })
	s.Status.FinishedAt = new(metav1.Now())
	if err := w.Status().Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := manager.Delete(t.Context(), s); err != nil {
		t.Error(err)
	}
}

// TestPolicy_P9_ASignalNamesWhoeverCreatesIt: on a cluster that writes no annotation, only the truth
// may be in it, and it stays.
func TestPolicy_P9_ASignalNamesWhoeverCreatesIt(t *testing.T) {
	w := newWorld(t)
	ann, ben := w.as("ann", signals("default")...), w.as("ben", signals("default")...)
	named := func(c v1alpha1.Creator) func(*sig) {
		return func(s *sig) {
			s.Namespace, s.Annotations = w.Namespace, map[string]string{v1alpha1.AnnotationCreatedBy: c.String()}
		}
	}
	truth := v1alpha1.Creator{Username: "ann-" + w.Namespace, Groups: []string{"system:authenticated"}}
	s := newSignal("true", named(truth))
	awaitAllowed(t, func() error { return ann.Create(context.Background(), s) })
	for name, c := range map[string]v1alpha1.Creator{
		"user":   {Username: "ben-" + w.Namespace, Groups: truth.Groups},
		"groups": {Username: truth.Username, Groups: []string{"system:authenticated", "system:masters"}},
	} {
		awaitRefusal(t, "the annotation openworkflow.dev/created-by says who creates the object, which is "+truth.String()+": leave it out", func() error {
			return ann.Create(context.Background(), newSignal(name, named(c)))
		})
	}
	if got := w.creatorOf(s); cmp.Diff(truth, got) != "" {
		t.Errorf("created by %+v, want %+v", got, truth)
	}

	bare := newSignal("bare", func(s *sig) { s.Namespace = w.Namespace })
	awaitAllowed(t, func() error { return ann.Create(context.Background(), bare) })
	for name, change := range map[string]struct {
		object     *sig
		annotation any
	}{
		"another": {s, v1alpha1.Creator{Username: "ben-" + w.Namespace, Groups: truth.Groups}.String()},
		"none":    {s, nil}, "a later one": {bare, truth.String()},
	} {
		body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, v1alpha1.AnnotationCreatedBy, mustJSON(t, change.annotation))
		for _, user := range []client.Client{ann, ben, w.Client} {
			awaitRefusal(t, "the annotation openworkflow.dev/created-by is immutable", func() error {
				err := user.Patch(context.Background(), change.object.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(body)))
				if err == nil {
					t.Fatalf("%s: it was changed", name)
				}
				return err
			})
		}
	}
	awaitAllowed(t, func() error {
		return ben.Patch(context.Background(), s, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"ttlSecondsAfterFinished":60},"metadata":{"annotations":{"a":"b"}}}`)))
	})
}

// TestPolicy_P9_TheAPIServerWritesWhoHasCreatedASignal: names of any form, and what tools do later.
func TestPolicy_P9_TheAPIServerWritesWhoHasCreatedASignal(t *testing.T) {
	w := newWorld(t)
	w.stampCreators()
	manifest := func(name string) *unstructured.Unstructured {
		s := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"signal": "approved", "data": map[string]any{"by": "ann"}}}}
		s.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowSignal"))
		s.SetName(name)
		s.SetNamespace(w.Namespace)
		return s
	}
	awaitAllowed(t, func() error { // a policy takes effect a moment after its creation
		probe := manifest("")
		probe.SetGenerateName("probe-")
		if err := w.Create(context.Background(), probe); err != nil {
			return err
		}
		if probe.GetAnnotations()[v1alpha1.AnnotationCreatedBy] == "" {
			return fmt.Errorf("nothing was written")
		}
		return nil
	})

	groups := make([]string, v1alpha1.MaxCreatorGroups)
	for i := range groups {
		groups[i] = fmt.Sprintf("team-%d", i)
	}
	for name, c := range map[string]v1alpha1.Creator{
		"plain":  {Username: "ann", Groups: []string{"shop", "system:authenticated"}},
		"quotes": {Username: `a"b\c<&>é{}`, Groups: []string{`"`, "system:authenticated"}},
		"many":   {Username: "ann", Groups: append(groups, "system:authenticated")},
		"most":   {Username: "ann", Groups: append(groups[:len(groups)-1:len(groups)-1], "system:authenticated")},
	} {
		config := rest.CopyConfig(cluster.admin)
		config.Impersonate = rest.ImpersonationConfig{UserName: c.Username, Groups: append([]string{"system:masters"}, c.Groups...)}
		c.Groups = config.Impersonate.Groups
		user, err := client.New(config, client.Options{Scheme: cluster.scheme})
		if err != nil {
			t.Fatal(err)
		}
		if err := user.Create(t.Context(), manifest(name)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s := newSignal(name, func(s *sig) { s.Namespace = w.Namespace })
		if got := fetch(w, s).Annotations[v1alpha1.AnnotationCreatedBy]; got != c.String() {
			t.Errorf("%s: created by\n%s, want\n%s", name, got, c)
		}
		if got := w.creatorOf(s); got.Username != c.Username {
			t.Errorf("%s: created by %+v", name, got)
		}
	}

	t.Run("a server-side apply keeps it", func(t *testing.T) {
		ann, flux := w.as("ann", signals("default")...), w.as("flux", signals("default")...)
		apply := func(by client.Client, options ...client.ApplyOption) (*unstructured.Unstructured, error) {
			s := manifest("applied")
			return s, by.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(s), append(options, client.FieldOwner("tool"))...)
		}
		var first *unstructured.Unstructured
		awaitAllowed(t, func() (err error) { first, err = apply(ann); return err })
		for name, options := range map[string][]client.ApplyOption{"dry run": {client.DryRunAll}, "apply": nil} {
			var second *unstructured.Unstructured
			awaitAllowed(t, func() (err error) { second, err = apply(flux, options...); return err })
			for _, o := range []*unstructured.Unstructured{first, second} {
				o.SetManagedFields(nil)
				o.SetResourceVersion("") // the fields of a new owner count
			}
			if diff := cmp.Diff(first.Object, second.Object); diff != "" {
				t.Errorf("%s changes the object:\n%s", name, diff)
			}
		}
		if got := w.creatorOf(newSignal("applied", func(s *sig) { s.Namespace = w.Namespace })); got.Username != "ann-"+w.Namespace {
			t.Errorf("created by %+v", got)
		}
	})

	t.Run("kubectl apply and diff keep it", func(t *testing.T) {
		ann, flux := w.kubectlAs(t, "kubectl"), w.kubectlAs(t, "flux-kubectl")
		const file = `{"apiVersion":"openworkflow.dev/v1alpha1","kind":"WorkflowSignal","metadata":{"name":"by-kubectl"},"spec":{"signal":"approved"}}`
		awaitAllowed(t, func() error { _, err := ann(file, "apply", "-f", "-"); return err })
		for _, args := range [][]string{{"diff", "-f", "-"}, {"apply", "-f", "-"}, {"apply", "--server-side", "--force-conflicts", "-f", "-"}} {
			var said string
			awaitAllowed(t, func() (err error) { said, err = flux(file, args...); return err })
			if want := map[string]string{"diff": "", "apply": "workflowsignal.openworkflow.dev/by-kubectl "}[args[0]]; !strings.HasPrefix(said, want) || want == "" && said != "" {
				t.Errorf("kubectl %v says %q", args, said)
			}
		}
		if got := w.creatorOf(newSignal("by-kubectl", func(s *sig) { s.Namespace = w.Namespace })); got.Username != "kubectl-"+w.Namespace {
			t.Errorf("created by %+v", got)
		}
	})
}

// kubectlAs returns kubectl of a user who may send signals.
func (w *world) kubectlAs(t *testing.T, name string) func(input string, args ...string) (string, error) {
	t.Helper()
	w.as(name, signals("default")...)
	user, err := addUser(name + "-" + w.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	config, err := user.KubeConfig()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	return func(input string, args ...string) (string, error) {
		args = append([]string{"--kubeconfig", filepath.Join(home, "config"), "-n", w.Namespace}, args...)
		cmd := exec.CommandContext(t.Context(), filepath.Join(cluster.env.BinaryAssetsDirectory, "kubectl"), args...)
		cmd.Stdin, cmd.Env = strings.NewReader(input), append(os.Environ(), "HOME="+home)
		output, err := cmd.CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("kubectl %v: %w: %s", args, err, output)
		}
		return string(output), nil
	}
}

func mustJSON(t *testing.T, value any) string {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
