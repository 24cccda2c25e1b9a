package main

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

func TestDescribe_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.goldens("describe", "describe", runSeq(2))
}

func TestDescribe_NamesTheObject(t *testing.T) {
	w := setup(t)
	w.history()
	w.object()
	byName := w.run("describe", "order-1001")
	w.golden("describe_object", byName.out)
	for _, name := range []string{"workflowrun/order-1001", "wfr/order-1001"} {
		if got := w.run("describe", name); got != byName {
			t.Errorf("%s: %+v, want %+v", name, got, byName)
		}
	}
	if got := w.run("describe", "run/"+runSeq(1)); !strings.Contains(got.out, "Object:") {
		t.Errorf("by its id, its object is not named:\n%s%s", got.out, got.errOut)
	}
}

func TestDescribe_ShowsWhatIsWaitedFor(t *testing.T) {
	w := setup(t)
	w.history()
	w.golden("describe_waiting", w.run("describe", runSeq(3)).out)
	w.golden("describe_pending", w.run("describe", runSeq(5)).out)
}

func TestDescribe_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.fails(codeError, "accepts 1 arg(s), received 0", "describe")
	w.fails(codeError, "name a run: the name of a WorkflowRun, or a run's id", "describe", "")
	w.fails(codeError, `"pod/x" names neither a WorkflowRun nor a run: use workflowrun/NAME or run/ID`, "describe", "pod/x")
	w.fails(codeError, "--steps -1: give 0 for all steps, or a positive number", "describe", "x", "--steps", "-1")
	w.fails(codeNotFound, `there is no WorkflowRun and no run "order-1" in this namespace: see kubectl workflow list`, "describe", "order-1")
	w.fails(codeNotFound, `workflowruns.openworkflow.dev "order-1" not found`, "describe", "workflowrun/order-1")
	stranger := w.runAs(w.user("stranger"), "", "describe", "order-1")
	if stranger.code != codeForbidden || !strings.Contains(stranger.errOut, "The ClusterRoles view and edit of a namespace allow it") {
		t.Errorf("without rights: exit code %d, %s", stranger.code, stranger.errOut)
	}
}

// attempt returns a step attempt that lasted from one second of a run to another.
func attempt(name, state string, from, to int) datav1alpha1.Step {
	at := func(s int) *metav1.MicroTime {
		return &metav1.MicroTime{Time: noon.Add(time.Duration(s) * time.Second)}
	}
	s := datav1alpha1.Step{Name: name, Kind: "function", State: state, CreatedAt: *at(from), StartedAt: at(from)}
	if state != "running" {
		s.FinishedAt = at(to)
	}
	return s
}

func TestTimeline_IsBounded(t *testing.T) {
	t.Parallel()
	var steps []datav1alpha1.Step
	for i := range 10_000 {
		steps = append(steps, attempt("step", "completed", i, i+1))
	}
	var out strings.Builder
	draw := func(steps []datav1alpha1.Step, now time.Time, o timelineOptions) {
		t.Helper()
		if err := printTimeline(&out, steps, &datav1alpha1.Run{}, now, o); err != nil {
			t.Fatal(err)
		}
	}
	draw(steps, noon.Add(10_000*time.Second), timelineOptions{steps: 8})
	golden(t, "timeline_bounded", out.String())
	out.Reset()
	draw(steps, noon.Add(10_000*time.Second), timelineOptions{})
	if lines := strings.Count(out.String(), "\n"); lines != 10_002 {
		t.Errorf("all steps are %d lines, want 10002", lines)
	}
}

func TestTimeline_EndsWithTheRun(t *testing.T) {
	t.Parallel()
	ended := &datav1alpha1.Run{Status: datav1alpha1.RunStatus{FinishedAt: &metav1.Time{Time: noon.Add(5 * time.Second)}}}
	steps := []datav1alpha1.Step{attempt("answer", "completed", 0, 5), attempt("reminder", "running", 0, 0)}
	var out strings.Builder
	if err := printTimeline(&out, steps, ended, noon.Add(time.Hour), timelineOptions{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "1 running over 5s,") || strings.Contains(out.String(), "1h") {
		t.Errorf("an hour after the end of the run:\n%s", out.String())
	}
}

func TestTimeline_KeepsHostileNamesInTheirLine(t *testing.T) {
	t.Parallel()
	steps := []datav1alpha1.Step{
		attempt("a\nb\x1b[2J\u2028c\td", "completed", 0, 2),
		attempt(strings.Repeat("x", 1000), "failed", 2, 3),
		attempt("backwards", "completed", 4, 1),
		attempt("open", "running", 4, 0),
	}
	var out strings.Builder
	if err := printTimeline(&out, steps, &datav1alpha1.Run{}, noon.Add(6*time.Second), timelineOptions{}); err != nil {
		t.Fatal(err)
	}
	golden(t, "timeline_hostile", out.String())
}

func TestDescribe_ShowsWhatWasPublished(t *testing.T) {
	w := setup(t)
	w.history()
	w.exec(`INSERT INTO openworkflow.operator_run_states (namespace_id, run_id, sequence, state, updated_at)
	VALUES ($1, $2, 3, '{"done": 3, "of": 10}', timestamptz '2026-01-01 11:30Z')`, w.Namespace, runSeq(3))
	w.golden("describe_state", w.run("describe", runSeq(3)).out)
	if got := w.run("describe", runSeq(3), "-o", "name"); got.out != "run.data.openworkflow.dev/"+runSeq(3)+"\n" {
		t.Errorf("-o name: %+v", got)
	}
	viewer := w.user("viewer", rule("get", "runs", "runs/steps", "runs/why"))
	if got := w.runAs(viewer, "", "describe", runSeq(3)); got.code != codeDone || strings.Contains(got.out, "State:") {
		t.Errorf("without the right: %+v", got)
	}
}
