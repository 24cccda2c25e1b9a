package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const exportLong = `Write a run and its whole history, with all payloads, as one document: a RunHistory.

kubectl workflow import brings it into another database, such as a developer's.`

type exportOptions struct {
	*factory
	printer *printer
}

func newExport(f *factory) *cobra.Command {
	o := &exportOptions{factory: f, printer: newPrinter("")}
	o.printer.flags = o.printer.flags.WithDefaultOutput("json")
	cmd := &cobra.Command{
		Use: "export RUN", Short: "Write a run and its history as a file", Long: exportLong,
		Example: `  kubectl workflow export order-1001 > order-1001.json`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	o.printer.addFlags(cmd)
	return cmd
}

func (o *exportOptions) run(ctx context.Context, argument string) error {
	if o.printer.plain() {
		*o.printer.flags.OutputFormat = "json"
	}
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, data, err := o.findRun(ctx, argument)
	if err != nil {
		return err
	}
	if o.printer.format() == "name" {
		return o.printer.print(o.Out, found.any(), nil)
	}
	history, err := data.history(ctx, found.namespace, found.id)
	if err != nil {
		return err
	}
	return o.printer.print(o.Out, history, nil)
}

// history reads a run with all of its step attempts and their payloads.
func (c *dataClient) history(ctx context.Context, namespace, id string) (*datav1alpha1.RunHistory, error) {
	var all *datav1alpha1.RunHistory
	for next := ""; ; {
		page := &datav1alpha1.RunHistory{}
		if err := c.page(ctx, namespace, id, "history", next, page); err != nil {
			return nil, fmt.Errorf("read the history of run %s: %w", id, err)
		}
		next = page.Continue
		if all == nil {
			all = page
		} else {
			all.Steps = append(all.Steps, page.Steps...)
		}
		if next == "" {
			all.Continue = ""
			return all, nil
		}
	}
}
