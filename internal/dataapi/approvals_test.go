package dataapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// asks inserts runs that wait for an approval each, in the order of the names, and returns the digests.
func (w *world) asks(ids ...string) (digests []string) {
	w.t.Helper()
	for i, id := range ids {
		text, digest, err := openworkflow.ApprovalRequest{
			RunID: id, Step: "release", Prompt: "Release?", Required: 2, Details: json.RawMessage(`{"version":"1.2.0"}`),
			Approvers: openworkflow.Approvers{Users: []string{"ann"}, Groups: []string{"ops"}},
		}.Canonical()
		if err != nil {
			w.t.Fatal(err)
		}
		w.parked(id, "deploy", "release", "signal-wait", fmt.Sprintf(`{"kind": "signal-wait", "signal": %q}`, openworkflow.ApprovalSignal(id, "release")), "")
		w.exec(`INSERT INTO openworkflow.operator_approvals
			(namespace_id, run_id, step_name, step_attempt_id, digest, request, on_expiry, expires_at, state, decisions, created_at)
		VALUES ($1, $2, 'release', 'a-' || $2::text, $3, $4, 'Deny', timestamptz '2099-01-01', 'Open',
			'[{"user": "ann", "decision": "Approve", "comment": "go", "at": "2026-01-01T00:00:00Z", "key": "k"}]',
			timestamptz '2026-01-01' + $5 * interval '1 s')`, w.namespace, id, digest, text, i)
		digests = append(digests, digest)
	}
	return digests
}

func (w *world) approvals(c *rest.RESTClient, params ...string) (list datav1alpha1.ApprovalList, err error) {
	request := c.Get().Namespace(w.namespace).Resource("approvals")
	for i := 0; i < len(params); i += 2 {
		request = request.Param(params[i], params[i+1])
	}
	err = request.Do(w.t.Context()).Into(&list)
	return list, err
}

func (w *world) mustApprovals(c *rest.RESTClient, params ...string) datav1alpha1.ApprovalList {
	w.t.Helper()
	list, err := w.approvals(c, params...)
	if err != nil {
		w.t.Fatalf("list approvals %v: %v", params, err)
	}
	return list
}

func runsOf(list datav1alpha1.ApprovalList) string {
	var ids []string
	for _, a := range list.Items {
		ids = append(ids, a.Spec.RunID)
	}
	return strings.Join(ids, " ")
}

func TestApprovals_ListsWhatIsOpenPageByPage(t *testing.T) {
	w := setup(t)
	w.asks("run-1", "run-2", "run-3", "run-4", "run-5", "run-6")
	w.exec(`UPDATE openworkflow.operator_approvals SET state = 'Denied', decided_at = now() WHERE run_id = 'run-2'`)
	w.exec(`UPDATE openworkflow.operator_approvals SET expires_at = now() WHERE run_id = 'run-4'`)
	w.exec(`UPDATE openworkflow.workflow_runs SET status = 'canceled' WHERE id = 'run-5'`)
	c := w.user()
	if got := runsOf(w.mustApprovals(c)); got != "run-1 run-3 run-6" {
		t.Errorf("open are %s", got)
	}
	first := w.mustApprovals(c, "limit", "2")
	if got := runsOf(first); got != "run-1 run-3" || first.Continue == "" {
		t.Errorf("the first page has %s, continue %q", got, first.Continue)
	}
	second := w.mustApprovals(c, "limit", "2", "continue", first.Continue)
	if got := runsOf(second); got != "run-6" || second.Continue != "" {
		t.Errorf("the second page has %s, continue %q", got, second.Continue)
	}
	for id, want := range map[string]string{"run-1": "Open", "run-2": "Denied", "run-4": "Expired", "run-5": "RunEnded"} {
		list := w.mustApprovals(c, "fieldSelector", "spec.runID="+id)
		if len(list.Items) != 1 || list.Items[0].Status.State != want {
			t.Errorf("%s: %+v, want %s", id, list.Items, want)
		}
	}
}

// A run may ask for any number of approvals, each as long as a request may be.
func TestApprovals_OfARunHavePages(t *testing.T) {
	w := setup(t)
	const n = 301
	w.asks("run-1")
	w.exec(`INSERT INTO openworkflow.operator_approvals
		(namespace_id, run_id, step_name, step_attempt_id, digest, request, on_expiry, expires_at, state, decisions, created_at)
	SELECT namespace_id, run_id, 'step-' || i, step_attempt_id, md5(i::text) || md5(i::text), replace(request, 'Release?', repeat('x', 60000)),
		on_expiry, expires_at, CASE WHEN i < $1 THEN 'Approved' ELSE 'Open' END, '[]', created_at + i * interval '1 ms'
	FROM openworkflow.operator_approvals, generate_series(2, $1::int) i`, n)
	c := w.user()
	var steps []string
	params := []string{"fieldSelector", "spec.runID=run-1"}
	last := datav1alpha1.Approval{}
	for next := ""; ; {
		list := w.mustApprovals(c, append(params, "continue", next)...)
		if len(list.Items) > maxApprovals {
			t.Fatalf("a page of %d", len(list.Items))
		}
		for _, a := range list.Items {
			steps, last = append(steps, a.Spec.Step), a
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	if len(steps) != n || len(slices.Compact(slices.Sorted(slices.Values(steps)))) != n || last.Spec.Step != "step-301" || last.Status.State != "Open" {
		t.Errorf("%d approvals, the last one is %+v", len(steps), last)
	}
	var one datav1alpha1.Approval
	err := c.Get().Namespace(w.namespace).Resource("approvals").Name(last.Name).Do(t.Context()).Into(&one)
	if err != nil || one.Name != last.Name || one.Spec.Step != "step-301" || len(one.Spec.Prompt) < 50_000 {
		t.Errorf("get %s: %.300v, %v", last.Name, one, err)
	}
	if list := w.mustApprovals(c, append(params, "limit", "7")...); len(list.Items) != 7 || list.Continue == "" {
		t.Errorf("a page of 7 has %d, continue %q", len(list.Items), list.Continue)
	}
}

func TestApprovals_DetailsAreForThoseWhoMayGetThem(t *testing.T) {
	w := setup(t)
	digest := w.asks("run-1")[0]
	name := "run-1." + digest[:12]
	viewer := "viewer-" + w.namespace
	w.grant(viewer, rule([]string{"get", "list"}, "approvals"))
	for who, c := range map[string]*rest.RESTClient{"viewer": w.as(viewer), "editor": w.user()} {
		var one datav1alpha1.Approval
		if err := c.Get().Namespace(w.namespace).Resource("approvals").Name(name).Do(t.Context()).Into(&one); err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		for _, a := range append(w.mustApprovals(c).Items, one) {
			if a.Name != name || a.Spec.Prompt != "Release?" || a.Spec.Digest != digest || a.Spec.Required != 2 || a.Spec.Step != "release" ||
				fmt.Sprintf("%v %v %s %s", a.Spec.Users, a.Spec.Groups, a.Spec.OnExpiry, a.Spec.WorkflowName) != "[ann] [ops] Deny deploy" ||
				a.Status.State != "Open" || a.Status.Approvals != 1 || len(a.Status.Decisions) != 1 || a.Status.Decisions[0].Comment != "go" {
				t.Errorf("%s sees %+v", who, a)
			}
			shown := a.Spec.Details != nil && string(a.Spec.Details.Raw) == `{"version":"1.2.0"}` && !a.Spec.DetailsHidden
			hidden := a.Spec.Details == nil && a.Spec.DetailsHidden
			if shown != (who == "editor") || hidden != (who == "viewer") {
				t.Errorf("%s sees details %+v, hidden %v", who, a.Spec.Details, a.Spec.DetailsHidden)
			}
		}
	}
	if _, err := w.approvals(w.as("stranger-" + w.namespace)); !apierrors.IsForbidden(err) {
		t.Errorf("without rights: %v", err)
	}
}

func TestApprovals_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.asks("run-1")
	c := w.user()
	for _, test := range []struct {
		params []string
		want   string
	}{
		{[]string{"fieldSelector", "spec.step=x"}, `approvals cannot be selected by "spec.step": use one of spec.backend, spec.runID, metadata.namespace`},
		{[]string{"fieldSelector", "spec.runID!=x"}, `spec.runID!=x: approvals are selected by =`},
		{[]string{"labelSelector", "a=b"}, `approvals cannot be selected by labels or fields`},
		{[]string{"continue", "x"}, `the value of continue is not one of this list: start from the first page`},
		{[]string{"fieldSelector", "spec.backend=none"}, `Backend "none"`},
	} {
		if _, err := w.approvals(c, test.params...); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %s", test.params, err, test.want)
		}
	}
	for _, name := range []string{"run-1", "run-1.", "run-1.000000000000", "run-2.000000000000"} {
		var one datav1alpha1.Approval
		if err := c.Get().Namespace(w.namespace).Resource("approvals").Name(name).Do(t.Context()).Into(&one); !apierrors.IsNotFound(err) {
			t.Errorf("get %s: %v", name, err)
		}
	}
	signal := &datav1alpha1.RunSignal{Signal: openworkflow.ApprovalSignal("run-1", "release")}
	err := c.Post().Namespace(w.namespace).Resource("runs").Name("run-1").SubResource("signal").Body(signal).Do(t.Context()).Error()
	if err == nil || !strings.Contains(err.Error(), "only decisions send it: use kubectl workflow approve, or deny") {
		t.Errorf("a forged decision: %v", err)
	}
}

// What a worker's login may write into a row must not fail the list for others.
func TestApprovals_P9_HostileRows(t *testing.T) {
	w := setup(t)
	w.asks("run-1", "run-2", "run-3", "run-4")
	w.exec(`UPDATE openworkflow.operator_approvals SET request = repeat('x', 10000000), digest = repeat('d', 10000) WHERE run_id = 'run-1'`)
	w.exec(`UPDATE openworkflow.operator_approvals SET request = '{"required": 1e30}', decisions = '{}' WHERE run_id = 'run-2'`)
	w.exec(`UPDATE openworkflow.operator_approvals SET request = '[]', digest = '', decisions = '[1]' WHERE run_id = 'run-3'`)
	if got := runsOf(w.mustApprovals(w.user())); got != "run-1 run-2 run-3 run-4" {
		t.Errorf("open are %s", got)
	}
}

func TestWhy_NamesTheApproval(t *testing.T) {
	w := setup(t)
	w.asks("run-1")
	why := w.why(w.user(), "run-1")
	if why.Reason != datav1alpha1.WhyWaitingForApproval || !strings.HasPrefix(why.Message, `waiting for the approval of step "release"`) ||
		!strings.HasSuffix(why.Next, `kubectl workflow approve run/run-1 --step release`) {
		t.Errorf("answer is %+v", why)
	}
}

func TestState_ShowsWhatWasPublished(t *testing.T) {
	w := setup(t)
	w.asks("run-1", "run-2", "run-3")
	w.exec(`INSERT INTO openworkflow.operator_run_states (namespace_id, run_id, sequence, state, updated_at)
	VALUES ($1, 'run-1', 3, '{"done": 3}', timestamptz '2026-01-01'), ($1, 'run-2', 1, 'no JSON', now()), ($1, 'run-3', 1, repeat('1', 20000), now())`, w.namespace)
	viewer := "viewer-" + w.namespace
	w.grant(viewer, rule([]string{"get", "list"}, "runs", "runs/steps", "runs/why"))
	get := func(c *rest.RESTClient, id string) (state datav1alpha1.RunState, err error) {
		err = c.Get().Namespace(w.namespace).Resource("runs").Name(id).SubResource("state").Do(t.Context()).Into(&state)
		return state, err
	}
	c := w.user()
	if state, err := get(c, "run-1"); err != nil || state.Name != "run-1" || string(state.State.Raw) != `{"done":3}` || state.UpdatedAt.UTC().Year() != 2026 {
		t.Errorf("state is %+v, %v", state, err)
	}
	for _, id := range []string{"run-2", "run-3"} {
		if state, err := get(c, id); err != nil || state.State != nil {
			t.Errorf("state of %s is %+v, %v", id, state, err)
		}
	}
	if _, err := get(c, "run-4"); !apierrors.IsNotFound(err) {
		t.Errorf("of no run: %v", err)
	}
	if _, err := get(w.as(viewer), "run-1"); !apierrors.IsForbidden(err) {
		t.Errorf("without the right: %v", err)
	}
}
