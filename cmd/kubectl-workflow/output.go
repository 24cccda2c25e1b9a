package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const outputLong = `Print what a run has returned, whole, as JSON.

The error of a failed run is printed to the standard error, and the exit code is 10; it is 11 for
a canceled run, and 1 for one that has not ended. --input prints the input of any run instead.`

type outputOptions struct {
	*factory
	printer *printer
	input   bool
}

func newOutput(f *factory) *cobra.Command {
	o := &outputOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "output RUN", Short: "Print what a run has returned", Long: outputLong,
		Example: `  kubectl workflow output order-1001 | jq .receipt`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().BoolVar(&o.input, "input", false, "Print the input instead.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *outputOptions) run(ctx context.Context, argument string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, data, err := o.findRun(ctx, argument)
	if err != nil {
		return err
	}
	payload := &datav1alpha1.RunPayload{}
	if err := data.get(ctx, found.namespace, found.id, "payload", payload); err != nil {
		return fmt.Errorf("read the payload of run %s: %w", found.id, err)
	}
	switch {
	case o.printer.format() == "name":
		return o.printer.print(o.Out, found.any(), nil)
	case !o.printer.plain():
		return o.printer.print(o.Out, payload, nil)
	}
	if o.input {
		return printJSON(o.Out, payload.Input)
	}
	switch state := v1alpha1.RunState(found.run.Status.State); {
	case !state.Terminal():
		return fmt.Errorf("the run is %s and has no output yet: kubectl workflow watch %s waits for its end", state, found.name())
	case state == v1alpha1.RunCompleted:
		return printJSON(o.Out, payload.Output)
	default:
		if payload.Error != nil {
			if err := printJSON(o.ErrOut, payload.Error); err != nil {
				return err
			}
		}
		return ended(state)
	}
}

// printJSON prints a payload as it is stored, null for none.
func printJSON(out io.Writer, payload *apiextensionsv1.JSON) error {
	raw := []byte("null")
	if payload != nil {
		raw = payload.Raw
	}
	_, err := fmt.Fprintf(out, "%s\n", raw)
	return err
}
