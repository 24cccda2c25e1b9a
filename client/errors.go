package client

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrNotFound means that there is no such run in the client's namespace. A run that
	// StartTx has started is not there before its transaction commits.
	ErrNotFound = errors.New("workflow run does not exist")
	// ErrCanceled means that the run was canceled. It is package workflow's.
	ErrCanceled = workflow.ErrCanceled
	// ErrEnded means that the run cannot be canceled, as it has completed or failed.
	ErrEnded = errors.New("workflow run has ended")
	// ErrUnreachable means that the database does not answer. What was asked of it may
	// have happened; a start with an ID or an IdempotencyKey can simply be repeated.
	ErrUnreachable = store.ErrUnreachable
	// ErrInvalidCursor means that a Page's After or Before is not a page's Next or Prev.
	ErrInvalidCursor = openworkflow.ErrInvalidCursor
	// ErrClosed is the error of calls that wait when the Client is closed.
	ErrClosed = errors.New("client is closed")
)

// FailedError is the result of a run that has failed. Get at it with errors.As.
type FailedError struct {
	RunID, WorkflowName string
	// Name is the name of the error's type, and Message its text, as the workflow
	// returned it.
	Name, Message string
	// Stack is there for errors of TypeScript and for panics.
	Stack string
}

func (e *FailedError) Error() string {
	return fmt.Sprintf("workflow %q failed: %s", e.WorkflowName, e.Message)
}

// resultOf returns the output of a run that has ended, or the error that it ended with.
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

// cancelError says why a run was not canceled. The texts are OpenWorkflow's (R125).
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
