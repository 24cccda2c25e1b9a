package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/crdtest"
)

// fuzzKinds are the kinds of an object, by the first byte that a fuzz test is given.
var fuzzKinds = []struct{ kind, file string }{
	{"WorkflowRun", "workflowruns"}, {"WorkerPool", "workerpools"}, {"Backend", "backends"}, {"WorkflowSchedule", "workflowschedules"},
	{"WorkflowSignal", "workflowsignals"},
}

// decodeList decodes a list with one object, as the cache of a manager does, and returns the object.
func decodeList(kind, object string) (runtime.Object, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	list := fmt.Sprintf(`{"apiVersion":"openworkflow.dev/v1alpha1","kind":"%sList","metadata":{},"items":[%s]}`, kind, object)
	decoded, _, err := serializer.NewCodecFactory(scheme).UniversalDeserializer().Decode([]byte(list), nil, nil)
	return decoded, err
}

// FuzzStoredObject gives the decoder of the caches what the API server may have stored: objects that
// it accepts, and objects that it has accepted under any other CustomResourceDefinition. No list
// fails, and what the API server accepts is read whole.
func FuzzStoredObject(f *testing.F) {
	server := make([]*crdtest.Kind, len(fuzzKinds))
	for i, k := range fuzzKinds {
		var err error
		if server[i], err = crdtest.Load("../../config/crd/bases/openworkflow.dev_" + k.file + ".yaml"); err != nil {
			f.Fatal(err)
		}
	}
	for _, spec := range []string{
		`{"workflowName":"w","availableAt":"2027-01-01T00:00:00Z","deadlineAt":"2027-01-01T00:00:00.5+01:00","input":{"a":[1e400]}}`,
		`{"workflowName":"w","availableAt":"2027-01-01t00:00:00z"}`, `{"workflowName":"w","availableAt":"2027-01-01T00:00:00+99:99"}`,
		`{"workflowName":"w","availableAt":"2027-01-01T00:00:00,5Z"}`, `{"workflowName":"w","ttlSecondsAfterFinished":1e30}`,
		`{"workflowName":"w","timeoutSeconds":3.0,"suspend":"yes"}`, `{"workflowName":7,"backendRef":[]}`, `"w"`, `null`,
		`{"workflowName":"w","input":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`,
	} {
		f.Add(uint8(0), spec, `{"state":"Pending"}`)
	}
	for _, status := range []string{
		`{"decidedUntil":"2027-01-01t00:00:00z","outcomes":[{"time":"x","reason":"Started"}],"active":[7],"failures":1e30}`,
		`{"state":"Running","startedAt":"2027-01-01t00:00:00z"}`, `{"state":"Running","nextAt":"12000-01-01T00:00:00Z"}`, `{"revision":1e30}`,
		`{"conditions":[{"type":"Ready","status":"True","reason":"A","message":"","lastTransitionTime":"x"},{"type":7}]}`,
		`{"steps":{"summary":"1/1","newest":[{"name":"a","startedAt":"2027-01-01t00:00:00z"}]},"attempts":3.5,"error":[]}`, `[]`,
	} {
		f.Add(uint8(0), `{"workflowName":"w"}`, status)
		f.Add(uint8(1), `{"template":{"spec":{"containers":[{"name":"w","image":"i","resources":{"limits":{"cpu":"1e400"}}}]}},"replicas":2.0}`, status)
		f.Add(uint8(3), `{"schedules":["@daily"],"startAt":"2027-01-01t00:00:00z","jitterSeconds":3.0,"runTemplate":{"workflowName":"w","input":[1e400]}}`, status)
		f.Add(uint8(4), `{"signal":"s","data":[1e400],"target":{"runName":"r","step":7},"expirationSeconds":3.0}`, status)
		f.Add(uint8(2), `{"postgres":{"urlSecretRef":{"name":"db"}},"retention":{"ttlSecondsAfterFinished":1e9}}`, status)
	}
	f.Fuzz(func(t *testing.T, which uint8, spec, status string) {
		if !json.Valid([]byte(spec)) || !json.Valid([]byte(status)) {
			return // the API server refuses it before any decoder of ours
		}
		i := int(which) % len(fuzzKinds)
		kind := fuzzKinds[i].kind
		object := fmt.Sprintf(`{"apiVersion":"openworkflow.dev/v1alpha1","kind":%q,"metadata":{"name":"a","uid":"u"},"spec":%s,"status":%s}`, kind, spec, status)
		decoded, err := decodeList(kind, object)
		if err != nil {
			t.Fatalf("a stored object fails its list: %v", err)
		}
		name, _ := nameAndUnreadable(t, decoded)
		if name != "a" {
			t.Errorf("the object's name was read as %q", name)
		}
		accepted, err := server[i].Store([]byte(object))
		if err != nil {
			return
		}
		if decoded, err = decodeList(kind, string(accepted)); err != nil {
			t.Fatalf("an accepted object fails its list: %v", err)
		}
		if _, unreadable := nameAndUnreadable(t, decoded); unreadable != nil && !onlyTooDeep(unreadable) && !onlyConditions(unreadable) {
			t.Errorf("the API server accepts what cannot be read: %v\n%s", *unreadable, accepted)
		}
	})
}

func nameAndUnreadable(t *testing.T, list runtime.Object) (name string, unreadable *v1alpha1.Unreadable) {
	t.Helper()
	switch list := list.(type) {
	case *v1alpha1.WorkflowRunList:
		return list.Items[0].Name, list.Items[0].Unreadable
	case *v1alpha1.WorkerPoolList:
		return list.Items[0].Name, list.Items[0].Unreadable
	case *v1alpha1.WorkflowScheduleList:
		return list.Items[0].Name, list.Items[0].Unreadable
	case *v1alpha1.WorkflowSignalList:
		return list.Items[0].Name, list.Items[0].Unreadable
	case *v1alpha1.BackendList:
		return list.Items[0].Name, list.Items[0].Unreadable
	default:
		t.Fatalf("decoded a %T", list)
		return "", nil
	}
}

// onlyTooDeep reports whether nothing but nesting made an object unreadable: no schema bounds that.
func onlyTooDeep(u *v1alpha1.Unreadable) bool {
	for _, text := range append(u.Spec, u.Status...) {
		if !strings.Contains(text, "nested deeper") {
			return false
		}
	}
	return true
}

// onlyConditions reports whether only times of conditions could not be read: their schema is that of
// Kubernetes' own type.
func onlyConditions(u *v1alpha1.Unreadable) bool {
	for _, text := range u.Status {
		if !strings.HasPrefix(text, "status.conditions[") {
			return false
		}
	}
	return len(u.Spec) == 0
}
