package projection

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// PatchContentType is the media type of what Patch and PatchAt return, ContentType that of
// what Replace returns.
const (
	PatchContentType = "application/json-patch+json"
	ContentType      = "application/json"
)

// member is a member of a status. A clearable one may disappear again: a patch removes it if
// the status has none. Others stay as the object has them if the status has none: startedAt
// and worker, which a row may no longer know, observedGeneration, which not every writer
// knows, and the lineage, which never disappears.
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
		{"corrections", s.Corrections, s.Corrections != nil, false},
		{"state", s.State, s.State != "", false},
		{"runID", s.RunID, s.RunID != "", false},
		{"forkedFrom", s.ForkedFrom, s.ForkedFrom != "", false},
		{"forkStep", s.ForkStep, s.ForkStep != "", false},
		{"supersededBy", s.SupersededBy, s.SupersededBy != "", false},
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

// Patch returns the patch for the status subresource that makes an object's status equal to
// this one. It tests the object's uid, so the API server refuses it for a later object of the
// same name. It names no resource version: the transition rules of the resource refuse an
// outdated patch (see Outdated).
//
// It is a JSON patch because a merge patch would not do. The API server ignores a uid in what
// is written to a status, and a merge patch drops the nulls in an output. Every object has a
// status to patch because the CRD gives it a default.
func Patch(uid string, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	return patch(status, test{"/metadata/uid", uid})
}

// Correction is Patch for a status that replaces all of one which did not come from the run's row.
// The API server refuses it once the object has another resource version than that status.
func Correction(uid, resourceVersion string, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	tests := []test{{"/metadata/uid", uid}, {"/metadata/resourceVersion", resourceVersion}}
	return encode(append(operationsOf(tests), operation{"add", "/status", status}))
}

// PatchFrom is Patch for a writer that knows the rows of one Backend only. The API server refuses
// the patch for an object of another Backend, which such a row may name but cannot belong to.
func PatchFrom(backend, uid string, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	return patch(status, testsOf(backend, uid)...)
}

func testsOf(backend, uid string) []test {
	tests := []test{{"/metadata/uid", uid}}
	if backend != "" {
		tests = append(tests, test{"/spec/backendRef/name", backend})
	}
	return tests
}

// PatchAt is PatchFrom for a writer that knows the spec of one generation only. The API server
// refuses the patch once the object has another generation, so it does not overwrite what the
// manager has observed since.
func PatchAt(backend, uid string, generation int64, status v1alpha1.WorkflowRunStatus) ([]byte, error) {
	status.ObservedGeneration = generation
	tests := append(testsOf(backend, uid), test{"/metadata/generation", generation})
	if !hasAllMembers(&status) {
		return patch(status, tests...)
	}
	// One operation is less work for the API server.
	return encode(append(operationsOf(tests), operation{"add", "/status", status}))
}

// hasAllMembers reports whether a status has startedAt and worker, which a patch would
// otherwise leave as the object has them. Such a status can replace the previous one.
func hasAllMembers(status *v1alpha1.WorkflowRunStatus) bool {
	return status.StartedAt != nil && status.Worker != ""
}

// Replace is PatchAt for a writer that knows the version of the object that its run was
// created from. It returns a replacement of the status, which costs the API server less than a
// patch. The API server refuses it as a conflict once the object has another version. Ok is
// false for a status without startedAt or worker, and for an object of unknown version.
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

// test is the value that a member of the object must have.
type test struct {
	path  string
	value any
}

func operationsOf(tests []test) []operation {
	var operations []operation
	for _, t := range tests {
		operations = append(operations, operation{"test", t.path, t.value})
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
		case m.clearable: // removing a missing member is an error, so add it first
			operations = append(operations, operation{"add", path, ""}, operation{Op: "remove", Path: path})
		}
	}
	return encode(operations)
}

// operation is an operation of a JSON patch.
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

// Outdated reports whether the API server refused a status by the transition rule: the object
// has a later status.
func Outdated(answer string) bool {
	return strings.Contains(answer, v1alpha1.StatusOutdatedMessage) || strings.Contains(answer, v1alpha1.StatusEndedMessage)
}
