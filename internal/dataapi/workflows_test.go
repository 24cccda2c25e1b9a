package dataapi

import (
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestWorkflows_ShowBacklogRateAndFailures(t *testing.T) {
	w := setup(t)
	w.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, finished_at, updated_at)
	SELECT $1, 'done-' || i, 'checkout', CASE WHEN i % 5 = 0 THEN 'failed' ELSE 'completed' END, CASE WHEN i > 50 THEN '{"openworkflow.dev/supersededBy": "done-1"}'::jsonb ELSE '{}' END,
		1, now(), now(), now() FROM generate_series(1, 60) i WHERE i <= 50 OR i % 5 = 0`, w.namespace)
	if _, err := w.CreateRuns(t.Context(), []store.NewRun{
		{WorkflowName: "checkout"}, {WorkflowName: "checkout"}, {WorkflowName: "print", Version: new("2"), AvailableAt: new(time.Now().Add(time.Hour))},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.SaveWorker(t.Context(), store.Worker{PodUID: "p", Process: "q", Pool: "shop", Workflows: []openworkflow.Definition{{Name: "checkout"}}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	c := w.user()
	var list datav1alpha1.WorkflowList
	if err := c.Get().Namespace(w.namespace).Resource("workflows").Do(t.Context()).Into(&list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 || list.Truncated {
		t.Fatalf("workflows are %+v", list)
	}
	checkout, printing := list.Items[0], list.Items[1]
	if s := checkout.Status; checkout.Name != "checkout" || !s.Served || s.Runnable != 2 || s.OldestRunnableAt == nil || s.Completed != 40 || s.Failed != 10 || s.Seconds != 300 {
		t.Errorf("checkout is %+v", checkout)
	}
	if perMinute, failed := checkout.Status.Rates(); perMinute != "10.0" || failed != "20.0%" {
		t.Errorf("rates are %s a minute and %s", perMinute, failed)
	}
	var one datav1alpha1.Workflow
	if err := c.Get().Namespace(w.namespace).Resource("workflows").Name("print@2").Do(t.Context()).Into(&one); err != nil || one.Status.Waiting != 1 || one.Spec.Version != "2" {
		t.Errorf("print@2 alone is %+v, %v", one, err)
	}
	if s := printing.Status; printing.Name != "print@2" || s.Served || s.Waiting != 1 || s.Runnable != 0 {
		t.Errorf("print is %+v", printing)
	}
	body, err := c.Get().Namespace(w.namespace).Resource("workflows").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := `,0,"0","10.0","20.0%",true,"0","5m","default"`; !strings.Contains(string(body), want) {
		t.Errorf("the table lacks %s: %s", want, body)
	}
}

func TestWorkflowsAndDiagnoses_BadInputIsNamed(t *testing.T) {
	w := setup(t)
	c := w.user()
	get := func(resource string) *rest.Request { return c.Get().Namespace(w.namespace).Resource(resource) }
	for name, test := range map[string]struct {
		request *rest.Request
		want    string
	}{
		"labels":         {get("workflows").Param("labelSelector", "a=b"), "workflows cannot be selected by labels or fields"},
		"all":            {c.Get().Resource("workflows"), "is forbidden"},
		"one workflow":   {get("workflows").Name("x"), `workflows.data.openworkflow.dev "x" not found`},
		"diagnosis of x": {get("diagnoses").Name("x"), `Backend "x" does not exist in this namespace`},
		"fields":         {get("diagnoses").Param("labelSelector", "a=b"), "diagnoses cannot be selected by labels or fields"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.request.Do(t.Context()).Error()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want it to contain %q", err, test.want)
			}
		})
	}
}
