package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const listLong = `List runs, newest first: all of the namespace's databases, whoever started them.

The column OBJECT names the WorkflowRun of a run, and is <none> where a client, a parent or the
data API has started it.

Runs from which another run was forked are left out, but for those that --parent selects:
--superseded lists them too.

With --without-object, the runs of WorkflowRuns are left out.

With --selector, the WorkflowRuns with these labels are listed instead, as only objects have
labels.`

const listExample = `  # The 500 newest runs of the namespace
  kubectl workflow list

  # Runs of a workflow that have failed since yesterday
  kubectl workflow list --workflow checkout --state Failed --since 24h

  # The runs that a run has started
  kubectl workflow list --parent 0198b0a4-8e4f-7c11-9d5c-6a1f2f6f2c11

  # All runs, in pages of 1000
  kubectl workflow list --limit 0 --chunk-size 1000`

// maxChunk is the largest page that the data API returns.
const maxChunk = 1000

// stateNames are the states of a run.
const stateNames = "Pending, Running, Waiting, Completed, Failed, Canceled"

type listOptions struct {
	*factory
	printer *printer

	allNamespaces, superseded bool
	withoutObject             bool
	backend, workflow, parent string
	state, labels, position   string
	since                     time.Duration
	limit, chunk              int64
}

func newList(f *factory) *cobra.Command {
	o := &listOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List runs, newest first",
		Long: listLong, Example: listExample, Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.allNamespaces, "all-namespaces", "A", false, "List the runs of all namespaces that have Backends.")
	flags.StringVar(&o.backend, "backend", "", "Only runs of this Backend.")
	flags.StringVarP(&o.workflow, "workflow", "w", "", "Only runs of this workflow, of any version.")
	flags.StringVar(&o.state, "state", "", "Only runs in this state: "+stateNames+".")
	flags.StringVar(&o.parent, "parent", "", "Only runs that the run with this id has started.")
	flags.DurationVar(&o.since, "since", 0, "Only runs that were created within this time, such as 24h.")
	flags.BoolVar(&o.superseded, "superseded", false, "List superseded runs too, those from which another run was forked.")
	flags.BoolVar(&o.withoutObject, "without-object", false, "Only runs that no WorkflowRun stands for.")
	flags.StringVarP(&o.labels, "selector", "l", "", "List the WorkflowRuns with these labels.")
	flags.Int64Var(&o.limit, "limit", 500, "The largest number of runs to print; 0 means all.")
	flags.Int64Var(&o.chunk, "chunk-size", 500, "The number of runs that are read at once, at most 1000.")
	flags.StringVar(&o.position, "continue", "", "Where to go on, as the end of a list says.")
	o.printer.addFlags(cmd)
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(strings.Split(stateNames, ", "), cobra.ShellCompDirectiveNoFileComp)))
	return cmd
}

// setState sets the state to the one of that name, written in any case. It returns false if there is
// none.
func (o *listOptions) setState() bool {
	for name := range strings.SplitSeq(stateNames, ", ") {
		if strings.EqualFold(name, o.state) {
			o.state = name
			return true
		}
	}
	return false
}

// validate rejects what the flags cannot mean together.
func (o *listOptions) validate() error {
	switch {
	case o.limit < 0:
		return fmt.Errorf("--limit %d: give 0 for all runs, or a positive number", o.limit)
	case o.chunk < 1 || o.chunk > maxChunk:
		return fmt.Errorf("--chunk-size %d: give a number from 1 to %d", o.chunk, maxChunk)
	case o.since < 0:
		return fmt.Errorf("--since %v: give a positive duration, such as 24h", o.since)
	case o.state != "" && !o.setState():
		return fmt.Errorf("--state %q: use one of %s", o.state, stateNames)
	case o.position != "" && o.allNamespaces:
		return errors.New("--continue goes on in one namespace: leave out --all-namespaces")
	case o.labels != "" && o.withoutObject:
		return errors.New("--selector lists WorkflowRuns: leave out --without-object")
	case o.labels != "" && (o.backend != "" || o.parent != "" || o.since != 0 || o.superseded):
		return errors.New("--selector lists WorkflowRuns: of the other filters, only --workflow and --state go with it")
	}
	return o.printer.validate()
}

func (o *listOptions) run(ctx context.Context) error {
	if err := o.validate(); err != nil {
		return err
	}
	namespace, err := o.namespace()
	if err != nil {
		return err
	}
	if o.labels != "" {
		return o.listObjects(ctx, namespace)
	}
	namespaces := []string{namespace}
	if o.allNamespaces {
		if namespaces, err = o.namespacesWithBackends(ctx); err != nil {
			return err
		}
	}
	data, err := o.data(ctx)
	if err != nil {
		return err
	}
	return o.listRuns(ctx, data, namespaces)
}

// listRuns prints chunk by chunk, but formats that are one document at the end. A namespace that
// cannot be read does not hide the others.
func (o *listOptions) listRuns(ctx context.Context, data *dataClient, namespaces []string) error {
	all := &datav1alpha1.RunList{Items: []datav1alpha1.Run{}}
	var failed []error
	count := int64(0)
	for _, namespace := range namespaces {
		if o.limit > 0 && count >= o.limit {
			break
		}
		read, err := o.listNamespace(ctx, data, namespace, o.limit-count, all)
		count += read
		if err != nil {
			failed = append(failed, fmt.Errorf("list the runs of namespace %s: %w", namespace, err))
		}
	}
	if !o.chunked() {
		return errors.Join(append(failed, o.printer.print(o.Out, all, nil))...)
	}
	if len(failed) == 0 {
		o.printEnd(count, all.Continue, namespaces)
	}
	return errors.Join(failed...)
}

// chunked reports whether runs are printed as they are read.
func (o *listOptions) chunked() bool { return o.printer.plain() || o.printer.format() == "name" }

// listNamespace prints or collects the runs of a namespace, at most limit of them if there is a
// limit, and returns how many they were. A page may have fewer runs than were asked for, or none,
// although others follow.
func (o *listOptions) listNamespace(ctx context.Context, data *dataClient, namespace string, limit int64, all *datav1alpha1.RunList) (int64, error) {
	count, next := int64(0), o.position
	for {
		size := o.chunk
		if o.limit > 0 {
			size = min(size, limit-count)
		}
		page, err := data.list(ctx, namespace, o.fieldSelector(), size, next)
		if err != nil {
			return count, err
		}
		count += int64(len(page.Items))
		if !o.chunked() {
			all.Items = append(all.Items, page.Items...)
		} else if err := o.printChunk(page); err != nil {
			return count, err
		}
		all.Continue, next = page.Continue, page.Continue
		if next == "" || (o.limit > 0 && count >= limit) {
			return count, nil
		}
	}
}

func (o *listOptions) printChunk(page *datav1alpha1.RunList) error {
	if len(page.Items) == 0 {
		return nil
	}
	return o.printer.print(o.Out, page, o.table(page.Items))
}

// printEnd says that there is nothing, or that there is more.
func (o *listOptions) printEnd(count int64, next string, namespaces []string) {
	switch {
	case count == 0 && o.allNamespaces:
		o.note("No runs found.")
	case count == 0:
		o.note("No runs found in namespace %s.", namespaces[0])
	case next != "" && o.allNamespaces:
		o.note("There are more than %d runs: see them with --limit 0.", count)
	case next != "":
		o.note("There are more runs: see them with --continue %s, or all with --limit 0.", next)
	}
}

// fieldSelector selects runs as the flags say.
func (o *listOptions) fieldSelector() fields.Selector {
	set := fields.Set{}
	for field, value := range map[string]string{
		datav1alpha1.FieldBackend: o.backend, datav1alpha1.FieldWorkflow: o.workflow,
		datav1alpha1.FieldState: o.state, datav1alpha1.FieldParent: o.parent,
	} {
		if value != "" {
			set[field] = value
		}
	}
	if o.superseded {
		set[datav1alpha1.FieldSuperseded] = "any"
	}
	if o.withoutObject {
		set[datav1alpha1.FieldObject] = ""
	}
	if o.since > 0 {
		set[datav1alpha1.FieldCreatedFrom] = o.now().Add(-o.since).UTC().Format(time.RFC3339)
	}
	return set.AsSelector()
}

// namespacesWithBackends returns the namespaces that have databases, in order.
func (o *listOptions) namespacesWithBackends(ctx context.Context) ([]string, error) {
	objects, err := o.objects()
	if err != nil {
		return nil, err
	}
	backends := &v1alpha1.BackendList{}
	if err := objects.Get().Resource("backends").Do(ctx).Into(backends); err != nil {
		return nil, fmt.Errorf("find the namespaces with Backends: %w", err)
	}
	var names []string
	for i := range backends.Items {
		names = append(names, backends.Items[i].Namespace)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// listObjects prints the WorkflowRuns with the labels.
func (o *listOptions) listObjects(ctx context.Context, namespace string) error {
	if o.allNamespaces {
		namespace = ""
	}
	objects, err := o.objects()
	if err != nil {
		return err
	}
	set := fields.Set{}
	if o.workflow != "" {
		set["spec.workflowName"] = o.workflow
	}
	if o.state != "" {
		set["status.state"] = o.state
	}
	list := &v1alpha1.WorkflowRunList{}
	request := objects.Get().Namespace(namespace).Resource("workflowruns").
		Param("labelSelector", o.labels).Param("fieldSelector", set.AsSelector().String()).Param("limit", strconv.FormatInt(o.limit, 10))
	if o.position != "" {
		request = request.Param("continue", o.position)
	}
	if err := request.Do(ctx).Into(list); err != nil {
		return fmt.Errorf("list WorkflowRuns: %w", err)
	}
	slices.SortStableFunc(list.Items, func(a, b v1alpha1.WorkflowRun) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	if len(list.Items) > 0 || !o.printer.plain() {
		if err := o.printer.print(o.Out, list, o.objectTable(list.Items)); err != nil {
			return err
		}
	}
	if o.printer.plain() {
		o.printEnd(int64(len(list.Items)), list.Continue, []string{namespace})
	}
	return nil
}

// columns returns those of a list, with the namespace in front where several are listed.
func (o *listOptions) columns() []metav1.TableColumnDefinition {
	columns := []metav1.TableColumnDefinition{
		column("Run", 0), column("Workflow", 0), column("Status", 0), column("Object", 0), column("Age", 0), column("Duration", 0),
		column("Version", 1), column("Attempts", 1), column("Backend", 1), column("Parent", 1), column("Superseded-By", 1), column("Reason", 1),
	}
	if o.allNamespaces {
		return append([]metav1.TableColumnDefinition{column("Namespace", 0)}, columns...)
	}
	return columns
}

func (o *listOptions) row(namespace string, cells ...any) metav1.TableRow {
	if o.allNamespaces {
		cells = append([]any{namespace}, cells...)
	}
	return row(cells...)
}

func (o *listOptions) table(runs []datav1alpha1.Run) *metav1.Table {
	table, now := &metav1.Table{ColumnDefinitions: o.columns()}, o.now()
	for i := range runs {
		r := &runs[i]
		table.Rows = append(table.Rows, o.row(r.Namespace,
			r.Name, r.Spec.WorkflowName, r.Status.State, r.Status.Object,
			ageOf(r.CreationTimestamp, now), spanOf(r.Status.StartedAt, r.Status.FinishedAt, now),
			r.Spec.Version, int64(r.Status.Attempts), r.Spec.Backend, r.Status.Parent, r.Status.SupersededBy, r.Status.Reason))
	}
	return table
}

func (o *listOptions) objectTable(objects []v1alpha1.WorkflowRun) *metav1.Table {
	table, now := &metav1.Table{ColumnDefinitions: o.columns()}, o.now()
	for i := range objects {
		r := &objects[i]
		attempts, reason := int64(0), ""
		if r.Status.Attempts != nil {
			attempts = int64(*r.Status.Attempts)
		}
		if ready := meta.FindStatusCondition(r.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			reason = ready.Reason
		}
		table.Rows = append(table.Rows, o.row(r.Namespace,
			r.Status.RunID, r.Spec.WorkflowName, string(r.Status.State), r.Name,
			ageOf(r.CreationTimestamp, now), spanOf(r.Status.StartedAt, r.Status.FinishedAt, now),
			r.Spec.Version, attempts, r.Spec.BackendRef.Name, "", r.Status.SupersededBy, reason))
	}
	return table
}
