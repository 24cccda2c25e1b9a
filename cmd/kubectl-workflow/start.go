package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const startLong = `Start a run of a workflow.

By default this creates a WorkflowRun, whose run the manager starts. With --without-object the
data API inserts the run itself: that costs etcd nothing, and there is no object to look at.

The input is any JSON value: --input has the value, --input-file names a file with it in JSON or
YAML, or - for the standard input. Without either it is null.

--wait ends when the run has ended, and --follow shows meanwhile how it goes. The exit code is
then 10 for a failed run, and 11 for a canceled one.`

const startExample = `  # A run, with its input on the command line
  kubectl workflow start checkout --input '{"order": 1001}'

  # A run of a version, under a name, followed to its end
  kubectl workflow start checkout --name order-1001 --version v2 --input-file order.yaml --follow

  # A run without an object; repeating the command finds the same run
  kubectl workflow start checkout --without-object --idempotency-key order-1001 --input-file - < order.json`

// maxInput is the largest input that is read, the limit of spec.input.
const maxInput = 1 << 20

type startOptions struct {
	*factory
	printer *printer

	name, version, backend, key string
	input, inputFile, labels    string
	deadline, delay, timeout    time.Duration
	ttl                         int32
	withoutObject, suspend      bool
	wait, follow                bool
}

func newStart(f *factory) *cobra.Command {
	o := &startOptions{factory: f, printer: newPrinter("created")}
	cmd := &cobra.Command{
		Use: "start WORKFLOW", Short: "Start a run of a workflow",
		Long: startLong, Example: startExample, Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeWorkflow,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.name, "name", "", "The name of the WorkflowRun, or the id of a run without one. By default a new one.")
	flags.StringVar(&o.version, "version", "", "The version of the workflow.")
	flags.StringVar(&o.backend, "backend", "", "The Backend that holds the run. By default the one named default.")
	flags.StringVar(&o.key, "idempotency-key", "", "Find the run that was started with the same key and workflow, if there is one.")
	flags.StringVar(&o.input, "input", "", "The input, a JSON value.")
	flags.StringVar(&o.inputFile, "input-file", "", "A file with the input, in JSON or YAML; - is the standard input.")
	flags.StringVarP(&o.labels, "labels", "l", "", "Labels of the WorkflowRun, such as team=shop,tier=1.")
	flags.DurationVar(&o.delay, "delay", 0, "Start this much later.")
	flags.DurationVar(&o.deadline, "deadline", 0, "Fail the run if it has not ended after this time.")
	flags.Int32Var(&o.ttl, "ttl-seconds-after-finished", -1, "Delete the WorkflowRun this long after the run's end. By default it stays.")
	flags.BoolVar(&o.suspend, "suspend", false, "Create the WorkflowRun suspended: it starts with kubectl workflow resume.")
	flags.BoolVar(&o.withoutObject, "without-object", false, "Start the run by the data API, without a WorkflowRun.")
	flags.BoolVar(&o.wait, "wait", false, "Wait until the run has ended.")
	flags.BoolVarP(&o.follow, "follow", "f", false, "Wait until the run has ended, and show how it goes.")
	flags.DurationVar(&o.timeout, "timeout", 0, "Wait at most this long. 0 waits without end.")
	o.printer.addFlags(cmd)
	return cmd
}

// validate rejects what the flags cannot mean together.
func (o *startOptions) validate() error {
	switch {
	case o.input != "" && o.inputFile != "":
		return errors.New("give --input or --input-file, not both")
	case o.delay < 0 || o.deadline < 0 || o.timeout < 0:
		return errors.New("--delay, --deadline and --timeout are positive durations, such as 30s")
	case o.deadline > 0 && o.deadline < time.Second:
		return errors.New("--deadline is at least 1s")
	case o.timeout > 0 && !o.wait && !o.follow:
		return errors.New("--timeout ends a wait: give --wait or --follow, or did you mean --deadline?")
	case o.withoutObject && (o.labels != "" || o.ttl >= 0 || o.suspend):
		return errors.New("--labels, --ttl-seconds-after-finished and --suspend are those of a WorkflowRun: leave out --without-object")
	}
	return o.printer.validate()
}

func (o *startOptions) run(ctx context.Context, workflow string) error {
	if workflow == "" {
		return errors.New("name a workflow, as its worker defines it")
	}
	if err := o.validate(); err != nil {
		return err
	}
	input, err := readJSON(o.In, "--input", o.input, o.inputFile)
	if err != nil {
		return err
	}
	namespace, err := o.namespace()
	if err != nil {
		return err
	}
	create := o.createObject
	if o.withoutObject {
		create = o.createRun
	}
	created, err := create(ctx, namespace, workflow, input)
	if err != nil {
		return err
	}
	if !o.wait && !o.follow {
		return o.printer.done(o.Out, created.any())
	}
	if o.printer.plain() {
		if err := o.printer.done(o.Out, created.any()); err != nil {
			return err
		}
	}
	return o.await(ctx, created)
}

// await waits for the end of what was started.
func (o *startOptions) await(ctx context.Context, created *target) error {
	w := &watcher{factory: o.factory, target: created}
	if o.follow {
		w.printer = o.printer
	}
	last, err := w.until(ctx, o.timeout)
	if err != nil {
		return err
	}
	if !o.follow {
		if o.printer.plain() {
			o.printer = newPrinter(strings.ToLower(string(last.state)))
		}
		if err := o.printer.done(o.Out, last.object); err != nil {
			return err
		}
	}
	return ended(last.state)
}

// readJSON returns a JSON value that a flag or a file gives, nil if neither is given.
func readJSON(in io.Reader, flag, value, file string) (*apiextensionsv1.JSON, error) {
	switch {
	case file == "" && value == "":
		return nil, nil
	case file == "":
		if !json.Valid([]byte(value)) {
			return nil, fmt.Errorf("%s is not JSON: a text needs quotes of its own, as in '\"text\"'", flag)
		}
		return &apiextensionsv1.JSON{Raw: []byte(value)}, nil
	case file != "-":
		opened, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("%s-file: %w", flag, err)
		}
		defer opened.Close()
		in = opened
	}
	content, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("%s-file %s: %w", flag, file, err)
	}
	if len(content) > maxInput {
		return nil, fmt.Errorf("%s-file %s is longer than 1 MiB, the limit of a value", flag, file)
	}
	raw, err := yaml.YAMLToJSON(content)
	if err != nil {
		return nil, fmt.Errorf("%s-file %s is neither JSON nor YAML: %w", flag, file, err)
	}
	return &apiextensionsv1.JSON{Raw: raw}, nil
}

// createObject creates a WorkflowRun.
func (o *startOptions) createObject(ctx context.Context, namespace, workflow string, input *apiextensionsv1.JSON) (*target, error) {
	object := &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: o.name},
		Spec: v1alpha1.WorkflowRunSpec{
			WorkflowName: workflow, Version: o.version, Input: input, IdempotencyKey: o.key,
			BackendRef:     v1alpha1.BackendReference{Name: o.backend},
			TimeoutSeconds: o.timeoutSeconds(), AvailableAt: o.availableAt(),
		},
	}
	if o.name == "" {
		object.GenerateName = generateName(workflow)
	}
	if o.labels != "" {
		set, err := labels.ConvertSelectorToLabelsMap(o.labels)
		if err != nil {
			return nil, fmt.Errorf("--labels %q: %w", o.labels, err)
		}
		object.Labels = set
	}
	if o.ttl >= 0 {
		object.Spec.TTLSecondsAfterFinished = &o.ttl
	}
	if o.suspend {
		object.Spec.Suspend = &o.suspend
	}
	objects, err := o.objects()
	if err != nil {
		return nil, err
	}
	created := &v1alpha1.WorkflowRun{}
	if err := objects.Post().Namespace(namespace).Resource("workflowruns").Body(object).Do(ctx).Into(created); err != nil {
		return nil, fmt.Errorf("create a WorkflowRun: %w", err)
	}
	return &target{namespace: namespace, object: created, id: runID(created)}, nil
}

// createRun starts a run by the data API.
func (o *startOptions) createRun(ctx context.Context, namespace, workflow string, input *apiextensionsv1.JSON) (*target, error) {
	data, err := o.data(ctx)
	if err != nil {
		return nil, err
	}
	run := &datav1alpha1.Run{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: o.name},
		Spec: datav1alpha1.RunSpec{
			Backend: o.backend, WorkflowName: workflow, Version: o.version, IdempotencyKey: o.key, Input: input,
			TimeoutSeconds: o.timeoutSeconds(), AvailableAt: o.availableAt(),
		},
	}
	created := &datav1alpha1.Run{}
	if err := data.rest.Post().Namespace(namespace).Resource("runs").Body(run).Do(ctx).Into(created); err != nil {
		return nil, fmt.Errorf("start a run: %w", err)
	}
	return &target{namespace: namespace, run: created, id: created.Name}, nil
}

func (o *startOptions) timeoutSeconds() *int64 {
	if o.deadline == 0 {
		return nil
	}
	seconds := int64((o.deadline + time.Second - 1) / time.Second)
	return &seconds
}

func (o *startOptions) availableAt() *metav1.Time {
	if o.delay == 0 {
		return nil
	}
	at := metav1.NewTime(o.now().Add(o.delay))
	return &at
}

// generateName returns the prefix of names for a workflow's WorkflowRuns.
func generateName(workflow string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(workflow) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 50 {
			break
		}
	}
	name := strings.Trim(b.String(), "-")
	if name == "" {
		name = "run"
	}
	return name + "-"
}
