package main

import (
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestWatch_P4_ShowsEachChange(t *testing.T) {
	w := setup(t)
	w.object() // its run has failed
	if got := w.run("watch", "order-1001"); got.code != codeFailed || got.errOut != "" {
		t.Errorf("of a failed run: %+v", got)
	} else {
		w.golden("watch_failed", got.out)
	}
	w.run("start", "checkout", "--name", "order-2")
	next, exit := w.follow("watch", "order-2")
	message := strings.Index(next(), "MESSAGE")
	if got := next(); !strings.HasPrefix(got, "12:00:00   Pending") {
		t.Fatal(got)
	}
	w.status("order-2", v1alpha1.RunRunning, "in its second step")
	if got := next(); !strings.Contains(got, "Running") || strings.Index(got, "in its second step") != message {
		t.Fatalf("the message is not below column %d of the header: %s", message, got)
	}
	w.status("order-2", v1alpha1.RunCompleted, "done")
	if got := exit(); got.code != codeDone || !strings.Contains(got.out, "Completed") {
		t.Errorf("got %+v", got)
	}
}

func TestWatch_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("watch", "watch", runSeq(2))
}

func TestWatch_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.history()
	w.fails(codeError, "--timeout -1s: give a positive duration, such as 10m", "watch", "x", "--timeout", "-1s")
	w.fails(codeTimeout, "the run has not ended within 1ms: see kubectl workflow describe "+runSeq(4), "watch", runSeq(4), "--timeout", "1ms")
	w.fails(codeNotFound, `there is no WorkflowRun and no run "none"`, "watch", "none")
	w.run("start", "checkout", "--name", "order-2")
	next, exit := w.follow("watch", "order-2")
	next()
	next()
	if err := cluster.Admin.Delete(t.Context(), w.workflowRun("order-2")); err != nil {
		t.Fatal(err)
	}
	if got := exit(); got.code != codeNotFound || !strings.Contains(got.errOut, "WorkflowRun order-2 was deleted: its run is canceled") {
		t.Errorf("got %+v", got)
	}
}
