package main

import (
	"strings"
	"testing"
)

func TestOutput_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("output", "output", runSeq(2))
	if got, want := w.run("output", runSeq(4), "--input"), (result{out: `{"order":1001}` + "\n"}); got != want {
		t.Errorf("the input: %+v, want %+v", got, want)
	}
}

func TestOutput_P7_TellsHowTheRunEnded(t *testing.T) {
	w := setup(t)
	w.history()
	failed := w.run("output", runSeq(1))
	if failed.code != codeFailed || failed.out != "" || !strings.Contains(failed.errOut, `"message":"card declined"`) {
		t.Errorf("of a failed run: %+v", failed)
	}
	w.fails(codeError, "the run is Waiting and has no output yet: kubectl workflow watch "+runSeq(3)+" waits for its end", "output", runSeq(3))
	w.run("start", "checkout", "--name", "new")
	w.fails(codeError, "the manager has not started the run of WorkflowRun new yet", "output", "new")
	viewer := w.runAs(w.user("viewer", rule("get", "runs")), "", "output", runSeq(2))
	if viewer.code != codeForbidden || !strings.Contains(viewer.errOut, `cannot get resource "runs/payload"`) || viewer.out != "" {
		t.Errorf("a viewer: %+v", viewer)
	}
}
