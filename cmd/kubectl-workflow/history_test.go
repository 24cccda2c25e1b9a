package main

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dataapi/dataapitest"
)

// runSeq returns the id of the nth run of the history.
func runSeq(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }

// history inserts five runs of an hour ago, one minute apart: 1 failed, 2 completed, and its
// child 3 waits for a signal, 4 runs and 5 waits for a worker. Run 1 is that of the object
// order-1001.
func (w *world) history() {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.workflow_runs
		(namespace_id, id, workflow_name, version, status, worker_id, available_at, config, context, input, output, error, attempts,
		 parent_step_attempt_namespace_id, parent_step_attempt_id, created_at, started_at, finished_at, updated_at)
	SELECT $1, '00000000-0000-4000-8000-' || lpad(i::text, 12, '0'), CASE WHEN i = 3 THEN 'notify' ELSE 'checkout' END,
		CASE WHEN i = 2 THEN 'v2' END,
		(ARRAY['failed', 'completed', 'running', 'running', 'pending'])[i],
		CASE WHEN i = 4 THEN 'pod.process.1' END,
		CASE i WHEN 3 THEN timestamptz '2099-01-01' ELSE timestamptz '2026-01-01 11:00Z' END, '{}',
		CASE WHEN i = 1 THEN $2::jsonb END, '{"order": 1001}',
		CASE WHEN i = 2 THEN '{"charged": true, "amount": 4200}'::jsonb END,
		CASE WHEN i = 1 THEN '{"name": "CardError", "message": "card declined"}'::jsonb END,
		CASE WHEN i = 5 THEN 0 ELSE 1 END, NULL, NULL,
		timestamptz '2026-01-01 11:00Z' + i * interval '1 min',
		CASE WHEN i < 5 THEN timestamptz '2026-01-01 11:00:01Z' + i * interval '1 min' END,
		CASE WHEN i < 3 THEN timestamptz '2026-01-01 11:00:11Z' + i * interval '1 min' END, now()
	FROM generate_series(1, 5) i`, w.Namespace, fmt.Sprintf(
		`{"kubernetes": {"cluster": %q, "namespace": %q, "name": "order-1001", "uid": %q}}`,
		dataapitest.ClusterUID, w.Namespace, runSeq(1)))
	w.steps(1, []step{
		{name: "reserve", status: "completed", from: 0, to: 1},
		{name: "charge", status: "failed", from: 1, to: 3, err: "CardError"},
		{name: "charge", status: "failed", from: 8, to: 10, err: "CardError"},
	})
	w.steps(2, []step{
		{name: "reserve", status: "completed", from: 0, to: 1},
		{name: "pause", kind: "sleep", status: "completed", from: 1, to: 8},
		{name: "notify", kind: "workflow", status: "completed", from: 8, to: 9, child: runSeq(3)},
		{name: "charge", status: "completed", from: 9, to: 10},
	})
	w.steps(3, []step{{name: "approval", kind: "signal-wait", status: "running", context: `{"kind": "signal-wait", "signal": "approved", "timeoutAt": null}`}})
	w.exec(`UPDATE openworkflow.workflow_runs SET parent_step_attempt_namespace_id = $1, parent_step_attempt_id = '2-2' WHERE id = $2`, w.Namespace, runSeq(3))
}

// step is an attempt of a history. Times are seconds after the run's start.
type step struct {
	id, name, kind, status, err, child, context string
	from, to                                    int
}

func (w *world) steps(run int, steps []step) {
	w.t.Helper()
	for i, s := range steps {
		kind := s.kind
		if kind == "" {
			kind = "function"
		}
		id := s.id
		if id == "" {
			id = fmt.Sprintf("%d-%d", run, i)
		}
		w.exec(`INSERT INTO openworkflow.step_attempts
			(namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error,
			 child_workflow_run_namespace_id, child_workflow_run_id, created_at, started_at, finished_at, updated_at)
		SELECT $1, $2, $3, $4, $5, $6, '{}', nullif($7, '')::jsonb, CASE WHEN $6 = 'completed' THEN '{"ok": true}'::jsonb END,
			CASE WHEN $8 <> '' THEN jsonb_build_object('name', $8::text, 'message', 'card declined') END,
			CASE WHEN $9 <> '' THEN $1 END, nullif($9, ''), t.start, t.start,
			CASE WHEN $6 <> 'running' THEN started_at + $11 * interval '1 s' END, now()
		FROM openworkflow.workflow_runs, LATERAL (SELECT started_at + $10 * interval '1 s' AS start) t WHERE id = $3`,
			w.Namespace, id, runSeq(run), s.name, kind, s.status, s.context, s.err, s.child, s.from, s.to)
	}
}

// superseded inserts n newer runs from which run 2 was forked.
func (w *world) superseded(n int) {
	w.t.Helper()
	w.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
	SELECT $1, 'superseded-' || lpad(i::text, 4, '0'), 'checkout', 'failed', jsonb_build_object('openworkflow.dev/supersededBy', $3::text), 1,
		timestamptz '2026-01-01 11:30Z' + i * interval '1 s', now()
	FROM generate_series(1, $2) i`, w.Namespace, n, runSeq(2))
}

// object creates the WorkflowRun order-1001, and gives it the status of run 1.
func (w *world) object() *v1alpha1.WorkflowRun {
	w.t.Helper()
	object := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "order-1001", Labels: map[string]string{"team": "shop"}},
		Spec:       v1alpha1.WorkflowRunSpec{WorkflowName: "checkout"},
	}
	w.Create(object)
	object.Status.RunID, object.Status.State = runSeq(1), v1alpha1.RunFailed
	object.Status.Message = "the run has failed: card declined"
	if err := cluster.Admin.Status().Update(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
	return object
}

// status gives an object a state, as a worker or the manager does.
func (w *world) status(name string, state v1alpha1.RunState, message string) {
	w.t.Helper()
	object := w.workflowRun(name)
	object.Status.RunID, object.Status.State, object.Status.Message = string(object.UID), state, message
	if err := cluster.Admin.Status().Update(w.t.Context(), object); err != nil {
		w.t.Fatal(err)
	}
}

// workflowRun reads an object.
func (w *world) workflowRun(name string) *v1alpha1.WorkflowRun {
	w.t.Helper()
	object := &v1alpha1.WorkflowRun{}
	if err := cluster.Admin.Get(w.t.Context(), types.NamespacedName{Namespace: w.Namespace, Name: name}, object); err != nil {
		w.t.Fatal(err)
	}
	return object
}
