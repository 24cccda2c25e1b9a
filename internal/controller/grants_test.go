package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestBackend_P9_SeparateLoginsSuffice: the owner migrates, the manager and the workers have the
// rights of docs/security.md, and runs of all kinds of steps complete.
func TestBackend_P9_SeparateLoginsSuffice(t *testing.T) {
	w := newWorld(t)
	managerLogin, managerURL := testpg.Login(t, w.URL, "manager")
	workerLogin, workerURL := testpg.Login(t, w.URL, "worker")
	owner, err := store.Open(t.Context(), store.Options{URL: w.URL, NamespaceID: w.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close()
	if err := owner.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(repository, "docs/security.md")
	execute(t, w.URL, testpg.Grants(t, page, "manager", managerLogin))
	execute(t, w.URL, testpg.Grants(t, page, "worker", workerLogin))

	w.start()
	w.secret("db", managerURL)
	w.secret("worker", workerURL)
	w.secret("owner", w.URL)
	b := newBackend()
	b.Spec.Postgres.WorkerURLSecretRef.Name, b.Spec.Postgres.MigrationURLSecretRef.Name = "worker", "owner"
	w.create(b, newPool("shop"))
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	deployment := owned(w, "shop", &appsv1.Deployment{})
	if got := deployment.Spec.Template.Spec.Containers[0].Env[0].ValueFrom.SecretKeyRef.Name; got != "worker" {
		t.Errorf("the pods get the URL of Secret %q", got)
	}

	w.work(t, workerURL)
	runs := make([]*v1alpha1.WorkflowRun, 20)
	runs[0] = newTestRun("receiver", func(r *run) { r.Spec.WorkflowName = "grants-receiver" })
	w.create(runs[0])
	w.awaitState(runs[0], v1alpha1.RunWaiting, v1alpha1.ReasonWaiting)
	for i := 1; i < len(runs); i++ {
		runs[i] = newTestRun(fmt.Sprintf("order-%d", i), func(r *run) { r.Spec.WorkflowName = "grants" })
		w.create(runs[i])
	}
	for _, run := range runs {
		w.awaitState(run, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	}
	w.forbidden(t, workerURL)

	readerLogin, readerURL := testpg.Login(t, w.URL, "reader")
	execute(t, w.URL, testpg.Grants(t, page, "reader", readerLogin))
	execute(t, readerURL, `SELECT output, error FROM openworkflow.workflow_runs`)
	w.forbidden(t, readerURL, `UPDATE openworkflow.workflow_runs SET status = 'completed'`, `INSERT INTO openworkflow.operator_sweeps DEFAULT VALUES`)
}

// work executes the workflows of the test as the login of this URL, until the test ends.
func (w *world) work(t *testing.T, as string) {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{URL: as, NamespaceID: w.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	var failed sync.Map // ids of runs whose step has failed once
	receiver := workflow.Define("grants-receiver", func(ctx context.Context, _ any) (string, error) {
		payload, _, err := step.WaitForSignal[string](ctx, "go")
		return payload, err
	})
	child := workflow.Define("grants-child", func(context.Context, string) (string, error) { return "child", nil })
	parent := workflow.Define("grants", func(ctx context.Context, _ any) (string, error) {
		if _, err := step.Run(ctx, "retried", func(context.Context) (string, error) {
			if _, again := failed.LoadOrStore(workflow.Info(ctx).ID, true); !again {
				return "", errors.New("once")
			}
			return "done", nil
		}, step.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 3})); err != nil {
			return "", err
		}
		if err := step.Sleep(ctx, "nap", time.Millisecond); err != nil {
			return "", err
		}
		if _, err := step.SendSignal(ctx, "go", "payload"); err != nil {
			return "", err
		}
		if err := workflow.SetState(ctx, "asking"); err != nil {
			return "", err
		}
		if _, err := step.WaitForApproval(ctx, "ask", step.ApprovalOptions{Prompt: "Go on?", ExpiresAfter: time.Millisecond}); err != nil {
			return "", err
		}
		return step.RunWorkflow(ctx, child, "input")
	})
	definitions := []durable.Definition{durable.DefinitionOf(parent), durable.DefinitionOf(child), durable.DefinitionOf(receiver)}
	worker, err := runner.New(s, definitions, runner.Options{PodUID: "pod", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var task sync.WaitGroup
	task.Go(func() { _ = worker.Run(ctx, time.Second) })
	t.Cleanup(func() {
		cancel()
		task.Wait()
		s.Close()
	})
}

// forbidden tries what a worker's login must not do, and more.
func (w *world) forbidden(t *testing.T, as string, more ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), as)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for _, statement := range append(more,
		`DELETE FROM openworkflow.workflow_runs`,
		`DELETE FROM openworkflow.step_attempts`,
		`DELETE FROM openworkflow.workflow_signals`,
		`DELETE FROM openworkflow.operator_approvals`,
		`INSERT INTO openworkflow.operator_schedule_slots DEFAULT VALUES`,
		`UPDATE openworkflow.operator_schedule_slots SET reason = 'Started'`,
		`DELETE FROM openworkflow.operator_schedule_slots`,
		`TRUNCATE openworkflow.workflow_runs CASCADE`,
		`UPDATE openworkflow.operator_approvals SET request = '{}'`,
		`UPDATE openworkflow.operator_approvals SET digest = ''`,
		`UPDATE openworkflow.workflow_runs SET input = '1'`,
		`UPDATE openworkflow.workflow_runs SET context = '{}'`,
		`UPDATE openworkflow.workflow_runs SET workflow_name = 'other'`,
		`UPDATE openworkflow.workflow_runs SET namespace_id = 'other'`,
		`UPDATE openworkflow.workflow_runs SET idempotency_key = 'k'`,
		`UPDATE openworkflow.step_attempts SET workflow_run_id = 'other'`,
		`UPDATE openworkflow.operator_migrations SET version = 9999`,
		`ALTER TABLE openworkflow.workflow_runs ADD COLUMN x text`,
		`CREATE TABLE openworkflow.x (y text)`,
		`DROP TABLE openworkflow.workflow_signals`,
	) {
		if _, err := conn.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s: %v, want insufficient privilege", statement, err)
		}
	}
}
