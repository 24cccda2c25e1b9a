package poolspec

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

// Defaults of a WorkerPool's spec. The API server fills them in; they are repeated
// here for objects that were stored before a field existed.
const (
	defaultConcurrency  = 10
	defaultLeaseSeconds = 10
	defaultHealthPort   = 8081
	// DefaultMaxWorkerDeaths is exported for the manager, which releases the leases of dead workers.
	DefaultMaxWorkerDeaths = 5
	defaultGraceSeconds    = 30

	// shutdownSeconds is the part of a pod's grace period in which the worker releases
	// the runs whose steps did not end in time, and sends its last reports.
	shutdownSeconds = 8

	// defaultContainer is the annotation by which kubectl chooses a container of a pod.
	defaultContainer = "kubectl.kubernetes.io/default-container"
)

// Input is all that a pool's objects are made from.
type Input struct {
	Pool *v1alpha1.WorkerPool
	// Template is the pool's pod template, from DecodeTemplate. It is not changed.
	Template *corev1ac.PodTemplateSpecApplyConfiguration
	// Backend is the name of the pool's Backend. Secret, Schema and NamespaceID say
	// where its database is.
	Backend             string
	Secret              v1alpha1.SecretKeyRef
	Schema, NamespaceID string
	// SSLMode and CA say how connections to it are protected.
	SSLMode string
	CA      v1alpha1.CASecretKeyRef
	// BackendHash changes when workers must restart to read their Backend anew.
	BackendHash string
}

// Objects returns the objects that a pool owns, in the order in which they are
// applied: the rights first, then the pods that use them.
func Objects(in Input) []runtime.ApplyConfiguration {
	account := serviceAccountName(in)
	objects := []runtime.ApplyConfiguration{}
	if account == ObjectName(in.Pool.Name) {
		objects = append(objects, serviceAccount(in.Pool))
	}
	return append(objects,
		role(in),
		roleBinding(in.Pool, account),
		disruptionBudget(in.Pool),
		deployment(in),
	)
}

// Hash returns a text that changes when any of the objects does.
func Hash(objects []runtime.ApplyConfiguration) (string, error) {
	encoded, err := json.Marshal(objects)
	if err != nil {
		return "", fmt.Errorf("encode a pool's objects: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16]), nil
}

// Selector returns the labels by which a pool's pods are selected.
func Selector(pool *v1alpha1.WorkerPool) map[string]string {
	return map[string]string{v1alpha1.LabelWorkerPool: LabelValue(pool.Name)}
}

func annotations(pool *v1alpha1.WorkerPool) map[string]string {
	return map[string]string{v1alpha1.AnnotationPoolName: pool.Name}
}

// owner makes the garbage collector delete an object with its pool. It does not set
// blockOwnerDeletion, which would need one more right.
func owner(pool *v1alpha1.WorkerPool) *metav1ac.OwnerReferenceApplyConfiguration {
	return metav1ac.OwnerReference().
		WithAPIVersion(v1alpha1.GroupVersion.String()).
		WithKind("WorkerPool").
		WithName(pool.Name).
		WithUID(pool.UID).
		WithController(true)
}

func serviceAccountName(in Input) string {
	if in.Template.Spec.ServiceAccountName != nil {
		return *in.Template.Spec.ServiceAccountName
	}
	return ObjectName(in.Pool.Name)
}

func serviceAccount(pool *v1alpha1.WorkerPool) *corev1ac.ServiceAccountApplyConfiguration {
	return corev1ac.ServiceAccount(ObjectName(pool.Name), pool.Namespace).
		WithLabels(Selector(pool)).
		WithAnnotations(annotations(pool)).
		WithOwnerReferences(owner(pool))
}

// role allows a worker to write the status of runs, and nothing else. With the policies of
// config/policy, the right to report to a Backend limits that to the runs of this Backend.
func role(in Input) *rbacv1ac.RoleApplyConfiguration {
	pool := in.Pool
	return rbacv1ac.Role(ObjectName(pool.Name), pool.Namespace).
		WithLabels(Selector(pool)).
		WithAnnotations(annotations(pool)).
		WithOwnerReferences(owner(pool)).
		WithRules(rbacv1ac.PolicyRule().
			WithAPIGroups(v1alpha1.GroupVersion.Group).
			WithResources("workflowruns/status").
			WithVerbs("patch", "update")).
		WithRules(rbacv1ac.PolicyRule().
			WithAPIGroups(v1alpha1.GroupVersion.Group).
			WithResources("backends").
			WithResourceNames(in.Backend).
			WithVerbs("report"))
}

func roleBinding(pool *v1alpha1.WorkerPool, account string) *rbacv1ac.RoleBindingApplyConfiguration {
	return rbacv1ac.RoleBinding(ObjectName(pool.Name), pool.Namespace).
		WithLabels(Selector(pool)).
		WithAnnotations(annotations(pool)).
		WithOwnerReferences(owner(pool)).
		WithRoleRef(rbacv1ac.RoleRef().
			WithAPIGroup("rbac.authorization.k8s.io").
			WithKind("Role").
			WithName(ObjectName(pool.Name))).
		WithSubjects(rbacv1ac.Subject().
			WithKind("ServiceAccount").
			WithName(account).
			WithNamespace(pool.Namespace))
}

// disruptionBudget lets a node drain evict one pod at a time. Pods that are not ready
// may always be evicted: they hold no leases.
func disruptionBudget(pool *v1alpha1.WorkerPool) *policyv1ac.PodDisruptionBudgetApplyConfiguration {
	return policyv1ac.PodDisruptionBudget(ObjectName(pool.Name), pool.Namespace).
		WithLabels(Selector(pool)).
		WithAnnotations(annotations(pool)).
		WithOwnerReferences(owner(pool)).
		WithSpec(policyv1ac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithUnhealthyPodEvictionPolicy(policyv1.AlwaysAllow).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(pool))))
}

func deployment(in Input) *appsv1ac.DeploymentApplyConfiguration {
	pool := in.Pool
	return appsv1ac.Deployment(ObjectName(pool.Name), pool.Namespace).
		WithLabels(Selector(pool)).
		WithAnnotations(annotations(pool)).
		WithOwnerReferences(owner(pool)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithReplicas(ptr.Deref(pool.Spec.Replicas, 1)).
			WithRevisionHistoryLimit(3).
			WithStrategy(appsv1ac.DeploymentStrategy().WithType(appsv1.RollingUpdateDeploymentStrategyType)).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(Selector(pool))).
			WithTemplate(workerTemplate(in)))
}

// workerTemplate adds to the user's template what a worker needs. It overrides nothing
// that the template sets, except the labels and annotations that are the manager's.
func workerTemplate(in Input) *corev1ac.PodTemplateSpecApplyConfiguration {
	template := corev1ac.PodTemplateSpec()
	if in.Template.ObjectMetaApplyConfiguration != nil { // a pod has no other metadata of its own
		template.WithLabels(in.Template.Labels).WithAnnotations(in.Template.Annotations)
	}
	template.
		WithLabels(Selector(in.Pool)).
		WithLabels(map[string]string{v1alpha1.LabelBackend: LabelValue(in.Backend)}).
		WithAnnotations(annotations(in.Pool)).
		WithAnnotations(map[string]string{v1alpha1.AnnotationBackendHash: in.BackendHash})

	spec := copyOf(in.Template.Spec)
	worker := workerContainer(spec)
	template.WithAnnotations(map[string]string{v1alpha1.AnnotationWorkerContainer: *worker.Name})
	if _, ok := template.Annotations[defaultContainer]; !ok {
		template.WithAnnotations(map[string]string{defaultContainer: *worker.Name})
	}
	spec.WithServiceAccountName(serviceAccountName(in))
	addToken(spec, worker)
	addCA(spec, worker, in.CA)
	setDefault(&spec.TerminationGracePeriodSeconds, defaultGraceSeconds)
	nonRootAdded := restrictPod(spec)
	for i := range spec.Containers {
		restrictContainer(&spec.Containers[i], nonRootAdded)
	}
	for i := range spec.InitContainers {
		restrictContainer(&spec.InitContainers[i], nonRootAdded)
	}
	addEnv(worker, in, *spec.TerminationGracePeriodSeconds)
	addHealth(worker, ptr.Deref(in.Pool.Spec.HealthPort, defaultHealthPort))
	// The kubelet keeps the end of a crash's log, which the pool's status shows.
	setDefault(&worker.TerminationMessagePolicy, corev1.TerminationMessageFallbackToLogsOnError)
	return template.WithSpec(spec)
}

// addEnv adds the worker's environment, except for variables that the template sets.
// Grace is the pod's grace period in seconds.
func addEnv(worker *corev1ac.ContainerApplyConfiguration, in Input, grace int64) {
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
	for _, e := range encryptionEnv(in.SSLMode, in.CA) {
		add(e)
	}
	value(workerenv.NamespaceID, in.NamespaceID)
	value(workerenv.Schema, in.Schema)
	value(workerenv.Concurrency, strconv.Itoa(int(ptr.Deref(spec.Concurrency, defaultConcurrency))))
	value(workerenv.LeaseSeconds, strconv.Itoa(int(ptr.Deref(spec.LeaseDurationSeconds, defaultLeaseSeconds))))
	value(workerenv.MaxWorkerDeaths, strconv.Itoa(int(ptr.Deref(spec.MaxWorkerDeaths, DefaultMaxWorkerDeaths))))
	value(workerenv.GraceSeconds, strconv.FormatInt(max(grace-shutdownSeconds, 1), 10))
	value(workerenv.HealthPort, strconv.Itoa(int(ptr.Deref(spec.HealthPort, defaultHealthPort))))
	value(workerenv.Pool, in.Pool.Name)
	value(workerenv.Backend, in.Backend)
	field(workerenv.PodName, "metadata.name")
	field(workerenv.PodNamespace, "metadata.namespace")
	field(workerenv.PodUID, "metadata.uid")
}

// addHealth adds the probes that the template does not set. A database that is down makes a
// worker unready but never fails its liveness probe: a restart would only lose the steps in
// flight. There is no preStop hook: SIGTERM makes a worker drain.
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
}

// restrictPod sets the fields that the restricted Pod Security Standard requires of a
// pod, unless the template sets them. It sets no user: the image has one, and OpenShift
// assigns one and refuses any other. It reports whether it has set runAsNonRoot.
func restrictPod(spec *corev1ac.PodSpecApplyConfiguration) (nonRootAdded bool) {
	context := corev1ac.PodSecurityContext()
	if spec.SecurityContext != nil {
		*context = *spec.SecurityContext
	}
	if context.RunAsNonRoot == nil && (context.RunAsUser == nil || *context.RunAsUser != 0) {
		context.WithRunAsNonRoot(true)
		nonRootAdded = true
	}
	if context.SeccompProfile == nil {
		context.WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
	}
	spec.WithSecurityContext(context)
	return nonRootAdded
}

// restrictContainer does the same for a container. It leaves a privileged container
// alone: that contradicts each of these fields. A runAsNonRoot that was added to the pod
// does not hold for a container that the template runs as root.
func restrictContainer(c *corev1ac.ContainerApplyConfiguration, nonRootAdded bool) {
	context := corev1ac.SecurityContext()
	if c.SecurityContext != nil {
		*context = *c.SecurityContext
	}
	privileged := ptr.Deref(context.Privileged, false)
	if nonRootAdded && (privileged || ptr.Deref(context.RunAsUser, -1) == 0) {
		setDefault(&context.RunAsNonRoot, false)
		c.WithSecurityContext(context)
	}
	if privileged {
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

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// copyOf returns a copy of a pod spec. It is deep only where this file writes.
func copyOf(spec *corev1ac.PodSpecApplyConfiguration) *corev1ac.PodSpecApplyConfiguration {
	c := *spec
	c.Containers = append([]corev1ac.ContainerApplyConfiguration(nil), spec.Containers...)
	c.InitContainers = append([]corev1ac.ContainerApplyConfiguration(nil), spec.InitContainers...)
	c.Volumes = append([]corev1ac.VolumeApplyConfiguration(nil), spec.Volumes...)
	for i := range c.Containers {
		c.Containers[i].Env = append([]corev1ac.EnvVarApplyConfiguration(nil), c.Containers[i].Env...)
		c.Containers[i].VolumeMounts = append([]corev1ac.VolumeMountApplyConfiguration(nil), c.Containers[i].VolumeMounts...)
	}
	return &c
}
