package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/poolspec"
	"github.com/openworkflow-operator/operator/internal/store"
)

// owned reads an object that belongs to a pool.
func owned[T client.Object](w *world, pool string, o T) T {
	w.t.Helper()
	o.SetNamespace(w.Namespace)
	o.SetName(poolspec.ObjectName(pool))
	eventually(w.t, func() error { return w.Get(context.Background(), client.ObjectKeyFromObject(o), o) })
	return o
}

func TestPool_OwnsWhatItNeeds(t *testing.T) {
	w := newWorld(t)
	w.start()
	pool := newPool("shop", func(p *v1alpha1.WorkerPool) { p.Spec.Replicas = new(int32(2)) })
	w.create(pool)
	if message := w.awaitPool(pool, v1alpha1.ReasonBackendNotFound); !strings.Contains(message, `Backend "default" does not exist in this namespace`) {
		t.Errorf("message is %q", message)
	}
	w.backend()
	w.awaitPool(pool, v1alpha1.ReasonRollingOut)

	deployment := owned(w, "shop", &appsv1.Deployment{})
	objects := []client.Object{deployment, owned(w, "shop", &corev1.ServiceAccount{}), owned(w, "shop", &rbacv1.Role{}),
		owned(w, "shop", &rbacv1.RoleBinding{}), owned(w, "shop", &policyv1.PodDisruptionBudget{})}
	for _, o := range objects {
		if owner := metav1.GetControllerOf(o); owner == nil || owner.UID != pool.UID {
			t.Errorf("%T is owned by %+v", o, owner)
		}
		if o.GetLabels()[v1alpha1.LabelWorkerPool] != "shop" {
			t.Errorf("%T has labels %v", o, o.GetLabels())
		}
	}
	if *deployment.Spec.Replicas != 2 || deployment.Spec.Template.Annotations[v1alpha1.AnnotationBackendHash] == "" {
		t.Errorf("Deployment is %+v", deployment.Spec)
	}
	if want := v1alpha1.LabelWorkerPool + "=shop"; fetch(w, pool).Status.Selector != want {
		t.Errorf("selector is %q", pool.Status.Selector)
	}

	deployment.Status = appsv1.DeploymentStatus{ObservedGeneration: deployment.Generation, Replicas: 2, ReadyReplicas: 2, UpdatedReplicas: 2, AvailableReplicas: 2}
	if err := w.Status().Update(t.Context(), deployment); err != nil {
		t.Fatal(err)
	}
	if message := w.awaitPool(pool, v1alpha1.ReasonPodsReady); message != "2 of 2 pods are ready" {
		t.Errorf("message is %q", message)
	}
	if *pool.Status.ReadyReplicas != 2 || len(pool.Status.Conditions) != 1 {
		t.Errorf("status is %+v", pool.Status)
	}

	// Changes by others are reverted.
	modify(w, deployment, func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(7)) })
	eventually(t, func() error {
		if n := *fetch(w, deployment).Spec.Replicas; n != 2 {
			return fmt.Errorf("%d replicas", n)
		}
		return nil
	})
}

func TestPool_NewDatabaseURLRollsThePods(t *testing.T) {
	w := newWorld(t)
	w.start()
	b := w.backend()
	w.create(newPool("shop"))
	deployment := owned(w, "shop", &appsv1.Deployment{})
	hash := deployment.Spec.Template.Annotations[v1alpha1.AnnotationBackendHash]

	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: w.Namespace}}
	modify(w, secret, func(s *corev1.Secret) { s.Data["uri"] = []byte("postgres://127.0.0.1:1/none") })
	w.awaitBackend(b, v1alpha1.ReasonUnreachable)
	if got := fetch(w, deployment).Spec.Template.Annotations[v1alpha1.AnnotationBackendHash]; got != hash {
		t.Error("pods roll towards a database that does not answer")
	}
	modify(w, secret, func(s *corev1.Secret) { s.Data["uri"] = []byte(w.URL + "&application_name=other") })
	eventually(t, func() error {
		if fetch(w, deployment).Spec.Template.Annotations[v1alpha1.AnnotationBackendHash] == hash {
			return fmt.Errorf("the pods do not roll")
		}
		return nil
	})
}

func TestPool_InvalidTemplate(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	tests := map[string]struct{ template, want string }{
		"restartpolicy": {`{"spec":{"restartPolicy":"Never","containers":[{"name":"a","image":"b"}]}}`,
			`spec.template.spec.restartPolicy is "Never", but workers run until they are stopped: remove it, or set it to Always`},
		"unknown":     {`{"spec":{"containers":[{"name":"a","imgae":"b"}]}}`, `unknown field "spec.template.spec.containers[0].imgae": correct or remove it`},
		"nocontainer": {`{"spec":{}}`, `spec.template.spec.containers is empty: give at least one container with a name and an image; the one named worker, or else the first, is the worker`},
		"noimage":     {`{"spec":{"containers":[{"name":"a"}]}}`, `spec.template.spec.containers[0].image is required: name the image of container "a"`},
		"type":        {`{"spec":{"containers":"a"}}`, `spec.template is not a pod template: json: cannot unmarshal string`},
		"rejected":    {`{"spec":{"containers":[{"name":"A_B","image":"b"}]}}`, `the API server rejects what spec.template becomes: `},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			pool := newPool(name, func(p *v1alpha1.WorkerPool) { p.Spec.Template = runtime.RawExtension{Raw: []byte(test.template)} })
			w.create(pool)
			if message := w.awaitPool(pool, v1alpha1.ReasonInvalidTemplate); !strings.Contains(message, test.want) {
				t.Errorf("message is %q, want %q", message, test.want)
			}
			if !meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionStalled) {
				t.Errorf("conditions are %+v", pool.Status.Conditions)
			}
			modify(w, pool, func(p *v1alpha1.WorkerPool) { p.Spec.Template = newPool("x").Spec.Template })
			w.awaitPool(pool, v1alpha1.ReasonRollingOut)
		})
	}
}

// podOf returns a pod as the pool's Deployment would create it.
func podOf(pool, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Labels:      map[string]string{v1alpha1.LabelWorkerPool: pool, v1alpha1.LabelBackend: "default"},
			Annotations: map[string]string{v1alpha1.AnnotationPoolName: pool, v1alpha1.AnnotationWorkerContainer: "worker"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "worker", Image: "example.test/checkout:1"}}},
	}
}

func (w *world) podStatus(pod *corev1.Pod, status corev1.ContainerStatus) {
	w.t.Helper()
	status.Name, status.Image = "worker", "example.test/checkout:1"
	fetch(w, pod)
	pod.Status.Phase = corev1.PodRunning
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{status}
	if err := w.Status().Update(context.Background(), pod); err != nil {
		w.t.Fatal(err)
	}
}

func TestPool_ShowsWhatIsWrongWithItsPods(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	pool := newPool("shop")
	w.create(pool)
	w.awaitPool(pool, v1alpha1.ReasonRollingOut)
	pod := podOf("shop", "shop-1")
	w.create(pod)

	w.podStatus(pod, corev1.ContainerStatus{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}})
	if message := w.awaitPool(pool, v1alpha1.ReasonImagePullFailed); !strings.HasPrefix(message, `pod shop-1 cannot get image "example.test/checkout:1" of container worker: ErrImagePull: not found; the pods have no pull secrets`) {
		t.Errorf("message is %q", message)
	}
	w.podStatus(pod, corev1.ContainerStatus{
		RestartCount:         3,
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error", Message: "panic: no card\n"}},
	})
	if message := w.awaitPool(pool, v1alpha1.ReasonCrashLooping); message != "container worker of pod shop-1 keeps ending (3 restarts): exit code 2: panic: no card" {
		t.Errorf("message is %q", message)
	}

	deployment := owned(w, "shop", &appsv1.Deployment{})
	deployment.Status.Conditions = []appsv1.DeploymentCondition{
		{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: `pods "x" is forbidden: violates PodSecurity "restricted:latest": hostNetwork`},
		{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"},
	}
	if err := w.Status().Update(t.Context(), deployment); err != nil {
		t.Fatal(err)
	}
	if message := w.awaitPool(pool, v1alpha1.ReasonPodsUnschedulable); !strings.Contains(message, `pods cannot be created: pods "x" is forbidden: violates PodSecurity`) {
		t.Errorf("message is %q", message)
	}
	if !meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("conditions are %+v", pool.Status.Conditions)
	}
}

// The workers announce functions that do not return. The pool counts them, and is not ready when
// they occupy all slots of a worker.
func TestPool_P3_ShowsStepsThatDoNotReturn(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	pool := newPool("shop")
	w.create(pool)
	w.awaitPool(pool, v1alpha1.ReasonRollingOut)
	deployment := owned(w, "shop", &appsv1.Deployment{})
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation, Replicas: 1, UpdatedReplicas: 1, ReadyReplicas: 1, AvailableReplicas: 1,
	}
	if err := w.Status().Update(t.Context(), deployment); err != nil {
		t.Fatal(err)
	}
	w.awaitPool(pool, v1alpha1.ReasonPodsReady)

	s := w.store()
	announce := func(pool string, stuck int, blocked bool) {
		if _, err := s.SaveWorker(t.Context(), store.Worker{
			PodUID: pool + "-uid", Process: "p", PodName: pool + "-1", Pool: pool, StuckSteps: stuck, Blocked: blocked,
		}, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	announce("another", 7, true)
	announce("shop", 3, false)
	w.awaitStuck(pool, v1alpha1.ReasonPodsReady, 3)
	announce("shop", 20, true)
	w.awaitStuck(pool, v1alpha1.ReasonStuckSteps, 20)
	if !meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.ConditionStalled) {
		t.Errorf("conditions are %+v", pool.Status.Conditions)
	}
	if got := w.poolGauge("openworkflow_pool_stuck_steps", "shop"); got != 20 {
		t.Errorf("the metric is %v", got)
	}
	announce("shop", 0, false)
	w.awaitStuck(pool, v1alpha1.ReasonPodsReady, 0)
	m.halt()
}

// poolGauge returns the value of a gauge of a pool, -1 if there is none.
func (w *world) poolGauge(name, pool string) float64 {
	w.t.Helper()
	families, err := metrics.Registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if family.GetName() == name && labels["namespace"] == w.Namespace && labels["pool"] == pool {
				return m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

// awaitStuck waits until a pool has this reason and this number of functions that do not return.
func (w *world) awaitStuck(pool *v1alpha1.WorkerPool, reason string, functions int32) {
	w.t.Helper()
	eventually(w.t, func() error {
		fetch(w, pool)
		stuck := meta.FindStatusCondition(pool.Status.Conditions, v1alpha1.ConditionStuckSteps)
		text := ""
		if stuck != nil {
			text = stuck.Message
		}
		if conditionReason(pool.Status.Conditions) != reason || ptr.Deref(pool.Status.StuckSteps, 0) != functions ||
			(functions > 0) != strings.HasPrefix(text, fmt.Sprintf("%d functions in 1 workers do not return", functions)) {
			return fmt.Errorf("status is %+v, want %s with %d functions that do not return", pool.Status, reason, functions)
		}
		return nil
	})
}

// TestPool_P3_PodsReadWhatTheLastGoodCheckHasFound: a spec that names a Secret which does not exist yet takes away no
// pod.
func TestPool_P3_PodsReadWhatTheLastGoodCheckHasFound(t *testing.T) {
	w := newWorld(t)
	w.start()
	b, pool := w.backend(), newPool("shop")
	w.create(pool)
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	before := owned(w, "shop", &appsv1.Deployment{}).Spec.Template
	modify(w, b, func(b *v1alpha1.Backend) { b.Spec.Postgres.URLSecretRef.Name = "later" })
	w.awaitBackend(b, v1alpha1.ReasonSecretNotFound)
	modify(w, pool, func(p *v1alpha1.WorkerPool) { p.Spec.Replicas = new(int32(7)) }) // which applies its objects again
	eventually(t, func() error {
		if d := owned(w, "shop", &appsv1.Deployment{}); *d.Spec.Replicas != 7 {
			return fmt.Errorf("the Deployment has %d replicas", *d.Spec.Replicas)
		}
		return nil
	})
	if diff := cmp.Diff(before, owned(w, "shop", &appsv1.Deployment{}).Spec.Template); diff != "" {
		t.Errorf("the pods have changed (-before +after):\n%s", diff)
	}
	w.secret("later", w.URL)
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	eventually(t, func() error {
		if diff := cmp.Diff(before, owned(w, "shop", &appsv1.Deployment{}).Spec.Template); !strings.Contains(diff, `"later"`) {
			return fmt.Errorf("the pods do not read the other Secret:\n%s", diff)
		}
		return nil
	})
}
