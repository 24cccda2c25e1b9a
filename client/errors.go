package client

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

// Errors of this package. Compare them with errors.Is.
var (
	// ErrNotFound means that the run does not exist in the client's namespace, or that the
	// transaction of its StartTx has not committed.
	ErrNotFound = errors.New("workflow run does not exist")
	// ErrCanceled means that the run was canceled. It is [workflow.ErrCanceled].
	ErrCanceled = workflow.ErrCanceled
	// ErrEnded means that the run cannot be canceled because it has completed or failed.
	ErrEnded = errors.New("workflow run has ended")
	// ErrUnreachable means that the database did not answer. The call may have taken effect; a
	// start with an ID or IdempotencyKey can be repeated safely.
	ErrUnreachable = store.ErrUnreachable
	// ErrInvalidCursor means that Page.After or Page.Before is not a cursor of a page.
	ErrInvalidCursor = openworkflow.ErrInvalidCursor
	// ErrClosed means that the Client was closed.
	ErrClosed = errors.New("client is closed")
)

// FailedError is the error of a run that has failed. Find it with errors.As.
type FailedError struct {
	RunID, WorkflowName string
	// Name is the type of the error that the workflow returned, without package and pointer,
	// and Message its text.
	Name, Message string
	// Stack is set for panics and for errors of TypeScript.
	Stack string
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("workflow %q failed: %s", e.WorkflowName, e.Message)
}

// resultOf returns the output of a run that has ended, or the error for its status.
func resultOf(id string, o store.Outcome) (json.RawMessage, error) {
	switch o.Status {
	case openworkflow.RunCompleted:
		return o.Output, nil
	case openworkflow.RunFailed:
		failure := openworkflow.DecodeError(o.Error)
		return nil, &FailedError{
			RunID: id, WorkflowName: o.WorkflowName,
			Name: failure.Name, Message: failure.Message, Stack: failure.Stack,
		}
	case openworkflow.RunCanceled:
		return nil, fmt.Errorf("run %s: %w", id, ErrCanceled)
	default:
		return nil, fmt.Errorf("run %s: %w", id, ErrNotFound)
	}
}

// cancelError is the reason that a run was not canceled. The texts are OpenWorkflow's (R125).
type cancelError struct {
	runID  string
	status openworkflow.RunStatus // empty: it does not exist
}

func (e *cancelError) Error() string {
	switch {
	case e.status == "":
		return fmt.Sprintf("Workflow run %s does not exist", e.runID)
	case e.status.Terminal():
		return fmt.Sprintf("Cannot cancel workflow run %s with status %s", e.runID, e.status)
	default:
		return "Failed to cancel workflow run"
	}
}

func (e *cancelError) Is(target error) bool {
	return target == ErrNotFound && e.status == "" || target == ErrEnded && e.status.Terminal()
}
