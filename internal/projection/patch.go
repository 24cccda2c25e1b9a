package projection

import (
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// clearable are the members of a status that go away again: a patch names them
// as null when the status has none. What is missing here stays as the object has
// it: startedAt and worker, which a row may no longer know, and
// observedGeneration, which only the manager sets.
var clearable = []string{
	"finishedAt", "duration", "nextAt", "output", "outputTruncated", "error", "message",
}

// Patch returns the merge patch for the status subresource that makes an
// object's status equal to this one. It names the object's uid, so that the API
// server rejects it for a namesake created later, and no resource version: an
// outdated patch is rejected by the transition rules of the resource itself.
func Patch(uid string, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	encoded, err := json.Marshal(status)
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	var members map[string]any
	if err := json.Unmarshal(encoded, &members); err != nil {
		return nil, fmt.Errorf("decode status: %w", err)
	}
	for _, name := range clearable {
		if _, ok := members[name]; !ok {
			members[name] = nil
		}
	}
	// A merge patch descends into objects: clear the members that the new ones lack.
	clearMembers(members["error"], "name", "message", "truncated")
	clearMembers(members["steps"], "newest")
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": uid},
		"status":   members,
	})
	if err != nil {
		return nil, fmt.Errorf("encode status patch: %w", err)
	}
	return patch, nil
}

func clearMembers(object any, names ...string) {
	members, ok := object.(map[string]any)
	if !ok {
		return
	}
	for _, name := range names {
		if _, ok := members[name]; !ok {
			members[name] = nil
		}
	}
}
