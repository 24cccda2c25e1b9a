package main

import (
	"slices"
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

// The shell writes what it completes into the command line as it is.
func TestCompletion_P9_LeavesOutWhatAShellExecutes(t *testing.T) {
	w := setup(t)
	w.history()
	w.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
	SELECT $1, id, 'w', 'completed', '{}', 1, now(), now()
	FROM unnest(ARRAY['x;reboot', '$(reboot)', '--kubeconfig=x', 'a b', E'a\nb', 'it''s', 'größe/1@2:3+4']) id`, w.Namespace)
	got := strings.Split(w.run("__complete", "describe", "").out, "\n")
	if !slices.Contains(got, "größe/1@2:3+4") || slices.ContainsFunc(got, func(name string) bool {
		return strings.ContainsAny(name, ";$ '") || name == "b" || strings.HasPrefix(name, "-")
	}) {
		t.Errorf("completes to %q", got)
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
