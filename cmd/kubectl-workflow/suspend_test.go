package main

import (
	"strings"
	"testing"
)

func TestSuspend_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("suspend", "suspend", runSeq(5))
	if got := w.run("describe", runSeq(5)); !strings.Contains(got.out, "suspended") && !strings.Contains(got.out, "Suspended") {
		t.Errorf("a suspended run is described as\n%s", got.out)
	}
	w.goldens("resume", "resume", runSeq(5))
}

func TestSuspend_SetsTheSpecOfAnObject(t *testing.T) {
	w := setup(t)
	w.history()
	w.run("start", "checkout", "--name", "order-1001")
	w.exec(`UPDATE openworkflow.workflow_runs SET status = 'pending', finished_at = NULL, error = NULL WHERE id = $1`, runSeq(1))
	for _, name := range []string{"order-1001", "run/" + runSeq(1)} { // by its id, the object is found
		if got := w.run("suspend", name); got.out != "workflowrun.openworkflow.dev/order-1001 suspended\n" || !*w.workflowRun("order-1001").Spec.Suspend {
			t.Errorf("suspend %s: %+v", name, got)
		}
		if got := w.run("resume", name); got.out != "workflowrun.openworkflow.dev/order-1001 resumed\n" || *w.workflowRun("order-1001").Spec.Suspend {
			t.Errorf("resume %s: %+v", name, got)
		}
	}
}

func TestSuspend_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	w.fails(codeError, "the run of WorkflowRun order-1001 has ended already: it is Failed", "suspend", "order-1001")
	w.fails(codeError, "the run has ended already: it is Completed", "resume", runSeq(2))
	w.fails(codeNotFound, `there is no WorkflowRun and no run "none"`, "suspend", "none")
}
