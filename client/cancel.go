package client

import (
	"context"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// CancelOption is an option of [Client.Cancel].
type CancelOption interface{ cancel(*cancelOptions) }

type cancelOptions struct{ cascade bool }

type cancelOption func(*cancelOptions)

func (o cancelOption) cancel(options *cancelOptions) { o(options) }

// Cascade also cancels all open descendants of the run: its children, their children, and so
// on. Without it, children continue. If the call fails, some of the runs may be canceled;
// repeat it.
func Cascade() CancelOption {
	return cancelOption(func(o *cancelOptions) { o.cascade = true })
}

// Cancel cancels a run that has not ended. After it returns, nothing of the run is stored. The
// contexts of its steps end with [ErrCanceled] when their worker notices, within a few seconds.
//
// Canceling a canceled run is no error. The error is [ErrEnded] for a run that has completed or
// failed, and [ErrNotFound] for one that does not exist (R125).
func (c *Client) Cancel(ctx context.Context, runID string, options ...CancelOption) (err error) {
	ctx, span := c.tracer.StartCancel(ctx, c.namespace, runID)
	defer func() { span.End("", err) }()
	var o cancelOptions
	for _, option := range options {
		option.cancel(&o)
	}
	cancel := c.store.CancelRuns
	if o.cascade {
		cancel = c.store.CancelTree
	}
	statuses, err := bounded(ctx, func(ctx context.Context) (map[string]openworkflow.RunStatus, error) {
		return cancel(ctx, []string{runID})
	})
	if err != nil {
		return fmt.Errorf("cancel run %s: %w", runID, err)
	}
	if status := statuses[runID]; status != openworkflow.RunCanceled {
		return &cancelError{runID: runID, status: status}
	}
	c.ends.notify(ctx) // for clients that wait for its result
	c.due.notify(ctx)  // for its parent, which is due now
	return nil
}
