package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const describeLong = `Show a run: what it is, where it stands, and its steps as a timeline.

Payloads are not shown: see kubectl workflow output and kubectl workflow export. What the workflow has
published about the run is shown to those who may read payloads. -o json and -o yaml print a list of
the WorkflowRun, if there is one, the Run, all its RunSteps, and its RunState if it has published any.`

type describeOptions struct {
	*factory
	printer *printer
	steps   int
}

func newDescribe(f *factory) *cobra.Command {
	o := &describeOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "describe RUN", Short: "Show a run and its steps as a timeline", Long: describeLong,
		Example: `  # A run, by the name of its WorkflowRun
  kubectl workflow describe order-1001

  # All of its steps, however many
  kubectl workflow describe order-1001 --steps 0`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().IntVar(&o.steps, "steps", 40, "The largest number of step attempts to show, of the first and the last; 0 means all.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *describeOptions) run(ctx context.Context, argument string) error {
	if o.steps < 0 {
		return fmt.Errorf("--steps %d: give 0 for all steps, or a positive number", o.steps)
	}
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	d := &described{target: found}
	if found.started() {
		if err := o.read(ctx, d); err != nil {
			return err
		}
	}
	switch {
	case o.printer.format() == "name":
		return o.printer.print(o.Out, d.objects()[0], nil)
	case !o.printer.plain():
		return o.printer.print(o.Out, listOf(d.objects()...), nil)
	}
	return d.print(o.Out, o.now(), timelineOptions{steps: o.steps, wide: o.printer.format() == "wide"})
}

// read reads the run and its steps from the data API.
func (o *describeOptions) read(ctx context.Context, d *described) error {
	data, err := o.data(ctx)
	if err != nil {
		return err
	}
	if d.run, err = data.run(ctx, d.namespace, d.id); err != nil {
		return fmt.Errorf("read run %s: %w", d.id, err)
	}
	if d.steps, err = data.steps(ctx, d.namespace, d.id); err != nil {
		return err
	}
	state := &datav1alpha1.RunState{}
	err = data.get(ctx, d.namespace, d.id, "state", state)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err): // it is for those who may read payloads; an earlier manager has none
		return nil
	case err == nil && state.State != nil:
		d.state = state
	}
	return err
}

// described is what is known of a run.
type described struct {
	*target
	run   *datav1alpha1.Run // nil until the run is started
	steps *datav1alpha1.RunSteps
	state *datav1alpha1.RunState // nil if there is none, or if the user may not see it
}

// objects returns the WorkflowRun, the Run and its RunSteps, as far as there are any.
func (d *described) objects() []runtime.Object {
	var all []runtime.Object
	if d.object != nil {
		all = append(all, d.object)
	}
	if d.run != nil {
		all = append(all, d.run, d.steps)
	}
	if d.state != nil {
		all = append(all, d.state)
	}
	return all
}
