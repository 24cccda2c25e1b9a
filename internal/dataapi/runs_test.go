package dataapi

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

// list returns the ids of a page.
func (w *world) list(c *rest.RESTClient, params map[string]string) ([]string, *datav1alpha1.RunList) {
	w.t.Helper()
	request := c.Get().Namespace(w.namespace).Resource("runs")
	for name, value := range params {
		request.Param(name, value)
	}
	var list datav1alpha1.RunList
	if err := request.Do(w.t.Context()).Into(&list); err != nil {
		w.t.Fatalf("list %v: %v", params, err)
	}
	ids := []string{}
	for i := range list.Items {
		ids = append(ids, list.Items[i].Name)
	}
	return ids, &list
}

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	testpgExec(w.t, w.url, sql, args...)
}

// history creates runs r-01 to r-n, one second apart, of the workflows even and odd, in all
// states in turn.
func (w *world) history(n int) {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.workflow_runs
		(namespace_id, id, workflow_name, status, worker_id, available_at, config, input, output, error, attempts, created_at, started_at, updated_at)
	SELECT $1, 'r-' || lpad(i::text, 2, '0'), CASE WHEN i % 2 = 0 THEN 'even' ELSE 'odd' END,
		(ARRAY['pending', 'running', 'running', 'completed', 'failed', 'canceled'])[i % 6 + 1],
		CASE WHEN i % 6 = 1 THEN 'pod.process.' || i END,
		CASE WHEN i % 6 = 2 THEN timestamptz '2099-01-01' END, '{}', '{"secret": 1}', '{"secret": 2}',
		'{"name": "CardError", "message": "secret"}', 1, timestamptz '2026-01-01 00:00:00Z' + i * interval '1 s', now(), now()
	FROM generate_series(1, $2::int) i`, w.namespace, n)
}

func TestRuns_P9_ListSelects(t *testing.T) {
	w := setup(t)
	w.history(12)
	c := w.user()
	for _, test := range []struct {
		fields string
		want   string
	}{
		{"", "12 11 10 09 08 07 06 05 04 03 02 01"},
		{"spec.workflowName=even", "12 10 08 06 04 02"},
		{"status.state=Pending", "12 06"},
		{"status.state=Running", "07 01"},
		{"status.state=Waiting", "08 02"},
		{"status.state=Completed", "09 03"},
		{"status.state=Failed", "10 04"},
		{"status.state=Canceled", "11 05"},
		{"status.state!=Completed,status.state!=Canceled,spec.workflowName=odd", "07 01"},
		{"spec.workflowName=even,status.state=Failed", "10 04"},
		{"createdFrom=2026-01-01T00:00:03Z,createdBefore=2026-01-01T00:00:05Z", "04 03"},
		{"createdFrom=2026-01-01T00:00:03Z,status.state=Completed", "09 03"},
		{"metadata.name=r-03", "03"},
		{"metadata.name=r-03,status.state=Failed", ""},
		{"spec.backend=default,status.state=Failed", "10 04"},
		{"status.state=Failed,status.state=Canceled", ""},
	} {
		t.Run(test.fields, func(t *testing.T) {
			ids, _ := w.list(c, map[string]string{"fieldSelector": test.fields})
			got := strings.ReplaceAll(strings.Join(ids, " "), "r-", "")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("selected (-want +got):\n%s", diff)
			}
		})
	}
}

// An object is named by the context of its run. One of another cluster is none of this one's.
func TestRuns_ListSelectsThoseWithoutAnObject(t *testing.T) {
	w := setup(t)
	w.history(8)
	w.exec(`UPDATE openworkflow.workflow_runs SET context = jsonb_build_object('kubernetes', jsonb_build_object(
		'cluster', CASE WHEN id < 'r-03' THEN 'another' ELSE $1 END, 'namespace', $2::text, 'name', 'order', 'uid', id)) WHERE id < 'r-07'`, clusterUID, w.namespace)
	c := w.user()
	for fields, want := range map[string]string{
		"status.object=":                                    "r-08 r-07 r-02 r-01",
		"status.object=,spec.workflowName=odd":              "r-07 r-01",
		"status.object=,metadata.name=r-04":                 "",
		"status.object=,status.superseded=any":              "r-08 r-07 r-02 r-01",
		"status.object=,status.superseded=true":             "",
		"status.object=,createdBefore=2026-01-01T00:00:05Z": "r-02 r-01",
	} {
		if ids, _ := w.list(c, map[string]string{"fieldSelector": fields}); strings.Join(ids, " ") != want {
			t.Errorf("%s selected %q, want %q", fields, ids, want)
		}
	}
}

func TestRuns_PagesMeet(t *testing.T) {
	w := setup(t)
	w.history(12)
	c := w.user()
	for _, fields := range []string{"", "spec.workflowName=even", "status.state!=Pending"} {
		all, _ := w.list(c, map[string]string{"fieldSelector": fields})
		for limit := 1; limit <= 13; limit++ {
			t.Run(fmt.Sprintf("%s by %d", fields, limit), func(t *testing.T) {
				var got []string
				params := map[string]string{"fieldSelector": fields, "limit": fmt.Sprint(limit)}
				for {
					ids, list := w.list(c, params)
					got = append(got, ids...)
					if list.Continue == "" {
						break
					}
					params["continue"] = list.Continue
				}
				if diff := cmp.Diff(all, got); diff != "" {
					t.Errorf("pages (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestRuns_BadInputIsNamed(t *testing.T) {
	w := setup(t)
	c := w.user()
	get := func() *rest.Request { return c.Get().Namespace(w.namespace).Resource("runs") }
	create := func(change func(*datav1alpha1.Run)) *rest.Request {
		run := &datav1alpha1.Run{Spec: datav1alpha1.RunSpec{WorkflowName: "w"}}
		change(run)
		return c.Post().Namespace(w.namespace).Resource("runs").Body(run)
	}
	for name, test := range map[string]struct {
		request *rest.Request
		want    string
	}{
		"unknown field":    {get().Param("fieldSelector", "spec.color=red"), `runs cannot be selected by "spec.color": use one of spec.backend, spec.workflowName`},
		"unknown state":    {get().Param("fieldSelector", "status.state=Done"), "a state is one of Pending, Running, Waiting, Completed, Failed, Canceled"},
		"an object":        {get().Param("fieldSelector", "status.object=order-1"), "status.object=order-1: only the empty value selects"},
		"no time":          {get().Param("fieldSelector", "createdFrom=yesterday"), "want a time such as 2026-01-31T15:04:05Z"},
		"not equal":        {get().Param("fieldSelector", "spec.workflowName!=w"), "only status.state may be compared with !="},
		"labels":           {get().Param("labelSelector", "a=b"), "runs have no labels: select them by fields"},
		"continue":         {get().Param("continue", "x"), "start from the first page"},
		"missing backend":  {get().Param("fieldSelector", "spec.backend=nope"), `Backend "nope" does not exist in this namespace`},
		"missing run":      {get().Name("nope"), `runs.data.openworkflow.dev "nope" not found`},
		"no limit":         {get().Name("nope").SubResource("steps").Param("limit", "many"), "limit \"many\": want a number of step attempts"},
		"missing steps":    {get().Name("nope").SubResource("steps"), `runs.data.openworkflow.dev "nope" not found`},
		"all namespaces":   {c.Get().Resource("runs"), "is forbidden"},
		"no workflow":      {create(func(r *datav1alpha1.Run) { r.Spec.WorkflowName = "" }), "spec.workflowName: Required value: name the workflow to run"},
		"long workflow":    {create(func(r *datav1alpha1.Run) { r.Spec.WorkflowName = strings.Repeat("w", 254) }), "spec.workflowName: Too long"},
		"timeout":          {create(func(r *datav1alpha1.Run) { r.Spec.TimeoutSeconds = new(int64) }), "spec.timeoutSeconds: Invalid value: 0: must be between 1 and 3153600000"},
		"no such backend":  {create(func(r *datav1alpha1.Run) { r.Spec.Backend = "nope" }), `Backend "nope" does not exist`},
		"generated name":   {create(func(r *datav1alpha1.Run) { r.GenerateName = "w-" }), "leave the name empty"},
		"unstorable input": {create(func(r *datav1alpha1.Run) { r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`"\u0000"`)} }), "a value cannot be stored"},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.request.Do(t.Context()).Error()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want it to contain %q", err, test.want)
			}
		})
	}
}

func TestRuns_CreateStartsARunOnce(t *testing.T) {
	w := setup(t)
	c := w.user()
	create := func(name, key string) *datav1alpha1.Run {
		t.Helper()
		run := &datav1alpha1.Run{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: datav1alpha1.RunSpec{
			WorkflowName: "checkout", Version: "2", IdempotencyKey: key, Input: &apiextensionsv1.JSON{Raw: []byte(`{"order":7}`)},
		}}
		var created datav1alpha1.Run
		if err := c.Post().Namespace(w.namespace).Resource("runs").Body(run).Do(t.Context()).Into(&created); err != nil {
			t.Fatal(err)
		}
		return &created
	}
	plain := create("", "")
	if plain.Name == "" || plain.Status.State != "Pending" || plain.Spec.WorkflowName != "checkout" || plain.Spec.Version != "2" || plain.Spec.Input != nil {
		t.Errorf("created %+v", plain)
	}
	if again := create(plain.Name, ""); again.Name != plain.Name {
		t.Errorf("a repeated create made run %s, want %s", again.Name, plain.Name)
	}
	first, second := create("", "order-7"), create("", "order-7")
	if first.Name != second.Name {
		t.Errorf("one key made runs %s and %s", first.Name, second.Name)
	}
	if ids, _ := w.list(c, nil); len(ids) != 2 {
		t.Errorf("there are runs %v, want 2", ids)
	}
	rows, err := w.GetRuns(t.Context(), []string{plain.Name})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(rows[plain.Name].Input); got != `{"order": 7}` {
		t.Errorf("the input is %s", got)
	}
}

// A namespace user reads only their namespace, a viewer no payloads, and nobody without rights
// anything: by certificates and by tokens.
func TestRuns_P9_RightsDecide(t *testing.T) {
	w := setup(t)
	w.history(6)
	viewer := "viewer-" + w.namespace
	rights := rule([]string{"get", "list"}, "runs", "runs/steps")
	w.grant(viewer, rights)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "reader"}}
	w.create(account)
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: viewer},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: "reader"}},
	})
	w.AwaitAllowed("system:serviceaccount:"+w.namespace+":reader", &rights)
	token := &authenticationv1.TokenRequest{}
	if err := cluster.admin.SubResource("token").Create(t.Context(), account, token); err != nil {
		t.Fatal(err)
	}
	callers := map[string]*rest.RESTClient{
		"certificate": w.as(viewer), "token": w.withToken(token.Status.Token),
		"stranger": w.as("stranger-" + w.namespace), "bad token": w.withToken("abc"), "nobody": w.withToken(""),
	}
	get := func(namespace, resource, name, sub string) func(*rest.RESTClient) *rest.Request {
		return func(c *rest.RESTClient) *rest.Request {
			r := c.Get().Namespace(namespace).Resource(resource)
			if name != "" {
				r = r.Name(name)
			}
			if sub != "" {
				r = r.SubResource(sub)
			}
			return r
		}
	}
	post := func(sub string, body any) func(*rest.RESTClient) *rest.Request {
		return func(c *rest.RESTClient) *rest.Request {
			return c.Post().Namespace(w.namespace).Resource("runs").Name("r-06").SubResource(sub).Body(body)
		}
	}
	for name, test := range map[string]struct {
		request func(*rest.RESTClient) *rest.Request
		viewer  int
	}{
		"list":                   {get(w.namespace, "runs", "", ""), http.StatusOK},
		"get":                    {get(w.namespace, "runs", "r-06", ""), http.StatusOK},
		"steps":                  {get(w.namespace, "runs", "r-06", "steps"), http.StatusOK},
		"payload":                {get(w.namespace, "runs", "r-06", "payload"), http.StatusForbidden},
		"history":                {get(w.namespace, "runs", "r-06", "history"), http.StatusForbidden},
		"cancel":                 {post("cancel", &datav1alpha1.RunCancel{}), http.StatusForbidden},
		"signal":                 {post("signal", &datav1alpha1.RunSignal{Signal: "s"}), http.StatusForbidden},
		"list another namespace": {get("default", "runs", "", ""), http.StatusForbidden},
	} {
		for caller, c := range callers {
			t.Run(name+" by "+caller, func(t *testing.T) {
				want := map[string]int{
					"certificate": test.viewer, "token": test.viewer, "stranger": http.StatusForbidden,
					"bad token": http.StatusUnauthorized, "nobody": http.StatusUnauthorized,
				}[caller]
				got := http.StatusOK
				if err := test.request(c).Do(t.Context()).Error(); err != nil {
					got = int(apierrors.ReasonForError(err)[0]) // replaced below when it is a status
					if status, ok := err.(apierrors.APIStatus); ok {
						got = int(status.Status().Code)
					}
				}
				if got != want {
					t.Errorf("status %d, want %d", got, want)
				}
			})
		}
	}
}

func TestRuns_P9_PayloadsAreReadOnlyByTheirOwnVerb(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error, started_at, created_at, updated_at)
	VALUES ($1, 'a-1', 'r-04', 'charge', 'function', 'failed', '{}', NULL, NULL, '{"name": "Declined", "message": "secret"}', now(), now(), now()),
		($1, 'a-2', 'r-04', 'ask', 'signal-wait', 'running', '{}', '{"signal": "approve"}', '"secret"', NULL, now(), now() + interval '1 ms', now())`, w.namespace)
	c := w.user()
	raw := func(path ...string) string {
		t.Helper()
		request := c.Get().Namespace(w.namespace).Resource("runs")
		if len(path) > 0 {
			request = request.Name(path[0])
		}
		if len(path) > 1 {
			request = request.SubResource(path[1])
		}
		body, err := request.DoRaw(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for _, path := range [][]string{{}, {"r-04"}, {"r-04", "steps"}} {
		if body := raw(path...); strings.Contains(body, "secret") {
			t.Errorf("runs/%s shows a payload: %s", strings.Join(path, "/"), body)
		}
	}
	if body := raw("r-04"); !strings.Contains(body, `"errorName":"CardError"`) {
		t.Errorf("the run does not name its error: %s", body)
	}
	steps := raw("r-04", "steps")
	for _, want := range []string{`"errorName":"Declined"`, `"signal":"approve"`, `"name":"charge"`} {
		if !strings.Contains(steps, want) {
			t.Errorf("the steps lack %s: %s", want, steps)
		}
	}
	for _, path := range [][]string{{"r-04", "payload"}, {"r-04", "history"}} {
		if n := strings.Count(raw(path...), "secret"); n < 3 {
			t.Errorf("%v shows %d payloads, want all", path, n)
		}
	}
}

func TestRuns_SignalSuspendAndCancel(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, context, started_at, created_at, updated_at)
	VALUES ($1, 'a-1', 'r-02', 'ask', 'signal-wait', 'running', '{}', '{"signal": "approve"}', now(), now(), now())`, w.namespace)
	c := w.user()
	post := func(id, sub string, body, into any) error {
		result := c.Post().Namespace(w.namespace).Resource("runs").Name(id).SubResource(sub).Body(body).Do(t.Context())
		switch into := into.(type) {
		case *datav1alpha1.RunSignal:
			return result.Into(into)
		case *datav1alpha1.RunCancel:
			return result.Into(into)
		case *datav1alpha1.RunSuspend:
			return result.Into(into)
		}
		return result.Error()
	}
	var sent datav1alpha1.RunSignal
	if err := post("r-02", "signal", &datav1alpha1.RunSignal{Signal: "approve", Data: &apiextensionsv1.JSON{Raw: []byte("true")}}, &sent); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"r-02"}, sent.Recipients); diff != "" {
		t.Errorf("recipients (-want +got):\n%s", diff)
	}
	err := post("r-06", "signal", &datav1alpha1.RunSignal{Signal: "approve"}, nil)
	if want := `the run is Pending and waits for no signal, not for "approve"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
	for _, suspend := range []bool{true, false} {
		if err := post("r-06", "suspend", &datav1alpha1.RunSuspend{Suspend: suspend}, nil); err != nil {
			t.Fatal(err)
		}
		var run datav1alpha1.Run
		if err := c.Get().Namespace(w.namespace).Resource("runs").Name("r-06").Do(t.Context()).Into(&run); err != nil {
			t.Fatal(err)
		}
		if run.Status.Suspended != suspend {
			t.Errorf("suspended is %v, want %v", run.Status.Suspended, suspend)
		}
	}
	w.exec(`UPDATE openworkflow.workflow_runs SET context = jsonb_build_object('kubernetes',
		jsonb_build_object('cluster', $2::text, 'namespace', $1::text, 'name', 'order-1')) WHERE namespace_id = $1 AND id = 'r-01'`, w.namespace, clusterUID)
	err = post("r-01", "suspend", &datav1alpha1.RunSuspend{Suspend: true}, nil)
	if want := `the run follows WorkflowRun "order-1": set its spec.suspend`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
	var canceled datav1alpha1.RunCancel
	if err := post("r-06", "cancel", &datav1alpha1.RunCancel{}, &canceled); err != nil || canceled.State != "Canceled" {
		t.Errorf("cancel: %v, state %s", err, canceled.State)
	}
	err = post("r-03", "cancel", &datav1alpha1.RunCancel{}, nil)
	if want := "the run has ended already: it is Completed"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error is %v, want %q", err, want)
	}
}

// Runs of several Backends are one list. One that two Backends show is listed once.
func TestRuns_SeveralBackendsAreOneList(t *testing.T) {
	w := setup(t)
	w.history(3)
	other := w.backend("other", testpgNew(t))
	if _, err := other.CreateRuns(t.Context(), []store.NewRun{{ID: "elsewhere", WorkflowName: "w"}}); err != nil {
		t.Fatal(err)
	}
	w.backend("same", w.url)
	ids, list := w.list(w.user(), nil)
	if diff := cmp.Diff([]string{"elsewhere", "r-03", "r-02", "r-01"}, ids); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	if got := list.Items[0].Spec.Backend; got != "other" {
		t.Errorf("the Backend is %q", got)
	}
}

// kubectl asks for a table, with the metadata of each row's object.
func TestTables_EachResourcePrintsAsOne(t *testing.T) {
	w := setup(t)
	w.history(2)
	w.parked("r", "w", "ask", "signal-wait", `{"signal": "go"}`, "")
	c := w.user()
	for path, want := range map[string]string{
		"runs":         `"r-02","even","Waiting"`,
		"runs/r-01":    `"r-01","odd","Running"`,
		"runs/r/steps": `"ask","signal-wait","running"`,
		"runs/r/why":   `"r","WaitingForSignal"`,
		"workflows":    `"even"`,
		"diagnoses":    `"default","schema","OK"`,
		"bulkretries":  `"rows":[]`,
	} {
		t.Run(path, func(t *testing.T) {
			body, err := c.Get().AbsPath("/apis", datav1alpha1.GroupVersion.String(), "namespaces", w.namespace, path).
				SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{`"kind":"Table"`, want} {
				if !strings.Contains(string(body), want) {
					t.Errorf("the table lacks %s: %s", want, body)
				}
			}
		})
	}
}

// An archived run is read as before, is marked, and is in no list. Nothing of it can be changed.
func TestRuns_ArchivedRunsAreRead(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, output, started_at, created_at, updated_at)
	SELECT $1, 'a-' || i, 'r-03', 'step-' || i, 'function', 'completed', '{}', '{"secret": 3}', now(), now() + i * interval '1 ms', now()
	FROM generate_series(1, 3) i`, w.namespace)
	w.exec(`UPDATE openworkflow.workflow_runs SET updated_at = now() - interval '2 days' WHERE namespace_id = $1`, w.namespace)
	c := w.user()
	read := func(sub string) string {
		t.Helper()
		request := c.Get().Namespace(w.namespace).Resource("runs").Name("r-03")
		if sub != "" {
			request.SubResource(sub)
		}
		body, err := request.DoRaw(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", sub, err)
		}
		return string(body)
	}
	before := map[string]string{}
	for _, sub := range []string{"", "steps", "payload", "history", "why"} {
		before[sub] = read(sub)
	}
	retention := store.Retention{After: 24 * time.Hour, KeyedAfter: 24 * time.Hour, Archive: true}
	if removed, _, err := w.RemoveRuns(t.Context(), retention, []string{"r-03"}); err != nil || removed.Archived != 1 {
		t.Fatalf("archived %+v, %v", removed, err)
	}
	archivedAt := regexp.MustCompile(`,"archivedAt":"[^"]*"`)
	for sub, want := range before {
		got := read(sub)
		if marked := archivedAt.MatchString(got); marked != (sub == "" || sub == "history") {
			t.Errorf("%s marks it as archived: %t", sub, marked)
		}
		if diff := cmp.Diff(want, archivedAt.ReplaceAllString(got, "")); diff != "" {
			t.Errorf("%s (-before +archived):\n%s", sub, diff)
		}
	}
	var steps datav1alpha1.RunSteps
	var names []string
	for token := ""; ; token = steps.Continue {
		request := c.Get().Namespace(w.namespace).Resource("runs").Name("r-03").SubResource("steps").Param("limit", "2")
		steps = datav1alpha1.RunSteps{}
		if err := request.Param("continue", token).Do(t.Context()).Into(&steps); err != nil {
			t.Fatal(err)
		}
		for i := range steps.Items {
			names = append(names, steps.Items[i].Name)
		}
		if steps.Continue == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"step-1", "step-2", "step-3"}, names); diff != "" {
		t.Errorf("steps by pages (-want +got):\n%s", diff)
	}
	if ids, _ := w.list(c, nil); slices.Contains(ids, "r-03") || len(ids) != 5 {
		t.Errorf("listed %v", ids)
	}
	for sub, body := range map[string]any{
		"cancel": &datav1alpha1.RunCancel{}, "suspend": &datav1alpha1.RunSuspend{Suspend: true}, "signal": &datav1alpha1.RunSignal{Signal: "s"},
	} {
		err := c.Post().Namespace(w.namespace).Resource("runs").Name("r-03").SubResource(sub).Body(body).Do(t.Context()).Error()
		if want := "the run has ended already: it is Completed, and archived"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", sub, err, want)
		}
	}
	w.exec(`UPDATE openworkflow.operator_archives SET version = 2 WHERE namespace_id = $1`, w.namespace)
	err := c.Get().Namespace(w.namespace).Resource("runs").Name("r-03").Do(t.Context()).Error()
	if want := "has version 2 of the format, this release knows 1"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a later format: %v, want %q", err, want)
	}
}
