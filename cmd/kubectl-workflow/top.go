package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const topLong = `Show what the runs of each workflow do now: the backlog, how many run, how many end and fail.

RUNNABLE runs are due and wait for a free slot of a worker, and OLDEST is how long the first of
them waits. WAITING runs are due later. Counts of open runs end at 1000, shown as 1000+.

PER-MINUTE and FAILED are of the last five minutes, or of a shorter time for a workflow of which
very many runs end; WINDOW of -o wide shows it.`

type topOptions struct {
	*factory
	printer *printer
	sort    string
}

// sortKeys are how the workflows may be sorted.
var sortKeys = []string{"name", "runnable", "running", "failed"}

func newTop(f *factory) *cobra.Command {
	o := &topOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "top", Short: "Show backlog, throughput and failures by workflow", Long: topLong,
		Example: `  # The workflows with the largest backlog first
  kubectl workflow top --sort-by runnable`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().StringVar(&o.sort, "sort-by", "name", "Order of the workflows: name, runnable, running or failed.")
	must(cmd.RegisterFlagCompletionFunc("sort-by", cobra.FixedCompletions(sortKeys, cobra.ShellCompDirectiveNoFileComp)))
	o.printer.addFlags(cmd)
	return cmd
}

func (o *topOptions) run(ctx context.Context) error {
	if !slices.Contains(sortKeys, o.sort) {
		return fmt.Errorf("--sort-by %q: use one of name, runnable, running, failed", o.sort)
	}
	if err := o.printer.validate(); err != nil {
		return err
	}
	data, namespace, err := o.dataIn(ctx)
	if err != nil {
		return err
	}
	list := &datav1alpha1.WorkflowList{}
	if err := data.rest.Get().Namespace(namespace).Resource("workflows").Do(ctx).Into(list); err != nil {
		return fmt.Errorf("list the workflows: %w", err)
	}
	slices.SortStableFunc(list.Items, o.compare)
	if len(list.Items) == 0 && o.printer.plain() {
		_, _ = fmt.Fprintf(o.ErrOut, "No workflows found in namespace %s.\n", namespace)
		return nil
	}
	if err := o.printer.print(o.Out, list, o.table(list.Items)); err != nil {
		return err
	}
	if list.Truncated && o.printer.plain() {
		_, _ = fmt.Fprintln(o.ErrOut, "There are more workflows than are shown.")
	}
	return nil
}

func (o *topOptions) compare(a, b datav1alpha1.Workflow) int {
	switch o.sort {
	case "runnable":
		return cmp.Compare(b.Status.Runnable, a.Status.Runnable)
	case "running":
		return cmp.Compare(b.Status.Running, a.Status.Running)
	case "failed":
		return cmp.Compare(b.Status.Failed, a.Status.Failed)
	default:
		return 0 // as they come
	}
}

func (o *topOptions) table(workflows []datav1alpha1.Workflow) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		column("Workflow", 0), column("Runnable", 0), column("Oldest", 0), column("Running", 0), column("Waiting", 0),
		column("Per-Minute", 0), column("Failed", 0), column("Served", 0), column("Suspended", 1), column("Window", 1), column("Backend", 1),
	}}
	for i := range workflows {
		w := &workflows[i]
		s := &w.Status
		oldest := ""
		if s.OldestRunnableAt != nil {
			oldest = ageOf(*s.OldestRunnableAt, o.now())
		}
		perMinute, failed := s.Rates()
		table.Rows = append(table.Rows, row(line(w.Name, 100), datav1alpha1.AtLeast(s.Runnable), oldest, fmt.Sprint(s.Running), datav1alpha1.AtLeast(s.Waiting),
			perMinute, failed, fmt.Sprint(s.Served), datav1alpha1.AtLeast(s.Suspended), duration.HumanDuration(time.Duration(s.Seconds)*time.Second), w.Spec.Backend))
	}
	return table
}
