package dataapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

// steps adds to a run of history the completed steps reserve and charge, and the failed step ship.
func (w *world) steps(id string) {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, output, error, started_at, finished_at, created_at, updated_at)
	SELECT $1, $2 || name, $2, name, 'function', CASE name WHEN 'ship' THEN 'failed' ELSE 'completed' END, '{}',
		CASE WHEN name <> 'ship' THEN '1'::jsonb END, CASE WHEN name = 'ship' THEN '{"name": "CardError", "message": "secret"}'::jsonb END,
		at, at + interval '1 s', at, at + interval '1 s'
	FROM (SELECT name, timestamptz '2026-01-02' + n * interval '1 min' AS at
		FROM unnest(ARRAY['reserve', 'charge', 'ship']) WITH ORDINALITY s (name, n)) s`, w.namespace, id)
}

func (w *world) postFork(c *rest.RESTClient, id string, fork *datav1alpha1.RunFork) (*datav1alpha1.Run, error) {
	var made datav1alpha1.Run
	err := c.Post().Namespace(w.namespace).Resource("runs").Name(id).SubResource("fork").Body(fork).Do(w.t.Context()).Into(&made)
	return &made, err
}

// The input of a run may be longer than what the data API reads of a database at once.
func TestRunFork_P9_LongInput(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.steps("r-04")
	w.exec(`UPDATE openworkflow.workflow_runs SET input = to_jsonb(repeat('x', 5 * 1024 * 1024)) WHERE id = 'r-04'`)
	retry, err := w.postFork(w.user(), "r-04", &datav1alpha1.RunFork{LastFailed: true})
	if err != nil {
		t.Fatal(err)
	}
	var length int
	w.query(`SELECT octet_length(input::text) FROM openworkflow.workflow_runs WHERE id = $1`, []any{retry.Name}, &length)
	if length != 5<<20+2 {
		t.Errorf("the input of the retry has %d bytes", length)
	}
}

func TestRunFork_P1_RetriesAndForks(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.steps("r-04")
	w.steps("r-03")
	c := w.user()
	retry, err := w.postFork(c, "r-04", &datav1alpha1.RunFork{LastFailed: true})
	if err != nil {
		t.Fatal(err)
	}
	if retry.Name == "" || retry.Name == "r-04" || retry.Status.State != "Pending" || retry.Status.ForkedFrom != "r-04" ||
		retry.Status.ForkStep != "ship" || retry.Spec.WorkflowName != "even" {
		t.Errorf("the retry is %+v", retry)
	}
	fork, err := w.postFork(c, "r-03", &datav1alpha1.RunFork{
		Step: new("charge"), Input: &apiextensionsv1.JSON{Raw: []byte(`7`)}, IdempotencyKey: "fork-1",
		Outputs: []datav1alpha1.StepOutput{{Step: "reserve", Value: &apiextensionsv1.JSON{Raw: []byte(`"corrected"`)}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.postFork(c, "r-03", &datav1alpha1.RunFork{IdempotencyKey: "fork-1"})
	if err != nil || again.Name != fork.Name {
		t.Errorf("a repeated fork made %s, %v; want %s", again.Name, err, fork.Name)
	}
	rows, err := w.GetRuns(t.Context(), []string{fork.Name})
	if err != nil || string(rows[fork.Name].Input) != "7" {
		t.Errorf("the fork is %+v, %v", rows, err)
	}
	steps, err := w.LoadSteps(t.Context(), []string{fork.Name, retry.Name})
	if err != nil || len(steps[retry.Name]) != 2 || len(steps[fork.Name]) != 1 || string(steps[fork.Name][0].Output) != `"corrected"` {
		t.Errorf("steps %+v, %v", steps, err)
	}
	dry, err := c.Post().Namespace(w.namespace).Resource("runs").Name("r-04").SubResource("fork").Param("dryRun", "All").
		Body(&datav1alpha1.RunFork{}).Do(t.Context()).Get()
	if run, ok := dry.(*datav1alpha1.Run); err != nil || !ok || run.Status.ForkedFrom != "r-04" || run.Name != "" {
		t.Errorf("a dry run is %+v, %v", dry, err)
	}
	if all, _ := w.list(c, map[string]string{"fieldSelector": "status.superseded=any"}); len(all) != 8 {
		t.Errorf("there are runs %v, want 8", all)
	}
}

// A run is forked from the archive as from its rows, and names the fork.
func TestRunFork_P1_FromTheArchive(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.steps("r-04")
	w.exec(`UPDATE openworkflow.workflow_runs SET updated_at = now() - interval '2 days' WHERE namespace_id = $1`, w.namespace)
	retention := store.Retention{After: 24 * time.Hour, KeyedAfter: 24 * time.Hour, Archive: true}
	if removed, _, err := w.RemoveRuns(t.Context(), retention, []string{"r-04"}); err != nil || removed.Archived != 1 {
		t.Fatalf("archived %+v, %v", removed, err)
	}
	c := w.user()
	retry, err := w.postFork(c, "r-04", &datav1alpha1.RunFork{LastFailed: true})
	if err != nil || retry.Status.ForkedFrom != "r-04" || retry.Status.ForkStep != "ship" || retry.Spec.WorkflowName != "even" {
		t.Fatalf("the retry is %+v, %v", retry, err)
	}
	steps, err := w.LoadSteps(t.Context(), []string{retry.Name})
	if err != nil || len(steps[retry.Name]) != 2 || string(steps[retry.Name][0].Output) != "1" {
		t.Errorf("it has the steps %+v, %v", steps, err)
	}
	var source datav1alpha1.Run
	err = c.Get().Namespace(w.namespace).Resource("runs").Name("r-04").Do(t.Context()).Into(&source)
	if err != nil || source.Status.SupersededBy != retry.Name || source.Status.ArchivedAt == nil {
		t.Errorf("the source is %+v, %v", source.Status, err)
	}
	if _, err := w.postFork(c, "r-04", &datav1alpha1.RunFork{Step: new("nope")}); err == nil || !strings.Contains(err.Error(), `run r-04 has no step "nope"`) {
		t.Errorf("from a step that it does not have: %v", err)
	}
}

// Lists leave superseded runs out, unless they are asked for.
func TestRuns_P9_ListsLeaveSupersededRunsOut(t *testing.T) {
	w := setup(t)
	w.history(12)
	w.exec(`UPDATE openworkflow.workflow_runs SET config = '{"openworkflow.dev/supersededBy": "r-12"}' WHERE id IN ('r-04', 'r-10', 'r-03')`)
	w.exec(`UPDATE openworkflow.workflow_runs SET config = '{"openworkflow.dev/forkedFrom": "r-04", "openworkflow.dev/forkStep": "ship"}' WHERE id = 'r-12'`)
	w.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config,
		child_workflow_run_namespace_id, child_workflow_run_id, created_at, updated_at)
	VALUES ($1, 'c', 'r-01', 'c', 'workflow', 'failed', '{}', $1, 'r-04', now(), now())`, w.namespace)
	c := w.user()
	for _, test := range []struct{ fields, want string }{
		{"", "12 11 09 08 07 06 05 02 01"},
		{"status.state=Failed", ""},
		{"status.superseded=false", "12 11 09 08 07 06 05 02 01"},
		{"status.superseded=true", "10 04 03"},
		{"status.superseded=any,status.state=Failed", "10 04"},
		{"status.superseded=true,spec.workflowName=odd", "03"},
		{"metadata.name=r-04", "04"},
		{"metadata.name=r-04,status.superseded=false", ""},
		{"status.parent=r-01", "04"},
		{"status.parent=r-01,status.superseded=false", ""},
	} {
		t.Run(test.fields, func(t *testing.T) {
			ids, _ := w.list(c, map[string]string{"fieldSelector": test.fields})
			if got := strings.ReplaceAll(strings.Join(ids, " "), "r-", ""); got != test.want {
				t.Errorf("selected %q, want %q", got, test.want)
			}
		})
	}
	body, err := c.Get().Namespace(w.namespace).Resource("runs").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").
		Param("fieldSelector", "status.superseded=any").DoRaw(t.Context())
	if err != nil || !strings.Contains(string(body), `"default","","r-04",""`) || !strings.Contains(string(body), `"default","","","r-12"`) {
		t.Errorf("the table is %s, %v", body, err)
	}
}

// However many superseded runs there are in a row, a page reads a bounded number of them, and the
// next one goes on where it stopped.
func TestRuns_P9_PagesPassSupersededRuns(t *testing.T) {
	w := setup(t)
	w.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
	SELECT $1, 'f-' || lpad(i::text, 3, '0'), 'w', 'failed',
		CASE WHEN i % 50 = 0 THEN '{}'::jsonb ELSE '{"openworkflow.dev/supersededBy": "x"}' END, 1,
		timestamptz '2026-01-01' + i * interval '1 s', now()
	FROM generate_series(1, 300) i`, w.namespace)
	c := w.user()
	for _, limit := range []int{1, 3, 6, 7, 100, 500} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			var got []string
			params := map[string]string{"fieldSelector": "status.state=Failed", "limit": fmt.Sprint(limit)}
			for pages := 1; ; pages++ {
				ids, list := w.list(c, params)
				if len(ids) > limit {
					t.Fatalf("a page has %d runs", len(ids))
				}
				got = append(got, ids...)
				if list.Continue == "" {
					break
				}
				if most := 300/(limit*maxPages) + 300/50 + 1; pages > most {
					t.Fatalf("more than %d pages", most)
				}
				params["continue"] = list.Continue
			}
			if diff := cmp.Diff([]string{"f-300", "f-250", "f-200", "f-150", "f-100", "f-050"}, got); diff != "" {
				t.Errorf("pages (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRunFork_P7_BadInputIsNamed(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.steps("r-04")
	c := w.user()
	output := func(step, value string) []datav1alpha1.StepOutput {
		return []datav1alpha1.StepOutput{{Step: step, Value: &apiextensionsv1.JSON{Raw: []byte(value)}}}
	}
	for name, test := range map[string]struct {
		id   string
		fork datav1alpha1.RunFork
		want string
	}{
		"open":           {"r-01", datav1alpha1.RunFork{}, "the run has not ended, it is Running: cancel it first (runs/cancel)"},
		"missing":        {"nope", datav1alpha1.RunFork{}, `runs.data.openworkflow.dev "nope" not found`},
		"two points":     {"r-04", datav1alpha1.RunFork{Step: new("ship"), LastFailed: true}, "lastFailed: Forbidden: give step or lastFailed, not both"},
		"unknown step":   {"r-04", datav1alpha1.RunFork{Step: new("shop")}, `run r-04 has no step "shop"; the nearest of its 3 steps: "ship"`},
		"completed":      {"r-03", datav1alpha1.RunFork{LastFailed: true}, "run r-03 has completed, so none of its steps has made it fail"},
		"outputs alone":  {"r-04", datav1alpha1.RunFork{Outputs: output("charge", "1")}, "outputs need step or lastFailed"},
		"unknown output": {"r-04", datav1alpha1.RunFork{LastFailed: true, Outputs: output("chrage", "1")}, `has no step "chrage"`},
		"later output":   {"r-04", datav1alpha1.RunFork{Step: new("reserve"), Outputs: output("charge", "1")}, `output of step "charge": it began after step "reserve", from which the fork starts`},
		"output twice":   {"r-04", datav1alpha1.RunFork{LastFailed: true, Outputs: append(output("charge", "1"), output("charge", "2")...)}, `outputs[1].step: Duplicate value: "charge"`},
		"many outputs":   {"r-04", datav1alpha1.RunFork{LastFailed: true, Outputs: make([]datav1alpha1.StepOutput, maxOutputs+1)}, "outputs: Too many: 65: must have at most 64 items"},
		"children":       {"r-04", datav1alpha1.RunFork{Children: "Kill"}, `children: Unsupported value: "Kill": supported values: "Keep", "Restart"`},
		"timeout":        {"r-04", datav1alpha1.RunFork{TimeoutSeconds: new(int64)}, "timeoutSeconds: Invalid value: 0: must be between 1 and 3153600000"},
		"two deadlines":  {"r-04", datav1alpha1.RunFork{TimeoutSeconds: new(int64(1)), DeadlineAt: &metav1.Time{Time: metav1.Now().Time}}, "give deadlineAt or timeoutSeconds, not both"},
		"long key":       {"r-04", datav1alpha1.RunFork{IdempotencyKey: strings.Repeat("k", 513)}, "idempotencyKey: Too long"},
		"long step":      {"r-04", datav1alpha1.RunFork{Step: new(strings.Repeat("s", maxStepName+1))}, "step: Too long"},
		"long output":    {"r-04", datav1alpha1.RunFork{LastFailed: true, Outputs: output(strings.Repeat("s", maxStepName+1), "1")}, "outputs[0].step: Too long"},
		"unstorable":     {"r-04", datav1alpha1.RunFork{Input: &apiextensionsv1.JSON{Raw: []byte(`"\u0000"`)}}, "a value cannot be stored"},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := w.postFork(c, test.id, &test.fork)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("made %s, error is %v, want it to contain %q", made.Name, err, test.want)
			}
		})
	}
	err := c.Get().Namespace(w.namespace).Resource("runs").Param("fieldSelector", "status.superseded=yes").Do(t.Context()).Error()
	if want := "status.superseded=yes: want true, false or any"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
}

// To fork is a right of its own.
func TestRunFork_P9_RightsDecide(t *testing.T) {
	w := setup(t)
	w.history(6)
	viewer, forker := "viewer-"+w.namespace, "forker-"+w.namespace
	w.grant(viewer, rule([]string{"get", "list"}, "runs", "runs/steps"), rule([]string{"create"}, "runs"))
	w.grant(forker, rule([]string{"create"}, "runs/fork"))
	_, err := w.postFork(w.as(viewer), "r-04", &datav1alpha1.RunFork{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a viewer: %v, want %d", err, http.StatusForbidden)
	}
	if _, err := w.postFork(w.as(forker), "r-04", &datav1alpha1.RunFork{}); err != nil {
		t.Errorf("who may fork: %v", err)
	}
}
