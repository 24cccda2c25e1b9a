package dataapi

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func (w *world) why(c *rest.RESTClient, id string) *datav1alpha1.RunWhy {
	w.t.Helper()
	var why datav1alpha1.RunWhy
	if err := c.Get().Namespace(w.namespace).Resource("runs").Name(id).SubResource("why").Do(w.t.Context()).Into(&why); err != nil {
		w.t.Fatalf("why %s: %v", id, err)
	}
	return &why
}

func (w *world) secret(name string) *corev1.Secret {
	w.t.Helper()
	var secret corev1.Secret
	if err := cluster.admin.Get(w.t.Context(), client.ObjectKey{Namespace: w.namespace, Name: name}, &secret); err != nil {
		w.t.Fatal(err)
	}
	return &secret
}

// parked inserts a run that waits in a step.
func (w *world) parked(id, workflow, step, kind, context, child string) {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, available_at, config, attempts, created_at, started_at, updated_at)
	VALUES ($1, $2, $3, 'running', timestamptz '2099-01-01', '{}', 1, now(), now(), now())`, w.namespace, id, workflow)
	w.exec(`INSERT INTO openworkflow.step_attempts
		(namespace_id, id, workflow_run_id, step_name, kind, status, config, context, child_workflow_run_namespace_id, child_workflow_run_id, started_at, created_at, updated_at)
	VALUES ($1, 'a-' || $2::text, $2, $3, $4, 'running', '{}', $5::jsonb, CASE WHEN $6 <> '' THEN $1 END, nullif($6, ''), now(), now(), now())`,
		w.namespace, id, step, kind, context, child)
}

func TestWhy_FollowsChildrenToTheLast(t *testing.T) {
	w := setup(t)
	w.parked("leaf", "load", "ask", "signal-wait", `{"kind": "signal-wait", "signal": "paper"}`, "")
	w.parked("middle", "print", "load", "workflow", `{"kind": "workflow"}`, "leaf")
	w.parked("top", "checkout", "print", "workflow", `{"kind": "workflow"}`, "middle")
	why := w.why(w.user(), "top")
	const want = `waiting for child run middle of step "print"; that is waiting for child run leaf of step "load"; that is waiting for signal "paper" in step "ask"`
	if why.Message != want || why.Reason != datav1alpha1.WhyWaitingForChild || why.Next != `send the signal "paper"` || why.State != "Waiting" {
		t.Errorf("answer is %+v, want the message %q", why, want)
	}
	if len(why.Blockers) != 2 || why.Blockers[0].Run != "middle" || why.Blockers[1].Run != "leaf" || why.Blockers[1].Reason != datav1alpha1.WhyWaitingForSignal {
		t.Errorf("blockers are %+v", why.Blockers)
	}
	if len(why.Waits) != 1 || why.Waits[0].Child != "middle" || why.Waits[0].Step != "print" {
		t.Errorf("waits are %+v", why.Waits)
	}
}

// A run whose children form a circle, which only somebody who writes rows can make, is explained
// up to the bound.
func TestWhy_P9_ACircleOfChildrenEnds(t *testing.T) {
	w := setup(t)
	w.parked("one", "w", "s", "signal-wait", `{}`, "")
	w.parked("two", "w", "s", "workflow", `{}`, "one")
	w.exec(`UPDATE openworkflow.step_attempts SET kind = 'workflow', child_workflow_run_namespace_id = $1, child_workflow_run_id = 'two' WHERE id = 'a-one' AND namespace_id = $1`, w.namespace)
	if why := w.why(w.user(), "one"); len(why.Blockers) != maxLevels {
		t.Errorf("%d blockers, want %d", len(why.Blockers), maxLevels)
	}
}

func TestWhy_NamesPoolsAndTheQueue(t *testing.T) {
	w := setup(t)
	c := w.user()
	pool := &v1alpha1.WorkerPool{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "shop"}, Spec: v1alpha1.WorkerPoolSpec{
		Template: runtime.RawExtension{Raw: []byte(`{"spec":{"containers":[{"name":"worker","image":"example.test/shop:1"}]}}`)},
	}}
	w.create(pool)
	if _, err := w.CreateRuns(t.Context(), []store.NewRun{{ID: "first", WorkflowName: "checkout"}}); err != nil {
		t.Fatal(err)
	}
	if why := w.why(c, "first"); why.Reason != v1alpha1.ReasonNoWorker || len(why.Pools) != 1 || why.Pools[0].Serves ||
		why.Message != `no worker serves workflow "checkout"; pools: shop serves nothing (no pod is ready: NotObserved)` {
		t.Errorf("answer is %+v", why)
	}
	if _, err := w.SaveWorker(t.Context(), store.Worker{PodUID: "pod", Process: "p", PodName: "shop-1", Pool: "shop",
		Workflows: []openworkflow.Definition{{Name: "checkout"}}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	before := pool.DeepCopy()
	pool.Status.ReadyReplicas, pool.Status.Replicas = new(int32(2)), new(int32(2))
	if err := cluster.admin.Status().Patch(t.Context(), pool, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateRuns(t.Context(), []store.NewRun{{ID: "second", WorkflowName: "checkout"}}); err != nil {
		t.Fatal(err)
	}
	why := w.why(c, "second")
	if want := "waiting for a free slot of a worker behind 1 run of its workflow; pool shop has 20 slots in 2 ready pods"; !strings.HasSuffix(why.Message, want) ||
		why.Reason != datav1alpha1.WhyQueued || why.Ahead != 1 || why.Since == nil || !why.Pools[0].Serves || why.Pools[0].Slots != 20 {
		t.Errorf("answer is %+v, want it to end with %q", why, want)
	}
}

// The text of an error is a payload: only who may read payloads sees it.
func TestWhy_P9_ShowsErrorsToThoseWhoMayReadPayloads(t *testing.T) {
	w := setup(t)
	w.history(6)
	viewer := "viewer-" + w.namespace
	w.grant(viewer, rule([]string{"get"}, "runs", "runs/why"))
	for name, test := range map[string]struct {
		client *rest.RESTClient
		want   string
	}{
		"viewer": {w.as(viewer), "with CardError"},
		"editor": {w.user(), "with CardError: secret"},
	} {
		if why := w.why(test.client, "r-04"); !strings.HasSuffix(why.Message, test.want) || why.Reason != v1alpha1.ReasonWorkflowFailed {
			t.Errorf("%s reads %q, want it to end with %q", name, why.Message, test.want)
		}
	}
	err := w.as("stranger-" + w.namespace).Get().Namespace(w.namespace).Resource("runs").Name("r-04").SubResource("why").Do(t.Context()).Error()
	if err == nil || !strings.Contains(err.Error(), "is forbidden") {
		t.Errorf("a stranger gets %v", err)
	}
}

func TestWhy_SaysWhoHasSuspendedARun(t *testing.T) {
	w := setup(t)
	w.history(6)
	c := w.user()
	run := &v1alpha1.WorkflowRun{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "order-1"}, Spec: v1alpha1.WorkflowRunSpec{WorkflowName: "even"}}
	w.create(run)
	before := run.DeepCopy()
	run.Spec.Suspend = new(true)
	if err := cluster.admin.Patch(t.Context(), run, client.MergeFrom(before), client.FieldOwner("night-shift")); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE openworkflow.workflow_runs SET context = jsonb_build_object('kubernetes',
		jsonb_build_object('cluster', $2::text, 'namespace', $1::text, 'name', 'order-1')) WHERE namespace_id = $1 AND id = 'r-06'`, w.namespace, clusterUID)
	if _, err := w.SuspendRuns(t.Context(), []string{"r-06"}); err != nil {
		t.Fatal(err)
	}
	why := w.why(c, "r-06")
	if want := ` by spec.suspend of WorkflowRun "order-1", which "night-shift" has set`; !strings.HasSuffix(why.Message, want) || why.Object != "order-1" || why.Since == nil {
		t.Errorf("answer is %+v, want it to end with %q", why, want)
	}
}

// A database that does not answer is an answer, unless another one has the run.
func TestWhy_P6_SaysThatADatabaseIsGone(t *testing.T) {
	w := setup(t)
	w.history(1)
	c := w.user()
	url := testpgNew(t)
	w.backend("broken", url)
	secret := w.secret("broken")
	secret.Data["uri"] = []byte("postgres://nobody@127.0.0.1:1/none")
	if err := cluster.admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if why := w.why(c, "r-01"); why.Backend != "default" {
		t.Errorf("answer is %+v, want that of the database that answers", why)
	}
	why := w.why(c, "other")
	if want := `Backend "broken" is not ready (NotObserved): not seen by the manager yet`; why.Message != want || why.Reason != v1alpha1.ReasonBackendNotReady {
		t.Errorf("answer is %+v, want %q", why, want)
	}
	if err := cluster.admin.Delete(t.Context(), &v1alpha1.Backend{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "broken"}}); err != nil {
		t.Fatal(err)
	}
	err := c.Get().Namespace(w.namespace).Resource("runs").Name("other").SubResource("why").Do(t.Context()).Error()
	if err == nil || !strings.Contains(err.Error(), `"other" not found`) {
		t.Errorf("error is %v, want NotFound", err)
	}
}

func TestWhy_PrintsAsATable(t *testing.T) {
	w := setup(t)
	w.parked("r", "w", "ask", "signal-wait", `{"signal": "go"}`, "")
	body, err := w.user().Get().Namespace(w.namespace).Resource("runs").Name("r").SubResource("why").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"r","WaitingForSignal",`, `"waiting for signal \"go\" in step \"ask\"","send the signal \"go\"","w","Waiting",""`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("the table lacks %s: %s", want, body)
		}
	}
}
