package dataapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

func newBulkRetry(name string, change func(*datav1alpha1.BulkRetrySpec)) *datav1alpha1.BulkRetry {
	b := &datav1alpha1.BulkRetry{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if change != nil {
		change(&b.Spec)
	}
	return b
}

func (w *world) postBulk(c *rest.RESTClient, b *datav1alpha1.BulkRetry) *rest.Request {
	return c.Post().Namespace(w.namespace).Resource("bulkretries").Body(b)
}

func (w *world) bulk(request *rest.Request) *datav1alpha1.BulkRetry {
	w.t.Helper()
	var b datav1alpha1.BulkRetry
	if err := request.Do(w.t.Context()).Into(&b); err != nil {
		w.t.Fatal(err)
	}
	return &b
}

func (w *world) patchBulk(c *rest.RESTClient, name, patch string) *rest.Request {
	return c.Patch(types.MergePatchType).Namespace(w.namespace).Resource("bulkretries").Name(name).Body([]byte(patch))
}

func TestBulkRetries_CreateStoresWhatWasAskedFor(t *testing.T) {
	w := setup(t)
	w.history(12)
	c := w.user()
	from := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	before := metav1.NewTime(time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC))
	for name, change := range map[string]func(*datav1alpha1.BulkRetrySpec){
		"least": nil,
		"most": func(s *datav1alpha1.BulkRetrySpec) {
			s.Selector = datav1alpha1.BulkRetrySelector{
				WorkflowName: "odd", Version: new(""), States: []string{"Failed", "Canceled"}, ErrorName: "CardError",
				FinishedFrom: &from, FinishedBefore: &before,
			}
			s.From, s.Step, s.Children, s.RunsPerMinute, s.MaxRuns, s.Suspend = "Step", "charge", "Restart", 30, 7, true
		},
		"rerun": func(s *datav1alpha1.BulkRetrySpec) { s.From, s.Cancel = "Start", true },
	} {
		t.Run(name, func(t *testing.T) {
			asked := newBulkRetry(name, change)
			created := w.bulk(w.postBulk(c, asked))
			defaultBulkRetry(asked)
			if diff := cmp.Diff(asked.Spec, created.Spec); diff != "" {
				t.Errorf("spec (-asked +stored):\n%s", diff)
			}
			want := map[string]string{"least": "Running 2", "most": "Suspended 2", "rerun": "Canceled 2"}[name]
			if got := fmt.Sprint(created.Status.State, " ", created.Status.Matched); got != want || created.UID == "" {
				t.Errorf("status is %q, uid %q, want %q", got, created.UID, want)
			}
		})
	}
	generated := w.bulk(w.postBulk(c, &datav1alpha1.BulkRetry{ObjectMeta: metav1.ObjectMeta{GenerateName: "retry-"}}))
	if !strings.HasPrefix(generated.Name, "retry-") || len(generated.Name) != len("retry-")+5 {
		t.Errorf("the generated name is %q", generated.Name)
	}
}

func TestBulkRetries_ADryRunChangesNothing(t *testing.T) {
	w := setup(t)
	w.history(12)
	c := w.user()
	b := w.bulk(w.postBulk(c, newBulkRetry("all", nil)).Param("dryRun", "All"))
	if diff := cmp.Diff(datav1alpha1.BulkRetryStatus{Matched: 2, Sample: []string{"r-04", "r-10"}}, b.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if err := c.Get().Namespace(w.namespace).Resource("bulkretries").Name("all").Do(t.Context()).Error(); !apierrors.IsNotFound(err) {
		t.Errorf("get: %v", err)
	}
}

func TestBulkRetries_SuspendResumeCancelDelete(t *testing.T) {
	w := setup(t)
	w.history(6)
	c := w.user()
	w.bulk(w.postBulk(c, newBulkRetry("all", nil)))
	for _, step := range []struct{ patch, want string }{
		{`{"spec":{"suspend":true}}`, "Suspended"},
		{`{"spec":{"suspend":false}}`, "Running"},
		{`{"spec":{"cancel":true}}`, "Canceled"},
	} {
		if b := w.bulk(w.patchBulk(c, "all", step.patch).Param("dryRun", "All")); b.Status.State == step.want {
			t.Errorf("a dry run of %s changed the state", step.patch)
		}
		if b := w.bulk(w.patchBulk(c, "all", step.patch)); b.Status.State != step.want {
			t.Errorf("after %s it is %s, want %s", step.patch, b.Status.State, step.want)
		}
	}
	remove := func() error {
		return c.Delete().Namespace(w.namespace).Resource("bulkretries").Name("all").Do(t.Context()).Error()
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if err := remove(); !apierrors.IsNotFound(err) {
		t.Errorf("deleted twice: %v", err)
	}
	again := w.bulk(w.postBulk(c, newBulkRetry("all", nil)))
	work, err := w.ClaimBulkRetry(t.Context())
	if err != nil || work == nil || work.UID != string(again.UID) || !work.Spec.LastFailed || work.Spec.PerMinute != 600 {
		t.Errorf("the manager gets %+v, %v", work, err)
	}
}

func TestBulkRetries_P7_BadInputIsNamed(t *testing.T) {
	w := setup(t)
	w.history(6)
	c := w.user()
	w.bulk(w.postBulk(c, newBulkRetry("open", nil)))
	w.bulk(w.postBulk(c, newBulkRetry("canceled", func(s *datav1alpha1.BulkRetrySpec) { s.Cancel = true })))
	w.backend("other", testpgNew(t))
	early, late := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	create := func(change func(*datav1alpha1.BulkRetrySpec)) *rest.Request {
		return w.postBulk(c, newBulkRetry("b", change))
	}
	for name, test := range map[string]struct {
		request *rest.Request
		want    string
	}{
		"name":          {w.postBulk(c, newBulkRetry("A_b", nil)), `metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain`},
		"no name":       {w.postBulk(c, newBulkRetry("", nil)), `metadata.name: Invalid value: ""`},
		"exists":        {w.postBulk(c, newBulkRetry("open", nil)), `bulkretries.data.openworkflow.dev "open" already exists`},
		"exists there":  {w.postBulk(c, newBulkRetry("open", func(s *datav1alpha1.BulkRetrySpec) { s.Backend = "other" })), `"open" already exists`},
		"backend":       {create(func(s *datav1alpha1.BulkRetrySpec) { s.Backend = "nope" }), `Backend "nope" does not exist in this namespace`},
		"from":          {create(func(s *datav1alpha1.BulkRetrySpec) { s.From = "Here" }), `spec.from: Unsupported value: "Here": supported values: "LastFailed", "Step", "Start"`},
		"no step":       {create(func(s *datav1alpha1.BulkRetrySpec) { s.From = "Step" }), "spec.step: Required value: name the step"},
		"a step":        {create(func(s *datav1alpha1.BulkRetrySpec) { s.Step = "x" }), "spec.step: Forbidden: only with from: Step"},
		"long step":     {create(func(s *datav1alpha1.BulkRetrySpec) { s.From, s.Step = "Step", strings.Repeat("x", 4097) }), "spec.step: Too long: may not be more than 4096 bytes"},
		"children":      {create(func(s *datav1alpha1.BulkRetrySpec) { s.Children = "Eat" }), `spec.children: Unsupported value: "Eat"`},
		"slow":          {create(func(s *datav1alpha1.BulkRetrySpec) { s.RunsPerMinute = -1 }), "spec.runsPerMinute: Invalid value: -1: must be between 1 and 6000"},
		"fast":          {create(func(s *datav1alpha1.BulkRetrySpec) { s.RunsPerMinute = 6001 }), "must be between 1 and 6000"},
		"maxRuns":       {create(func(s *datav1alpha1.BulkRetrySpec) { s.MaxRuns = -1 }), "spec.maxRuns: Invalid value: -1: must not be negative"},
		"state":         {create(func(s *datav1alpha1.BulkRetrySpec) { s.Selector.States = []string{"Completed"} }), `spec.selector.states[0]: Unsupported value: "Completed": supported values: "Failed", "Canceled"`},
		"states":        {create(func(s *datav1alpha1.BulkRetrySpec) { s.Selector.States = make([]string, 3) }), "spec.selector.states: Too many: 3: must have at most 2 items"},
		"long workflow": {create(func(s *datav1alpha1.BulkRetrySpec) { s.Selector.WorkflowName = strings.Repeat("x", 254) }), "spec.selector.workflowName: Too long"},
		"long version":  {create(func(s *datav1alpha1.BulkRetrySpec) { s.Selector.Version = new(strings.Repeat("x", 254)) }), "spec.selector.version: Too long"},
		"long error":    {create(func(s *datav1alpha1.BulkRetrySpec) { s.Selector.ErrorName = strings.Repeat("x", 254) }), "spec.selector.errorName: Too long"},
		"times": {create(func(s *datav1alpha1.BulkRetrySpec) {
			s.Selector.FinishedFrom, s.Selector.FinishedBefore = &late, &early
		}), "spec.selector.finishedBefore: Invalid value"},
		"no UTF-8":       {create(func(s *datav1alpha1.BulkRetrySpec) { s.Selector.ErrorName = "\x00" }), "a value cannot be stored"},
		"changed":        {w.patchBulk(c, "open", `{"spec":{"maxRuns":7}}`), "spec: Forbidden: only suspend and cancel may change: create another bulk retry"},
		"taken back":     {w.patchBulk(c, "canceled", `{"spec":{"cancel":false}}`), "spec.cancel: Forbidden: it cannot be taken back"},
		"ended":          {w.patchBulk(c, "canceled", `{"spec":{"suspend":true}}`), "the bulk retry has ended"},
		"another's uid":  {w.patchBulk(c, "open", `{"metadata":{"uid":"x"},"spec":{"suspend":true}}`), "its uid is "},
		"missing":        {w.patchBulk(c, "nope", `{"spec":{"suspend":true}}`), `bulkretries.data.openworkflow.dev "nope" not found`},
		"labels":         {c.Get().Namespace(w.namespace).Resource("bulkretries").Param("labelSelector", "a=b"), "bulk retries have no labels"},
		"fields":         {c.Get().Namespace(w.namespace).Resource("bulkretries").Param("fieldSelector", "spec.x=b"), `"spec.x" is not a known field selector`},
		"all namespaces": {c.Get().Resource("bulkretries"), "is forbidden"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.request.Do(t.Context()).Error()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want it to contain %q", err, test.want)
			}
		})
	}
}

func TestBulkRetries_P9_TheirNumberIsBounded(t *testing.T) {
	w := setup(t)
	c := w.user()
	for i := range store.MaxOpenBulkRetries {
		w.bulk(w.postBulk(c, newBulkRetry(fmt.Sprint("b-", i), nil)))
	}
	err := w.postBulk(c, newBulkRetry("more", nil)).Do(t.Context()).Error()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "10 bulk retries of this Backend have not ended: wait, or cancel one") {
		t.Errorf("error is %v", err)
	}
}

// Each verb needs its right, in the namespace.
func TestBulkRetries_P9_RightsDecide(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.bulk(w.postBulk(w.user(), newBulkRetry("all", nil)))
	requests := map[string]func(*rest.RESTClient) *rest.Request{
		"get": func(c *rest.RESTClient) *rest.Request {
			return c.Get().Namespace(w.namespace).Resource("bulkretries").Name("all")
		},
		"list":   func(c *rest.RESTClient) *rest.Request { return c.Get().Namespace(w.namespace).Resource("bulkretries") },
		"create": func(c *rest.RESTClient) *rest.Request { return w.postBulk(c, newBulkRetry("another", nil)) },
		"patch":  func(c *rest.RESTClient) *rest.Request { return w.patchBulk(c, "all", `{"spec":{"suspend":true}}`) },
		"update": func(c *rest.RESTClient) *rest.Request {
			b := newBulkRetry("all", func(s *datav1alpha1.BulkRetrySpec) { s.Suspend = true })
			return c.Put().Namespace(w.namespace).Resource("bulkretries").Name("all").Body(b)
		},
		"elsewhere": func(c *rest.RESTClient) *rest.Request { return c.Get().Namespace("default").Resource("bulkretries") },
		"delete": func(c *rest.RESTClient) *rest.Request {
			return c.Delete().Namespace(w.namespace).Resource("bulkretries").Name("all")
		},
	}
	callers := map[string][]string{"viewer": {"get", "list"}, "editor": {"get", "list", "create", "patch", "update", "delete"}, "stranger": nil}
	for _, caller := range []string{"stranger", "viewer", "editor"} {
		verbs := callers[caller]
		name := caller + "-" + w.namespace
		if verbs != nil {
			w.grant(name, rule(verbs, "bulkretries"))
		}
		c := w.as(name)
		for _, verb := range []string{"get", "list", "create", "patch", "update", "elsewhere", "delete"} {
			code := 0
			requests[verb](c).Do(t.Context()).StatusCode(&code)
			want := []int{http.StatusForbidden}
			if slices.Contains(verbs, verb) {
				want = []int{http.StatusOK, http.StatusCreated}
			}
			if !slices.Contains(want, code) {
				t.Errorf("%s by the %s: status %d, want one of %v", verb, caller, code, want)
			}
		}
	}
}

func TestBulkRetries_PrintAsATable(t *testing.T) {
	w := setup(t)
	w.history(6)
	c := w.user()
	w.bulk(w.postBulk(c, newBulkRetry("all", func(s *datav1alpha1.BulkRetrySpec) { s.Selector.WorkflowName = "even" })))
	w.exec(`UPDATE openworkflow.operator_bulk_retries SET more = true, started = 3, skipped = 2, failed = 1, failures = '[{"runID": "r", "message": "m"}]'`)
	for _, name := range []string{"", "all"} {
		request := c.Get().Namespace(w.namespace).Resource("bulkretries").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
		if name != "" {
			request.Name(name)
		}
		raw, err := request.DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`"kind":"Table"`, `"all","Running","1+",3,2,1,`, `"even","600/min","default"`} {
			if !strings.Contains(string(raw), want) {
				t.Errorf("%q: the table lacks %s: %s", name, want, raw)
			}
		}
	}
	b := w.bulk(c.Get().Namespace(w.namespace).Resource("bulkretries").Name("all"))
	if diff := cmp.Diff([]datav1alpha1.BulkRetryFailure{{Run: "r", Message: "m"}}, b.Status.Failures); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
}
