package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
)

// Every verb is in a group of the help, every group has one, and the page names them all.
func TestRoot_EveryVerbIsExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/kubectl-workflow.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "\n## Verbs\n")
	table, _, _ = strings.Cut(table, "\n## ")
	root := newRoot(&factory{config: genericclioptions.NewConfigFlags(true)})
	used := map[string]bool{}
	for _, verb := range root.Commands() {
		used[verb.GroupID] = true
		if verb.GroupID == "" || verb.Long == "" || verb.Example == "" {
			t.Errorf("%s lacks a group, a long text or an example", verb.Name())
		}
		if !strings.Contains(table, "`"+verb.Name()+"`") {
			t.Errorf("docs/kubectl-workflow.md does not name %s among the verbs", verb.Name())
		}
		for _, cmd := range append([]*cobra.Command{verb}, verb.Commands()...) {
			if s := cmd.Short; s == "" || len(s) > 60 || s[:1] != strings.ToUpper(s[:1]) || strings.HasSuffix(s, ".") {
				t.Errorf("%s: %q is no short text: a capital, no period, at most 60 characters", cmd.CommandPath(), s)
			}
		}
	}
	for _, group := range root.Groups() {
		if !used[group.ID] {
			t.Errorf("the group %q has no verb", group.Title)
		}
	}
}

func TestRoot_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.fails(codeError, `unknown command "frobnicate" for "kubectl workflow"`, "frobnicate")
	w.fails(codeError, "unknown flag: --frobnicate", "list", "--frobnicate")
	if got := w.runAs("/nowhere/kubeconfig", "", "list"); got.code != codeError || !strings.Contains(got.errOut, "read the kubeconfig") {
		t.Errorf("without a kubeconfig: %+v", got)
	}
}
