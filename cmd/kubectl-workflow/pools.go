package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

type poolsOptions struct {
	*factory
	printer *printer
}

func newPools(f *factory) *cobra.Command {
	o := &poolsOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "pools", Short: "List the WorkerPools, and what they serve",
		Long: `List the WorkerPools: their pods, how many runs these execute at a time, what they serve, and why
one is not ready.`,
		Example: `  kubectl workflow pools
  kubectl workflow pools -o wide`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	o.printer.addFlags(cmd)
	return cmd
}

func (o *poolsOptions) run(ctx context.Context) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	namespace, err := o.namespace()
	if err != nil {
		return err
	}
	objects, err := o.objects()
	if err != nil {
		return err
	}
	list := &v1alpha1.WorkerPoolList{}
	if err := objects.Get().Namespace(namespace).Resource("workerpools").Do(ctx).Into(list); err != nil {
		return fmt.Errorf("list WorkerPools: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.WorkerPool) int { return strings.Compare(a.Name, b.Name) })
	if len(list.Items) == 0 && o.printer.plain() {
		_, _ = fmt.Fprintf(o.ErrOut, "No WorkerPools found in namespace %s.\n", namespace)
		return nil
	}
	return o.printer.print(o.Out, list, o.table(list.Items))
}

func (o *poolsOptions) table(pools []v1alpha1.WorkerPool) *metav1.Table {
	table := &metav1.Table{ColumnDefinitions: []metav1.TableColumnDefinition{
		column("Pool", 0), column("Ready", 0), column("Slots", 0), column("Status", 0), column("Serves", 0), column("Age", 0),
		column("Backend", 1), column("Stuck", 1), column("Message", 1),
	}}
	for i := range pools {
		p := &pools[i]
		ready, desired, concurrency := valueOr(p.Status.ReadyReplicas, 0), valueOr(p.Spec.Replicas, 1), valueOr(p.Spec.Concurrency, 10)
		reason, message := "", ""
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); c != nil {
			reason, message = c.Reason, c.Message
		}
		table.Rows = append(table.Rows, row(p.Name, fmt.Sprintf("%d/%d", ready, desired), fmt.Sprint(int64(ready)*int64(concurrency)), reason,
			servedText(p, o.printer.format() == "wide"), ageOf(p.CreationTimestamp, o.now()),
			p.Spec.BackendRef.Name, fmt.Sprint(valueOr(p.Status.StuckSteps, 0)), line(message, 200)))
	}
	return table
}

// servedText lists what a pool serves: the first few, or with -o wide all.
func servedText(p *v1alpha1.WorkerPool, whole bool) string {
	const few = 4
	var names []string
	for _, w := range p.Status.Workflows {
		name := line(w.Name, 100)
		if w.Version != "" {
			name += "@" + line(w.Version, 100)
		}
		names = append(names, name)
	}
	if !whole && len(names) > few {
		names = append(names[:few], fmt.Sprintf("and %d more", len(p.Status.Workflows)-few))
	}
	return strings.Join(names, ", ")
}

func valueOr(value *int32, otherwise int32) int32 {
	if value == nil {
		return otherwise
	}
	return *value
}
