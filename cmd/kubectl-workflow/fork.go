package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const forkLong = `
The run itself does not change: a new run of the same workflow takes over stored results, and the
steps that they are of are not executed again. For the run of a WorkflowRun this creates another
WorkflowRun; for a run without one, or with --without-object, the data API inserts the run itself.`

// forkOptions are those of retry, rerun and fork.
type forkOptions struct {
	*factory
	printer *printer

	step          string
	hasStep       bool
	lastFailed    bool
	name          string
	inputFile     string
	outputs       []string
	children      string
	withoutObject bool

	// dry asks what would be done. The pool and the timeout are those of the pod that says it.
	dry     bool
	pool    string
	timeout time.Duration
}

func newRerun(f *factory) *cobra.Command {
	o := &forkOptions{factory: f, printer: newPrinter("created")}
	return o.command("rerun RUN", "Run an ended run again, from the beginning",
		"Run an ended run again from the beginning, with no results taken over.\n"+forkLong,
		`  # The same work once more
  kubectl workflow rerun report-monday

  # With another input
  kubectl workflow rerun report-monday --input-file - < input.json`)
}

func newFork(f *factory) *cobra.Command {
	o := &forkOptions{factory: f, printer: newPrinter("created"), hasStep: true}
	cmd := o.command("fork RUN --step STEP", "Run an ended run again, from a step",
		"Run an ended run again from a step: the results of steps that began before its first attempt are\nkept.\n"+forkLong,
		`  # From the third step on
  kubectl workflow fork order-1001 --step send-email

  # What would that execute with the current build?
  kubectl workflow fork order-1001 --step send-email --dry-run`)
	cmd.Flags().StringVar(&o.step, "step", "", `The durable name of the first step to execute again; page:1 is the second "page".`)
	must(cmd.MarkFlagRequired("step"))
	o.addOutputs(cmd)
	return cmd
}

func (o *forkOptions) command(use, short, long, example string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1), ValidArgsFunction: o.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().StringVar(&o.name, "name", "", "The name of the new WorkflowRun. By default that of the run with a suffix.")
	cmd.Flags().StringVar(&o.inputFile, "input-file", "", "A file with another input, in JSON or YAML; - is the standard input.")
	cmd.Flags().BoolVar(&o.withoutObject, "without-object", false, "Start the new run by the data API, without a WorkflowRun.")
	cmd.Flags().BoolVar(&o.dry, "dry-run", false, "Say what would be done. Nothing is changed.")
	cmd.Flags().StringVar(&o.pool, "pool", "", "The WorkerPool whose build makes the dry run. By default the one that serves the workflow.")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "Wait at most this long for the pod of the dry run.")
	o.printer.addFlags(cmd)
	return cmd
}

// addOutputs adds the flags about results that are taken over.
func (o *forkOptions) addOutputs(cmd *cobra.Command) {
	keep, restart := string(v1alpha1.ForkKeepChildren), string(v1alpha1.ForkRestartChildren)
	cmd.Flags().StringArrayVar(&o.outputs, "step-output", nil, "STEP=JSON: another result of a step that is kept, or of the one from which the run starts. May be repeated.")
	cmd.Flags().StringVar(&o.children, "children", keep, "Keep takes over the results of child runs, Restart starts them anew.")
	must(cmd.RegisterFlagCompletionFunc("children", cobra.FixedCompletions([]string{keep, restart}, cobra.ShellCompDirectiveNoFileComp)))
}

// validate rejects what the flags that one run and many share cannot mean.
func (o *forkOptions) validate() error {
	switch v1alpha1.ForkChildren(o.children) {
	case "", v1alpha1.ForkKeepChildren, v1alpha1.ForkRestartChildren:
		return o.printer.validate()
	default:
		return fmt.Errorf("--children %q: use Keep or Restart", o.children)
	}
}

func (o *forkOptions) run(ctx context.Context, argument string) error {
	if err := o.validate(); err != nil {
		return err
	}
	if err := o.validateDry(); err != nil {
		return err
	}
	outputs, err := parseStepOutputs(o.outputs)
	if err != nil {
		return err
	}
	input, err := readJSON(o.In, "--input", "", o.inputFile)
	if err != nil {
		return err
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	var created runtime.Object
	switch {
	case o.dry:
		return o.runDry(ctx, found, input, outputs)
	case found.object != nil && !o.withoutObject:
		created, err = o.createObject(ctx, found, input, outputs)
	case o.name != "":
		err = errors.New("--name is that of a WorkflowRun: a run without one gets an id")
	default:
		created, err = o.createRun(ctx, found, input, outputs)
	}
	if err != nil {
		return err
	}
	return o.printer.done(o.Out, created)
}

// createObject creates a WorkflowRun that forks that of the target.
func (o *forkOptions) createObject(ctx context.Context, of *target, input *apiextensionsv1.JSON, outputs []datav1alpha1.StepOutput) (runtime.Object, error) {
	if !of.object.Status.State.Terminal() {
		return nil, fmt.Errorf("WorkflowRun %s has not ended, it is %s: cancel it first (kubectl workflow cancel)", of.object.Name, of.object.Status.State)
	}
	from := &v1alpha1.ForkSource{RunName: of.object.Name, Children: v1alpha1.ForkChildren(o.children)}
	if o.lastFailed {
		from.LastFailed = &o.lastFailed
	}
	if o.hasStep {
		from.Step = &o.step
	}
	for i := range outputs {
		from.Outputs = append(from.Outputs, v1alpha1.StepOutput{Step: &outputs[i].Step, Value: outputs[i].Value})
	}
	object := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: of.namespace, Name: o.name},
		Spec: v1alpha1.WorkflowRunSpec{
			BackendRef: of.object.Spec.BackendRef, WorkflowName: of.object.Spec.WorkflowName, Version: of.object.Spec.Version,
			Input: input, From: from,
		},
	}
	if o.name == "" {
		object.GenerateName = of.object.Name + "-"
	}
	objects, err := o.objects()
	if err != nil {
		return nil, err
	}
	created := &v1alpha1.WorkflowRun{}
	if err := objects.Post().Namespace(of.namespace).Resource("workflowruns").Body(object).Do(ctx).Into(created); err != nil {
		return nil, fmt.Errorf("create a WorkflowRun from %s: %w", of.object.Name, err)
	}
	return created, nil
}

// createRun forks a run by the data API.
func (o *forkOptions) createRun(ctx context.Context, of *target, input *apiextensionsv1.JSON, outputs []datav1alpha1.StepOutput) (runtime.Object, error) {
	data, err := o.data(ctx)
	if err != nil {
		return nil, err
	}
	body := &datav1alpha1.RunFork{LastFailed: o.lastFailed, Input: input, Outputs: outputs, Children: o.children}
	if o.hasStep {
		body.Step = &o.step
	}
	created := &datav1alpha1.Run{}
	err = data.rest.Post().Namespace(of.namespace).Resource("runs").Name(of.id).SubResource("fork").Body(body).Do(ctx).Into(created)
	if err != nil {
		return nil, fmt.Errorf("fork run %s: %w", of.id, err)
	}
	return created, nil
}

// parseStepOutputs reads STEP=JSON. A step's name may have a =, so the first one with JSON behind it
// separates.
func parseStepOutputs(texts []string) (outputs []datav1alpha1.StepOutput, err error) {
	for _, text := range texts {
		at := -1
		for i := range text {
			if text[i] == '=' && json.Valid([]byte(text[i+1:])) {
				at = i
				break
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("--step-output %s: want STEP=JSON, such as 'charge-card={\"id\": 1}'; a text needs quotes of its own", text)
		}
		if slices.ContainsFunc(outputs, func(o datav1alpha1.StepOutput) bool { return o.Step == text[:at] }) {
			return nil, fmt.Errorf("--step-output %s: the step %q has another result already", text, text[:at])
		}
		outputs = append(outputs, datav1alpha1.StepOutput{Step: text[:at], Value: &apiextensionsv1.JSON{Raw: []byte(text[at+1:])}})
	}
	return outputs, nil
}
