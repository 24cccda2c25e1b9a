package v1alpha1_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/crdtest"
)

func TestWorkflowRun_P9_IsReadInPartWhereItCannotBeReadWhole(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 3000) + strings.Repeat("]", 3000)
	for name, test := range map[string]struct{ object, spec, status string }{
		"all":              {`{"spec":{"workflowName":"w","availableAt":"2027-01-01T00:00:00Z"},"status":{"state":"Pending"}}`, "", ""},
		"a time":           {`{"spec":{"workflowName":"w","availableAt":"2027-01-01t00:00:00z"}}`, "spec.availableAt is no time such as 2027-01-01T00:00:00Z", ""},
		"an int32":         {`{"spec":{"ttlSecondsAfterFinished":3000000000}}`, "spec.ttlSecondsAfterFinished is no whole number of 32 bits", ""},
		"a bool":           {`{"spec":{"suspend":"yes"}}`, "spec.suspend is neither true nor false", ""},
		"a text":           {`{"spec":{"backendRef":{"name":7}}}`, "spec.backendRef.name is no text", ""},
		"the spec":         {`{"spec":7}`, "spec has the wrong type", ""},
		"a deep input":     {`{"spec":{"workflowName":"w","input":` + deep + `}}`, "spec.input is nested deeper than 1000 levels", ""},
		"a time of status": {`{"spec":{},"status":{"startedAt":"x","runID":"r"}}`, "", "status.startedAt is no time such as 2027-01-01T00:00:00Z"},
		"a condition":      {`{"status":{"conditions":[{"type":"A","lastTransitionTime":"x"},{"type":"B"}]}}`, "", "status.conditions[0].lastTransitionTime is no time such as 2027-01-01T00:00:00Z"},
	} {
		var run v1alpha1.WorkflowRun
		if err := json.Unmarshal([]byte(test.object), &run); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got [2]string
		if u := run.Unreadable; u != nil {
			got = [2]string{strings.Join(u.Spec, "; "), strings.Join(u.Status, "; ")}
		}
		if diff := cmp.Diff([2]string{test.spec, test.status}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		switch name {
		case "a time", "a deep input":
			if run.Spec.WorkflowName != "w" || run.Spec.AvailableAt != nil || run.Spec.Input != nil {
				t.Errorf("%s: the rest of the spec was read as %+v", name, run.Spec)
			}
		case "a time of status":
			if run.Status.RunID != "r" || run.Status.StartedAt != nil {
				t.Errorf("the rest of the status was read as %+v", run.Status)
			}
		case "a condition":
			if len(run.Status.Conditions) != 1 || run.Status.Conditions[0].Type != "B" {
				t.Errorf("the conditions were read as %+v", run.Status.Conditions)
			}
		}
	}
}

func TestWorkflowRun_P7_TimesAreThoseThatGoReads(t *testing.T) {
	t.Parallel()
	server, err := crdtest.Load("../../config/crd/bases/openworkflow.dev_workflowruns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for at, accepted := range map[string]bool{
		"2027-01-01T00:00:00Z": true, "2027-01-01T00:00:00.123456789Z": true, "2027-01-01T23:59:59-11:30": true,
		"2027-01-01t00:00:00Z": false, "2027-01-01T00:00:00z": false, "2027-01-01T00:00:00,5Z": false,
		"2027-01-01T00:00:00+99:99": false, "2027-01-01T00:00:00+24:00": false, "2027-02-30T00:00:00Z": false, "12027-01-01T00:00:00Z": false,
	} {
		for _, field := range []string{"availableAt", "deadlineAt"} {
			_, err := server.Store([]byte(`{"spec":{"workflowName":"w","` + field + `":"` + at + `"}}`))
			if (err == nil) != accepted {
				t.Errorf("%s %s: %v", field, at, err)
			}
		}
		for _, field := range []string{"startedAt", "finishedAt", "nextAt"} {
			_, err := server.Store([]byte(`{"spec":{"workflowName":"w"},"status":{"` + field + `":"` + at + `"}}`))
			if (err == nil) != accepted {
				t.Errorf("status.%s %s: %v", field, at, err)
			}
		}
	}
}
