package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const inboxLong = `Show what runs ask approvers: what is open in the namespace, oldest first or, for one run, all of it.

What belongs to a question is shown with -o yaml, and by kubectl workflow approve and deny before they
decide. Details are for those who may get approvals/details (the ClusterRole edit).`

type inboxOptions struct {
	*factory
	printer *printer
}

func newInbox(f *factory) *cobra.Command {
	o := &inboxOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "inbox [RUN]", Short: "Show what runs ask approvers", Long: inboxLong,
		Example: `  # What waits for a decision?
  kubectl workflow inbox

  # What has a run asked, and who has decided?
  kubectl workflow inbox order-1001 -o yaml`,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args) },
	}
	o.printer.addFlags(cmd)
	return cmd
}

func (o *inboxOptions) run(ctx context.Context, args []string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	data, namespace, err := o.dataIn(ctx)
	if err != nil {
		return err
	}
	runID := ""
	if len(args) > 0 {
		found, _, err := o.findRun(ctx, args[0])
		if err != nil {
			return err
		}
		runID = found.id
	}
	list, err := data.approvals(ctx, namespace, runID)
	if err != nil {
		return err
	}
	if len(list.Items) == 0 && o.printer.plain() {
		if runID != "" {
			o.note("Run %s has asked for no approval.", runID)
		} else {
			o.note("No approvals are open in namespace %s.", namespace)
		}
		return nil
	}
	return o.printer.print(o.Out, list, approvalTable(list.Items, o.now()))
}

// approvals returns those that are open in a namespace, or with a run all of that run, oldest first.
func (c *dataClient) approvals(ctx context.Context, namespace, runID string) (*datav1alpha1.ApprovalList, error) {
	all := &datav1alpha1.ApprovalList{Items: []datav1alpha1.Approval{}}
	for next := ""; ; {
		page := &datav1alpha1.ApprovalList{}
		request := c.rest.Get().Namespace(namespace).Resource("approvals")
		if runID != "" {
			request = request.Param("fieldSelector", fields.OneTermEqualSelector(datav1alpha1.FieldRunID, runID).String())
		}
		if next != "" {
			request = request.Param("continue", next)
		}
		if err := request.Do(ctx).Into(page); err != nil {
			return nil, fmt.Errorf("read approvals: %w", err)
		}
		all.Items = append(all.Items, page.Items...)
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

func approvalTable(all []datav1alpha1.Approval, now time.Time) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		column("Run", 0), column("Step", 0), column("Prompt", 0), column("Status", 0), column("Approvals", 0), column("Age", 0),
		column("Expires", 0), column("Workflow", 1), column("Approvers", 1), column("Backend", 1), column("Digest", 1),
	}}
	for i := range all {
		a := &all[i]
		table.Rows = append(table.Rows, row(
			line(runOf(a), nameWidth), line(a.Spec.Step, nameWidth), line(a.Spec.Prompt, 60), a.Status.State,
			fmt.Sprintf("%d/%d", a.Status.Approvals, a.Spec.Required), ageOf(a.CreationTimestamp, now), rfc3339(a.Spec.ExpiresAt.Time),
			line(a.Spec.WorkflowName, nameWidth), line(approversOf(a), 200), a.Spec.Backend, a.Spec.Digest,
		))
	}
	return table
}

// runOf names the run of an approval as a user does.
func runOf(a *datav1alpha1.Approval) string {
	if a.Spec.Object != "" {
		return a.Spec.Object
	}
	return a.Spec.RunID
}
