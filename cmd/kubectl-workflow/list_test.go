package main

import (
	"strings"
	"testing"
)

func TestList_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("list", "list")
}

func TestList_Selects(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	for _, test := range []struct {
		args, want string
	}{
		{"--workflow checkout", "5 4 2 1"},
		{"--workflow notify", "3"},
		{"--state Failed", "1"},
		{"--state failed", "1"},
		{"--state Waiting", "3"},
		{"--parent " + runSeq(2), "3"},
		{"--backend default --state Completed", "2"},
		{"--since 57m30s", "5 4 3"},
		{"--limit 2", "5 4"},
		{"--without-object", "5 4 3 2"},
		{"--without-object --workflow checkout --limit 2 --chunk-size 1", "5 4"},
		{"--limit 0 --chunk-size 2", "5 4 3 2 1"},
		{"--limit 3 --chunk-size 2", "5 4 3"},
	} {
		t.Run(test.args, func(t *testing.T) {
			args := strings.Fields(test.args)
			got := w.run(append([]string{"list", "-o", "name"}, args...)...)
			names := strings.ReplaceAll(strings.TrimSpace(got.out), "run.data.openworkflow.dev/00000000-0000-4000-8000-00000000000", "")
			if names = strings.ReplaceAll(names, "\n", " "); names != test.want || got.code != codeDone {
				t.Errorf("listed %q, want %q (%s)", names, test.want, got.errOut)
			}
		})
	}
	if got := w.run("list", "-l", "team=shop", "-o", "name"); got.out != "workflowrun.openworkflow.dev/order-1001\n" {
		t.Errorf("by a label: %q, %s", got.out, got.errOut)
	}
	if got := w.run("list", "-l", "team=other"); got.out != "" || !strings.HasPrefix(got.errOut, "No runs found in namespace") {
		t.Errorf("by another label: %q, %q", got.out, got.errOut)
	}
}

func TestList_GoesOnWhereItEnded(t *testing.T) {
	w := setup(t)
	w.history()
	first := w.run("list", "--limit", "2")
	_, rest, _ := strings.Cut(first.errOut, "--continue ")
	position, _, found := strings.Cut(rest, ",")
	if !found {
		t.Fatalf("no position in %q", first.errOut)
	}
	w.golden("list_continued", w.run("list", "--limit", "10", "--continue", position).out)
}

// Pages of superseded runs, which have nothing to show, do not end a list.
func TestList_LeavesSupersededRunsOut(t *testing.T) {
	w := setup(t)
	w.history()
	w.superseded(60)
	for args, want := range map[string]int{
		"--chunk-size 3 --limit 0":                         5,
		"--chunk-size 3 --limit 4":                         4,
		"--chunk-size 50 --limit 0 -o json":                5,
		"--superseded --limit 0":                           65,
		"--superseded --state Failed --chunk-size 7":       61,
		"--superseded --workflow checkout --state Waiting": 0,
	} {
		line := append([]string{"list", "-o", "name"}, strings.Fields(args)...)
		got := w.run(line...)
		if count := strings.Count(got.out, "run.data.openworkflow.dev/") + strings.Count(got.out, `"kind": "Run"`); count != want || got.code != codeDone {
			t.Errorf("%v lists %d runs, want %d: %s", line, count, want, got.errOut)
		}
	}
	w.golden("list_superseded", w.run("list", "-o", "wide", "--superseded", "--since", "29m5s", "--no-headers").out)
	if got := w.run("describe", "superseded-0001"); !strings.Contains(got.out, "Superseded by:   "+runSeq(2)+"\n") {
		t.Errorf("described %s%s", got.out, got.errOut)
	}
}

func TestList_ShowsAllNamespaces(t *testing.T) {
	w := setup(t)
	w.history()
	// Databases of other tests come and go meanwhile, which must not hide this one.
	got := w.runAs(w.admin(), "", "list", "-A", "--workflow", "notify", "--no-headers")
	if want := w.Namespace + "   " + runSeq(3); !strings.Contains(got.out, want) {
		t.Errorf("no %q in\n%s%s", want, got.out, got.errOut)
	}
}

func TestList_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.fails(codeError, `unknown command "runs" for "kubectl workflow list"`, "list", "runs")
	w.fails(codeError, `--state "Done": use one of Pending, Running, Waiting, Completed, Failed, Canceled`, "list", "--state", "Done")
	w.fails(codeError, "--limit -1: give 0 for all runs, or a positive number", "list", "--limit", "-1")
	w.fails(codeError, "--chunk-size 1001: give a number from 1 to 1000", "list", "--chunk-size", "1001")
	w.fails(codeError, "--since -1h0m0s: give a positive duration, such as 24h", "list", "--since", "-1h")
	w.fails(codeError, "--continue goes on in one namespace: leave out --all-namespaces", "list", "-A", "--continue", "x")
	w.fails(codeError, "--selector lists WorkflowRuns", "list", "-l", "a=b", "--since", "1h")
	w.fails(codeError, "--selector lists WorkflowRuns", "list", "-l", "a=b", "--superseded")
	w.fails(codeError, "--selector lists WorkflowRuns: leave out --without-object", "list", "-l", "a=b", "--without-object")
	w.fails(codeError, `unknown output format "xml": use one of json, yaml, kyaml, name, go-template`, "list", "-o", "xml")
	w.fails(codeError, `invalid argument "soon" for "--since" flag`, "list", "--since", "soon")
	w.fails(codeError, "the value of continue is not one of this list: start from the first page", "list", "--continue", "x")
	w.fails(codeForbidden, "find the namespaces with Backends: backends.openworkflow.dev is forbidden", "list", "-A")
}
