package controller

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	policyv1ac "k8s.io/client-go/applyconfigurations/policy/v1"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/workerenv"
)

// Defaults of a WorkerPool's spec, which the API server fills in; they are
// repeated for objects that were stored before a field existed.
const (
	defaultConcurrency  = 10
	defaultLeaseSeconds = 10
	defaultHealthPort   = 8081
	defaultGraceSeconds = 30

	// shutdownSeconds of a pod's grace period are for handing back what its steps
	// in flight have not ended, and for the last status reports.
	shutdownSeconds = 8
)

// poolInput is all that a pool's objects are made from.
type poolInput struct {
	Pool     *v1alpha1.WorkerPool
	Template *corev1ac.PodTemplateSpecApplyConfiguration
	// Secret, Schema, NamespaceID and BackendHash are those of the pool's Backend.
	Secret              v1alpha1.SecretKeyRef
	Schema, NamespaceID string
	BackendHash         string
}

// poolObjects returns what a pool owns, in the order in which it is applied: the
// rights first, then the pods that use them.
func poolObjects(in poolInput) []runtime.ApplyConfiguration {
	account := serviceAccountName(in)
	objects := []runtime.ApplyConfiguration{}
	if account == childName(in.Pool.Name) {
		objects = append(objects, poolServiceAccount(in.Pool))
	}
	return append(objects,
		poolRole(in.Pool),
		poolRoleBinding(in.Pool, account),
		poolDisruptionBudget(in.Pool),
		poolDeployment(in),
	)
}

// objectsHash changes when any of the objects does.
func objectsHash(objects []runtime.ApplyConfiguration) (string, error) {
	encoded, err := json.Marshal(objects)
	if err != nil {
		return "", fmt.Errorf("encode a pool's objects: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16]), nil
}

// poolSelector is what tells a pool's pods from all others.
func poolSelector(pool *v1alpha1.WorkerPool) map[string]string {
	return map[string]string{v1alpha1.LabelWorkerPool: labelValue(pool.Name)}
}

func poolAnnotations(pool *v1alpha1.WorkerPool) map[string]string {
	return map[string]string{v1alpha1.AnnotationPoolName: pool.Name}
}

// poolOwner makes the garbage collector delete an object with its pool. It does
// not ask to delay the pool's own deletion, which would need one more right.
func poolOwner(pool *v1alpha1.WorkerPool) *metav1ac.OwnerReferenceApplyConfiguration {
	return metav1ac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).
		WithKind("WorkerPool").
		WithName(pool.Name).
		WithUID(pool.UID).
		WithController(true)
}

func serviceAccountName(in poolInput) string {
	if in.Template.Spec.ServiceAccountName != nil {
		return *in.Template.Spec.ServiceAccountName
	}
	return childName(in.Pool.Name)
}

func poolServiceAccount(pool *v1alpha1.WorkerPool) *corev1ac.ServiceAccountApplyConfiguration {
	return corev1ac.ServiceAccount(childName(pool.Name), pool.Namespace).
		WithLabels(poolSelector(pool)).
		WithAnnotations(poolAnnotations(pool)).
		WithOwnerReferences(poolOwner(pool))
}

// poolRole is all that a worker may do: report the status of runs.
func poolRole(pool *v1alpha1.WorkerPool) *rbacv1ac.RoleApplyConfiguration {
	return rbacv1ac.Role(childName(pool.Name), pool.Namespace).
		WithLabels(poolSelector(pool)).
		WithAnnotations(poolAnnotations(pool)).
		WithOwnerReferences(poolOwner(pool)).
		WithRules(rbacv1ac.PolicyRule().
			WithAPIGroups(v1alpha1.GroupVersion.Group).
			WithResources("workflowruns/status").
			WithVerbs("patch", "update"))
}

func poolRoleBinding(pool *v1alpha1.WorkerPool, account string) *rbacv1ac.RoleBindingApplyConfiguration {
	return rbacv1ac.RoleBinding(childName(pool.Name), pool.Namespace).
		WithLabels(poolSelector(pool)).
		WithAnnotations(poolAnnotations(pool)).
		WithOwnerReferences(poolOwner(pool)).
		WithRoleRef(rbacv1ac.RoleRef().
			WithAPIGroup("rbac.authorization.k8s.io").
			WithKind("Role").
			WithName(childName(pool.Name))).
		WithSubjects(rbacv1ac.Subject().
			WithKind("ServiceAccount").
			WithName(account).
			WithNamespace(pool.Namespace))
}

// poolDisruptionBudget lets node drains take one pod at a time. Pods that are
// not ready may always go: they hold no leases.
func poolDisruptionBudget(pool *v1alpha1.WorkerPool) *policyv1ac.PodDisruptionBudgetApplyConfiguration {
	return policyv1ac.PodDisruptionBudget(childName(pool.Name), pool.Namespace).
		WithLabels(poolSelector(pool)).
		WithAnnotations(poolAnnotations(pool)).
		WithOwnerReferences(poolOwner(pool)).
		WithSpec(policyv1ac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(poolSelector(pool))))
}

func poolDeployment(in poolInput) *appsv1ac.DeploymentApplyConfiguration {
	pool := in.Pool
	return appsv1ac.Deployment(childName(pool.Name), pool.Namespace).
		WithLabels(poolSelector(pool)).
		WithAnnotations(poolAnnotations(pool)).
		WithOwnerReferences(poolOwner(pool)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithReplicas(ptr.Deref(pool.Spec.Replicas, 1)).
			WithRevisionHistoryLimit(3).
			WithStrategy(appsv1ac.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType)).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(poolSelector(pool))).
			WithTemplate(workerTemplate(in)))
}

// workerTemplate completes the user's template with what a worker needs. What
// the template says itself stays.
func workerTemplate(in poolInput) *corev1ac.PodTemplateSpecApplyConfiguration {
	template := corev1ac.PodTemplateSpec()
	if in.Template.ObjectMetaApplyConfiguration != nil { // a pod has no other metadata of its own
		template.WithLabels(in.Template.Labels).WithAnnotations(in.Template.Annotations)
	}
	template.
		WithLabels(poolSelector(in.Pool)).
		WithLabels(map[string]string{v1alpha1.LabelBackend: labelValue(backendName(in.Pool.Spec.BackendRef))}).
		WithAnnotations(poolAnnotations(in.Pool)).
		WithAnnotations(map[string]string{v1alpha1.AnnotationBackendHash: in.BackendHash})

	spec := copyOf(in.Template.Spec)
	spec.WithServiceAccountName(serviceAccountName(in))
	setDefault(&spec.AutomountServiceAccountToken, true)
	setDefault(&spec.TerminationGracePeriodSeconds, defaultGraceSeconds)
	restrictPod(spec)
	for i := range spec.Containers {
		restrictContainer(&spec.Containers[i])
	}
	for i := range spec.InitContainers {
		restrictContainer(&spec.InitContainers[i])
	}
	worker := &spec.Containers[0]
	addEnv(worker, in, *spec.TerminationGracePeriodSeconds)
	addHealth(worker, ptr.Deref(in.Pool.Spec.HealthPort, defaultHealthPort))
	// The end of a crash's output, so that the pool's status can show it.
	setDefault(&worker.TerminationMessagePolicy, corev1.TerminationMessageFallbackToLogsOnError)
	return template.WithSpec(spec)
}

// addEnv adds the worker's environment, except for what the template sets itself.
// Grace is the pod's, in seconds.
func addEnv(worker *corev1ac.ContainerApplyConfiguration, in poolInput, grace int64) {
	set := map[string]bool{}
	for _, e := range worker.Env {
		set[ptr.Deref(e.Name, "")] = true
	}
	add := func(e *corev1ac.EnvVarApplyConfiguration) {
		if !set[*e.Name] {
			worker.WithEnv(e)
		}
	}
	value := func(name, v string) { add(corev1ac.EnvVar().WithName(name).WithValue(v)) }
	field := func(name, path string) {
		add(corev1ac.EnvVar().WithName(name).WithValueFrom(corev1ac.EnvVarSource().
			WithFieldRef(corev1ac.ObjectFieldSelector().WithFieldPath(path))))
	}

	spec := &in.Pool.Spec
	add(corev1ac.EnvVar().WithName(workerenv.PostgresURL).WithValueFrom(corev1ac.EnvVarSource().
		WithSecretKeyRef(corev1ac.SecretKeySelector().WithName(in.Secret.Name).WithKey(in.Secret.Key))))
	value(workerenv.NamespaceID, in.NamespaceID)
	value(workerenv.Schema, in.Schema)
	value(workerenv.Concurrency, strconv.Itoa(int(ptr.Deref(spec.Concurrency, defaultConcurrency))))
	value(workerenv.LeaseSeconds, strconv.Itoa(int(ptr.Deref(spec.LeaseDurationSeconds, defaultLeaseSeconds))))
	value(workerenv.GraceSeconds, strconv.FormatInt(max(grace-shutdownSeconds, 1), 10))
	value(workerenv.HealthPort, strconv.Itoa(int(ptr.Deref(spec.HealthPort, defaultHealthPort))))
	value(workerenv.Pool, in.Pool.Name)
	field(workerenv.PodName, "metadata.name")
	field(workerenv.PodNamespace, "metadata.namespace")
	field(workerenv.PodUID, "metadata.uid")
}

// addHealth adds probes and the drain before a stop, where the template has none.
// A database that is down makes a worker not ready, never dead: a restart would
// only lose the steps in flight.
func addHealth(worker *corev1ac.ContainerApplyConfiguration, port int32) {
	if port == 0 {
		return
	}
	get := func(path string) *corev1ac.HTTPGetActionApplyConfiguration {
		return corev1ac.HTTPGetAction().WithPath(path).WithPort(intstr.FromInt32(port))
	}
	probe := func(path string, period, timeout, failures int32) *corev1ac.ProbeApplyConfiguration {
		return corev1ac.Probe().WithHTTPGet(get(path)).
			WithPeriodSeconds(period).WithTimeoutSeconds(timeout).WithFailureThreshold(failures)
	}
	if worker.StartupProbe == nil {
		worker.WithStartupProbe(probe("/healthz", 1, 3, 60))
	}
	if worker.ReadinessProbe == nil {
		worker.WithReadinessProbe(probe("/readyz", 5, 3, 2))
	}
	if worker.LivenessProbe == nil {
		worker.WithLivenessProbe(probe("/healthz", 10, 5, 3))
	}
	if worker.Lifecycle == nil || worker.Lifecycle.PreStop == nil {
		lifecycle := corev1ac.Lifecycle()
		if worker.Lifecycle != nil {
			*lifecycle = *worker.Lifecycle
		}
		worker.WithLifecycle(lifecycle.WithPreStop(corev1ac.LifecycleHandler().WithHTTPGet(get("/drain"))))
	}
}

// restrictPod fills in what the restricted Pod Security Standard asks of a pod.
func restrictPod(spec *corev1ac.PodSpecApplyConfiguration) {
	context := corev1ac.PodSecurityContext()
	if spec.SecurityContext != nil {
		*context = *spec.SecurityContext
	}
	if context.RunAsUser == nil || *context.RunAsUser != 0 {
		setDefault(&context.RunAsNonRoot, true)
	}
	if context.SeccompProfile == nil {
		context.WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	}
	spec.WithSecurityContext(context)
}

// restrictContainer does the same for a container. A privileged one is left as
// it is: it contradicts each of these.
func restrictContainer(c *corev1ac.ContainerApplyConfiguration) {
	context := corev1ac.SecurityContext()
	if c.SecurityContext != nil {
		*context = *c.SecurityContext
	}
	if ptr.Deref(context.Privileged, false) {
		return
	}
	setDefault(&context.AllowPrivilegeEscalation, false)
	if context.Capabilities == nil || context.Capabilities.Drop == nil {
		capabilities := corev1ac.Capabilities()
		if context.Capabilities != nil {
			*capabilities = *context.Capabilities
		}
		context.WithCapabilities(capabilities.WithDrop("ALL"))
	}
	c.WithSecurityContext(context)
}

func backendName(ref v1alpha1.BackendReference) string {
	if ref.Name == "" {
		return "default"
	}
	return ref.Name
}

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// copyOf returns a copy that shares nothing that this file changes.
func copyOf(spec *corev1ac.PodSpecApplyConfiguration) *corev1ac.PodSpecApplyConfiguration {
	c := *spec
	c.Containers = append([]corev1ac.ContainerApplyConfiguration(nil), spec.Containers...)
	c.InitContainers = append([]corev1ac.ContainerApplyConfiguration(nil), spec.InitContainers...)
	for i := range c.Containers {
		c.Containers[i].Env = append([]corev1ac.EnvVarApplyConfiguration(nil), c.Containers[i].Env...)
	}
	return &c
}
