package dataapi

import (
	"encoding/json"
	"regexp"
	"testing"
)

// The published schema says which kind each type is, and its references lead somewhere: kubectl explain
// follows them, and without them the server logs an error for each create.
func TestServer_PublishesTheSchemaOfEachKind(t *testing.T) {
	w := setup(t)
	body, err := w.user().Get().AbsPath("/openapi/v3/apis/data.openworkflow.dev/v1alpha1").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Kinds []struct{ Group, Kind string } `json:"x-kubernetes-group-version-kind"`
			}
		}
	}
	if err := json.Unmarshal(body, &document); err != nil {
		t.Fatal(err)
	}
	references := regexp.MustCompile(`"\$ref":"#/components/schemas/([^"]+)"`).FindAllSubmatch(body, -1)
	if len(references) == 0 {
		t.Error("the schema has no references")
	}
	for _, reference := range references {
		if _, ok := document.Components.Schemas[string(reference[1])]; !ok {
			t.Errorf("there is no schema %s", reference[1])
		}
	}
	found := map[string]bool{}
	for _, schema := range document.Components.Schemas {
		for _, kind := range schema.Kinds {
			found[kind.Kind] = found[kind.Kind] || kind.Group == "data.openworkflow.dev"
		}
	}
	for _, kind := range []string{"Run", "RunList", "RunFork", "RunSuspend", "RunCancel", "RunSignal", "RunHistory", "Workflow", "Diagnosis", "BulkRetry"} {
		if !found[kind] {
			t.Errorf("no schema is of the kind %s", kind)
		}
	}
}
