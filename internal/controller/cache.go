package controller

import (
	"context"
	"fmt"
	"unique"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// CacheOptions returns what the manager's caches hold: of pods and Deployments only those
// of pools, and of each object only the fields that are read. Without namespaces, all are
// watched.
func CacheOptions(namespaces ...string) (cache.Options, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelWorkerPool, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("build label selector: %w", err)
	}
	selector := labels.NewSelector().Add(*ours)
	options := cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.WorkflowRun{}:    {Transform: stripRun},
			&v1alpha1.WorkflowSignal{}: {Transform: stripSignal},
			&corev1.Pod{}:              {Label: selector, Transform: stripPod},
			&appsv1.Deployment{}:       {Label: selector, Transform: stripDeployment},
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

// indexByOwner finds the WorkflowRuns that a controller owns, by the uid of the owner.
// Only owned runs are in it, ended ones too.
const indexByOwner = "owner.uid"

// stripRun drops what the manager does not read: managed fields, annotations, which hold a
// copy of the object, labels, the input of a run that has its row, and large inputs. Of an ended run it
// keeps only what its deletion depends on, and a digest of the rest. Strings that many runs share are stored once.
//
// Of the owners it keeps the controller, without blockOwnerDeletion, so that Owns and
// indexByOwner find the runs that an object has created. No label is kept: a list of
// WorkflowRuns from the cache by MatchingLabels is always empty.
func stripRun(in any) (any, error) {
	run, ok := in.(*v1alpha1.WorkflowRun)
	if !ok {
		return in, nil
	}
	run.ManagedFields, run.Annotations, run.Labels = nil, nil, nil
	run.OwnerReferences = controllerOnly(run)
	spec, status := &run.Spec, &run.Status
	if spec.From != nil && !isLeftOutInput(run) { // it is read when the fork is made
		spec.Input = leaveOutInput(valuesSize(spec))
		spec.From.Outputs = nil
	}
	if status.RunID != "" || status.State.Terminal() {
		spec.Input = nil
	} else if size, _ := inputSize(run); size > maxCachedInput {
		spec.Input = leaveOutInput(size)
	}
	if status.State.Terminal() && !isDigest(status) { // what the cache has may be stripped again
		ended := v1alpha1.WorkflowRunSpec{BackendRef: spec.BackendRef, TTLSecondsAfterFinished: spec.TTLSecondsAfterFinished}
		if spec.IdempotencyKey != "" { // it decides which row the object may show
			ended.WorkflowName, ended.IdempotencyKey = spec.WorkflowName, spec.IdempotencyKey
		}
		*spec = ended
		*status = v1alpha1.WorkflowRunStatus{
			ObservedGeneration: status.ObservedGeneration, Revision: status.Revision, Corrections: status.Corrections,
			State: status.State, RunID: status.RunID, SupersededBy: status.SupersededBy,
			Worker: status.Worker, FinishedAt: status.FinishedAt, Output: endDigest(status),
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

// controllerOnly returns the reference to the controller that owns an object, in a list of
// its own, or nil.
func controllerOnly(object metav1.Object) []metav1.OwnerReference {
	owner := metav1.GetControllerOf(object) // a copy
	if owner == nil {
		return nil
	}
	owner.BlockOwnerDeletion = nil
	share(&owner.APIVersion, &owner.Kind, &owner.Name)
	owner.UID = unique.Make(owner.UID).Value()
	return []metav1.OwnerReference{*owner}
}

// indexOwnedRuns adds indexByOwner to the WorkflowRun cache.
func indexOwnedRuns(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &v1alpha1.WorkflowRun{}, indexByOwner, func(object client.Object) []string {
		if owner := metav1.GetControllerOfNoCopy(object); owner != nil {
			return []string{string(owner.UID)}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("index WorkflowRuns by %s: %w", indexByOwner, err)
	}
	return nil
}

// share makes equal strings of many objects take memory once.
func share(texts ...*string) {
	for _, text := range texts {
		*text = unique.Make(*text).Value()
	}
}

// stripSignal drops what the manager does not read: managed fields, labels, annotations but that of
// who has created the object, large data, and the data of a signal that has finished.
func stripSignal(in any) (any, error) {
	s, ok := in.(*v1alpha1.WorkflowSignal)
	if !ok {
		return in, nil
	}
	creator, isKnown := s.Annotations[v1alpha1.AnnotationCreatedBy]
	s.ManagedFields, s.Annotations, s.Labels = nil, nil, nil
	if isKnown {
		s.Annotations = map[string]string{v1alpha1.AnnotationCreatedBy: creator}
	}
	if signalFinished(s) {
		s.Spec.Data = nil
	} else if s.Spec.Data != nil {
		if size, isLeftOut := valueSize(s.Spec.Data); !isLeftOut && size > maxCachedInput {
			s.Spec.Data = leaveOutInput(size)
		}
	}
	share(&s.Namespace, &s.Spec.BackendRef.Name, &s.Spec.Signal)
	return s, nil
}

// stripPod drops all of a pod but its metadata, the names of its node and containers, and
// its status.
func stripPod(in any) (any, error) {
	pod, ok := in.(*corev1.Pod)
	if !ok {
		return in, nil
	}
	pod.ManagedFields = nil
	var kept map[string]string
	for _, key := range []string{v1alpha1.AnnotationPoolName, v1alpha1.AnnotationWorkerContainer} {
		if value, ok := pod.Annotations[key]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[key] = value
		}
	}
	pod.Annotations = kept
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
