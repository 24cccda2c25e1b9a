package controller

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/poolspec"
	"github.com/openworkflow-operator/operator/internal/store"
)

// shortLife is how long a container lives at most whose end is part of a crash loop. After as
// long without a crash the kubelet forgets the earlier ones.
const shortLife = 10 * time.Minute

// poolSeen is what a pool's status is made from.
type poolSeen struct {
	Pool *v1alpha1.WorkerPool
	// Backend is the state of the pool's Backend.
	Backend backend.State
	// Rejected is why no Deployment can be made from the template, for the user.
	Rejected string
	// Refused is why an object of the pool could not be applied, which is tried again.
	Refused string
	// Deployment is nil when there is none.
	Deployment *appsv1.Deployment
	// Applied is the generation of the Deployment that was applied last. A Deployment of an
	// older generation does not show the pool's spec yet.
	Applied int64
	Pods    []corev1.Pod
	// Suspects says, by the name of a pod, which quarantined runs its worker executed when it died.
	Suspects map[string]string
	// Workers are the live workers of the Backend, of all pools.
	Workers []store.Worker
	Now     time.Time
}

func (s *poolSeen) suspect(pod, text string) {
	if s.Suspects == nil {
		s.Suspects = map[string]string{}
	}
	s.Suspects[pod] = text
}

// poolState is the reason and the message of a pool's conditions. Ready means that its pods
// are as its spec says, stalled that this will not happen without a change by a person.
type poolState struct {
	ready, stalled  bool
	reason, message string
}

// planPoolStatus returns the status of a pool.
func planPoolStatus(seen poolSeen) v1alpha1.WorkerPoolStatus {
	pool := seen.Pool
	status := v1alpha1.WorkerPoolStatus{
		ObservedGeneration: pool.Generation,
		Replicas:           new(int32(0)),
		ReadyReplicas:      new(int32(0)),
		UpdatedReplicas:    new(int32(0)),
		Selector:           labels.SelectorFromSet(poolspec.Selector(pool)).String(),
		Workflows:          fleet.Served(pool, seen.Workers),
	}
	if d := seen.Deployment; d != nil {
		status.Replicas = new(d.Status.Replicas)
		status.ReadyReplicas = new(d.Status.ReadyReplicas)
		status.UpdatedReplicas = new(d.Status.UpdatedReplicas)
	}
	for _, c := range pool.Status.Conditions {
		status.Conditions = append(status.Conditions, *c.DeepCopy())
	}
	stuck := stuckIn(pool, seen.Workers)
	if stuck.functions > 0 {
		status.StuckSteps = &stuck.functions
	}
	state := evaluatePool(seen)
	state.message = truncateText(state.message, 1024)
	set := conditionSetter(&status.Conditions, pool.Generation, seen.Now)
	setPoolState(set, state)
	set.only(v1alpha1.ConditionStuckSteps, stuck.functions > 0, v1alpha1.ReasonContextIgnored, stuck.message())
	return status
}

// setPoolState sets the conditions that say whether a pool is as its spec says.
func setPoolState(set setCondition, state poolState) {
	set(v1alpha1.ConditionReady, state.ready, state.reason, state.message)
	set.only(v1alpha1.ConditionReconciling, !state.ready && !state.stalled, state.reason, state.message)
	set.only(v1alpha1.ConditionStalled, !state.ready && state.stalled, state.reason, state.message)
}

// stuckSteps are the functions of a pool that do not return.
type stuckSteps struct {
	functions int32
	// workers is how many workers have such functions, and blocked how many of these claim
	// nothing.
	workers, blocked int
}

// maxStuckSteps bounds the number that is shown: a worker's row is written by tenants.
const maxStuckSteps = 1_000_000

func stuckIn(pool *v1alpha1.WorkerPool, workers []store.Worker) stuckSteps {
	var stuck stuckSteps
	for _, w := range workers {
		if w.Pool != pool.Name || w.StuckSteps <= 0 {
			continue
		}
		stuck.workers++
		stuck.functions = int32(min(int(stuck.functions)+min(w.StuckSteps, maxStuckSteps), maxStuckSteps))
		if w.Blocked {
			stuck.blocked++
		}
	}
	return stuck
}

// message says what to do.
func (s stuckSteps) message() string {
	return fmt.Sprintf("%d functions in %d workers do not return although their runs have ended or moved on: "+
		"make them honor their context, the workers' logs name their steps; restarting the pods ends them", s.functions, s.workers)
}

// evaluatePool returns the first state that applies: the template is rejected, the Backend
// is not ready, pods cannot be created or do not become ready, workers claim nothing, the rollout
// is under way or complete.
func evaluatePool(seen poolSeen) poolState {
	if text := seen.Pool.Unreadable.SpecMessage(); text != "" {
		return poolState{stalled: true, reason: v1alpha1.ReasonUnreadable, message: text}
	}
	if seen.Rejected != "" {
		return poolState{stalled: true, reason: v1alpha1.ReasonInvalidTemplate, message: seen.Rejected}
	}
	if seen.Refused != "" {
		return poolState{reason: v1alpha1.ReasonApplyFailed, message: "the pool is not as its spec says, trying again: " + truncateText(seen.Refused, 700)}
	}
	if !seen.Backend.Ready {
		return poolState{reason: backendReason(seen.Backend), message: backendMessage(backend.NameOf(seen.Pool.Spec.BackendRef), seen.Backend)}
	}
	d := seen.Deployment
	if d == nil {
		return poolState{reason: v1alpha1.ReasonRollingOut, message: "the Deployment is being created"}
	}
	desired := ptr.Deref(seen.Pool.Spec.Replicas, 1)
	current := d.Generation >= seen.Applied && d.Status.ObservedGeneration >= d.Generation && ptr.Deref(d.Spec.Replicas, 1) == desired
	complete := current && d.Status.UpdatedReplicas == desired && d.Status.Replicas == desired && d.Status.AvailableReplicas == desired
	stuck := stuckIn(seen.Pool, seen.Workers)
	if complete && stuck.blocked == 0 {
		if desired == 0 {
			return poolState{ready: true, reason: v1alpha1.ReasonPodsReady, message: "the pool is scaled to 0; its runs wait"}
		}
		return poolState{ready: true, reason: v1alpha1.ReasonPodsReady, message: fmt.Sprintf("%d of %d pods are ready", d.Status.ReadyReplicas, desired)}
	}
	state, ok := evaluateDeployment(d)
	if !ok {
		state, ok = evaluatePods(&seen)
	}
	if !ok && stuck.blocked > 0 && current && d.Status.UpdatedReplicas == desired { // else the rollout may mend it
		return poolState{stalled: true, reason: v1alpha1.ReasonStuckSteps,
			message: fmt.Sprintf("%d workers claim no runs, as all their slots are occupied: %s", stuck.blocked, stuck.message())}
	}
	if !ok {
		state = poolState{reason: v1alpha1.ReasonRollingOut, message: fmt.Sprintf("%d of %d pods are ready, %d are up to date%s%s",
			d.Status.ReadyReplicas, desired, d.Status.UpdatedReplicas, haltMessage(d), deathMessage(&seen))}
	}
	if state.reason == v1alpha1.ReasonImagePullFailed {
		state.message += pullAdvice(seen.Pool)
	}
	progressing := deploymentCondition(d, appsv1.DeploymentProgressing)
	state.stalled = progressing != nil && progressing.Status == corev1.ConditionFalse
	return state
}

// deploymentCondition returns a condition of a Deployment, nil if it has none of the type.
func deploymentCondition(d *appsv1.Deployment, of appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == of {
			return &d.Status.Conditions[i]
		}
	}
	return nil
}

// evaluateDeployment finds pods that cannot be created: Pod Security, a quota, a LimitRange or
// a webhook rejects them, or their ReplicaSet.
func evaluateDeployment(d *appsv1.Deployment) (poolState, bool) {
	if c := deploymentCondition(d, appsv1.DeploymentReplicaFailure); c != nil && c.Status == corev1.ConditionTrue {
		return poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: "pods cannot be created: " + c.Message}, true
	}
	if c := deploymentCondition(d, appsv1.DeploymentProgressing); c != nil && c.Reason == "ReplicaSetCreateError" {
		return poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: "pods cannot be created: " + c.Message}, true
	}
	return poolState{}, false
}

// haltMessage says why a Deployment makes no progress: its progressDeadlineSeconds have
// passed, or somebody has paused it.
func haltMessage(d *appsv1.Deployment) string {
	c := deploymentCondition(d, appsv1.DeploymentProgressing)
	if c == nil || c.Status == corev1.ConditionTrue {
		return ""
	}
	return fmt.Sprintf("; the Deployment does not progress: %s: %s", c.Reason, c.Message)
}

// deathMessage describes the newest end of a container that is not up again, or was not for
// long. One end is no crash loop: a node may have been short of memory.
func deathMessage(seen *poolSeen) string {
	pods, now := seen.Pods, seen.Now
	var text string
	var newest time.Time
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			continue
		}
		for _, statuses := range [][]corev1.ContainerStatus{pods[i].Status.InitContainerStatuses, pods[i].Status.ContainerStatuses} {
			for j := range statuses {
				c := &statuses[j]
				t := lastDeath(c)
				if t == nil || c.Ready || now.Sub(t.FinishedAt.Time) > shortLife || text != "" && !t.FinishedAt.After(newest) {
					continue
				}
				newest = t.FinishedAt.Time
				text = fmt.Sprintf("; container %s of pod %s has ended (%d restarts)%s", c.Name, pods[i].Name, c.RestartCount, terminationMessage(t)+seen.Suspects[pods[i].Name])
			}
		}
	}
	return text
}

// lastDeath returns the last end of a container's process, nil if there was none.
func lastDeath(c *corev1.ContainerStatus) *corev1.ContainerStateTerminated {
	if c.State.Terminated != nil {
		return c.State.Terminated
	}
	return c.LastTerminationState.Terminated
}

// crashLoops reports whether a container ends again and again: the kubelet says so, or the
// container is not ready, was restarted twice at least, and its last process lived briefly
// and ended lately.
func crashLoops(c *corev1.ContainerStatus, now time.Time) bool {
	if c.State.Waiting != nil && c.State.Waiting.Reason == "CrashLoopBackOff" {
		return true
	}
	t := lastDeath(c)
	return t != nil && !c.Ready && c.RestartCount >= 2 &&
		t.FinishedAt.Sub(t.StartedAt.Time) < shortLife && now.Sub(t.FinishedAt.Time) < shortLife
}

// evaluatePods finds why a pod does not become ready, in the newest pod for which that is
// known.
func evaluatePods(seen *poolSeen) (poolState, bool) {
	pods := slices.Clone(seen.Pods)
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for i := range pods {
		if pods[i].DeletionTimestamp != nil {
			continue
		}
		if state, ok := evaluatePod(&pods[i], seen.Now); ok {
			if state.reason == v1alpha1.ReasonCrashLooping {
				state.message += seen.Suspects[pods[i].Name]
			}
			return state, true
		}
	}
	return poolState{}, false
}

func evaluatePod(pod *corev1.Pod, now time.Time) (poolState, bool) {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			return poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: fmt.Sprintf("pod %s fits on no node: %s", pod.Name, c.Message)}, true
		}
	}
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if state, ok := evaluateContainer(pod.Name, &statuses[i], now); ok {
				return state, true
			}
		}
	}
	return poolState{}, false
}

func evaluateContainer(pod string, c *corev1.ContainerStatus, now time.Time) (poolState, bool) {
	if w := c.State.Waiting; w != nil {
		switch w.Reason {
		case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable":
			return poolState{reason: v1alpha1.ReasonImagePullFailed, message: fmt.Sprintf(
				"pod %s cannot get image %q of container %s: %s: %s", pod, c.Image, c.Name, w.Reason, truncateText(w.Message, 600))}, true
		case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreStartHookError", "PostStartHookError":
			return poolState{reason: v1alpha1.ReasonContainerNotStarting, message: fmt.Sprintf(
				"pod %s cannot start container %s: %s: %s%s", pod, c.Name, w.Reason, truncateText(w.Message, 600), userAdvice(w.Message))}, true
		}
	}
	if crashLoops(c, now) {
		return poolState{reason: v1alpha1.ReasonCrashLooping, message: fmt.Sprintf(
			"container %s of pod %s keeps ending (%d restarts)%s", c.Name, pod, c.RestartCount, terminationMessage(lastDeath(c)))}, true
	}
	return poolState{}, false
}

// userAdvice says what to do when the kubelet refuses to start a container because it would
// run as root, or may do so.
func userAdvice(message string) string {
	if !strings.Contains(message, "runAsNonRoot") && !strings.Contains(message, "non-root policy") {
		return ""
	}
	return "; give the image a USER that is a number other than 0, or set securityContext.runAsUser in the template"
}

// pullAdvice says that the pods of a pool have no pull secrets, if neither its template nor
// a service account that this names has them.
func pullAdvice(pool *v1alpha1.WorkerPool) string {
	template, err := poolspec.DecodeTemplate(pool.Spec.Template.Raw)
	if err != nil || template.Spec.ServiceAccountName != nil || len(template.Spec.ImagePullSecrets) > 0 {
		return ""
	}
	return "; the pods have no pull secrets, as they do not run under the service account \"default\":" +
		" if the registry needs one, name it in spec.template.spec.imagePullSecrets"
}

// terminationMessage describes how a container ended. The kubelet fills in the end of its
// log if it left no message.
func terminationMessage(t *corev1.ContainerStateTerminated) string {
	if t == nil {
		return ""
	}
	text := fmt.Sprintf(": exit code %d", t.ExitCode)
	if t.Reason != "" && t.Reason != "Error" {
		text += ", " + t.Reason
	}
	if message := strings.TrimSpace(t.Message); message != "" {
		if len(message) > 400 { // the cause is at the end
			message = "…" + strings.ToValidUTF8(message[len(message)-400:], "")
		}
		text += ": " + message
	}
	return text
}
