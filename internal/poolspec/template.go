package poolspec

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	sigsjson "sigs.k8s.io/json"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// workerName is the name by which a container is the worker wherever it stands.
const workerName = "worker"

// workerContainer returns the worker among the containers of a template: the one that is
// named so, or else the first. A pod has one worker. Init containers, sidecars among them,
// never are.
func workerContainer(spec *corev1ac.PodSpecApplyConfiguration) *corev1ac.ContainerApplyConfiguration {
	for i := range spec.Containers {
		if *spec.Containers[i].Name == workerName {
			return &spec.Containers[i]
		}
	}
	return &spec.Containers[0]
}

// WorkerContainer returns the name of the container that is the worker of a pod. A pod says
// so in an annotation, since webhooks may have added containers to it. Without the
// annotation the rule for templates holds.
func WorkerContainer(pod *corev1.Pod) string {
	if name := pod.Annotations[v1alpha1.AnnotationWorkerContainer]; name != "" {
		return name
	}
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == workerName {
			return workerName
		}
	}
	if len(pod.Spec.Containers) == 0 {
		return ""
	}
	return pod.Spec.Containers[0].Name
}

// DecodeTemplate decodes a pool's pod template twice: strictly into the API type, so
// that a misspelt field is an error, and into the apply configuration, which tells an
// absent field from a zero one. Its errors are for the user and say how to fix the
// template.
func DecodeTemplate(raw []byte) (*corev1ac.PodTemplateSpecApplyConfiguration, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, errors.New("spec.template is required: give at least spec.template.spec.containers with a name and an image")
	}
	var typed corev1.PodTemplateSpec
	strict, err := sigsjson.UnmarshalStrict(raw, &typed)
	if err != nil {
		return nil, fmt.Errorf("spec.template is not a pod template: %w", err)
	}
	if len(strict) > 0 {
		texts := make([]string, len(strict))
		for i, e := range strict {
			texts[i] = strings.Replace(e.Error(), `field "`, `field "spec.template.`, 1)
		}
		return nil, fmt.Errorf("%s: correct or remove it", strings.Join(texts, "; "))
	}
	if err := checkPodSpec(&typed.Spec); err != nil {
		return nil, err
	}
	var template corev1ac.PodTemplateSpecApplyConfiguration
	if err := json.Unmarshal(raw, &template); err != nil {
		return nil, fmt.Errorf("spec.template is not a pod template: %w", err)
	}
	return &template, nil
}

// checkPodSpec rejects what cannot become a worker pod, and what the API server would
// reject with a message about the Deployment. The API server checks the rest.
func checkPodSpec(spec *corev1.PodSpec) error {
	if spec.RestartPolicy != "" && spec.RestartPolicy != corev1.RestartPolicyAlways {
		return fmt.Errorf("spec.template.spec.restartPolicy is %q, but workers run until they are stopped: remove it, or set it to Always", spec.RestartPolicy)
	}
	if len(spec.Containers) == 0 {
		return errors.New("spec.template.spec.containers is empty: give at least one container with a name and an image; the one named worker, or else the first, is the worker")
	}
	names := map[string]bool{}
	for i, c := range spec.Containers {
		at := fmt.Sprintf("spec.template.spec.containers[%d]", i)
		switch {
		case c.Name == "":
			return fmt.Errorf("%s.name is required", at)
		case c.Image == "":
			return fmt.Errorf("%s.image is required: name the image of container %q", at, c.Name)
		case names[c.Name]:
			return fmt.Errorf("%s.name: %q is used twice", at, c.Name)
		}
		names[c.Name] = true
		set := map[string]bool{}
		for _, e := range c.Env {
			if set[e.Name] {
				return fmt.Errorf("%s.env sets %q twice: remove one", at, e.Name)
			}
			set[e.Name] = true
		}
	}
	return nil
}
