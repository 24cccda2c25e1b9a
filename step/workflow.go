package step

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/workflow"
)

// RunWorkflow starts a run of another workflow, waits for its end, and returns its output. The
// child run has its own steps, retries and step limit. Any worker that serves the workflow may
// execute it, in Go or TypeScript; [workflow.Declare] describes a workflow that another program
// implements. Crashes do not start it twice.
//
// RunWorkflow returns an [*Error] when the child fails, is canceled, or has not ended before the
// timeout (default: one calendar year). Neither the timeout nor the end of this run stops the
// child.
//
// The options are [Timeout], [TimeoutAt] and [Name]; the step has the name of the workflow by
// default.
func RunWorkflow[In, Out any](ctx context.Context, w *workflow.Workflow[In, Out], in In, options ...WorkflowOption) (Out, error) {
	return GoWorkflow(ctx, w, in, options...).Await()
}

// GoWorkflow is [RunWorkflow] without waiting for the end of the child.
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
