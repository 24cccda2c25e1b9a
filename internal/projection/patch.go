package projection

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// PatchContentType is the kind of patch that Patch returns.
const PatchContentType = "application/json-patch+json"

// clearable are the members of a status that go away again: a patch removes them
// when the status has none. What is missing here stays as the object has
// it: startedAt and worker, which a row may no longer know, and
// observedGeneration, which only the manager sets.
var clearable = []string{
	"finishedAt", "duration", "nextAt", "output", "outputTruncated", "error", "message",
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// Patch returns the patch for the status subresource that makes an object's
// status equal to this one. It tests the object's uid, so that the API server
// refuses it for a namesake created later, and names no resource version: an
// outdated patch is refused by the transition rules of the resource itself.
//
// It is a JSON patch because a merge patch can do neither: the API server
// ignores a uid in what is written to a status, and a merge patch drops the
// nulls in an output. That every object has a status to add to is the doing of
// its default.
func Patch(uid string, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	encoded, err := json.Marshal(status)
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &members); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	operations := []operation{{"test", "/metadata/uid", uid}}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		operations = append(operations, operation{"add", "/status/" + name, members[name]})
	}
	for _, name := range clearable {
		if _, ok := members[name]; !ok { // to remove what is not there is an error, so put it there first
			operations = append(operations, operation{"add", "/status/" + name, ""}, operation{Op: "remove", Path: "/status/" + name})
		}
	}
	patch, err := json.Marshal(operations)
	if err != nil {
		return nil, fmt.Errorf("encode status patch: %w", err)
	}
	return patch, nil
}
