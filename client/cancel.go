package client

import (
	"context"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// CancelOption changes how a run is canceled.
type CancelOption interface{ cancel(*cancelOptions) }

type cancelOptions struct{ cascade bool }

type cancelOption func(*cancelOptions)

func (o cancelOption) cancel(options *cancelOptions) { o(options) }

// Cascade also cancels all open runs below the run: its children, their children, and
// so on. Without it children go on. When the call fails a part may be canceled already;
// repeat it.
func Cascade() CancelOption {
	return cancelOption(func(o *cancelOptions) { o.cascade = true })
}

// Cancel cancels a run that has not ended. Nothing of it is stored from then on; the
// contexts of its steps end with workflow.ErrCanceled when their worker notices, which
// takes a few seconds. To cancel a run that is canceled is no error. That of a run that
// has completed or failed is ErrEnded, that of a run which does not exist ErrNotFound.
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
	statuses, err := cancel(ctx, []string{runID})
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
