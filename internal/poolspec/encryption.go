package poolspec

import (
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/workerenv"
)

const (
	// caPath is the directory with the CA of the database in the worker's container.
	caPath = "/var/run/secrets/openworkflow.dev/postgres"
	// caVolume is the name of its volume.
	caVolume = "openworkflow-postgres-ca"
	// caFile is the name of the file there.
	caFile = "ca.crt"
)

// addCA mounts the CA of the database into the worker's container.
func addCA(spec *corev1ac.PodSpecApplyConfiguration, worker *corev1ac.ContainerApplyConfiguration, ca v1alpha1.CASecretKeyRef) {
	if ca.Name == "" {
		return
	}
	for _, m := range worker.VolumeMounts {
		if ptr.Deref(m.MountPath, "") == caPath {
			return
		}
	}
	worker.WithVolumeMounts(corev1ac.VolumeMount().WithName(caVolume).WithMountPath(caPath).WithReadOnly(true))
	spec.WithVolumes(corev1ac.Volume().WithName(caVolume).WithSecret(corev1ac.SecretVolumeSource().
		WithSecretName(ca.Name).
		WithItems(corev1ac.KeyToPath().WithKey(ca.Key).WithPath(caFile))))
}

// encryptionEnv returns the variables by which the clients of both languages learn what a URL does
// not say. The manager has checked that the URL says nothing else. postgres.js would take
// "disable" for a wish to encrypt; without a variable it does not.
func encryptionEnv(mode string, ca v1alpha1.CASecretKeyRef) []*corev1ac.EnvVarApplyConfiguration {
	if mode == "" && ca.Name != "" {
		mode = "verify-full"
	}
	var env []*corev1ac.EnvVarApplyConfiguration
	value := func(name, v string) { env = append(env, corev1ac.EnvVar().WithName(name).WithValue(v)) }
	if mode != "" {
		value(workerenv.SSLMode, mode)
	}
	if mode != "" && mode != "disable" {
		value(workerenv.PostgresJSMode, mode)
	}
	if ca.Name != "" {
		value(workerenv.SSLRootCert, caPath+"/"+caFile)
		value(workerenv.NodeCA, caPath+"/"+caFile)
	}
	return env
}
