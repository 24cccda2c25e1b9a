package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const signalLong = `Send a signal that a run waits for.

A signal is not kept: without a run that waits for it now, the command fails. All runs of the same
database that wait for a signal of this name receive it, as always in OpenWorkflow.`

const signalExample = `  # Approve an order
  kubectl workflow signal order-1001 approval:1001 --data '{"by": "ann"}'

  # However often this is repeated, the signal is delivered once
  kubectl workflow signal order-1001 approval:1001 --data-file approval.yaml --idempotency-key ann-1`

type signalOptions struct {
	*factory
	printer             *printer
	data, dataFile, key string
}

func newSignal(f *factory) *cobra.Command {
	o := &signalOptions{factory: f, printer: newPrinter("signaled")}
	cmd := &cobra.Command{
		Use: "signal RUN SIGNAL", Short: "Send a signal that a run waits for",
		Long: signalLong, Example: signalExample, Args: cobra.ExactArgs(2), ValidArgsFunction: o.complete,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0], args[1]) },
	}
	cmd.Flags().StringVar(&o.data, "data", "", "What the waiting step returns, a JSON value. By default null.")
	cmd.Flags().StringVar(&o.dataFile, "data-file", "", "A file with the data, in JSON or YAML; - is the standard input.")
	cmd.Flags().StringVar(&o.key, "idempotency-key", "", "Deliver a repeated signal of the same name and key once.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *signalOptions) run(ctx context.Context, argument, name string) error {
	if o.data != "" && o.dataFile != "" {
		return fmt.Errorf("give --data or --data-file, not both")
	}
	if err := o.printer.validate(); err != nil {
		return err
	}
	payload, err := readJSON(o.In, "--data", o.data, o.dataFile)
	if err != nil {
		return err
	}
	found, data, err := o.findRun(ctx, argument)
	if err != nil {
		return err
	}
	signal := &datav1alpha1.RunSignal{Signal: name, Data: payload, IdempotencyKey: o.key}
	if err := data.post(ctx, found.namespace, found.id, "signal", signal); err != nil {
		return fmt.Errorf("send signal %q: %w", name, err)
	}
	if !o.printer.plain() && o.printer.format() != "name" {
		return o.printer.print(o.Out, signal, nil)
	}
	if err := o.printer.done(o.Out, found.any()); err != nil {
		return err
	}
	if len(signal.Recipients) > 1 {
		o.note("%d runs have received the signal: all of those that waited for it.", len(signal.Recipients))
	}
	return nil
}

// complete completes the run, then the signals that it waits for.
func (o *signalOptions) complete(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return o.completeRun(cmd, args, typed)
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTimeout)
	defer cancel()
	found, data, err := o.findRun(ctx, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	steps, err := data.steps(ctx, found.namespace, found.id)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for i := range steps.Items {
		if s := &steps.Items[i]; s.Signal != "" && s.State == "running" {
			names = append(names, s.Signal)
		}
	}
	return slices.DeleteFunc(names, isOdd), cobra.ShellCompDirectiveNoFileComp
}
