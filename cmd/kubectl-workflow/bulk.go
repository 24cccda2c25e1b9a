package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const bulkLong = `See and change the bulk retries of a namespace. kubectl workflow retry creates one if it is given
flags that select runs instead of a run.`

const bulkExample = `  # How far are they?
  kubectl workflow bulk list

  # Pause, go on, end
  kubectl workflow bulk suspend retry-7x2kf
  kubectl workflow bulk resume retry-7x2kf
  kubectl workflow bulk cancel retry-7x2kf`

// newBulk returns the verbs for requests to retry many runs.
func newBulk(f *factory) *cobra.Command {
	cmd := &cobra.Command{Use: "bulk", Short: "See and change bulk retries", Long: bulkLong, Example: bulkExample}
	cmd.AddCommand(
		newBulkList(f),
		newBulkChange(f, "suspend", "Pause a bulk retry", "suspended", `{"spec":{"suspend":true}}`),
		newBulkChange(f, "resume", "Let a bulk retry go on", "resumed", `{"spec":{"suspend":false}}`),
		newBulkChange(f, "cancel", "End a bulk retry; the runs that it has retried go on", "canceled", `{"spec":{"cancel":true}}`),
	)
	return cmd
}

// newBulkList returns the verb that lists requests.
func newBulkList(f *factory) *cobra.Command {
	p := newPrinter("")
	cmd := &cobra.Command{
		Use: "list [NAME]", Aliases: []string{"ls", "get"}, Short: "List bulk retries, newest first", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.validate(); err != nil {
			return err
		}
		data, namespace, err := f.dataIn(cmd.Context())
		if err != nil {
			return err
		}
		list := &datav1alpha1.BulkRetryList{}
		get := data.rest.Get().Namespace(namespace).Resource("bulkretries")
		if len(args) > 0 {
			one := datav1alpha1.BulkRetry{}
			err = get.Name(args[0]).Do(cmd.Context()).Into(&one)
			list.Items = []datav1alpha1.BulkRetry{one}
		} else {
			err = get.Do(cmd.Context()).Into(list)
		}
		if err != nil {
			return fmt.Errorf("read bulk retries: %w", err)
		}
		if len(list.Items) == 0 && p.plain() {
			_, _ = fmt.Fprintf(f.ErrOut, "No bulk retries found in namespace %s.\n", namespace)
			return nil
		}
		return p.print(f.Out, list, bulkTable(list.Items, f.now()))
	}
	p.addFlags(cmd)
	return cmd
}

func bulkTable(all []datav1alpha1.BulkRetry, now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		column("Name", 0), column("Status", 0), column("Matched", 0), column("Started", 0), column("Skipped", 0), column("Failed", 0),
		column("Age", 0), column("Workflow", 1), column("Rate", 1), column("Backend", 1),
	}}
	for i := range all {
		b := &all[i]
		count := fmt.Sprint(b.Status.Matched)
		if b.Status.MatchedMore {
			count += "+"
		}
		table.Rows = append(table.Rows, row(b.Name, b.Status.State, count, int64(b.Status.Started), int64(b.Status.Skipped), int64(b.Status.Failed),
			ageOf(b.CreationTimestamp, now), b.Spec.Selector.WorkflowName, fmt.Sprintf("%d/min", b.Spec.RunsPerMinute), b.Spec.Backend))
	}
	return table
}

// newBulkChange returns a verb that patches a request.
func newBulkChange(f *factory, verb, short, done, patch string) *cobra.Command {
	p := newPrinter(done)
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.validate(); err != nil {
			return err
		}
		data, namespace, err := f.dataIn(cmd.Context())
		if err != nil {
			return err
		}
		changed := &datav1alpha1.BulkRetry{}
		if err := data.rest.Patch(types.MergePatchType).Namespace(namespace).Resource("bulkretries").Name(args[0]).
			Body([]byte(patch)).Do(cmd.Context()).Into(changed); err != nil {
			return fmt.Errorf("%s bulk retry %s: %w", verb, args[0], err)
		}
		return p.done(f.Out, changed)
	}
	p.addFlags(cmd)
	return cmd
}
