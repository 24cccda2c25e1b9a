package projection

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// PatchContentType is the kind of patch that Patch returns, and ContentType that of what
// Replace returns.
const (
	PatchContentType = "application/json-patch+json"
	ContentType      = "application/json"
)

// member is a member of a status. One that goes away again is clearable: a patch
// removes it when the status has none. Otherwise what is missing stays as the object
// has it: startedAt and worker, which a row may no longer know, and observedGeneration,
// which not every writer knows.
type member struct {
	name      string
	value     any
	has       bool
	clearable bool
}

func members(s *v1alpha1.WorkflowRunStatus) []member {
	return []member{
		{"observedGeneration", s.ObservedGeneration, s.ObservedGeneration != 0, false},
		{"revision", s.Revision, s.Revision != nil, false},
		{"state", s.State, s.State != "", false},
		{"runID", s.RunID, s.RunID != "", false},
		{"worker", s.Worker, s.Worker != "", false},
		{"attempts", s.Attempts, s.Attempts != nil, false},
		{"startedAt", s.StartedAt, s.StartedAt != nil, false},
		{"finishedAt", s.FinishedAt, s.FinishedAt != nil, true},
		{"duration", s.Duration, s.Duration != "", true},
		{"nextAt", s.NextAt, s.NextAt != nil, true},
		{"output", s.Output, s.Output != nil, true},
		{"outputTruncated", s.OutputTruncated, s.OutputTruncated != nil, true},
		{"error", s.Error, s.Error != nil, true},
		{"steps", s.Steps, s.Steps != nil, false},
		{"message", s.Message, s.Message != "", true},
		{"conditions", s.Conditions, len(s.Conditions) > 0, false},
	}
}

// Patch returns the patch for the status subresource that makes an object's
// status equal to this one. It tests the object's uid, so that the API server
// refuses it for a namesake created later, and names no resource version: an
// outdated patch is refused by the transition rules of the resource itself
// (see Outdated).
//
// It is a JSON patch because a merge patch can do neither: the API server
// ignores a uid in what is written to a status, and a merge patch drops the
// nulls in an output. That every object has a status to add to is the doing of
// its default.
func Patch(uid string, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	return patch(status, test{"uid", uid})
}

// PatchAt is Patch for a writer that knows the spec of one generation only: the API
// server refuses it as soon as the object has another, so that what the manager has
// observed meanwhile is not overwritten.
func PatchAt(uid string, generation int64, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	status.ObservedGeneration = generation
	tests := []test{{"uid", uid}, {"generation", generation}}
	if !hasAllMembers(&status) {
		return patch(status, tests...)
	}
	// The API server has the less to do.
	return encode(append(operationsOf(tests), operation{"add", "/status", status}))
}

// hasAllMembers reports whether a status has all that it may have, so that it can take the
// place of the one before.
func hasAllMembers(status *v1alpha1.WorkflowRunStatus) bool {
	return status.StartedAt != nil && status.Worker != ""
}

// Replace is PatchAt for a writer that knows the very version of the object that its run
// was created from. It returns what to put in place of the status, which costs the API
// server less than a patch: it refuses that, as a conflict, once the object has another
// version. There is none, and ok is false, for a status that lacks what the object may
// have, and for an object of an unknown version.
func Replace(object *openworkflow.ObjectRef, status v1alpha1.WorkflowRunStatus) (body []byte, ok bool, err error) {
	if object.ResourceVersion == "" || object.Generation == 0 || !hasAllMembers(&status) {
		return nil, false, nil
	}
	status.ObservedGeneration = object.Generation
	body, err = json.Marshal(struct {
		metav1.TypeMeta
		Metadata metadata                   `json:"metadata"`
		Status   v1alpha1.WorkflowRunStatus `json:"status"`
	}{
		metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "WorkflowRun"},
		metadata{object.Namespace, object.Name, object.UID, object.ResourceVersion},
		status,
	})
	if err != nil {
		return nil, false, fmt.Errorf("encode status: %w", err)
	}
	return body, true, nil
}

type metadata struct {
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	UID             string `json:"uid"`
	ResourceVersion string `json:"resourceVersion"`
}

// test is what a member of the object's metadata has to be.
type test struct {
	name  string
	value any
}

func operationsOf(tests []test) []operation {
	var operations []operation
	for _, t := range tests {
		operations = append(operations, operation{"test", "/metadata/" + t.name, t.value})
	}
	return operations
}

func patch(status v1alpha1.WorkflowRunStatus, tests ...test) ([]byte, error) {
	operations := operationsOf(tests)
	for _, m := range members(&status) {
		path := "/status/" + m.name
		switch {
		case m.has:
			operations = append(operations, operation{"add", path, m.value})
		case m.clearable: // to remove what is not there is an error, so put it there first
			operations = append(operations, operation{"add", path, ""}, operation{Op: "remove", Path: path})
		}
	}
	return encode(operations)
}

// operation is one of a JSON patch.
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func encode(operations []operation) ([]byte, error) {
	encoded, err := json.Marshal(operations)
	if err != nil {
		return nil, fmt.Errorf("encode status patch: %w", err)
	}
	return encoded, nil
}

// Outdated reports whether the API server's answer to a patch that it refused as
// invalid is that of a transition rule: the object shows something later.
func Outdated(answer string) bool {
	return strings.Contains(answer, v1alpha1.StatusOutdatedMessage) || strings.Contains(answer, v1alpha1.StatusEndedMessage)
}
