package main

import (
	"strings"
	"testing"
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
