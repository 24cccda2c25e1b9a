package controller

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// Forty errors of a megabyte are more than an answer may have.
func TestWorkflowRun_P9_LongErrorsAreShown(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	var runs []*v1alpha1.WorkflowRun
	for n := range 40 {
		run := newTestRun(fmt.Sprintf("run-%d", n))
		w.create(run)
		runs = append(runs, run)
	}
	s := w.store()
	awaitRows(t, w, s, runs...)
	execute(t, w.URL, `
UPDATE openworkflow.workflow_runs
SET status = 'failed', attempts = 1, finished_at = now(), updated_at = now(),
	error = jsonb_build_object('name', 'Error', 'message', 'begin ' || repeat('x', 1000000))`)
	for _, run := range runs {
		w.awaitState(run, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
		if failure := run.Status.Error; !strings.HasPrefix(failure.Message, "begin xxx") || failure.Truncated == nil {
			t.Errorf("the error is %+v", failure)
		}
	}
}

func TestBackend_P9_ThousandsOfWorkersAreBounded(t *testing.T) {
	w := newWorld(t)
	w.start()
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	conn, err := pgx.Connect(context.Background(), w.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	announce := func(pod string, n int, bytes int) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), `
INSERT INTO openworkflow.operator_workers (namespace_id, pod_uid, process, pod_name, pool, workflows, seen_at)
SELECT $1, $2 || n, 'p', 'p', 'pool', jsonb_build_array(jsonb_build_object('name', repeat('x', $4))), now() + n * interval '1 ms'
FROM generate_series(1, $3::int) n`, w.Namespace, pod, n, bytes); err != nil {
			t.Fatal(err)
		}
	}
	announce("small-", 10_000, 10)
	eventually(t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(b), b); err != nil {
			return err
		}
		for _, c := range b.Status.Conditions {
			if strings.Contains(c.Message, "1000 workers or more") {
				return nil
			}
		}
		return fmt.Errorf("the conditions are %+v", b.Status.Conditions)
	})
	s := w.store()
	workers, err := s.Workers(t.Context(), time.Minute)
	if err != nil || len(workers) != store.MaxWorkers {
		t.Fatalf("%d workers, %v", len(workers), err)
	}
	for _, worker := range workers {
		if worker.PodUID == "small-1" {
			t.Error("the oldest announcement is among them")
		}
	}
	announce("large-", 100, 1_000_000)
	if workers, err = s.Workers(t.Context(), time.Minute); err != nil || len(workers) > 1000 {
		t.Errorf("%d workers, %v", len(workers), err)
	}
	bytes := 0
	for _, worker := range workers {
		for _, d := range worker.Workflows {
			bytes += len(d.Name)
		}
	}
	if bytes > 4<<20 {
		t.Errorf("they have %d bytes", bytes)
	}
}

// What is read for a status makes the same status as the whole row.
func TestStore_P9_LongValuesMakeTheSameStatus(t *testing.T) {
	t.Parallel()
	url := testpg.New(t)
	s, err := store.Open(t.Context(), store.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	const long = 100_000
	quoted := func(text string, n int) string { return fmt.Sprintf("%q", strings.Repeat(text, n)) }
	for _, value := range []string{
		`null`, `{"name": "Error", "message": "short", "stack": "at 1"}`, `{"message": ""}`, `[1, 2]`, `"text"`,
		`{"name": "Error", "message": ` + quoted("x", long) + `}`,
		`{"name": "Error", "message": ` + quoted("€", long) + `}`,
		`{"name": "Error", "message": ` + quoted("\n", long) + `}`,
		`{"name": ` + quoted("n", long) + `, "message": "short"}`,
		`{"name": ` + quoted("n", long) + `}`,
		`{"name": "Error", "message": "short", "stack": ` + quoted("s", long) + `, "nonRetryable": true}`,
		`{"other": ` + quoted("x", long) + `}`,
		`{"message": "Workflow run deadline exceeded", "stack": ` + quoted("s", long) + `}`,
		`[` + strings.Repeat("1, ", long) + `1]`,
		quoted("x", long), quoted("x", 2046), quoted("x", 2047), quoted("x", 4094), quoted("x", 4095),
	} {
		for _, status := range []string{"completed", "failed", "pending"} {
			compareShown(t, s, conn, status, value)
		}
	}
}

// compareShown compares the statuses of a run whose values are these.
func compareShown(t *testing.T, s *store.Store, conn *pgx.Conn, status, value string) {
	t.Helper()
	id := openworkflow.NewID()
	object := `{"kubernetes": {"cluster": "c", "namespace": "n", "name": "r", "uid": "` + id + `"}, "more": ` + value + `}`
	if _, err := s.CreateRuns(t.Context(), []store.NewRun{{ID: id, WorkflowName: "w", Context: []byte(object)}}); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{`
UPDATE openworkflow.workflow_runs
SET status = $2, attempts = 1, output = $3::text::jsonb, error = $3::text::jsonb, finished_at = now()
WHERE id = $1`, `
INSERT INTO openworkflow.step_attempts
	(namespace_id, id, workflow_run_id, step_name, kind, status, config, context, error, created_at, updated_at)
VALUES ('default', 's' || $1::text, $1, 'step', 'signal-wait', CASE WHEN $2::text = 'failed' THEN 'failed' ELSE 'running' END, '{}',
	jsonb_build_object('kind', 'signal-wait', 'signal', 'go', 'more', $3::text::jsonb), $3::text::jsonb, now(), now())`} {
		if _, err := conn.Exec(t.Context(), sql, id, status, value); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := s.GetRuns(t.Context(), []string{id})
	if err != nil {
		t.Fatal(err)
	}
	shown, err := s.RunStates(t.Context(), []string{id})
	if err != nil {
		t.Fatal(err)
	}
	attempts, err := s.LoadSteps(t.Context(), []string{id})
	if err != nil {
		t.Fatal(err)
	}
	summaries, err := s.StepSummaries(t.Context(), []string{id}, projection.NewestSteps)
	if err != nil {
		t.Fatal(err)
	}
	steps := summaries[id]
	wholeSteps := steps
	wholeSteps.Newest = attempts[id]
	if diff := cmp.Diff(projection.Status(whole[id], wholeSteps, ""), projection.Status(shown[id], steps, "")); diff != "" {
		t.Errorf("%s, %.60s: the status differs:\n%.2000s", status, value, diff)
	}
	if object := shown[id].Object(); object == nil || object.UID != id {
		t.Errorf("%.60s: the object is %+v", value, object)
	}
	row := shown[id]
	if n := len(row.Context) + len(row.Output) + len(row.Error) + len(steps.Newest[0].Error) + len(steps.Newest[0].Context); n > 20<<10 {
		t.Errorf("%s, %.60s: %d bytes are read", status, value, n)
	}
}
