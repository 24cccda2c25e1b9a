package controller

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// apply applies an object as a GitOps tool does, and returns it.
func (w *world) apply(kind, name string, spec map[string]any) *unstructured.Unstructured {
	w.t.Helper()
	o := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind,
		"metadata": map[string]any{"name": name, "namespace": w.Namespace}, "spec": spec,
	}}
	if err := w.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("user")); err != nil {
		w.t.Fatalf("apply %s %s: %v", kind, name, err)
	}
	return o
}

// specOwners returns the field managers that own a field of an object's spec, and whether the manager
// has written its status.
func specOwners(o client.Object) (owners []string, observed bool) {
	for _, entry := range o.GetManagedFields() {
		if strings.Contains(entry.FieldsV1.GetRawString(), `"f:spec"`) {
			owners = append(owners, entry.Manager)
		}
		observed = observed || entry.Manager == v1alpha1.FieldManager && entry.Subresource == "status"
	}
	return owners, observed
}

// The manager owns no field of the spec of what a user has applied, whatever it does with the object:
// else a GitOps tool would fight with it. A second apply changes nothing.
func TestSpecs_BelongToTheUser(t *testing.T) {
	w := newManagedWorld(t)
	run := func(name string, more map[string]any) *run {
		spec := map[string]any{"workflowName": "checkout", "input": map[string]any{"total": int64(42)}}
		maps.Copy(spec, more)
		w.apply("WorkflowRun", name, spec)
		r := newTestRun(name)
		r.Namespace = w.Namespace
		return r
	}
	schedule := map[string]any{"schedules": []any{"@daily"}, "runTemplate": map[string]any{"workflowName": "checkout"}}
	pool := map[string]any{"template": map[string]any{"spec": map[string]any{
		"containers": []any{map[string]any{"name": "worker", "image": "example.test/checkout:1"}},
	}}}
	w.apply("WorkflowSchedule", "daily", schedule)
	w.apply("WorkerPool", "checkout", pool)
	failed := run("failed", nil)
	w.awaitState(failed, v1alpha1.RunPending, v1alpha1.ReasonPending)
	s := w.store()
	w.attempt(s, "charge", "reserve")
	w.awaitState(failed, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	retry := run("retry", map[string]any{"from": map[string]any{"runName": "failed", "lastFailed": true}})
	w.awaitState(retry, v1alpha1.RunPending, v1alpha1.ReasonPending)
	w.attempt(s, "", "charge")
	w.awaitState(failed, v1alpha1.RunFailed, v1alpha1.ReasonSuperseded)
	suspended := run("suspended", map[string]any{"suspend": true})
	w.awaitState(suspended, v1alpha1.RunPending, v1alpha1.ReasonSuspended)
	canceled := run("canceled", map[string]any{"cancel": true})
	w.awaitState(canceled, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)

	for _, object := range []client.Object{
		&v1alpha1.WorkflowSchedule{ObjectMeta: metav1.ObjectMeta{Name: "daily"}},
		&v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Name: "checkout"}},
		failed, retry, suspended, canceled,
	} {
		object.SetNamespace(w.Namespace)
		eventually(t, func() error {
			owners, observed := specOwners(fetch(w, object))
			if !observed {
				return fmt.Errorf("the manager has written no status of %s", object.GetName())
			}
			if len(owners) != 1 || owners[0] != "user" {
				t.Fatalf("%T %s: the spec belongs to %q; managed fields are %v", object, object.GetName(), owners, object.GetManagedFields())
			}
			return nil
		})
	}
	for _, again := range []*unstructured.Unstructured{w.apply("WorkflowSchedule", "daily", schedule), w.apply("WorkerPool", "checkout", pool)} {
		if again.GetGeneration() != 1 {
			t.Errorf("the second apply made generation %d of %s", again.GetGeneration(), again.GetKind())
		}
	}
}
