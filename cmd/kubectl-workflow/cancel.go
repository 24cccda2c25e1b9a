package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const cancelLong = `Cancel a run. The context of a step that is executing ends. A run that has ended stays as it is.

A WorkflowRun gets spec.cancel, so that what is applied and what runs agree. With --children, the
data API also cancels the runs that this one has started, and those below them.`

type cancelOptions struct {
	*factory
	printer  *printer
	children bool
}

func newCancel(f *factory) *cobra.Command {
	o := &cancelOptions{factory: f, printer: newPrinter("canceled")}
	cmd := &cobra.Command{
		Use: "cancel RUN", Short: "Cancel a run", Long: cancelLong,
		Example: `  kubectl workflow cancel order-1001 --children`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().BoolVar(&o.children, "children", false, "Also cancel the runs below this one.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *cancelOptions) run(ctx context.Context, argument string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	if found.object != nil && found.object.Status.State.Terminal() {
		return fmt.Errorf("the run of WorkflowRun %s has ended already: it is %s", found.name(), found.object.Status.State)
	}
	if found.object == nil || o.children {
		if err := o.cancelRun(ctx, found); err != nil {
			return err
		}
	}
	if found.object != nil {
		if err := o.patchSpec(ctx, found, `{"spec": {"cancel": true}}`); err != nil {
			return err
		}
	}
	return o.printer.done(o.Out, found.any())
}

// cancelRun cancels the run by the data API.
func (o *cancelOptions) cancelRun(ctx context.Context, found *target) error {
	if !found.started() {
		return nil // and so has no children
	}
	if found.attached() {
		return attachedError(found, "cancel")
	}
	data, err := o.data(ctx)
	if err != nil {
		return err
	}
	if err := data.post(ctx, found.namespace, found.id, "cancel", &datav1alpha1.RunCancel{Children: o.children}); err != nil {
		return fmt.Errorf("cancel run %s: %w", found.id, err)
	}
	if found.run, err = data.run(ctx, found.namespace, found.id); err != nil {
		return fmt.Errorf("read run %s, which is canceled: %w", found.id, err)
	}
	return nil
}
