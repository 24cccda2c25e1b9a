package controller

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
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

// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get

// ClusterID returns the uid of the kube-system namespace, which identifies the cluster in
// the context of runs.
func ClusterID(ctx context.Context, reader client.Reader) (string, error) {
	var namespace corev1.Namespace
	if err := reader.Get(ctx, types.NamespacedName{Name: "kube-system"}, &namespace); err != nil {
		return "", fmt.Errorf("identify the cluster by its kube-system namespace: %w", err)
	}
	return string(namespace.UID), nil
}

// Options are the settings of the manager's controllers. All but Cluster may be zero.
type Options struct {
	// Cluster identifies the cluster; see ClusterID.
	Cluster string
	// Open opens databases. Defaults to backend.OpenStore.
	Open backend.OpenFunc
	// Clock defaults to the system's.
	Clock clock.PassiveClock
	// AttachAcrossNamespaces allows an idempotency key to find the run of an object in another
	// namespace, where namespaces share the tables.
	AttachAcrossNamespaces bool
	// Intervals are the times between sweeps.
	Intervals Intervals
	// Backend has the settings of the Backend reconciler.
	Backend BackendOptions
	// SkipNameValidation allows several managers in one process, at the same time or one
	// after the other.
	SkipNameValidation bool
}

// BackendOptions are settings of the Backend reconciler.
type BackendOptions struct {
	// CheckInterval is the time between checks of a ready Backend. Defaults to 30 s.
	CheckInterval time.Duration
	// Linger is how long a deleted Backend's connection stays open. Defaults to 1 min.
	Linger time.Duration
}

// Setup adds all controllers to a manager. They act only on the leader; a manager that
// stands by only fills its caches and queues. Setup removes the process's PG* environment
// variables, which would stand for what a Backend's URL does not say.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	store.DropEnvironment()
	if o.Open == nil {
		o.Open = backend.OpenStore
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	for _, index := range []func(context.Context, client.FieldIndexer) error{indexOpenRuns, indexAttachedRuns, indexOwnedRuns, indexForks, indexPods} {
		if err := index(ctx, mgr.GetFieldIndexer()); err != nil {
			return err
		}
	}

	backends := backend.NewRegistry()
	recorder := boundedEvents{&limitedEvents{EventRecorder: mgr.GetEventRecorder("openworkflow-manager")}}
	writer := &runStatusWriter{Client: mgr.GetClient(), live: mgr.GetAPIReader(), events: recorder}
	pods := &podNames{mgr.GetClient()}
	reports := NewReportTracker()
	suspected := newSuspects(mgr.GetClient(), recorder)
	dead := newDeaths(suspected)
	ends := newEndQueue()
	kept := newKeptSignals()
	outcomes := newOutcomeLog(mgr.GetCache())
	inputs := &inputLoader{live: mgr.GetAPIReader()}
	orphans := &orphanSweep{cache: mgr.GetClient(), live: mgr.GetAPIReader(), cluster: o.Cluster, deaths: dead}
	sweeper := &Sweeper{
		Client:                 mgr.GetClient(),
		Backends:               backends,
		Clock:                  o.Clock,
		Log:                    mgr.GetLogger().WithName("sweep"),
		Intervals:              o.Intervals.withDefaults(),
		orphans:                orphans,
		status:                 writer,
		pods:                   pods,
		reports:                reports,
		ends:                   ends,
		events:                 recorder,
		kept:                   kept,
		outcomes:               outcomes,
		attachAcrossNamespaces: o.AttachAcrossNamespaces,
	}
	backends.Loops = sweeper.Run
	backends.Log = mgr.GetLogger().WithName("backend")
	if o.Backend.Linger > 0 {
		backends.Linger = o.Backend.Linger
	}
	if err := mgr.Add(backends); err != nil {
		return fmt.Errorf("add the registry of Backends: %w", err)
	}

	// EnableWarmup fills the caches and queues of a manager that stands by, so that it takes
	// over without listing all objects first.
	options := controller.Options{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}
	checker := &BackendReconciler{
		Client: mgr.GetClient(), Secrets: mgr.GetAPIReader(), Backends: backends, Open: o.Open,
		Sweep: orphans.run, Events: recorder, Clock: o.Clock, CheckInterval: o.Backend.CheckInterval,
	}
	if err := checker.SetupWithManager(mgr, options); err != nil {
		return fmt.Errorf("set up the Backend controller: %w", err)
	}
	pool := &WorkerPoolReconciler{Client: mgr.GetClient(), Backends: backends, Events: recorder, Clock: o.Clock, suspects: suspected}
	if err := pool.SetupWithManager(mgr, options); err != nil {
		return fmt.Errorf("set up the WorkerPool controller: %w", err)
	}
	run := &WorkflowRunReconciler{
		Client: mgr.GetClient(), Backends: backends, Events: recorder, Clock: o.Clock, Cluster: o.Cluster,
		AttachAcrossNamespaces: o.AttachAcrossNamespaces,
		FirstReport:            sweeper.Intervals.FirstReport, status: writer, pods: pods, reports: reports, ends: ends,
		inputs: inputs,
	}
	if err := run.SetupWithManager(mgr, controller.TypedOptions[runRequest]{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}); err != nil {
		return fmt.Errorf("set up the WorkflowRun controller: %w", err)
	}
	schedules := &WorkflowScheduleReconciler{
		Client: mgr.GetClient(), Backends: backends, Events: recorder, Clock: o.Clock, Cluster: o.Cluster,
		Check: sweeper.Intervals.Schedule, live: mgr.GetAPIReader(), outcomes: outcomes,
	}
	if err := schedules.SetupWithManager(mgr, options); err != nil {
		return fmt.Errorf("set up the WorkflowSchedule controller: %w", err)
	}
	if err := mgr.Add(outcomes); err != nil {
		return fmt.Errorf("follow the outcomes of WorkflowSchedules: %w", err)
	}
	signals := &WorkflowSignalReconciler{
		Client: mgr.GetClient(), Backends: backends, Events: recorder, Clock: o.Clock, Cluster: o.Cluster, kept: kept, inputs: inputs,
	}
	if err := signals.SetupWithManager(mgr, controller.TypedOptions[signalRequest]{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}); err != nil {
		return fmt.Errorf("set up the WorkflowSignal controller: %w", err)
	}
	lease := &LeaseReconciler{Client: mgr.GetClient(), Backends: backends, deaths: dead}
	if err := lease.SetupWithManager(mgr, controller.TypedOptions[leaseRequest]{SkipNameValidation: &o.SkipNameValidation, EnableWarmup: new(true)}); err != nil {
		return fmt.Errorf("set up the lease controller: %w", err)
	}
	return nil
}
