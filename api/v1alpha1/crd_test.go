package v1alpha1_test

import (
	"os"
	"path/filepath"
	"testing"
)

// "kubectl apply" keeps a copy of what it applies in an annotation, which holds 256 KiB.
func TestCustomResourceDefinitionsFitKubectlApply(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../config/crd/bases/*.yaml")
	if err != nil || len(files) != 3 {
		t.Fatalf("found %v (%v), want the three kinds", files, err)
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
