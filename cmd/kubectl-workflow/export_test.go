package main

import (
	"encoding/json"
	"strings"
	"testing"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

func TestExport_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	for i := range 30 { // more than a page
		w.steps(2, []step{{name: "more", status: "completed", from: 10 + i, to: 10 + i, id: "more-" + string(rune('A'+i))}})
	}
	for _, format := range []string{"json", "yaml", "name"} {
		got := w.run("export", runSeq(2), "-o", format)
		if got.code != codeDone {
			t.Errorf("%s: %+v", format, got)
		}
		w.golden("export_"+format, got.out)
	}
	if got := w.run("export", runSeq(2)); strings.Count(got.out, `"name": "more"`) != 30 {
		t.Errorf("the export has not all steps: %+v", got)
	}
}

// A history of 30 MiB comes in several answers, and is one document.
func TestExport_P9_LongOutputs(t *testing.T) {
	w := setup(t)
	w.history()
	for i := range 10 {
		w.steps(2, []step{{name: "long", status: "completed", from: 10 + i, to: 10 + i, id: "long-" + string(rune('A'+i))}})
	}
	w.exec(`UPDATE openworkflow.step_attempts SET output = to_jsonb(repeat('x', 3 * 1024 * 1024)) WHERE step_name = 'long'`)
	got := w.run("export", runSeq(2))
	if got.code != codeDone {
		t.Fatalf("exit code %d, %s", got.code, got.errOut)
	}
	var history datav1alpha1.RunHistory
	if err := json.Unmarshal([]byte(got.out), &history); err != nil {
		t.Fatal(err)
	}
	long := 0
	for i := range history.Steps {
		if output := history.Steps[i].Output; output != nil && len(output.Raw) == 3<<20+2 {
			long++
		}
	}
	if long != 10 || len(history.Steps) != 14 || history.Continue != "" {
		t.Errorf("%d of %d steps have a long output", long, len(history.Steps))
	}
}
