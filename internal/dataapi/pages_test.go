package dataapi

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

func TestSteps_PagesMeet(t *testing.T) {
	w := setup(t)
	w.history(1)
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, output, created_at, started_at, finished_at, updated_at)
	SELECT $1, 's-' || lpad(i::text, 2, '0'), 'r-01', 'step', 'function', 'completed', '{}', '1',
		timestamptz '2026-01-01' + i * interval '1 s', now(), now(), now()
	FROM generate_series(1, 45) i`, w.namespace)
	var want []string
	for i := range 45 {
		want = append(want, fmt.Sprintf("s-%02d", i+1))
	}
	c := w.user()
	read := func(subresource, limit, next string, into runtime.Object) {
		t.Helper()
		request := c.Get().Namespace(w.namespace).Resource("runs").Name("r-01").SubResource(subresource)
		if limit != "" {
			request.Param("limit", limit)
		}
		if next != "" {
			request.Param("continue", next)
		}
		if err := request.Do(t.Context()).Into(into); err != nil {
			t.Fatalf("%s with limit %q and continue %q: %v", subresource, limit, next, err)
		}
	}
	for _, limit := range []string{"", "1", "7", "45", "100"} {
		var steps, history []string
		for next := ""; ; {
			page := &datav1alpha1.RunSteps{}
			read("steps", limit, next, page)
			for i := range page.Items {
				steps = append(steps, page.Items[i].ID)
			}
			if next = page.Continue; next == "" {
				break
			}
		}
		for next := ""; ; {
			page := &datav1alpha1.RunHistory{}
			read("history", limit, next, page)
			for i := range page.Steps {
				history = append(history, page.Steps[i].ID)
			}
			if next = page.Continue; next == "" {
				break
			}
		}
		if got := strings.Join(steps, " "); got != strings.Join(want, " ") {
			t.Errorf("limit %q: the steps are %s", limit, got)
		}
		if got := strings.Join(history, " "); got != strings.Join(want, " ") {
			t.Errorf("limit %q: the steps of the history are %s", limit, got)
		}
	}
	err := c.Get().Namespace(w.namespace).Resource("runs").Name("r-01").SubResource("steps").Param("limit", "many").Do(t.Context()).Error()
	if err == nil || !strings.Contains(err.Error(), `limit "many": want a number of step attempts`) {
		t.Errorf("a bad limit: %v", err)
	}
}
