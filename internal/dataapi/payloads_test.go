package dataapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// outputs adds to a run n completed steps with outputs of so many bytes.
func (w *world) outputs(id string, n, length int) {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, output, started_at, finished_at, created_at, updated_at)
	SELECT $1, $2 || lpad(i::text, 2, '0'), $2, 'step-' || i, 'function', 'completed', '{}', to_jsonb(repeat('x', $4::int)), at, at, at, at
	FROM generate_series(1, $3::int) i, LATERAL (SELECT timestamptz '2026-01-02' + i * interval '1 s' AS at) at`, w.namespace, id, n, length-2)
}

func (w *world) read(c *rest.RESTClient, id, subresource string, into runtime.Object, params ...string) error {
	request := c.Get().Namespace(w.namespace).Resource("runs").Name(id).SubResource(subresource)
	for i := 0; i < len(params); i += 2 {
		request = request.Param(params[i], params[i+1])
	}
	return request.Do(w.t.Context()).Into(into)
}

func TestRunPayload_P9_LongOutputsAreReadWhole(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.exec(`UPDATE openworkflow.workflow_runs SET output = to_jsonb(repeat('x', 5 * 1024 * 1024)) WHERE id = 'r-03'`)
	var payload datav1alpha1.RunPayload
	if err := w.read(w.user(), "r-03", "payload", &payload); err != nil {
		t.Fatal(err)
	}
	if payload.Output == nil || len(payload.Output.Raw) != 5<<20+2 || string(payload.Input.Raw) != `{"secret":1}` {
		t.Errorf("the input is %s, the output %v", payload.Input, payload.Output != nil)
	}
}

// A page of a history ends where its payloads become long, and continue leads to the rest.
func TestRunHistory_P9_PagesOfLongOutputsMeet(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.outputs("r-03", 10, 3<<20)
	c := w.user()
	var names []string
	pages := 0
	for next := ""; pages == 0 || next != ""; pages++ {
		var page datav1alpha1.RunHistory
		if err := w.read(c, "r-03", "history", &page, "continue", next); err != nil {
			t.Fatal(err)
		}
		for i := range page.Steps {
			if output := page.Steps[i].Output; output == nil || len(output.Raw) != 3<<20 {
				t.Errorf("step %s has another output", page.Steps[i].Name)
			}
			names = append(names, strings.TrimPrefix(page.Steps[i].Name, "step-"))
		}
		if page.Output == nil {
			t.Errorf("page %d has no output of the run", pages)
		}
		next = page.Continue
	}
	if got := strings.Join(names, " "); got != "1 2 3 4 5 6 7 8 9 10" || pages != 5 {
		t.Errorf("%d pages have the steps %s", pages, got)
	}
}

// What is too long says so, and blames no database.
func TestRunPayload_P9_TooLongIsNamed(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.outputs("r-03", 2, 17<<20)
	w.outputs("r-04", 3, 100)
	w.exec(`UPDATE openworkflow.workflow_runs SET input = to_jsonb(repeat('x', 10 * 1024 * 1024)), output = input, error = to_jsonb(repeat('x', 10 * 1024 * 1024)) WHERE id = 'r-04'`)
	c := w.user()
	for _, test := range []struct {
		id, subresource string
		into            runtime.Object
		want            string
	}{
		{"r-04", "payload", &datav1alpha1.RunPayload{}, "the context, input, output and error of run r-04 have more than 16 MiB: too large to be read by the data API: read them in the database"},
		{"r-04", "history", &datav1alpha1.RunHistory{}, "the context, input, output and error of run r-04 have more than 16 MiB"},
		{"r-03", "history", &datav1alpha1.RunHistory{}, "the context, output and error of step attempt r-0301 have more than 16 MiB"},
	} {
		err := w.read(c, test.id, test.subresource, test.into)
		if err == nil || !strings.Contains(err.Error(), test.want) || apierrors.ReasonForError(err) != metav1.StatusReasonRequestEntityTooLarge || code(err) != http.StatusRequestEntityTooLarge {
			t.Errorf("%s of %s: %d, %v; want %q", test.subresource, test.id, code(err), err, test.want)
		}
	}
	var steps datav1alpha1.RunSteps
	if err := w.read(c, "r-03", "steps", &steps); err != nil || len(steps.Items) != 2 {
		t.Errorf("its steps: %v, %v", steps.Items, err)
	}
	ids := fmt.Sprint(w.list(c, nil))
	if !strings.Contains(ids, "r-03") || !strings.Contains(ids, "r-04") {
		t.Errorf("a list has %s", ids)
	}
}

// code is the status code of an error.
func code(err error) int32 {
	if status, ok := err.(apierrors.APIStatus); ok {
		return status.Status().Code
	}
	return 0
}
