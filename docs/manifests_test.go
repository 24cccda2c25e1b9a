package docs_test

import (
	"os"
	"regexp"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

// OpenShift assigns a user to each namespace and refuses pods that name another. Elsewhere the
// image must name one by its number, or the kubelet cannot tell that it is not root.
func TestManifests_LeaveTheUserToTheImage(t *testing.T) {
	t.Parallel()
	manifest, err := os.ReadFile("../config/manager/manager.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var manager appsv1.Deployment
	if err := yaml.UnmarshalStrict(manifest, &manager); err != nil {
		t.Fatal(err)
	}
	pod := manager.Spec.Template.Spec
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser != nil || s.RunAsGroup != nil || s.FSGroup != nil {
		t.Errorf("the manager's pod has the security context %+v", s)
	}
	for _, c := range pod.Containers {
		if s := c.SecurityContext; s == nil || s.RunAsUser != nil || s.RunAsGroup != nil {
			t.Errorf("container %s has the security context %+v", c.Name, s)
		}
	}
	for _, file := range []string{"../Dockerfile", "../examples/typescript/Dockerfile"} {
		image, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^USER [1-9][0-9]*(:[0-9]+)?$`).Match(image) {
			t.Errorf("%s names no user by a number", file)
		}
	}
}
