// Package examples_test checks what the examples have in common.
package examples_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// A manifest has the fields that there are, and its pool has the image of its directory.
func TestManifestsFitTheCustomResources(t *testing.T) {
	t.Parallel()
	programs, err := filepath.Glob("*/main.go")
	if err != nil || len(programs) == 0 {
		t.Fatalf("there are no examples: %v", err)
	}
	for _, program := range programs {
		name := filepath.Base(filepath.Dir(program))
		if name == "checkout" {
			continue // its manifests are config/samples
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(filepath.Join(name, name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			kinds := map[string]int{}
			for document := range bytes.SplitSeq(content, []byte("\n---\n")) {
				kinds[check(t, document, name)]++
			}
			if kinds["WorkerPool"] != 1 || kinds["WorkflowRun"] != 1 {
				t.Errorf("it has %v, want a WorkerPool and a WorkflowRun", kinds)
			}
		})
	}
}

// check decodes a document strictly, and returns its kind.
func check(t *testing.T, document []byte, name string) string {
	t.Helper()
	var kind struct {
		Kind string `json:"kind"`
	}
	if err := yaml.Unmarshal(document, &kind); err != nil {
		t.Fatal(err)
	}
	switch kind.Kind {
	case "WorkflowRun":
		var run struct { // the kind itself reads what it can of anything
			metav1.TypeMeta
			Metadata metav1.ObjectMeta        `json:"metadata"`
			Spec     v1alpha1.WorkflowRunSpec `json:"spec"`
		}
		if err := yaml.UnmarshalStrict(document, &run); err != nil {
			t.Error(err)
		}
	case "WorkerPool":
		var pool struct {
			metav1.TypeMeta
			Metadata metav1.ObjectMeta       `json:"metadata"`
			Spec     v1alpha1.WorkerPoolSpec `json:"spec"`
		}
		if err := yaml.UnmarshalStrict(document, &pool); err != nil {
			t.Error(err)
		}
		if image := "ghcr.io/openworkflow-operator/" + name + ":latest"; !bytes.Contains(document, []byte("image: "+image+"\n")) {
			t.Errorf("the image of pool %s is not %s", pool.Metadata.Name, image)
		}
	default:
		t.Errorf("the kind %q is unknown", kind.Kind)
	}
	return kind.Kind
}
