package runner

import (
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// startWorkflow (might not return) starts a child run and waits for it (R98b). The child, its
// link and the attempt are written together.
func (e *execution) startWorkflow(step durable.WorkflowStep) (*future, error) {
	f, waiting, err := e.replayWait(step.Name, openworkflow.KindWorkflow)
	if f == nil || f.resolved || waiting && f.wait.attempt.ChildWorkflowRunID != nil {
		return f, err
	}
	var timeout time.Time
	if !waiting {
		timeout = step.Timeout(e.now())
		if err := checkWaitEnd(timeout); err != nil {
			return nil, err
		}
	}
	child := e.newChild(step)
	if waiting { // an attempt without its child, left behind by a crash (R98c)
		w := e.stepWrite(*f.wait.attempt)
		w.Child = child
		e.buffer.addRequired(w)
		return f, nil
	}
	attempt := e.newAttempt(f.name, openworkflow.KindWorkflow, openworkflow.WaitContext{
		Kind:      openworkflow.KindWorkflow,
		TimeoutAt: openworkflow.FormatTime(timeout),
	}.Encode())
	w := e.firstWrite(attempt)
	w.Child = child
	e.buffer.addRequired(w)
	e.traceWait(e.ctx, tracing.Step{
		Name: f.name, Kind: openworkflow.KindWorkflow, ChildRunID: child.ID, TimeoutAt: waitEnd(attempt),
	})
	f.waitFor(attempt)
	if !waitEnd(attempt).After(e.now()) { // without time to wait, the child is started all the same
		e.flushRequired()
	}
	return f, nil
}

// newChild returns the child run of a step, with this run's trace as its creator.
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

// childEndedInTime reports whether a child's end counts rather than the timeout (R98e).
func childEndedInTime(child *openworkflow.Run, timeout time.Time, expired bool) bool {
	return child != nil && (!expired || child.FinishedAt != nil && !child.FinishedAt.After(timeout))
}

// resolveChildLocked resolves a future with the end of its child (R98d).
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
