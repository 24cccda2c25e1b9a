package controller

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

// TestStuckIn_P9_WhateverWorkersAnnounce: anybody may write their rows.
func TestStuckIn_P9_WhateverWorkersAnnounce(t *testing.T) {
	t.Parallel()
	workers := []store.Worker{{Pool: "shop", StuckSteps: 1}, {Pool: "shop", StuckSteps: math.MaxInt}, {Pool: "shop", StuckSteps: -5}}
	if got := stuckIn(newPool("shop"), workers); got.functions != maxStuckSteps || got.workers != 2 {
		t.Errorf("got %+v", got)
	}
}

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
	stuck.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse,
		Reason: "ProgressDeadlineExceeded", Message: "timed out progressing"}}
	paused := deployment(1, 2, 1)
	paused.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionUnknown,
		Reason: "DeploymentPaused", Message: "Deployment is paused"}}
	refused := deployment(0, 2, 2)
	refused.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse,
		Reason: "ReplicaSetCreateError", Message: `replicasets.apps "shop" is forbidden: exceeded quota: few`}}
	noRoom := deployment(2, 2, 1)
	noRoom.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue,
		Reason: "FailedCreate", Message: `pods "shop-2" is forbidden: maximum memory usage per Container is 1Gi`}}
	died := func(ago, life time.Duration) corev1.ContainerState {
		end := noon.Add(-ago)
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled",
			StartedAt: metav1.NewTime(end.Add(-life)), FinishedAt: metav1.NewTime(end)}}
	}
	up := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	dead := func(restarts int32, state, last corev1.ContainerState, isReady ...bool) poolSeen {
		return poolSeen{Backend: ready, Now: noon, Deployment: deployment(2, 2, 1), Pods: []corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Name: "p"},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
				{Name: "worker", RestartCount: restarts, Ready: len(isReady) > 0, State: state, LastTerminationState: last},
			}},
		}}}
	}
	const partly = "1 of 2 pods are ready, 2 are up to date"
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
		"stuck steps": {
			seen: poolSeen{Backend: ready, Deployment: deployment(2, 2, 2), Workers: []store.Worker{{Pool: "shop", StuckSteps: 3}}},
			want: poolState{ready: true, reason: v1alpha1.ReasonPodsReady, message: "2 of 2 pods are ready"},
		},
		"stuck steps in all slots": {
			seen: poolSeen{Backend: ready, Deployment: deployment(2, 2, 1), Workers: []store.Worker{
				{Pool: "shop", StuckSteps: 3, Blocked: true}, {Pool: "shop", StuckSteps: 1}, {Pool: "other", StuckSteps: 9},
			}},
			want: poolState{stalled: true, reason: v1alpha1.ReasonStuckSteps, message: "1 workers claim no runs, as all their slots are occupied: " +
				"4 functions in 2 workers do not return although their runs have ended or moved on: " +
				"make them honor their context, the workers' logs name their steps; restarting the pods ends them"},
		},
		"stuck steps in all slots, and pods that are replaced": {
			seen: poolSeen{Backend: ready, Deployment: deployment(1, 3, 2), Workers: []store.Worker{{Pool: "shop", StuckSteps: 3, Blocked: true}}},
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "2 of 2 pods are ready, 1 are up to date"},
		},
		"old pods left": {
			seen: poolSeen{Backend: ready, Deployment: deployment(2, 3, 3)},
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "3 of 2 pods are ready, 2 are up to date"},
		},
		"timed out": {
			seen: poolSeen{Backend: ready, Deployment: stuck},
			want: poolState{stalled: true, reason: v1alpha1.ReasonRollingOut, message: "1 of 2 pods are ready, 1 are up to date; the Deployment does not progress: ProgressDeadlineExceeded: timed out progressing"},
		},
		"paused": {
			seen: poolSeen{Backend: ready, Deployment: paused},
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: "1 of 2 pods are ready, 1 are up to date; the Deployment does not progress: DeploymentPaused: Deployment is paused"},
		},
		"the ReplicaSet is refused": {
			seen: poolSeen{Backend: ready, Deployment: refused},
			want: poolState{stalled: true, reason: v1alpha1.ReasonPodsUnschedulable, message: `pods cannot be created: replicasets.apps "shop" is forbidden: exceeded quota: few`},
		},
		"a pod is refused": {
			seen: poolSeen{Backend: ready, Deployment: noRoom},
			want: poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: `pods cannot be created: pods "shop-2" is forbidden: maximum memory usage per Container is 1Gi`},
		},
		"ended once": {
			seen: dead(0, died(time.Second, time.Hour), corev1.ContainerState{}),
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: partly + "; container worker of pod p has ended (0 restarts): exit code 137, OOMKilled"},
		},
		"ended once, just restarted": {
			seen: dead(1, up, died(time.Second, time.Hour)),
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: partly + "; container worker of pod p has ended (1 restarts): exit code 137, OOMKilled"},
		},
		"ended once, ready again": {
			seen: dead(1, up, died(time.Second, time.Hour), true),
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: partly},
		},
		"the third end in a month": {
			seen: dead(2, died(time.Second, 240*time.Hour), died(240*time.Hour, 240*time.Hour)),
			want: poolState{reason: v1alpha1.ReasonRollingOut, message: partly + "; container worker of pod p has ended (2 restarts): exit code 137, OOMKilled"},
		},
		"the third end in a minute": {
			seen: dead(2, died(time.Second, 10*time.Second), died(30*time.Second, 10*time.Second)),
			want: poolState{reason: v1alpha1.ReasonCrashLooping, message: "container worker of pod p keeps ending (2 restarts): exit code 137, OOMKilled"},
		},
		"between two ends": {
			seen: dead(2, up, died(time.Second, 10*time.Second)),
			want: poolState{reason: v1alpha1.ReasonCrashLooping, message: "container worker of pod p keeps ending (2 restarts): exit code 137, OOMKilled"},
		},
		"the kubelet says so": {
			seen: dead(1, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}, died(time.Second, time.Second)),
			want: poolState{reason: v1alpha1.ReasonCrashLooping, message: "container worker of pod p keeps ending (1 restarts): exit code 137, OOMKilled"},
		},
		"unschedulable": {
			seen: broken(unschedulable),
			want: poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: "pod p fits on no node: 0/1 nodes: Insufficient cpu"},
		},
		"its worker died with a quarantined run": {
			seen: func() poolSeen {
				seen := dead(1, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}, died(time.Second, time.Second))
				seen.suspect("p", `; it executed run order-7 (step "kill")`)
				return seen
			}(),
			want: poolState{
				reason:  v1alpha1.ReasonCrashLooping,
				message: `container worker of pod p keeps ending (1 restarts): exit code 137, OOMKilled; it executed run order-7 (step "kill")`,
			},
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
