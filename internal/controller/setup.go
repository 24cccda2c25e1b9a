package controller

import (
	"context"
	"fmt"
	"time"
	"unique"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// NewScheme returns a scheme with the kinds that the manager handles.
func NewScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, policyv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	return scheme, nil
}

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

// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get

// ClusterID returns what identifies the cluster in the context of runs: the uid
// of its kube-system namespace.
func ClusterID(ctx context.Context, reader client.Reader) (string, error) {
	var namespace corev1.Namespace
	if err := reader.Get(ctx, types.NamespacedName{Name: "kube-system"}, &namespace); err != nil {
		return "", fmt.Errorf("identify the cluster by its kube-system namespace: %w", err)
	}
	return string(namespace.UID), nil
}

// Options are the settings of the manager's controllers. The zero values of all
// but Cluster do the usual thing.
type Options struct {
	// Cluster identifies the cluster; see ClusterID.
	Cluster string
	// Open opens databases. Defaults to OpenStore.
	Open OpenFunc
	// Clock defaults to the real one.
	Clock clock.PassiveClock
	// Intervals between sweeps.
	Intervals Intervals
	// Backend holds settings of the Backend reconciler.
	Backend BackendOptions
	// SkipNameValidation allows several managers in one process, beside or after each other.
	SkipNameValidation bool
}

// BackendOptions are settings of the Backend reconciler.
type BackendOptions struct {
	// CheckInterval is the time between checks of a ready Backend. Defaults to 30 s.
	CheckInterval time.Duration
	// Linger is how long a deleted Backend's connection stays open. Defaults to 1 min.
	Linger time.Duration
}

// Setup adds all controllers to a manager. What it adds does something only on the leader;
// elsewhere it watches.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	if o.Open == nil {
		o.Open = OpenStore
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	for _, index := range []func(context.Context, client.FieldIndexer) error{indexOpenRuns, indexAttachedRuns, indexPods} {
		if err := index(ctx, mgr.GetFieldIndexer()); err != nil {
			return err
		}
	}

	backends := NewBackends()
	recorder := mgr.GetEventRecorder("openworkflow-manager")
	writer := &runStatusWriter{Client: mgr.GetClient(), live: mgr.GetAPIReader(), events: recorder}
	pods := &podNames{mgr.GetClient()}
	reports := NewReportTracker()
	sweeper := &Sweeper{
		Client:    mgr.GetClient(),
		Live:      mgr.GetAPIReader(),
		Backends:  backends,
		Clock:     o.Clock,
		Log:       mgr.GetLogger().WithName("sync"),
		Cluster:   o.Cluster,
		Intervals: o.Intervals.withDefaults(),
		status:    writer,
		pods:      pods,
		reports:   reports,
	}
	backends.Loops = sweeper.Run
	if o.Backend.Linger > 0 {
		backends.Linger = o.Backend.Linger
	}
	if err := mgr.Add(backends); err != nil {
		return fmt.Errorf("add the registry of Backends: %w", err)
	}

	// Caches and queues of a manager that stands by are filled, so that it takes over at once.
	options := controller.Options{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}
	backend := &BackendReconciler{
		Client: mgr.GetClient(), Secrets: mgr.GetAPIReader(), Backends: backends, Open: o.Open,
		Sweep: sweeper.Sweep, Events: recorder, Clock: o.Clock, CheckInterval: o.Backend.CheckInterval,
	}
	if err := backend.SetupWithManager(mgr, options); err != nil {
		return fmt.Errorf("set up the Backend controller: %w", err)
	}
	pool := &WorkerPoolReconciler{Client: mgr.GetClient(), Backends: backends, Events: recorder, Clock: o.Clock}
	if err := pool.SetupWithManager(mgr, options); err != nil {
		return fmt.Errorf("set up the WorkerPool controller: %w", err)
	}
	run := &WorkflowRunReconciler{
		Client: mgr.GetClient(), Backends: backends, Events: recorder, Clock: o.Clock, Cluster: o.Cluster,
		FirstReport: sweeper.Intervals.FirstReport, status: writer, pods: pods, reports: reports,
	}
	if err := run.SetupWithManager(mgr, controller.TypedOptions[runRequest]{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}); err != nil {
		return fmt.Errorf("set up the WorkflowRun controller: %w", err)
	}
	lease := &LeaseReconciler{Client: mgr.GetClient(), Backends: backends}
	if err := lease.SetupWithManager(mgr, controller.TypedOptions[leaseRequest]{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}); err != nil {
		return fmt.Errorf("set up the lease controller: %w", err)
	}
	return nil
}

// logFor names a controller and its requests in log lines.
func logFor[request comparable](mgr ctrl.Manager, name string, values func(request) []any) func(*request) logr.Logger {
	log := mgr.GetLogger().WithValues("controller", name)
	return func(req *request) logr.Logger {
		if req == nil {
			return log
		}
		return log.WithValues(values(*req)...)
	}
}
