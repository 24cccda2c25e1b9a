package poolspec

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/workerenv"
)

const (
	// dryRunSeconds is how long a dry run may take, the pulling of its image included, and
	// dryRunTTLSeconds how long its Job is kept if whoever started it does not remove it.
	dryRunSeconds, dryRunTTLSeconds = 300, 300
	// noRuns is a namespace of the tables that has no runs.
	noRuns = "openworkflow.dev/dry-run"
	// LabelDryRun is the label of the Jobs and pods of dry runs.
	LabelDryRun = "openworkflow.dev/dry-run"
)

// DryRunJob returns a Job whose pod says what a fork of a run would do with the workflows of the
// pool's image, and how it says that: in the termination message of the container that
// WorkerContainer names. The request is that of package dryrun.
//
// The pod is made of the pool's template, with four differences. It has no token, as a dry run
// reports nothing. It is none of the pool's pods: no selector of the pool finds it, and the manager
// does not see it. Its worker has no probes and no hooks, and is not started again. And if the
// worker knows no dry runs, as OpenWorkflow's own does not, it finds no run to execute.
func DryRunJob(in Input, request string) (*batchv1.Job, error) {
	pod := workerTemplate(in)
	spec := pod.Spec
	removeToken(spec)
	worker := workerContainer(spec)
	worker.StartupProbe, worker.ReadinessProbe, worker.LivenessProbe, worker.Lifecycle = nil, nil, nil, nil
	worker.Env = dryRunEnv(worker.Env, request)
	worker.WithTerminationMessagePath(corev1.TerminationMessagePathDefault).
		WithTerminationMessagePolicy(corev1.TerminationMessageReadFile)
	spec.WithRestartPolicy(corev1.RestartPolicyNever)
	for key := range Selector(in.Pool) {
		delete(pod.Labels, key)
	}
	delete(pod.Labels, v1alpha1.LabelBackend)
	delete(pod.Annotations, v1alpha1.AnnotationBackendHash)
	pod.WithLabels(map[string]string{LabelDryRun: "true"})

	job := &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: ObjectName(in.Pool.Name) + "-dry-", Namespace: in.Pool.Namespace,
			Labels: map[string]string{LabelDryRun: "true"}, Annotations: annotations(in.Pool),
		},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32), ActiveDeadlineSeconds: new(int64(dryRunSeconds)), TTLSecondsAfterFinished: new(int32(dryRunTTLSeconds)),
		},
	}
	encoded, err := json.Marshal(pod)
	if err == nil {
		err = json.Unmarshal(encoded, &job.Spec.Template)
	}
	if err != nil {
		return nil, fmt.Errorf("make the pod of a dry run: %w", err)
	}
	return job, nil
}

// dryRunEnv returns the worker's environment for a dry run.
func dryRunEnv(env []corev1ac.EnvVarApplyConfiguration, request string) []corev1ac.EnvVarApplyConfiguration {
	var changed []corev1ac.EnvVarApplyConfiguration
	for _, e := range env {
		switch ptr.Deref(e.Name, "") {
		case workerenv.DryRun, workerenv.DryRunResult, workerenv.DryRunNamespaceID:
			continue
		case workerenv.NamespaceID:
			e.WithName(workerenv.DryRunNamespaceID)
		}
		changed = append(changed, e)
	}
	for _, e := range []struct{ name, value string }{
		{workerenv.NamespaceID, noRuns},
		{workerenv.DryRun, escapeVariables(request)},
		{workerenv.DryRunResult, corev1.TerminationMessagePathDefault},
	} {
		changed = append(changed, *corev1ac.EnvVar().WithName(e.name).WithValue(e.value))
	}
	return changed
}

// DryRunInput returns the Input of DryRunJob for a pool and its Backend.
func DryRunInput(pool *v1alpha1.WorkerPool, backend *v1alpha1.Backend) (Input, error) {
	template, err := DecodeTemplate(pool.Spec.Template.Raw)
	if err != nil {
		return Input{}, err
	}
	postgres := &backend.Spec.Postgres
	return Input{
		Pool: pool, Template: template, Backend: backend.Name, Secret: postgres.WorkerSecret(),
		Schema:      cmp.Or(backend.Spec.Schema, defaultSchema),
		NamespaceID: cmp.Or(backend.Spec.NamespaceID, backend.Namespace),
		SSLMode:     postgres.SSLMode, CA: postgres.CASecretRef,
	}, nil
}

// defaultSchema is that of a Backend without one.
const defaultSchema = "openworkflow"

// removeToken undoes addToken, and turns the kubelet's own mount off, whatever the template says.
func removeToken(spec *corev1ac.PodSpecApplyConfiguration) {
	spec.WithAutomountServiceAccountToken(false)
	volumes := spec.Volumes[:0:0]
	for _, v := range spec.Volumes {
		if ptr.Deref(v.Name, "") != tokenVolume {
			volumes = append(volumes, v)
		}
	}
	spec.Volumes = volumes
	for i := range spec.Containers {
		mounts := spec.Containers[i].VolumeMounts[:0:0]
		for _, m := range spec.Containers[i].VolumeMounts {
			if ptr.Deref(m.Name, "") != tokenVolume {
				mounts = append(mounts, m)
			}
		}
		spec.Containers[i].VolumeMounts = mounts
	}
}

// escapeVariables keeps the kubelet from replacing what looks like a reference to a variable.
func escapeVariables(value string) string { return strings.ReplaceAll(value, "$", "$$") }
