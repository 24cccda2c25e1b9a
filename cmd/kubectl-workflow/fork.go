package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const forkLong = `
The run itself does not change: a new run of the same workflow takes over stored results, and the
steps that they are of are not executed again. For the run of a WorkflowRun this creates another
WorkflowRun; for a run without one, or with --without-object, the data API inserts the run itself.`

// maxForkInput is the largest input that is read, the limit of spec.input.
const maxForkInput = 1 << 20

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
}

func newRetry(f *factory) *cobra.Command {
	o := &forkOptions{factory: f, printer: newPrinter("created"), lastFailed: true}
	cmd := o.command("retry RUN", "Run a failed run again, from the step that failed",
		"Run a failed run again: all steps that have completed are kept, but for those that began after the\nfailure.\n"+forkLong,
		`  # Try again
  kubectl workflow retry order-1001

  # Try again with the result of a step that was done by hand
  kubectl workflow retry order-1001 --step-output 'charge-card={"id": 4711}'`)
	o.addOutputs(cmd)
	return cmd
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
  kubectl workflow fork order-1001 --step send-email`)
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
	o.printer.addFlags(cmd)
	return cmd
}

// addOutputs adds the flags about results that are taken over.
func (o *forkOptions) addOutputs(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&o.outputs, "step-output", nil, "STEP=JSON: another result of a step that is kept, or of the one from which the run starts. May be repeated.")
	cmd.Flags().StringVar(&o.children, "children", string(v1alpha1.ForkKeepChildren), "Keep takes over the results of child runs, Restart starts them anew.")
	must(cmd.RegisterFlagCompletionFunc("children", cobra.FixedCompletions(
		[]string{string(v1alpha1.ForkKeepChildren), string(v1alpha1.ForkRestartChildren)}, cobra.ShellCompDirectiveNoFileComp)))
}

func (o *forkOptions) run(ctx context.Context, argument string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	outputs, err := parseStepOutputs(o.outputs)
	if err != nil {
		return err
	}
	input, err := o.readInput()
	if err != nil {
		return err
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	var created runtime.Object
	if found.object != nil && !o.withoutObject {
		created, err = o.createObject(ctx, found, input, outputs)
	} else if o.name != "" {
		return errors.New("--name is that of a WorkflowRun: a run without one gets an id")
	} else {
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
		outputs = append(outputs, datav1alpha1.StepOutput{Step: text[:at], Value: &apiextensionsv1.JSON{Raw: []byte(text[at+1:])}})
	}
	return outputs, nil
}

// readInput returns the other input, nil for none.
func (o *forkOptions) readInput() (*apiextensionsv1.JSON, error) {
	if o.inputFile == "" {
		return nil, nil
	}
	in := o.In
	if o.inputFile != "-" {
		file, err := os.Open(o.inputFile)
		if err != nil {
			return nil, fmt.Errorf("--input-file: %s", err.Error()) // not wrapped: a missing file is no missing server
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	content, err := io.ReadAll(io.LimitReader(in, maxForkInput+1))
	if err != nil {
		return nil, fmt.Errorf("--input-file %s: %w", o.inputFile, err)
	}
	if len(content) > maxForkInput {
		return nil, fmt.Errorf("--input-file %s is longer than 1 MiB, the limit of an input", o.inputFile)
	}
	raw, err := yaml.YAMLToJSON(content)
	if err != nil {
		return nil, fmt.Errorf("--input-file %s is neither JSON nor YAML: %s", o.inputFile, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	return &apiextensionsv1.JSON{Raw: raw}, nil
}
