package runner

import (
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// startWorkflow begins a child run and to wait for it (R98b). The child and the link to
// it are written together with the attempt.
func (e *execution) startWorkflow(step durable.WorkflowStep) (*call, error) {
	c, waiting, err := e.beginWait(step.Name, openworkflow.KindWorkflow)
	if c == nil || c.resolved || waiting && c.wait.attempt.ChildWorkflowRunID != nil {
		return c, err
	}
	child := e.newChild(step)
	if waiting { // a crash has left the attempt without its child (R98c)
		w := e.stepWrite(*c.wait.attempt)
		w.Child = child
		e.buffer.addRequired(w)
		return c, nil
	}
	attempt := e.newAttempt(c.name, openworkflow.KindWorkflow, encodeContext(waitContext{
		Kind:      openworkflow.KindWorkflow,
		TimeoutAt: openworkflow.FormatTime(step.Timeout(e.now())),
	}))
	w := e.firstWrite(attempt)
	w.Child = child
	e.buffer.addRequired(w)
	e.traceWait(e.ctx, tracing.Step{
		Name: c.name, Kind: openworkflow.KindWorkflow, ChildRunID: child.ID, TimeoutAt: waitEnd(attempt),
	})
	c.waitFor(attempt)
	if !waitEnd(attempt).After(e.now()) { // a child that nobody waits for is started all the same
		e.flushRequired()
	}
	return c, nil
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

// inTime reports whether a child's end counts, rather than the timeout (R98e).
func inTime(child *openworkflow.Run, timeout time.Time, expired bool) bool {
	return child != nil && (!expired || child.FinishedAt != nil && !child.FinishedAt.After(timeout))
}

// resolveChild resolves a call with the end of its child (R98d).
func (e *execution) resolveChild(c *call, a openworkflow.StepAttempt, child *openworkflow.Run) {
	switch child.Status {
	case openworkflow.RunCompleted, openworkflow.RunSucceeded:
		a.Output = child.Output
		e.bufferImpliedLocked(a)
		c.resolve(a.Output, nil)
	case openworkflow.RunFailed:
		failure := openworkflow.Error{Message: fmt.Sprintf("Child workflow run %q failed", child.ID)}
		if child.Error != nil {
			failure = openworkflow.DecodeError(child.Error)
			failure.NonRetryable = false
		}
		e.failWait(c, a, failure)
	default:
		e.failWait(c, a, openworkflow.Error{Name: "Error", Message: fmt.Sprintf(
			"Workflow step %q failed because child workflow run %q was canceled", c.name, child.ID)})
	}
}
