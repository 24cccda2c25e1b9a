package main

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// forkedRun returns the run that a command line has made without an object.
func (w *world) forkedRun(args ...string) *datav1alpha1.Run {
	w.t.Helper()
	got := w.run(args...)
	name, created := strings.CutSuffix(strings.TrimSpace(got.out), " created")
	id, ok := strings.CutPrefix(name, "run.data.openworkflow.dev/")
	if !created || !ok || got.code != codeDone {
		w.t.Fatalf("%v: exit code %d, %q, %s", args, got.code, got.out, got.errOut)
	}
	described := w.run("list", "-o", "json", "--limit", "0")
	var list datav1alpha1.RunList
	if err := yaml.Unmarshal([]byte(described.out), &list); err != nil {
		w.t.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].Name == id {
			return &list.Items[i]
		}
	}
	w.t.Fatalf("there is no run %s in %s", id, described.out)
	return nil
}

// The run of an object is forked by another object.
func TestFork_P1_OfAnObjectMakesAnObject(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	for name, line := range map[string][]string{
		"retry": {"retry", "order-1001", "--children", "Restart", "--step-output", `reserve={"seat": "a=1"}`},
		"rerun": {"rerun", "workflowrun/order-1001"},
		"fork":  {"fork", "order-1001", "--step", "charge", "--step-output", "charge=7"},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.run(append(line, "--name", "again-"+name)...)
			if want := "workflowrun.openworkflow.dev/again-" + name + " created\n"; got.out != want || got.code != codeDone {
				t.Fatalf("printed %q, %s; want %q", got.out, got.errOut, want)
			}
			spec, err := yaml.Marshal(w.workflowRun("again-" + name).Spec)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+"_spec", string(spec))
		})
	}
	got := w.runAs(w.kubeconfig, "order: 7\n", "retry", "order-1001", "--input-file", "-", "-o", "json")
	var made v1alpha1.WorkflowRun
	if err := yaml.Unmarshal([]byte(got.out), &made); err != nil || !strings.HasPrefix(made.Name, "order-1001-") || string(made.Spec.Input.Raw) != `{"order":7}` {
		t.Errorf("made %+v, %v, %s", made, err, got.errOut)
	}
}

// A run without an object is forked without one.
func TestFork_P1_OfARunMakesARun(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	for name, test := range map[string]struct {
		args       []string
		from, step string
	}{
		"fork":  {[]string{"fork", runSeq(2), "--step", "notify"}, runSeq(2), "notify"},
		"rerun": {[]string{"rerun", "run/" + runSeq(2)}, runSeq(2), ""},
		"retry": {[]string{"retry", "order-1001", "--without-object"}, runSeq(1), "charge"},
	} {
		t.Run(name, func(t *testing.T) {
			if run := w.forkedRun(test.args...); run.Status.ForkedFrom != test.from || run.Status.ForkStep != test.step {
				t.Errorf("made %+v", run.Status)
			}
		})
	}
}

func TestFork_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.history()
	w.fails(codeError, `required flag(s) "step" not set`, "fork", runSeq(2))
	w.fails(codeError, `run `+runSeq(2)+` has no step "chrage"; the nearest of its 4 steps: "charge"`, "fork", runSeq(2), "--step", "chrage")
	w.fails(codeError, "has completed, so none of its steps has made it fail", "retry", runSeq(2))
	w.fails(codeError, "the run has not ended, it is Running: cancel it first", "rerun", runSeq(4))
	w.fails(codeNotFound, `there is no WorkflowRun and no run "nope"`, "rerun", "nope")
	w.fails(codeError, `--step-output charge: want STEP=JSON, such as 'charge-card={"id": 1}'`, "retry", runSeq(1), "--step-output", "charge")
	w.fails(codeError, `--step-output charge=text: want STEP=JSON`, "retry", runSeq(1), "--step-output", "charge=text")
	w.fails(codeError, `--step-output a=2: the step "a" has another result already`, "retry", runSeq(1), "--step-output", "a=1", "--step-output", "a=2")
	w.fails(codeError, `--children "Kill": use Keep or Restart`, "retry", runSeq(1), "--children", "Kill")
	w.fails(codeError, "--name is that of a WorkflowRun: a run without one gets an id", "retry", runSeq(1), "--name", "x")
	w.fails(codeError, "--input-file: open /nope: no such file", "rerun", runSeq(1), "--input-file", "/nope")
	if got := w.runAs(w.kubeconfig, "{", "rerun", runSeq(1), "--input-file", "-"); !strings.Contains(got.errOut, "--input-file - is neither JSON nor YAML") {
		t.Errorf("a broken input: %q", got.errOut)
	}
	if got := w.runAs(w.kubeconfig, strings.Repeat("x", maxInput+1), "rerun", runSeq(1), "--input-file", "-"); !strings.Contains(got.errOut, "is longer than 1 MiB") {
		t.Errorf("a long input: %q", got.errOut)
	}
}
