package runner

import (
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// startWorkflow (may not return) begins a child run and to wait for it (R98b). The child and the link to
// it are written together with the attempt.
func (e *execution) startWorkflow(step durable.WorkflowStep) (*future, error) {
	f, waiting, err := e.replayWait(step.Name, openworkflow.KindWorkflow)
	if f == nil || f.resolved || waiting && f.wait.attempt.ChildWorkflowRunID != nil {
		return f, err
	}
	child := e.newChild(step)
	if waiting { // a crash has left the attempt without its child (R98c)
		w := e.stepWrite(*f.wait.attempt)
		w.Child = child
		e.buffer.addRequired(w)
		return f, nil
	}
	attempt := e.newAttempt(f.name, openworkflow.KindWorkflow, openworkflow.WaitContext{
		Kind:      openworkflow.KindWorkflow,
		TimeoutAt: openworkflow.FormatTime(step.Timeout(e.now())),
	}.Encode())
	w := e.firstWrite(attempt)
	w.Child = child
	e.buffer.addRequired(w)
	e.traceWait(e.ctx, tracing.Step{
		Name: f.name, Kind: openworkflow.KindWorkflow, ChildRunID: child.ID, TimeoutAt: waitEnd(attempt),
	})
	f.waitFor(attempt)
	if !waitEnd(attempt).After(e.now()) { // a child that nobody waits for is started all the same
		e.flushRequired()
	}
	return f, nil
}

// newChild returns the child run of a step, which carries the trace of this one.
func (e *execution) newChild(step durable.WorkflowStep) *store.NewRun {
	child := &store.NewRun{
		ID:           openworkflow.NewID(),
		WorkflowName: step.Workflow.Name,
		Version:      step.Workflow.Version,
		Input:        step.Input,
	}
	tracer := e.runner.options.Tracer
	ctx, span := tracer.StartCreate(e.ctx, tracing.Creation{
		Workflow:    step.Workflow,
		NamespaceID: e.run.NamespaceID,
		RunID:       child.ID,
		ParentRunID: e.run.ID,
	})
	if carrier := tracer.Carrier(ctx); carrier != nil {
		child.Context = openworkflow.RunContext{TraceContext: carrier}.Encode()
	}
	span.End("", nil)
	return child
}

// childEndedInTime reports whether a child's end counts, rather than the timeout (R98e).
func childEndedInTime(child *openworkflow.Run, timeout time.Time, expired bool) bool {
	return child != nil && (!expired || child.FinishedAt != nil && !child.FinishedAt.After(timeout))
}

// resolveChildLocked resolves a call with the end of its child (R98d).
func (e *execution) resolveChildLocked(f *future, a openworkflow.StepAttempt, child *openworkflow.Run) {
	switch child.Status {
	case openworkflow.RunCompleted, openworkflow.RunSucceeded:
		a.Output = child.Output
		e.bufferImpliedLocked(a)
		f.resolveLocked(a.Output, nil)
	case openworkflow.RunFailed:
		failure := openworkflow.Error{Message: fmt.Sprintf("Child workflow run %q failed", child.ID)}
		if child.Error != nil {
			failure = openworkflow.DecodeError(child.Error)
			failure.NonRetryable = false
		}
		e.failWaitLocked(f, a, failure)
	default:
		e.failWaitLocked(f, a, openworkflow.Error{Name: "Error", Message: fmt.Sprintf(
			"Workflow step %q failed because child workflow run %q was canceled", f.name, child.ID)})
	}
}
