package controller

import (
	"fmt"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// CacheOptions returns what the manager's caches hold: of pods and Deployments
// only those of pools, and of each object only what is used. Without namespaces
// all are watched.
func CacheOptions(namespaces ...string) (cache.Options, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelWorkerPool, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("build label selector: %w", err)
	}
	selector := labels.NewSelector().Add(*ours)
	options := cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.WorkflowRun{}: {Transform: stripRun},
			&corev1.Pod{}:           {Label: selector, Transform: stripPod},
			&appsv1.Deployment{}:    {Label: selector, Transform: stripDeployment},
		},
	}
	for _, namespace := range namespaces {
		if options.DefaultNamespaces == nil {
			options.DefaultNamespaces = map[string]cache.Config{}
		}
		options.DefaultNamespaces[namespace] = cache.Config{}
	}
	return options, nil
}

// stripRun drops what nobody reads: who manages which field, annotations, which hold a
// copy of the object, and the input of a run that has its row. Of a run that has ended
// it keeps what its end in Kubernetes depends on. What is the same in many runs is kept
// once.
func stripRun(in any) (any, error) {
	run, ok := in.(*v1alpha1.WorkflowRun)
	if !ok {
		return in, nil
	}
	run.ManagedFields, run.Annotations, run.Labels, run.OwnerReferences = nil, nil, nil, nil
	spec, status := &run.Spec, &run.Status
	if status.RunID != "" || status.State.Terminal() {
		spec.Input = nil
	}
	if status.State.Terminal() {
		*spec = v1alpha1.WorkflowRunSpec{BackendRef: spec.BackendRef, TTLSecondsAfterFinished: spec.TTLSecondsAfterFinished}
		*status = v1alpha1.WorkflowRunStatus{
			ObservedGeneration: status.ObservedGeneration, Revision: status.Revision, State: status.State,
			RunID: status.RunID, Worker: status.Worker, FinishedAt: status.FinishedAt,
		}
	}
	share(&run.Namespace, &spec.BackendRef.Name, &spec.WorkflowName, &spec.Version, &status.Worker, &status.Message)
	status.State = unique.Make(status.State).Value()
	for i := range status.Conditions {
		share(&status.Conditions[i].Type, &status.Conditions[i].Reason, &status.Conditions[i].Message)
		status.Conditions[i].Status = unique.Make(status.Conditions[i].Status).Value()
	}
	return run, nil
}

// share makes texts that are the same in many objects take memory once.
func share(texts ...*string) {
	for _, text := range texts {
		*text = unique.Make(*text).Value()
	}
}

// stripPod keeps a pod's identity, its containers' names and its status.
func stripPod(in any) (any, error) {
	pod, ok := in.(*corev1.Pod)
	if !ok {
		return in, nil
	}
	pod.ManagedFields = nil
	if name, ok := pod.Annotations[v1alpha1.AnnotationPoolName]; ok {
		pod.Annotations = map[string]string{v1alpha1.AnnotationPoolName: name}
	} else {
		pod.Annotations = nil
	}
	containers := make([]corev1.Container, len(pod.Spec.Containers))
	for i := range pod.Spec.Containers {
		containers[i].Name = pod.Spec.Containers[i].Name
	}
	pod.Spec = corev1.PodSpec{NodeName: pod.Spec.NodeName, Containers: containers}
	return pod, nil
}

// stripDeployment drops a Deployment's pod template.
func stripDeployment(in any) (any, error) {
	deployment, ok := in.(*appsv1.Deployment)
	if !ok {
		return in, nil
	}
	deployment.ManagedFields = nil
	deployment.Spec = appsv1.DeploymentSpec{Replicas: deployment.Spec.Replicas}
	return deployment, nil
}
