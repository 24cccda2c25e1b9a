package controller

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// etcd sends a request to the JSON gateway of the API server's etcd.
func etcd(t *testing.T, call string, body map[string]any) map[string]any {
	t.Helper()
	encoded, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	url := cluster.env.ControlPlane.Etcd.URL.JoinPath("v3/kv", call).String()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(encoded))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %s %v", url, response.Status, answer, err)
	}
	var decoded map[string]any
	if err := json.Unmarshal(answer, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

// corrupt changes a text in a stored object, past all validation, as if the object had been stored
// under another CustomResourceDefinition.
func (w *world) corrupt(resource, name, from, to string) {
	w.t.Helper()
	key := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "/registry/openworkflow.dev/%s/%s/%s", resource, w.Namespace, name))
	found, ok := etcd(w.t, "range", map[string]any{"key": key})["kvs"].([]any)
	if !ok || len(found) != 1 {
		w.t.Fatalf("etcd has no %s %s: %v", resource, name, found)
	}
	entry, _ := found[0].(map[string]any)
	value, _ := entry["value"].(string)
	stored, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		w.t.Fatal(err)
	}
	changed := bytes.Replace(stored, []byte(from), []byte(to), 1)
	if bytes.Equal(changed, stored) {
		w.t.Fatalf("the stored %s has no %s: %s", name, from, stored)
	}
	etcd(w.t, "put", map[string]any{"key": key, "value": base64.StdEncoding.EncodeToString(changed)})
}

// deepRun returns a run that the API server accepts, but of which no list can be decoded.
func deepRun(name string) client.Object {
	var input any = "x"
	for range 9997 {
		input = []any{input}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "WorkflowRun", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"workflowName": "checkout", "input": input},
	}}
}

func TestManager_P9_GoesOnBesideObjectsThatItCannotRead(t *testing.T) {
	w := newWorld(t)
	later := metav1.NewTime(noon)
	available := func(r *run) { r.Spec.AvailableAt = &later }
	const path, badTime = "workflowruns", `"2026-01-02t12:00:00z"`
	w.create(newTestRun("dated", available), newTestRun("flagged", func(r *run) { r.Spec.Suspend = new(true) }), deepRun("deep"))
	w.corrupt(path, "dated", `"availableAt":`+quoted(later), `"availableAt":`+badTime)
	w.corrupt(path, "flagged", `"suspend":true`, `"suspend":"yes"`)
	broken := newBackend()
	broken.Name = "broken"
	w.create(broken)
	w.corrupt("backends", "broken", `"migrate":true`, `"migrate":"no"`)
	pool := newPool("broken")
	w.create(pool)
	w.corrupt("workerpools", "broken", `"concurrency":10`, `"concurrency":1e30`)

	m := w.start()
	w.backend()
	good := newTestRun("good")
	w.create(good)
	w.awaitShown(good)
	// The rules of the definition cannot read the time either, and refuse a status.
	dated := fetch(w, newTestRun("dated", func(r *run) { r.Namespace = w.Namespace }))
	if note := w.awaitEvent(dated.Name, v1alpha1.ReasonUnreadable); !strings.Contains(note, "spec.availableAt is no time such as") || w.row(w.store(), dated.UID) != nil {
		t.Errorf("the event says %q", note)
	}
	for name, part := range map[string]string{"flagged": "spec.suspend is neither", "deep": "spec.input is nested deeper than 1000 levels"} {
		bad := newTestRun(name)
		bad.Namespace = w.Namespace
		w.awaitState(bad, v1alpha1.RunPending, v1alpha1.ReasonUnreadable)
		if !strings.Contains(bad.Status.Message, part) || w.row(w.store(), bad.UID) != nil {
			t.Errorf("%s has the message %q, and a row: %t", name, bad.Status.Message, w.row(w.store(), bad.UID) != nil)
		}
	}
	if message := w.awaitBackend(broken, v1alpha1.ReasonUnreadable); !strings.Contains(message, "spec.migrate") {
		t.Errorf("the Backend has the message %q", message)
	}
	w.awaitBackend(newBackendIn(w), v1alpha1.ReasonConnected)
	if message := w.awaitPool(pool, v1alpha1.ReasonUnreadable); !strings.Contains(message, "spec.concurrency") {
		t.Errorf("the pool has the message %q", message)
	}

	// The same in events of a watch, and in a status: the last one that the manager writes by itself, so that
	// none replaces the bad one.
	w.awaitState(good, v1alpha1.RunPending, v1alpha1.ReasonNoWorker)
	late := newTestRun("late", available)
	w.create(late, deepRun("deep-late"))
	w.corrupt(path, "late", `"availableAt":`+quoted(later), `"availableAt":`+badTime)
	w.corrupt(path, "good", `"state":"Pending"`, `"state":"Pending","finishedAt":`+badTime)
	w.awaitRun(good, func(r *v1alpha1.WorkflowRun) error {
		if r.Status.Corrections == nil || r.Unreadable != nil {
			return fmt.Errorf("the status is still %+v, without %v", r.Status, r.Unreadable)
		}
		return nil
	})
	next := newTestRun("next")
	w.create(next)
	w.awaitShown(next)
	m.halt()
	if text := m.logs.String(); strings.Contains(text, "failed to list") || strings.Contains(text, "Failed to watch") {
		t.Error("a list or a watch has failed")
	}
}

// quoted returns a time as an object has it.
func quoted(t metav1.Time) string { return t.UTC().Format(`"2006-01-02T15:04:05Z"`) }

func newBackendIn(w *world) *v1alpha1.Backend {
	b := newBackend()
	b.Namespace = w.Namespace
	return b
}
