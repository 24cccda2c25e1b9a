package runner

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// recipients is the output of a step that has sent a signal (R26).
type recipients struct {
	WorkflowRunIDs []string `json:"workflowRunIds"`
}

// SendSignal (might not return) implements durable.Execution (R99a). The delivery and the
// attempt are written in one transaction, fenced as every write.
func (e *execution) SendSignal(send durable.SignalSend) ([]string, error) {
	e.enterVerb()
	defer e.exitVerb()
	name, err := e.durableName(send.Name)
	if err != nil {
		return nil, err
	}
	if err := checkSignalName(send.Signal); err != nil {
		return nil, err
	}
	if output, known, err := e.replay(name, onePolicy); known {
		var sent recipients
		if err == nil {
			err = json.Unmarshal(output, &sent)
		}
		return sent.WorkflowRunIDs, err
	}
	e.checkpoint()
	e.flushRequired()
	attempt, unfinished := e.unfinishedSend(name)
	if !unfinished {
		attempt = e.newAttempt(name, openworkflow.KindSignalSend, nil)
	}
	attempt.Status = openworkflow.StepCompleted
	_, span := e.runner.options.Tracer.StartSignalSend(e.ctx, e.run.NamespaceID, send.Signal)
	sent, err := e.writeSignal(attempt, store.Signal{
		Name:           send.Signal,
		Data:           send.Data,
		IdempotencyKey: new(openworkflow.SignalKey(e.run.ID, name)),
	})
	span.SetRecipients(len(sent))
	span.End("", err)
	if err != nil {
		failure := durable.EncodeError(err)
		attempt.Status, attempt.Error = openworkflow.StepFailed, failure.Encode()
		e.mu.Lock()
		e.bufferRequiredLocked(attempt)
		e.mu.Unlock()
		return nil, durable.NewStepError(name, failure)
	}
	attempt.Output, err = json.Marshal(recipients{WorkflowRunIDs: sent})
	if err != nil { // texts always marshal
		return nil, err
	}
	e.finishAttempt(attempt)
	return sent, nil
}

// writeSignal (might not return) delivers the signal of an attempt, and retries while the
// database fails. The error it returns is that of a payload that cannot be stored.
func (e *execution) writeSignal(attempt openworkflow.StepAttempt, signal store.Signal) (sent []string, fault error) {
	lost := false
	err := retry(e.writeCtx, e.log(), "Could not send a signal", func(ctx context.Context) (err error) {
		sent, err = e.runner.store.SendSignal(ctx, e.stepWrite(attempt), signal)
		switch {
		case errors.Is(err, store.ErrLeaseLost):
			lost = true
			return nil
		case isUnstorable(err):
			fault = err
			return nil
		}
		return err
	})
	if lost || err != nil {
		e.exitWith(e.onLeaseLost())
	}
	if len(sent) > 0 {
		e.runner.notifyDue.request()
		e.runner.claimWake.Set()
	}
	return sent, fault
}

// unfinishedSend returns the attempt of an earlier execution that ended while it sent.
func (e *execution) unfinishedSend(name string) (openworkflow.StepAttempt, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	attempt, ok := e.history.sending[name]
	return attempt, ok
}
