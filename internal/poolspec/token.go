package poolspec

import (
	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"
)

const (
	// tokenPath is where the kubelet mounts a token by itself, and where clients look for one.
	tokenPath = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenVolume is the name of the volume with the worker's token.
	tokenVolume = "openworkflow-token"
	// tokenSeconds is how long a token is valid. The kubelet replaces it after four fifths of that.
	tokenSeconds = 3600
)

// addToken mounts the token of the pod's service account into the worker's container, and into no
// other: a proxy or a log shipper has nothing to report. The files are those of the kubelet's own
// mount. A template that sets automountServiceAccountToken, or mounts something there, decides
// for itself.
func addToken(spec *corev1ac.PodSpecApplyConfiguration, worker *corev1ac.ContainerApplyConfiguration) {
	if spec.AutomountServiceAccountToken != nil {
		return
	}
	spec.WithAutomountServiceAccountToken(false)
	for _, m := range worker.VolumeMounts {
		if ptr.Deref(m.MountPath, "") == tokenPath {
			return
		}
	}
	worker.WithVolumeMounts(corev1ac.VolumeMount().WithName(tokenVolume).WithMountPath(tokenPath).WithReadOnly(true))
	for _, v := range spec.Volumes {
		if ptr.Deref(v.Name, "") == tokenVolume {
			return
		}
	}
	spec.WithVolumes(corev1ac.Volume().WithName(tokenVolume).WithProjected(corev1ac.ProjectedVolumeSource().WithSources(
		corev1ac.VolumeProjection().WithServiceAccountToken(corev1ac.ServiceAccountTokenProjection().
			WithPath(corev1.ServiceAccountTokenKey).WithExpirationSeconds(tokenSeconds)),
		corev1ac.VolumeProjection().WithConfigMap(corev1ac.ConfigMapProjection().
			WithName("kube-root-ca.crt").
			WithItems(corev1ac.KeyToPath().WithKey(corev1.ServiceAccountRootCAKey).WithPath(corev1.ServiceAccountRootCAKey))),
		corev1ac.VolumeProjection().WithDownwardAPI(corev1ac.DownwardAPIProjection().
			WithItems(corev1ac.DownwardAPIVolumeFile().
				WithPath(corev1.ServiceAccountNamespaceKey).
				WithFieldRef(corev1ac.ObjectFieldSelector().WithFieldPath("metadata.namespace")))),
	)))
}
