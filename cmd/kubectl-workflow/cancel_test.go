package main

import (
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestCancel_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("cancel", "cancel", runSeq(4))
	if got := w.run("list", "--state", "Canceled", "-o", "name"); !strings.HasSuffix(got.out, runSeq(4)+"\n") {
		t.Errorf("canceled: %+v", got)
	}
}

func TestCancel_SetsTheSpecOfAnObject(t *testing.T) {
	w := setup(t)
	w.run("start", "checkout", "--name", "order-2")
	got := w.run("cancel", "order-2", "--children")
	if got.out != "workflowrun.openworkflow.dev/order-2 canceled\n" || *w.workflowRun("order-2").Spec.Cancel != true {
		t.Errorf("got %+v", got)
	}
}

func TestCancel_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	w.fails(codeError, "the run of WorkflowRun order-1001 has ended already: it is Failed", "cancel", "order-1001")
	w.fails(codeError, "the run has ended already: it is Completed", "cancel", runSeq(2))
	w.fails(codeNotFound, `there is no WorkflowRun and no run "none"`, "cancel", "none")
	w.attached("again", runSeq(4))
	w.fails(codeError, "has no say over it: cancel, suspend or resume run/"+runSeq(4)+" instead", "cancel", "again")
	w.fails(codeError, "has no say over it: cancel run/"+runSeq(4)+" instead", "cancel", "again", "--children")
	w.fails(codeError, "has no say over it", "suspend", "again")
}

// attached creates an object that shows another's run.
func (w *world) attached(name, id string) {
	w.t.Helper()
	w.run("start", "checkout", "--name", name)
	object := w.workflowRun(name)
	object.Status.RunID, object.Status.State = id, v1alpha1.RunRunning
	if err := cluster.Admin.Status().Update(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
}
