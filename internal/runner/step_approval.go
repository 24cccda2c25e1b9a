package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// startApproval (might not return) starts to wait for the decision of approvers. For the rows of
// OpenWorkflow it is a wait for a signal (R99b). What is asked is published together with the attempt.
func (e *execution) startApproval(step durable.ApprovalStep) (*future, error) {
	f, waiting, err := e.replayWait(step.Name, openworkflow.KindSignalWait)
	if f == nil || f.resolved || waiting {
		return f, err
	}
	expires := step.Expiry(e.now())
	if err := checkWaitEnd(expires); err != nil {
		return nil, err
	}
	approval, err := e.newApproval(f.name, step)
	if err != nil {
		return nil, &durable.NonRetryableError{Err: fmt.Errorf("step %q: %w", f.name, err)}
	}
	c := openworkflow.WaitContext{
		Kind:      openworkflow.KindSignalWait,
		Signal:    new(openworkflow.ApprovalSignal(e.run.ID, f.name)),
		TimeoutAt: openworkflow.FormatTime(expires),
	}
	attempt := e.newAttempt(f.name, c.Kind, c.Encode())
	approval.ExpiresAt = waitEnd(attempt)
	w := e.firstWrite(attempt)
	w.Approval = approval
	e.buffer.addRequired(w)
	e.traceWait(e.ctx, tracing.Step{Name: f.name, Kind: c.Kind, TimeoutAt: approval.ExpiresAt, Signal: *c.Signal})
	f.waitFor(attempt)
	return f, nil
}

// newApproval returns what a step asks for.
func (e *execution) newApproval(name string, step durable.ApprovalStep) (*store.NewApproval, error) {
	text, digest, err := openworkflow.ApprovalRequest{
		Approvers: openworkflow.Approvers{Users: step.Users, Groups: step.Groups},
		Details:   step.Details,
		Prompt:    step.Prompt,
		Required:  step.Required,
		RunID:     e.run.ID,
		Step:      name,
	}.Canonical()
	if err != nil {
		return nil, err
	}
	if len(text) > store.MaxApprovalRequest {
		return nil, fmt.Errorf("what is asked has %d bytes with its details and approvers, more than %d", len(text), store.MaxApprovalRequest)
	}
	return &store.NewApproval{Request: text, Digest: digest, OnExpiry: step.OnExpiry}, nil
}

// isOverdueApproval reports whether the time of an approval is over and nothing has arrived for it.
// Whether it has expired is then decided in the database: a decision may have come first.
func isOverdueApproval(a openworkflow.StepAttempt, until, now time.Time) bool {
	return !until.After(now) && openworkflow.WaitsForApproval(&a)
}

// expiryRetry is the time until the expiry of an approval is tried again, if it has come by the
// clock of this execution and not by the server's.
const expiryRetry = 20 * time.Millisecond

// expireApprovals (might not return) ends approvals whose time is over, or learns how they have ended.
func (e *execution) expireApprovals(overdue []*future) {
	e.flushRequired() // an approval may have no row before
	for _, f := range overdue {
		e.expireApproval(f)
	}
}

// expireApproval (might not return) ends an approval whose time is over, or learns how it has ended.
func (e *execution) expireApproval(f *future) {
	attempt := *f.wait.attempt // of a future that waits, only this goroutine changes it
	var state store.ApprovalState
	var results map[string]store.WaitResult
	err := retry(e.writeCtx, e.log(), "Could not end an approval", func(ctx context.Context) (err error) {
		state, err = e.runner.store.ExpireApproval(ctx, e.run.ID, f.name)
		if err != nil && !errors.Is(err, store.ErrNoSuchApproval) {
			return err
		}
		results, err = e.runner.store.WaitResults(ctx, []string{attempt.ID})
		return err
	})
	if err != nil {
		e.exitWith(e.onLeaseLost())
	}
	result, arrived := results[attempt.ID]
	if arrived {
		e.deliver(attempt.ID, result)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if state == store.ApprovalOpen {
		f.wait.until = e.now().Add(expiryRetry)
		return
	}
	// The row is gone, as in a database to which the run was imported: it ends as any wait.
	attempt.Status = openworkflow.StepCompleted
	e.bufferRequiredLocked(attempt)
	f.resolveLocked(nil, nil)
}
