package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const bulkLong = `Retry many runs that have failed or were canceled, at a bounded rate.

The manager makes a new run from each. It keeps the results of the steps that had completed, and
goes on at the step that failed. Runs that another run has started are left out: their parents
start them anew.`

const bulkRetryExample = `  # How many runs of a workflow have failed since yesterday, and which?
  kubectl workflow bulk retry --workflow checkout --state failed --since 24h --dry-run

  # Retry them, five in a second, and show the progress
  kubectl workflow bulk retry --workflow checkout --state failed --since 24h --rate 300 --wait

  # Execute them from a step on
  kubectl workflow bulk retry --workflow checkout --since 24h --step charge

  # Pause, go on, end
  kubectl workflow bulk suspend retry-7x2kf
  kubectl workflow bulk resume retry-7x2kf
  kubectl workflow bulk cancel retry-7x2kf`

// bulkPoll is the time between two looks at a request.
const bulkPoll = time.Second

// newBulk returns the verbs for requests to retry many runs.
func newBulk(f *factory) *cobra.Command {
	cmd := &cobra.Command{Use: "bulk", Short: "Retry many runs at once", Long: bulkLong, Example: bulkRetryExample}
	retry := &cobra.Command{
		Use: "retry", Short: "Retry all runs that the flags select", Long: bulkLong, Example: bulkRetryExample,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := newBulkRetry(f, retry)
	retry.RunE = func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) }
	cmd.AddCommand(
		retry,
		newBulkList(f),
		newBulkChange(f, "suspend", "Pause a bulk retry", "suspended", `{"spec":{"suspend":true}}`),
		newBulkChange(f, "resume", "Let a bulk retry go on", "resumed", `{"spec":{"suspend":false}}`),
		newBulkChange(f, "cancel", "End a bulk retry; the runs that it has retried go on", "canceled", `{"spec":{"cancel":true}}`),
	)
	return cmd
}

// addBulk lets a verb that retries the run of its argument retry many runs where it has none: those
// that the flags select.
func addBulk(f *factory, cmd *cobra.Command) {
	bulk := &cobra.Command{}
	o := newBulkRetry(f, bulk)
	shared := []string{"name", "children", "output", "no-headers"} // if the verb has them, their values are its own
	cmd.Flags().AddFlagSet(bulk.Flags())
	o.changed = cmd.Flags().Changed
	selects := func() bool {
		return slices.ContainsFunc([]string{"state", "since", "workflow", "error-name"}, o.changed)
	}
	one, arguments := cmd.RunE, cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch many := selects(); {
		case many && len(args) > 0:
			return errors.New("name a run, or select runs by --state, --since, --workflow or --error-name: not both")
		case many:
			return nil
		default:
			return arguments(cmd, args)
		}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return one(cmd, args)
		}
		for _, name := range shared {
			if flag := cmd.Flags().Lookup(name); flag.Changed {
				if err := bulk.Flags().Set(name, flag.Value.String()); err != nil {
					return err
				}
			}
		}
		return o.run(cmd.Context())
	}
}

// bulkRetryOptions are the flags of a request.
type bulkRetryOptions struct {
	*factory
	printer *printer

	name, backend, workflow, version, errorName string
	states                                      []string
	since                                       time.Duration
	step                                        string
	children                                    string
	fromStart, dryRun, wait                     bool
	rate, maxRuns                               int32

	changed func(flag string) bool
}

// newBulkRetry adds the flags to a command.
func newBulkRetry(f *factory, cmd *cobra.Command) *bulkRetryOptions {
	flags := cmd.Flags()
	o := &bulkRetryOptions{factory: f, printer: newPrinter("created"), changed: flags.Changed}
	flags.StringVar(&o.name, "name", "", "Name of the request. By default, one is made up.")
	flags.StringVar(&o.backend, "backend", "", `Backend that holds the runs. Default: the one named "default".`)
	flags.StringVarP(&o.workflow, "workflow", "w", "", "Only runs of this workflow.")
	flags.StringVar(&o.version, "version", "", "Only runs of this version; an empty one is the unversioned workflow.")
	flags.StringVar(&o.errorName, "error-name", "", "Only runs whose error has this name.")
	flags.StringSliceVar(&o.states, "state", []string{"failed"}, "Only runs that are failed, canceled, or one of both (failed,canceled).")
	flags.DurationVar(&o.since, "since", 0, "Only runs that ended within this time, such as 24h.")
	flags.StringVar(&o.step, "step", "", "Go on from the step of this name, not from the failure.")
	flags.BoolVar(&o.fromStart, "from-start", false, "Keep no results.")
	addChildren(cmd, &o.children)
	flags.Int32Var(&o.rate, "rate", 600, "How many runs are retried in a minute at most, up to 6000.")
	flags.Int32Var(&o.maxRuns, "max-runs", 0, "How many runs are retried at most; 0 means all.")
	flags.BoolVar(&o.dryRun, "dry-run", false, "Say how many runs match, and name some of them. Nothing is changed.")
	flags.BoolVar(&o.wait, "wait", false, "Show the progress until the request has ended.")
	o.printer.addFlags(cmd)
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"failed", "canceled"}, cobra.ShellCompDirectiveNoFileComp)))
	return o
}

// validate rejects what the flags cannot mean together.
func (o *bulkRetryOptions) validate() error {
	switch {
	case o.since < 0:
		return fmt.Errorf("--since %v: give a positive duration, such as 24h", o.since)
	case o.rate < 1 || o.rate > 6000:
		return fmt.Errorf("--rate %d: give a number of runs in a minute, from 1 to 6000", o.rate)
	case o.maxRuns < 0:
		return fmt.Errorf("--max-runs %d: give 0 for all runs, or a positive number", o.maxRuns)
	case o.step != "" && o.fromStart:
		return errors.New("--step and --from-start: give one of them")
	case o.dryRun && o.wait:
		return errors.New("--dry-run starts nothing to wait for: leave out --wait")
	}
	for _, state := range o.states {
		if stateOf(state) == "" {
			return fmt.Errorf("--state %q: use failed, canceled or failed,canceled", state)
		}
	}
	if err := validateChildren(o.children); err != nil {
		return err
	}
	return o.printer.validate()
}

// addChildren adds the flag about the results of child runs.
func addChildren(cmd *cobra.Command, children *string) {
	keep, restart := string(datav1alpha1.ChildrenKeep), string(datav1alpha1.ChildrenRestart)
	cmd.Flags().StringVar(children, "children", keep, "Keep takes over the results of child runs, Restart starts them anew.")
	must(cmd.RegisterFlagCompletionFunc("children", cobra.FixedCompletions([]string{keep, restart}, cobra.ShellCompDirectiveNoFileComp)))
}

func validateChildren(children string) error {
	if children != string(datav1alpha1.ChildrenKeep) && children != string(datav1alpha1.ChildrenRestart) {
		return fmt.Errorf("--children %q: use Keep or Restart", children)
	}
	return nil
}

// stateOf returns the state of this name, written in any case; empty if there is none.
func stateOf(name string) string {
	for _, state := range []string{"Failed", "Canceled"} {
		if strings.EqualFold(state, name) {
			return state
		}
	}
	return ""
}

// request returns the object to create.
func (o *bulkRetryOptions) request() *datav1alpha1.BulkRetry {
	b := &datav1alpha1.BulkRetry{ObjectMeta: metav1.ObjectMeta{Name: o.name}}
	if o.name == "" {
		b.GenerateName = "retry-"
	}
	spec := &b.Spec
	spec.Backend, spec.RunsPerMinute, spec.MaxRuns, spec.Step = o.backend, o.rate, o.maxRuns, o.step
	spec.Selector = datav1alpha1.BulkRetrySelector{WorkflowName: o.workflow, ErrorName: o.errorName}
	if o.changed("version") {
		spec.Selector.Version = &o.version
	}
	for _, state := range o.states {
		if s := stateOf(state); !slices.Contains(spec.Selector.States, s) {
			spec.Selector.States = append(spec.Selector.States, s)
		}
	}
	if o.since > 0 {
		from := metav1.NewTime(o.now().Add(-o.since))
		spec.Selector.FinishedFrom = &from
	}
	switch {
	case o.step != "":
		spec.From = datav1alpha1.FromStep
	case o.fromStart:
		spec.From = datav1alpha1.FromStart
	}
	spec.Children = datav1alpha1.BulkRetryChildren(o.children)
	return b
}

func (o *bulkRetryOptions) run(ctx context.Context) error {
	if err := o.validate(); err != nil {
		return err
	}
	namespace, err := o.namespace()
	if err != nil {
		return err
	}
	data, err := o.data(ctx)
	if err != nil {
		return err
	}
	created := &datav1alpha1.BulkRetry{}
	post := data.rest.Post().Namespace(namespace).Resource("bulkretries").Body(o.request())
	if o.dryRun {
		post = post.Param("dryRun", "All")
	}
	if err := post.Do(ctx).Into(created); err != nil {
		return fmt.Errorf("create a bulk retry: %w", err)
	}
	switch {
	case o.dryRun && o.printer.plain():
		return o.printPreview(created)
	case o.dryRun:
		return o.printer.printAs(o.Out, created)
	case !o.printer.plain():
		err = o.printer.printAs(o.Out, created)
	default:
		_, err = fmt.Fprintf(o.Out, "Bulk retry %s: %s to retry, %d in a minute at most.\n", created.Name, matched(&created.Status), created.Spec.RunsPerMinute)
	}
	if err != nil || !o.wait {
		return err
	}
	return o.follow(ctx, data, namespace, created.Name)
}

// matched says how many runs matched.
func matched(s *datav1alpha1.BulkRetryStatus) string {
	switch {
	case s.MatchedMore:
		return fmt.Sprintf("at least %d runs", s.Matched)
	case s.Matched == 1:
		return "1 run"
	default:
		return fmt.Sprintf("%d runs", s.Matched)
	}
}

func (o *bulkRetryOptions) printPreview(b *datav1alpha1.BulkRetry) error {
	text := fmt.Sprintf("%s would be retried, %d in a minute at most.\n", matched(&b.Status), b.Spec.RunsPerMinute)
	if len(b.Status.Sample) > 0 {
		text += "The first of them:\n  " + strings.Join(b.Status.Sample, "\n  ") + "\n"
	}
	_, err := fmt.Fprint(o.Out, text)
	return err
}

// follow prints the progress when it changes, until the request has ended.
func (o *bulkRetryOptions) follow(ctx context.Context, data *dataClient, namespace, name string) error {
	ticker := time.NewTicker(bulkPoll)
	defer ticker.Stop()
	for last := ""; ; {
		b := &datav1alpha1.BulkRetry{}
		if err := data.rest.Get().Namespace(namespace).Resource("bulkretries").Name(name).Do(ctx).Into(b); err != nil {
			return fmt.Errorf("read bulk retry %s: %w", name, err)
		}
		s := &b.Status
		if line := fmt.Sprintf("%s: %d started, %d skipped, %d failed", s.State, s.Started, s.Skipped, s.Failed); line != last {
			last = line
			_, _ = fmt.Fprintln(o.ErrOut, line)
		}
		if s.State == "Completed" || s.State == "Canceled" {
			for _, f := range s.Failures {
				_, _ = fmt.Fprintf(o.ErrOut, "  run %s: %s\n", f.Run, f.Message)
			}
			if s.State == "Canceled" {
				return &endError{code: codeCanceled}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
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
		namespace, err := f.namespace()
		if err != nil {
			return err
		}
		data, err := f.data(cmd.Context())
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
		namespace, err := f.namespace()
		if err != nil {
			return err
		}
		data, err := f.data(cmd.Context())
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
