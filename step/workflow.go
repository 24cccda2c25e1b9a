package step

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/workflow"
)

// RunWorkflow starts a run of another workflow, waits for its end, and returns its
// output. The child is a run of its own, with its own steps and retries, and executed
// by whichever worker serves it, in either language; [workflow.Declare] describes one
// that is implemented elsewhere. It is started once, whatever crashes.
//
// A child that fails or is canceled, or that has not ended after the timeout (a
// calendar year, unless an option says otherwise), makes the step fail with an
// [*Error]. A timeout does not touch the child, nor does the end of this run.
//
// The step has the name of the workflow unless [Name] says otherwise.
func RunWorkflow[In, Out any](ctx context.Context, w *workflow.Workflow[In, Out], in In, options ...WorkflowOption) (Out, error) {
	return GoWorkflow(ctx, w, in, options...).Await()
}

// GoWorkflow begins RunWorkflow without waiting for the child's end.
func GoWorkflow[In, Out any](ctx context.Context, w *workflow.Workflow[In, Out], in In, options ...WorkflowOption) *Future[Out] {
	call := durable.WorkflowStep{Name: w.Name(), Workflow: durable.DefinitionOf(w).Definition, Timeout: defaultTimeout}
	for _, option := range options {
		option.workflow(&call)
	}
	var err error
	if call.Input, err = json.Marshal(in); err != nil {
		return &Future[Out]{err: fmt.Errorf("step %q: encode the input: %w", call.Name, err)}
	}
	return startStep(ctx, call.Name, call, decode[Out])
}
