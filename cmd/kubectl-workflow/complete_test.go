package main

import (
	"strings"
	"testing"
)

// 900 superseded runs fill two pages that have nothing to show.
func TestCompletion_PassesSupersededRuns(t *testing.T) {
	w := setup(t)
	w.history()
	w.superseded(900)
	got := w.run("__complete", "describe", "")
	if strings.Contains(got.out, "superseded") || !strings.Contains(got.out, runSeq(2)) {
		t.Errorf("completes to %q", got.out)
	}
}

func TestCompletion_NamesVerbsAndRuns(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	for _, test := range []struct {
		args []string
		want []string
	}{
		{[]string{"des"}, []string{"describe"}},
		{[]string{"describe", ""}, []string{"order-1001", runSeq(2), runSeq(3), runSeq(4), runSeq(5)}},
		{[]string{"signal", runSeq(3), ""}, []string{"approved"}},
		{[]string{"list", "--state", ""}, []string{"Pending", "Running", "Waiting", "Completed", "Failed", "Canceled"}},
		{[]string{"list", "-o", ""}, []string{"json", "yaml", "name", "wide"}},
	} {
		got := w.run(append([]string{"__complete"}, test.args...)...)
		for _, want := range test.want {
			if !strings.Contains("\n"+got.out, "\n"+want) {
				t.Errorf("%q completes to %q, without %s", test.args, got.out, want)
			}
		}
	}
}
