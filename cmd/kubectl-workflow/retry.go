package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const retryLong = `Run a failed run again: all steps that have completed are kept, but for those that began after the
failure.
` + forkLong + `

Without RUN, the flags select the runs that have failed or were canceled: the manager makes a new
run from each, at a bounded rate (kubectl workflow bulk shows the progress). Runs that another run
has started are left out: their parents start them anew.

With --dry-run nothing is changed. For RUN, the current build of its workers says which results
would be kept, and which step would be executed next. For many, it is said how many runs match.`

const retryExample = `  # Try again
  kubectl workflow retry order-1001

  # Try again with the result of a step that was done by hand
  kubectl workflow retry order-1001 --step-output 'charge-card={"id": 4711}'

  # What would a retry execute with the current build?
  kubectl workflow retry order-1001 --dry-run

  # How many runs of a workflow have failed since yesterday, and which?
  kubectl workflow retry --workflow checkout --state failed --since 24h --dry-run

  # Retry them, five in a second, and show the progress
  kubectl workflow retry --workflow checkout --state failed --since 24h --rate 300 --wait

  # Execute them from a step on
  kubectl workflow retry --workflow checkout --since 24h --step charge`

// The flags of retry that go with a run, those that select many runs, and the others that go with
// many.
var (
	oneRunFlags    = []string{"input-file", "without-object", "step-output", "pool", "timeout"}
	selectingFlags = []string{"state", "since", "workflow", "version", "error-name"}
	manyRunsFlags  = []string{"backend", "step", "from-start", "rate", "max-runs", "wait"}
)

// newRetry returns the verb that retries the run of its argument, or those that its flags select.
func newRetry(f *factory) *cobra.Command {
	one := &forkOptions{factory: f, printer: newPrinter("created"), lastFailed: true}
	many := &bulkRetryOptions{forkOptions: one}
	cmd := one.command("retry [RUN]", "Run failed runs again, from the step that failed", retryLong, retryExample)
	one.addOutputs(cmd)
	many.addFlags(cmd)
	cmd.Args = cobra.MaximumNArgs(1)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := oneOrMany(cmd.Flags(), args); err != nil {
			return err
		}
		if len(args) > 0 {
			return one.run(cmd.Context(), args[0])
		}
		return many.run(cmd.Context())
	}
	return cmd
}

// oneOrMany rejects a run together with flags for many, and the reverse.
func oneOrMany(flags *pflag.FlagSet, args []string) error {
	given := func(names []string) string {
		if i := slices.IndexFunc(names, flags.Changed); i >= 0 {
			return names[i]
		}
		return ""
	}
	selects, many, one := given(selectingFlags), given(manyRunsFlags), given(oneRunFlags)
	switch {
	case len(args) > 0 && selects != "":
		return fmt.Errorf("name a run, or select runs by --%s: not both", selects)
	case len(args) > 0 && (many == "step" || many == "from-start"):
		return fmt.Errorf("--%s goes with flags that select runs: use kubectl workflow fork or rerun for one run", many)
	case len(args) > 0 && many != "":
		return fmt.Errorf("--%s goes with flags that select runs, not with the name of one", many)
	case len(args) == 0 && selects == "":
		return errors.New("name a run, or select runs by --" + strings.Join(selectingFlags, ", --"))
	case len(args) == 0 && one != "":
		return fmt.Errorf("--%s goes with the name of a run, not with flags that select runs", one)
	}
	return nil
}

// bulkPoll is the time between two looks at a request.
const bulkPoll = time.Second

// bulkRetryOptions are those of a request to retry many runs, and what they share with those of one.
type bulkRetryOptions struct {
	*forkOptions

	backend, workflow, version, errorName string
	states                                []string
	since                                 time.Duration
	fromStep                              string
	fromStart, wait                       bool
	rate, maxRuns                         int32

	changed func(flag string) bool
}

// addFlags adds those that a retry of one run does not have.
func (o *bulkRetryOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	o.changed = flags.Changed
	flags.StringSliceVar(&o.states, "state", []string{"failed"}, "Runs that are failed, canceled, or one of both (failed,canceled).")
	flags.DurationVar(&o.since, "since", 0, "Runs that ended within this time, such as 24h.")
	flags.StringVarP(&o.workflow, "workflow", "w", "", "Runs of this workflow.")
	flags.StringVar(&o.version, "version", "", "Runs of this version; an empty one is the unversioned workflow.")
	flags.StringVar(&o.errorName, "error-name", "", "Runs whose error has this name.")
	flags.StringVar(&o.backend, "backend", "", "Of many: the Backend that holds them. By default the one named default.")
	flags.StringVar(&o.fromStep, "step", "", "Of many: go on from the step of this name, not from the failure.")
	flags.BoolVar(&o.fromStart, "from-start", false, "Of many: keep no results.")
	flags.Int32Var(&o.rate, "rate", 600, "Of many: how many are retried in a minute at most, up to 6000.")
	flags.Int32Var(&o.maxRuns, "max-runs", 0, "Of many: how many are retried at most; 0 means all.")
	flags.BoolVar(&o.wait, "wait", false, "Of many: show the progress until the bulk retry has ended.")
	must(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"failed", "canceled"}, cobra.ShellCompDirectiveNoFileComp)))
	must(cmd.RegisterFlagCompletionFunc("workflow", o.completeWorkflow))
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
	case o.fromStep != "" && o.fromStart:
		return errors.New("--step and --from-start: give one of them")
	case o.dry && o.wait:
		return errors.New("--dry-run starts nothing to wait for: leave out --wait")
	}
	for _, state := range o.states {
		if stateOf(state) == "" {
			return fmt.Errorf("--state %q: use failed, canceled or failed,canceled", state)
		}
	}
	return o.forkOptions.validate()
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
	spec.Backend, spec.RunsPerMinute, spec.MaxRuns, spec.Step = o.backend, o.rate, o.maxRuns, o.fromStep
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
	case o.fromStep != "":
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
	data, namespace, err := o.dataIn(ctx)
	if err != nil {
		return err
	}
	created := &datav1alpha1.BulkRetry{}
	post := data.rest.Post().Namespace(namespace).Resource("bulkretries").Body(o.request())
	if o.dry {
		post = post.Param("dryRun", "All")
	}
	if err := post.Do(ctx).Into(created); err != nil {
		return fmt.Errorf("create a bulk retry: %w", err)
	}
	switch {
	case o.dry && o.printer.plain():
		return o.printPreview(created)
	case o.dry:
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
