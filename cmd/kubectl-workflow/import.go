package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/workerenv"
)

const importLong = `Insert an exported run with its history into a database of yours, such as a developer's.

The database is that of --database-url, or of ` + workerenv.PostgresURL + `, as for a worker. It does not
have to be known to a cluster, and none is asked. The run keeps its id. A run that had not ended is imported
suspended, so that no worker executes its steps a second time by accident: --resume lets workers go on with it.`

const importExample = `  # Look at a run of production on your own machine
  kubectl workflow export order-1001 > order-1001.json
  export OPENWORKFLOW_POSTGRES_URL=postgres://localhost/dev
  kubectl workflow import order-1001.json --migrate`

type importOptions struct {
	*factory
	printer                *printer
	url, schema, namespace string
	migrate, resume        bool
}

func newImport(f *factory) *cobra.Command {
	o := &importOptions{factory: f, printer: newPrinter("imported")}
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Insert an exported run into a database of yours",
		Long: importLong, Example: importExample, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.url, "database-url", os.Getenv(workerenv.PostgresURL), "The URL of the database. By default $"+workerenv.PostgresURL+", which other users of this machine do not see.")
	flags.Lookup("database-url").DefValue = "" // it may have a password
	flags.StringVar(&o.schema, "schema", os.Getenv(workerenv.Schema), "The schema of the tables. By default $"+workerenv.Schema+", or "+store.DefaultSchema+".")
	flags.StringVar(&o.namespace, "namespace-id", os.Getenv(workerenv.NamespaceID), "OpenWorkflow's namespace in the tables. By default $"+workerenv.NamespaceID+", or "+store.DefaultNamespaceID+".")
	flags.BoolVar(&o.migrate, "migrate", false, "Create the tables, or bring them up to date.")
	flags.BoolVar(&o.resume, "resume", false, "Let workers go on with a run that had not ended.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *importOptions) run(ctx context.Context, file string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	if o.url == "" {
		return errors.New("name the database by --database-url or " + workerenv.PostgresURL)
	}
	history, err := readHistory(o.In, file)
	if err != nil {
		return err
	}
	run, steps := rowsOf(history)
	db, err := store.Open(ctx, store.Options{URL: o.url, Schema: o.schema, NamespaceID: o.namespace, ApplicationName: "kubectl-workflow", MaxConns: 2})
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer db.Close()
	if o.migrate {
		if err := db.Migrate(ctx); err != nil {
			return fmt.Errorf("create the tables: %w", err)
		}
	}
	inserted, err := db.ImportRun(ctx, run, steps)
	switch {
	case errors.Is(err, store.ErrSchemaMissing):
		return fmt.Errorf("the database does not have OpenWorkflow's tables: --migrate creates them: %w", err)
	case err != nil:
		return fmt.Errorf("import run %s: %w", run.ID, err)
	case !inserted:
		return fmt.Errorf("the database has a run %s already: it was left as it is", run.ID)
	}
	if o.resume && !run.Status.Terminal() {
		if _, err := db.ResumeRuns(ctx, []string{run.ID}); err != nil {
			return fmt.Errorf("resume run %s: %w", run.ID, err)
		}
	}
	return o.printer.done(o.Out, &datav1alpha1.Run{ObjectMeta: history.ObjectMeta, Spec: history.Spec, Status: history.Status})
}

// readHistory reads what export has written.
func readHistory(in io.Reader, file string) (*datav1alpha1.RunHistory, error) {
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		in = opened
	}
	content, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	history := &datav1alpha1.RunHistory{}
	if err := yaml.Unmarshal(content, history); err != nil {
		return nil, fmt.Errorf("%s is neither JSON nor YAML of a RunHistory: %w", file, err)
	}
	want := datav1alpha1.GroupVersion.WithKind("RunHistory")
	switch {
	case history.GroupVersionKind() != want:
		return nil, fmt.Errorf("%s has the kind %q of %q, not a RunHistory of %q: make one by kubectl workflow export", file, history.Kind, history.APIVersion, want.GroupVersion())
	case history.Name == "" || history.Spec.WorkflowName == "":
		return nil, fmt.Errorf("%s names no run: metadata.name and spec.workflowName are required", file)
	case history.Continue != "":
		return nil, fmt.Errorf("%s is one page of a history: kubectl workflow export writes all of it", file)
	case statusOf(history) == "":
		return nil, fmt.Errorf("%s: status.state is %q: it is one of %s", file, history.Status.State, stateNames)
	}
	return history, nil
}

// statusOf returns the status of an imported row, empty for an unknown state. Nobody executes it.
func statusOf(h *datav1alpha1.RunHistory) openworkflow.RunStatus {
	switch v1alpha1.RunState(h.Status.State) {
	case v1alpha1.RunCompleted:
		return openworkflow.RunCompleted
	case v1alpha1.RunFailed:
		return openworkflow.RunFailed
	case v1alpha1.RunCanceled:
		return openworkflow.RunCanceled
	case v1alpha1.RunWaiting:
		return openworkflow.RunRunning // a parked run is a running one without a worker
	case v1alpha1.RunPending, v1alpha1.RunRunning:
		return openworkflow.RunPending
	default:
		return ""
	}
}

// rowsOf returns the rows of a history.
func rowsOf(h *datav1alpha1.RunHistory) (*openworkflow.Run, []openworkflow.StepAttempt) {
	run := &openworkflow.Run{
		ID: h.Name, WorkflowName: h.Spec.WorkflowName, Version: optional(h.Spec.Version), IdempotencyKey: optional(h.Spec.IdempotencyKey),
		Status: statusOf(h), Attempts: int(h.Status.Attempts), Input: rawOf(h.Spec.Input), Output: rawOf(h.Output), Error: rawOf(h.Error),
		CreatedAt: h.CreationTimestamp.Time, StartedAt: instant(h.Status.StartedAt), FinishedAt: instant(h.Status.FinishedAt),
		AvailableAt: instant(h.Status.NextAt), DeadlineAt: instant(h.Spec.DeadlineAt),
		ForkedFrom: optional(h.Status.ForkedFrom), ForkStep: optional(h.Status.ForkStep), SupersededBy: optional(h.Status.SupersededBy),
	}
	steps := make([]openworkflow.StepAttempt, 0, len(h.Steps))
	for i := range h.Steps {
		s := &h.Steps[i]
		steps = append(steps, openworkflow.StepAttempt{
			ID: s.ID, WorkflowRunID: run.ID, StepName: s.Name, Kind: openworkflow.StepKind(s.Kind), Status: openworkflow.StepStatus(s.State),
			Context: rawOf(s.Context), Output: rawOf(s.Output), Error: rawOf(s.Error), ChildWorkflowRunID: optional(s.Child),
			CreatedAt: s.CreatedAt.Time, StartedAt: microInstant(s.StartedAt), FinishedAt: microInstant(s.FinishedAt),
		})
	}
	return run, steps
}

func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func rawOf(payload *apiextensionsv1.JSON) json.RawMessage {
	if payload == nil {
		return nil
	}
	return payload.Raw
}

func instant(t *metav1.Time) *time.Time {
	if t == nil {
		return nil
	}
	return &t.Time
}

func microInstant(t *metav1.MicroTime) *time.Time {
	if t == nil {
		return nil
	}
	return &t.Time
}
