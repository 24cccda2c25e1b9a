package controller

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestStripRun_KeepsWhatItsEndDependsOn(t *testing.T) {
	t.Parallel()
	full := newTestRun("order", func(r *run) {
		r.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "user"}}
		r.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}"}
		r.Spec.TTLSecondsAfterFinished = new(int32(9))
	})
	strip := func(change func(*v1alpha1.WorkflowRun)) *v1alpha1.WorkflowRun {
		in := full.DeepCopy()
		change(in)
		out, err := stripRun(in)
		if err != nil {
			t.Fatal(err)
		}
		return out.(*v1alpha1.WorkflowRun)
	}
	fresh := strip(func(*run) {})
	value := &apiextensionsv1.JSON{Raw: []byte(`"value"`)}
	fork := strip(func(r *run) {
		r.Spec.Input, r.Spec.From = value, &v1alpha1.ForkSource{RunName: "a", Outputs: []v1alpha1.StepOutput{{Step: new("b"), Value: value}}}
	})
	if size, left := inputSize(fork); size != 14 || !left || fork.Spec.From.RunName != "a" || fork.Spec.From.Outputs != nil {
		t.Errorf("a fork became %+v", fork.Spec)
	}
	if fresh.ManagedFields != nil || fresh.Annotations != nil || fresh.Spec.WorkflowName == "" {
		t.Errorf("a new run became %+v", fresh)
	}
	ended := strip(func(r *run) {
		r.Status.State, r.Status.RunID, r.Status.FinishedAt = v1alpha1.RunCompleted, "u", &metav1.Time{Time: noon}
		r.Status.Message, r.Status.Steps = "long", &v1alpha1.StepsStatus{Summary: "1/1"}
	})
	if ended.Status.Message != "" || ended.Status.Steps != nil || ended.Spec.WorkflowName != "" {
		t.Errorf("a run that has ended became %+v", ended)
	}
	again, err := stripRun(ended.DeepCopy())
	if diff := cmp.Diff(ended, again); err != nil || diff != "" { // client-go strips what it lists twice
		t.Errorf("stripped again it differs: %v\n%s", err, diff)
	}
	if plan := planRun(runSeen{Run: ended, TTL: ended.Spec.TTLSecondsAfterFinished, Now: noon.Add(9 * time.Second)}); plan.Action != runDelete {
		t.Errorf("it is not deleted after its ttl but %+v", plan)
	}
}

// The cache has the controller of a run, by which what has created runs finds them, and no
// labels, which nothing reads.
func TestCache_KeepsTheControllerOfARun(t *testing.T) {
	w := newWorld(t)
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "nightly"}}
	other := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	w.create(owner, other)
	controllerRef := *metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	otherRef := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: other.Name, UID: other.UID}
	labels := map[string]string{"team": "shop"}
	owned := newTestRun("owned", func(r *run) { r.Labels, r.OwnerReferences = labels, []metav1.OwnerReference{otherRef, controllerRef} })
	w.create(owned, newTestRun("uncontrolled", func(r *run) { r.OwnerReferences = []metav1.OwnerReference{otherRef} }), newTestRun("free"))
	ended := w.finished("ended", func(r *run) { r.OwnerReferences = []metav1.OwnerReference{controllerRef} })

	options, err := CacheOptions(w.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	options.Scheme = cluster.scheme
	runs, err := cache.New(cluster.admin, options)
	if err != nil {
		t.Fatal(err)
	}
	if err := indexOwnedRuns(t.Context(), runs); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() { _ = runs.Start(ctx) }) // until ctx ends
	t.Cleanup(func() { cancel(); watch.Wait() })
	if !runs.WaitForCacheSync(ctx) {
		t.Fatal("the cache did not start")
	}

	byOwner := func(uid string) map[string]v1alpha1.WorkflowRun {
		var list v1alpha1.WorkflowRunList
		if err := runs.List(ctx, &list, client.InNamespace(w.Namespace), client.MatchingFields{indexByOwner: uid}); err != nil {
			t.Fatal(err)
		}
		found := map[string]v1alpha1.WorkflowRun{}
		for _, r := range list.Items {
			found[r.Name] = r
		}
		return found
	}
	eventually(t, func() error {
		if n := len(byOwner(string(owner.UID))); n != 2 {
			return fmt.Errorf("%d runs of the owner, want 2", n)
		}
		return nil
	})
	for name, uid := range map[string]string{owned.Name: string(owned.UID), ended.Name: string(ended.UID)} {
		cached := byOwner(string(owner.UID))[name]
		ref := metav1.GetControllerOf(&cached)
		if string(cached.UID) != uid || ref == nil || ref.Name != "nightly" || ref.Kind != "ConfigMap" || len(cached.OwnerReferences) != 1 {
			t.Errorf("%s is cached with owners %+v", name, cached.OwnerReferences)
		}
		if cached.Labels != nil {
			t.Errorf("%s is cached with labels %v", name, cached.Labels)
		}
	}
	if found := byOwner(string(other.UID)); len(found) > 0 {
		t.Errorf("runs that the other object does not control are found: %v", found)
	}
}
