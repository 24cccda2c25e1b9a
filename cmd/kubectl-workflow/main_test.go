package main

import (
	"strings"
	"testing"
)

func TestRoot_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.fails(codeError, `unknown command "frobnicate" for "kubectl workflow"`, "frobnicate")
	w.fails(codeError, "unknown flag: --frobnicate", "list", "--frobnicate")
	if got := w.runAs("/nowhere/kubeconfig", "", "list"); got.code != codeError || !strings.Contains(got.errOut, "read the kubeconfig") {
		t.Errorf("without a kubeconfig: %+v", got)
	}
}
