package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/store"
)

// Handle refers to a run whose output is of type Out. It is safe for concurrent use.
type Handle[Out any] struct {
	client  *Client
	id      string
	existed bool
}

func handle[Out any](c *Client, run store.Created) *Handle[Out] {
	return &Handle[Out]{client: c, id: run.RunID, existed: !run.Inserted}
}

// Attach returns a handle of a run that was started before, here or elsewhere. It does not check
// that the run exists.
func Attach[Out any](c *Client, runID string) *Handle[Out] {
	return &Handle[Out]{client: c, id: runID, existed: true}
}

// ID returns the run's id.
func (h *Handle[Out]) ID() string { return h.id }

// Existed reports whether the run existed before the call that returned the handle: the start
// found it by its ID or IdempotencyKey, or the call was Attach.
func (h *Handle[Out]) Existed() bool { return h.existed }

// Result waits until the run has ended or ctx ends, and returns the output. The error is
//
//   - a [*FailedError] if the run failed,
//   - [ErrCanceled] if it was canceled,
//   - [ErrNotFound] if it does not exist,
//   - context.Cause(ctx) if ctx ended first, with the last error of the database, if any,
//   - [ErrClosed] if the Client was closed first.
//
// Result does not fail while the database does not answer. Any number of goroutines may wait:
// the Client polls for all of their runs with one statement (R140).
func (h *Handle[Out]) Result(ctx context.Context) (Out, error) {
	var out Out
	outcome, err := h.client.outcomes.wait(ctx, h.id)
	if err != nil {
		return out, fmt.Errorf("await run %s: %w", h.id, err)
	}
	output, err := resultOf(h.id, outcome)
	if err != nil || output == nil {
		return out, err
	}
	if err := json.Unmarshal(output, &out); err != nil {
		return out, fmt.Errorf("decode the output of run %s into %T: %w", h.id, out, err)
	}
	return out, nil
}

// Run returns the run as it is now; see Client.Get.
func (h *Handle[Out]) Run(ctx context.Context) (Run, error) { return h.client.Get(ctx, h.id) }

// Cancel cancels the run; see Client.Cancel.
func (h *Handle[Out]) Cancel(ctx context.Context, options ...CancelOption) error {
	return h.client.Cancel(ctx, h.id, options...)
}
