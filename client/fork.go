package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// Errors of [Fork] and [Retry]. Compare them with errors.Is.
var (
	// ErrNotEnded means that the run to fork is open. Cancel it first.
	ErrNotEnded = store.ErrNotEnded
	// ErrInvalidFork means that the run to fork does not have what an option asks for, such as
	// a step of that name. The text of the error says what.
	ErrInvalidFork = store.ErrInvalidFork
)

// ForkOption is an option of [Fork] and [Retry]. All options of [Start] are too; they are about
// the new run.
type ForkOption interface {
	fork(*store.ForkRequest) error
}

type forkOption func(*store.ForkRequest) error

func (o forkOption) fork(r *store.ForkRequest) error { return o(r) }

func (o startOption) fork(r *store.ForkRequest) error { return o(&r.Run) }

func (o KeyOption) fork(r *store.ForkRequest) error { return o.start(&r.Run) }

// FromStep takes over the results of all steps that began before the first attempt of the step
// with this durable name ("page:1" is the second "page"). That step and those after it are
// executed.
func FromStep(name string) ForkOption {
	return forkOption(func(r *store.ForkRequest) error {
		r.From.Step = &name
		return nil
	})
}

// FromFailure is what [Retry] does, as an option of [Fork] and [DryRun].
func FromFailure() ForkOption {
	return forkOption(func(r *store.ForkRequest) error {
		r.From.LastFailed = true
		return nil
	})
}

// Input gives the new run another input. Default: that of the run that is forked. Steps whose
// results are taken over had the earlier one.
func Input(value any) ForkOption {
	return forkOption(func(r *store.ForkRequest) (err error) {
		if r.Run.Input, err = json.Marshal(value); err != nil {
			return fmt.Errorf("encode the input: %w", err)
		}
		return nil
	})
}

// Output gives the step with this durable name another result, and takes it over as completed,
// whatever became of it: for a function or a child run its output, for a wait for a signal the
// signal's data. The step must have begun before the step from which the fork starts, or be that
// step.
func Output(step string, value any) ForkOption {
	return forkOption(func(r *store.ForkRequest) error {
		output, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode the output of step %q: %w", step, err)
		}
		if r.Outputs == nil {
			r.Outputs = map[string]json.RawMessage{}
		}
		r.Outputs[step] = output
		return nil
	})
}

// RestartChildren takes over no results of child runs, so that these are started anew. Other
// results are taken over, also those that were computed from a child's output: to compute them
// anew, fork from the child's step.
func RestartChildren() ForkOption {
	return forkOption(func(r *store.ForkRequest) error {
		r.RestartChildren = true
		return nil
	})
}

// Fork starts a new run of the workflow, version and input of a run that has ended. With
// [FromStep], it takes over the results of the steps before that one, which are not executed
// again. Without it, it takes over nothing: it is a rerun.
//
// The run that is forked does not change, apart from Run.SupersededBy. Signals that were sent by
// steps taken over are not sent again. Failures are not taken over, so the new run has all
// retries, with one exception: a failure that the workflow caught before it went on to a step
// that is taken over. The new run is nobody's child: the result does not reach a parent of the
// run that is forked.
//
// A run of the given [ID] or [IdempotencyKey] that exists is returned as it is. If the error is
// [ErrUnreachable], repeat the call with one of these. Other errors are [ErrNotFound],
// [ErrNotEnded] and [ErrInvalidFork].
func Fork[Out any](ctx context.Context, c *Client, runID string, options ...ForkOption) (*Handle[Out], error) {
	r, err := forkRequest(runID, options)
	if err != nil {
		return nil, forkError(runID, err)
	}
	created, err := c.fork(ctx, r)
	if err != nil {
		return nil, forkError(runID, err)
	}
	return handle[Out](c, created), nil
}

// Retry is [Fork] from the failure that ended the run. All completed steps are taken over, but
// for those that began after that failure, such as compensations. The step that failed is
// executed again, with all its retries.
//
// If it was not a step's error that ended the run, but the workflow's own, a deadline or a
// cancel, all completed steps are taken over. The error is [ErrInvalidFork] for a run that has completed.
func Retry[Out any](ctx context.Context, c *Client, runID string, options ...ForkOption) (*Handle[Out], error) {
	return Fork[Out](ctx, c, runID, append([]ForkOption{FromFailure()}, options...)...)
}

func forkError(runID string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNotFound
	}
	return fmt.Errorf("fork run %s: %w", runID, err)
}

// forkRequest returns the request that the options describe.
func forkRequest(runID string, options []ForkOption) (store.ForkRequest, error) {
	r := store.ForkRequest{Source: runID, Run: store.NewRun{ID: openworkflow.NewID()}}
	for _, option := range options {
		if err := option.fork(&r); err != nil {
			return r, err
		}
	}
	return r, nil
}

// fork creates the new run, in a span as that of a start.
func (c *Client) fork(ctx context.Context, r store.ForkRequest) (_ store.Created, err error) {
	ctx, span := c.tracer.StartCreate(ctx, tracing.Creation{
		Workflow: c.tracedWorkflow(ctx, r.Source), NamespaceID: c.namespace, RunID: r.Run.ID,
	})
	defer func() { span.End("", err) }()
	if carrier := c.tracer.Carrier(ctx); carrier != nil { // R160
		r.Run.Context = openworkflow.RunContext{TraceContext: carrier}.Encode()
	}
	result, err := bounded(ctx, func(ctx context.Context) (store.ForkResult, error) { return c.store.Fork(ctx, r) })
	if err == nil {
		span.SetRun(result.RunID)
	}
	return result.Created, err
}

// tracedWorkflow returns the workflow of a run for a span, empty if there is none.
func (c *Client) tracedWorkflow(ctx context.Context, runID string) openworkflow.Definition {
	if c.tracer == nil {
		return openworkflow.Definition{}
	}
	runs, err := bounded(ctx, func(ctx context.Context) (map[string]*openworkflow.Run, error) {
		return c.store.RunStates(ctx, []string{runID})
	})
	if err != nil || runs[runID] == nil {
		return openworkflow.Definition{}
	}
	return runs[runID].Definition()
}
