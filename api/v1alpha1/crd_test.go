package v1alpha1_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// "kubectl apply" keeps a copy of what it applies in an annotation, which holds 256 KiB.
func TestCustomResourceDefinitionsFitKubectlApply(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(files) != 5 {
		t.Fatalf("found %v (%v), want the five kinds", files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() >= 256<<10 {
			t.Errorf("%s has %d bytes, want less than 256 KiB", file, info.Size())
		}
	}
}

func TestRefusalsOfAStatusAreTheMessagesOfTheRule(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../config/crd/bases/openworkflow.dev_workflowruns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(raw, &crd); err != nil {
		t.Fatal(err)
	}
	for _, version := range crd.Spec.Versions {
		status := version.Schema.OpenAPIV3Schema.Properties["status"]
		if len(status.XValidations) != 1 {
			t.Fatalf("the status has %d rules, want 1", len(status.XValidations))
		}
		expression := status.XValidations[0].MessageExpression
		want := fmt.Sprintf("? '%s' : '%s'", v1alpha1.StatusOutdatedMessage, v1alpha1.StatusEndedMessage)
		if !strings.HasSuffix(expression, want) {
			t.Errorf("the rule's message is %q, want it to end in %q", expression, want)
		}
	}
}
