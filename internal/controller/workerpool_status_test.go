package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
)

func TestEvaluatePool(t *testing.T) {
	t.Parallel()
	ready := backend.State{Known: true, Ready: true}
	deployment := func(updated, total, available int32) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Generation: 2},
			Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2))},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: updated, Replicas: total,
				AvailableReplicas: available, ReadyReplicas: available},
		}
	}
	unschedulable := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes: Insufficient cpu"},
	}}}
	waiting := func(reason, message string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}},
		}}}
	}
	stuck := deployment(1, 2, 1)
	stuck.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse}}
	broken := func(pod corev1.Pod) poolSeen {
		return poolSeen{Backend: ready, Deployment: deployment(2, 2, 1), Pods: []corev1.Pod{pod}}
	}
	for name, test := range map[string]struct {
		template string // of the pool, if it matters
		seen     poolSeen
		want     poolState
	}{
		"the template comes first": {
			seen: poolSeen{Rejected: "no"},
			want: poolState{stalled: true, reason: v1alpha1.ReasonInvalidTemplate, message: "no"},
		},
		"then the Backend": {
			seen: poolSeen{Backend: backend.State{Known: true, Reason: "Unreachable", Message: "gone"}, Deployment: deployment(2, 2, 2)},
			want: poolState{reason: v1alpha1.ReasonBackendNotReady, message: `Backend "default" is not ready (Unreachable): gone`},
		},
		"no Deployment": {
			seen: poolSeen{Backend: ready},
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "the Deployment is being created"},
		},
		"complete": {
			seen: poolSeen{Backend: ready, Deployment: deployment(2, 2, 2)},
			want: poolState{ready: true, reason: v1alpha1.ReasonPodsReady, message: "2 of 2 pods are ready"},
		},
		"complete before the change": {
			seen: poolSeen{Backend: ready, Deployment: deployment(2, 2, 2), Applied: 3},
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "2 of 2 pods are ready, 2 are up to date"},
		},
		"old pods left": {
			seen: poolSeen{Backend: ready, Deployment: deployment(2, 3, 3)},
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "3 of 2 pods are ready, 2 are up to date"},
		},
		"timed out": {
			seen: poolSeen{Backend: ready, Deployment: stuck},
			want: poolState{stalled: true, reason: v1alpha1.ReasonRollingOut, message: "1 of 2 pods are ready, 1 are up to date"},
		},
		"unschedulable": {
			seen: broken(unschedulable),
			want: poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: "pod p fits on no node: 0/1 nodes: Insufficient cpu"},
		},
		"not starting": {
			seen: broken(waiting("CreateContainerConfigError", "no key")),
			want: poolState{
				reason:  v1alpha1.ReasonContainerNotStarting,
				message: "pod p cannot start container worker: CreateContainerConfigError: no key",
			},
		},
		"runs as root": {
			seen: broken(waiting("CreateContainerConfigError", "container has runAsNonRoot and image has non-numeric user (node), cannot verify user is non-root")),
			want: poolState{
				reason: v1alpha1.ReasonContainerNotStarting,
				message: "pod p cannot start container worker: CreateContainerConfigError: container has runAsNonRoot and image has non-numeric user (node), " +
					"cannot verify user is non-root; give the image a USER that is a number other than 0, or set securityContext.runAsUser in the template",
			},
		},
		"no pull secret": {
			seen: broken(waiting("ImagePullBackOff", "Back-off pulling image")),
			want: poolState{
				reason: v1alpha1.ReasonImagePullFailed,
				message: `pod p cannot get image "" of container worker: ImagePullBackOff: Back-off pulling image; the pods have no pull secrets, as they do ` +
					`not run under the service account "default": if the registry needs one, name it in spec.template.spec.imagePullSecrets`,
			},
		},
		"a pull secret": {
			template: `{"spec":{"imagePullSecrets":[{"name":"registry"}],"containers":[{"name":"a","image":"b"}]}}`,
			seen:     broken(waiting("ErrImagePull", "denied")),
			want:     poolState{reason: v1alpha1.ReasonImagePullFailed, message: `pod p cannot get image "" of container worker: ErrImagePull: denied`},
		},
		"an account of its own": {
			template: `{"spec":{"serviceAccountName":"payments","containers":[{"name":"a","image":"b"}]}}`,
			seen:     broken(waiting("ErrImagePull", "denied")),
			want:     poolState{reason: v1alpha1.ReasonImagePullFailed, message: `pod p cannot get image "" of container worker: ErrImagePull: denied`},
		},
		"being created": {
			seen: broken(waiting("ContainerCreating", "")),
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "1 of 2 pods are ready, 2 are up to date"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.seen.Pool = newPool("shop", func(p *v1alpha1.WorkerPool) { p.Spec.Replicas = new(int32(2)) })
			if test.template != "" {
				test.seen.Pool.Spec.Template.Raw = []byte(test.template)
			}
			if diff := cmp.Diff(test.want, evaluatePool(test.seen), cmp.AllowUnexported(poolState{})); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
		})
	}
}
