// Package workflow defines durable workflows.
//
// A workflow is a plain Go function whose steps (package step) are stored in
// Postgres as they complete. When the worker dies, another one calls the function
// again from its beginning; the steps that have completed return their stored
// results without running again, so the function goes on where it was.
//
//	var Checkout = workflow.Define("checkout", func(ctx context.Context, in Order) (Receipt, error) {
//		charge, err := step.Run(ctx, "charge-card", func(ctx context.Context) (Charge, error) {
//			return cards.Charge(ctx, in.Card, in.Amount)
//		})
//		if err != nil {
//			return Receipt{}, err
//		}
//		…
//	})
//
//	func main() { worker.Main(Checkout) }
//
// What a workflow does between its steps must be the same at every execution: it
// may look at its input, at the results of steps and at [Info], but the clock,
// random numbers and everything outside belong into steps.
package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Causes (see context.Cause) with which the context of a workflow or a step ends.
var (
	// ErrCanceled means that the run was canceled.
	ErrCanceled = durable.ErrCanceled
	// ErrLeaseLost means that the run is now held by another worker, because this
	// one did not answer for too long. Nothing that this execution does is stored any more.
	ErrLeaseLost = durable.ErrLeaseLost
	// ErrDeadlineExceeded means that the run passed its deadline.
	ErrDeadlineExceeded = durable.ErrDeadlineExceeded
	// ErrShutdown means that the worker's grace period is over. The run goes on elsewhere.
	ErrShutdown = durable.ErrShutdown
)

// Definition is a [*Workflow] of any input and output type. No other type implements it.
type Definition interface {
	// Name returns the workflow's name.
	Name() string
	// Version returns the workflow's version, empty for the unversioned workflow.
	Version() string

	engineDefinition() durable.Definition
}

// Workflow is a workflow with its input and output types.
type Workflow[In, Out any] struct {
	definition durable.Definition
}

// Name returns the workflow's name.
func (w *Workflow[In, Out]) Name() string { return w.definition.Name }

// Version returns the workflow's version, empty for the unversioned workflow.
func (w *Workflow[In, Out]) Version() string { return deref(w.definition.Version) }

func (w *Workflow[In, Out]) engineDefinition() durable.Definition { return w.definition }

func init() {
	durable.DefinitionOf = func(workflow any) durable.Definition {
		return workflow.(Definition).engineDefinition()
	}
}

// Option changes how a workflow is defined.
type Option interface{ define(*durable.Definition) }

type optionFunc func(*durable.Definition)

func (o optionFunc) define(d *durable.Definition) { o(d) }

// Version makes a definition the one for runs of this version. A run names its
// version exactly; runs without one are not executed by a versioned definition,
// nor the other way round (R61).
func Version(version string) Option {
	return optionFunc(func(d *durable.Definition) { d.Version = &version })
}

// RetryPolicy says how often and after which delays something that failed is
// tried again: min(InitialInterval × BackoffCoefficient^(n−1), MaximumInterval)
// after the n-th failure. A member that is zero or negative has its default.
type RetryPolicy struct {
	// InitialInterval is the delay after the first failure. Default: 1 s.
	InitialInterval time.Duration
	// BackoffCoefficient multiplies the delay after each further failure. Default: 2.
	BackoffCoefficient float64
	// MaximumInterval is the longest delay. Default: 100 s.
	MaximumInterval time.Duration
	// MaximumAttempts is the number of attempts, the first one included.
	// Default: 10 for a step, 1 for a workflow. Unlimited removes the limit.
	MaximumAttempts int
}

// Unlimited lets, as MaximumAttempts, attempts go on until one succeeds.
const Unlimited = -1

// Retry sets what happens when the workflow itself returns an error: without it
// the run fails at once. (A step that fails is retried by its own policy first.)
func Retry(policy RetryPolicy) Option {
	return optionFunc(func(d *durable.Definition) {
		d.Retry = durable.MergeRetry(openworkflow.RetryPolicy(policy), openworkflow.DefaultWorkflowPolicy)
	})
}

// StepLimit sets the number of step attempts, retries included, that a run may
// have: a loop that never ends is stopped by it. Default: 1000. A run that is to have
// more is better cut into children.
func StepLimit(n int) Option {
	return optionFunc(func(d *durable.Definition) { d.StepLimit = n })
}

// Declare describes a workflow that is implemented elsewhere, in another program or
// another language, so that it can be started as a child or by package client. No
// worker takes it. Declare panics when the name is empty.
func Declare[In, Out any](name string, options ...Option) *Workflow[In, Out] {
	if name == "" {
		panic("workflow.Declare: the name is empty")
	}
	definition := durable.Definition{
		Definition: openworkflow.Definition{Name: name},
		Retry:      openworkflow.DefaultWorkflowPolicy,
	}
	for _, option := range options {
		option.define(&definition)
	}
	return &Workflow[In, Out]{definition: definition}
}

// Define makes a workflow of a function. The input of a run is decoded from JSON
// into In, what the function returns is encoded from Out; both as encoding/json
// does. A run whose input does not decode fails at once, with an error that names
// the field. Define panics when the name is empty.
func Define[In, Out any](name string, fn func(ctx context.Context, in In) (Out, error), options ...Option) *Workflow[In, Out] {
	if name == "" {
		panic("workflow.Define: the name is empty")
	}
	w := Declare[In, Out](name, options...)
	w.definition.Execute = func(ctx context.Context, input json.RawMessage) (json.RawMessage, error) {
		in, err := decodeInput[In](input)
		if err != nil {
			return nil, err
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, err
		}
		encoded, err := json.Marshal(out)
		if err != nil {
			return nil, fmt.Errorf("encode the output of workflow %q: %w", name, err)
		}
		return encoded, nil
	}
	return w
}

// InputError is the failure of a run whose input is not what its workflow takes.
type InputError struct {
	// Field is the JSON path of the offending field, empty for the input as a whole.
	Field string
	msg   string
}

func (e *InputError) Error() string { return e.msg }

func decodeInput[In any](input json.RawMessage) (In, error) {
	var in In
	if len(input) == 0 {
		return in, nil
	}
	err := json.Unmarshal(input, &in)
	if err == nil {
		return in, nil
	}
	failure := &InputError{msg: fmt.Sprintf("input does not decode into %T: %v", in, err)}
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		failure.Field = mismatch.Field
		what := "input"
		if mismatch.Field != "" {
			what = fmt.Sprintf("input field %q", mismatch.Field)
		}
		failure.msg = fmt.Sprintf("%s must be %s, not a JSON %s", what, mismatch.Type, mismatch.Value)
	}
	return in, &durable.NonRetryableError{Err: failure}
}

// RunInfo is what a workflow may know about its own run.
type RunInfo struct {
	// ID is the run's id: the uid of its WorkflowRun, when it has one. Together
	// with a step's name it makes a good idempotency key for a call elsewhere.
	ID string
	// WorkflowName and Version say which workflow the run is of.
	WorkflowName, Version string
	// CreatedAt is when the run was created.
	CreatedAt time.Time
}

// Info returns what the workflow that ctx belongs to may know about its run. It
// works with a step's context as well. Info panics with any other context.
func Info(ctx context.Context) RunInfo {
	execution := durable.ExecutionFrom(ctx)
	if execution == nil {
		panic("workflow.Info: the context is not a workflow's")
	}
	return RunInfo(execution.Info())
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
