package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// suspendOptions are those of two verbs, which differ in what they set.
type suspendOptions struct {
	*factory
	printer *printer
	suspend bool
}

func newSuspend(f *factory) *cobra.Command {
	return suspendCommand(&suspendOptions{factory: f, printer: newPrinter("suspended"), suspend: true}, &cobra.Command{
		Use: "suspend RUN", Short: "Stop a run before its next step",
		Long: `Stop a run before its next step. A step that is executing ends first, and its result is stored.

A WorkflowRun gets spec.suspend; a run without an object is suspended by the data API.`,
		Example: `  kubectl workflow suspend order-1001`,
	})
}

func newResume(f *factory) *cobra.Command {
	return suspendCommand(&suspendOptions{factory: f, printer: newPrinter("resumed")}, &cobra.Command{
		Use: "resume RUN", Short: "Let a suspended run go on",
		Long:    `Let a suspended run go on, from the step before which it stopped.`,
		Example: `  kubectl workflow resume order-1001`,
	})
}

func suspendCommand(o *suspendOptions, cmd *cobra.Command) *cobra.Command {
	cmd.Args, cmd.ValidArgsFunction = cobra.ExactArgs(1), o.completeRun
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) }
	o.printer.addFlags(cmd)
	return cmd
}

func (o *suspendOptions) run(ctx context.Context, argument string) error {
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	if found.object == nil {
		if found, err = o.owner(ctx, found); err != nil {
			return err
		}
	}
	if found.object == nil {
		err = o.suspendRun(ctx, found)
	} else {
		err = o.suspendObject(ctx, found)
	}
	if err != nil {
		return err
	}
	return o.printer.done(o.Out, found.any())
}

// owner returns the WorkflowRun that a run follows as the target, if there is one.
func (o *suspendOptions) owner(ctx context.Context, found *target) (*target, error) {
	data, err := o.data(ctx)
	if err != nil {
		return nil, err
	}
	if found.run, err = data.run(ctx, found.namespace, found.id); err != nil {
		return nil, fmt.Errorf("read run %s: %w", found.id, err)
	}
	if found.run.Status.Object == "" {
		return found, nil
	}
	return o.find(ctx, "workflowrun/"+found.run.Status.Object)
}

func (o *suspendOptions) suspendRun(ctx context.Context, found *target) error {
	data, err := o.data(ctx)
	if err != nil {
		return err
	}
	if err := data.post(ctx, found.namespace, found.id, "suspend", &datav1alpha1.RunSuspend{Suspend: o.suspend}); err != nil {
		return fmt.Errorf("run %s: %w", found.id, err)
	}
	if found.run, err = data.run(ctx, found.namespace, found.id); err != nil {
		return fmt.Errorf("read run %s, which has changed: %w", found.id, err)
	}
	return nil
}

func (o *suspendOptions) suspendObject(ctx context.Context, found *target) error {
	if found.object.Status.State.Terminal() {
		return fmt.Errorf("the run of WorkflowRun %s has ended already: it is %s", found.name(), found.object.Status.State)
	}
	return o.patchSpec(ctx, found, fmt.Sprintf(`{"spec": {"suspend": %t}}`, o.suspend))
}

// patchSpec changes the spec of a WorkflowRun. One that shows the run of another object has no
// say over it.
func (f *factory) patchSpec(ctx context.Context, found *target, patch string) error {
	if found.attached() {
		return attachedError(found, "cancel, suspend or resume")
	}
	objects, err := f.objects()
	if err != nil {
		return err
	}
	changed := &v1alpha1.WorkflowRun{}
	err = objects.Patch(types.MergePatchType).Namespace(found.namespace).Resource("workflowruns").Name(found.object.Name).
		Body([]byte(patch)).Do(ctx).Into(changed)
	if err != nil {
		return fmt.Errorf("change WorkflowRun %s: %w", found.object.Name, err)
	}
	found.object = changed
	return nil
}

// attachedError says how a run that an object only shows is reached.
func attachedError(found *target, verbs string) error {
	return fmt.Errorf("WorkflowRun %s shows a run that was started before with the same idempotency key, and has no say over it: %s run/%s instead",
		found.name(), verbs, found.id)
}
