// Package workflow defines durable workflows.
//
// A workflow is a Go function whose effects happen in steps (package step). The result of each
// step is stored in Postgres. When a worker dies, another worker calls the function again from
// the top. Completed steps return their stored results without running again, so the function
// continues where it was.
//
//	var Checkout = workflow.Define("checkout", func(ctx context.Context, in Order) (Receipt, error) {
//		charge, err := step.Run(ctx, "charge-card", func(ctx context.Context) (Charge, error) {
//			return cards.Charge(ctx, in.Card, in.Amount)
//		})
//		if err != nil {
//			return Receipt{}, err
//		}
//		if err := step.Sleep(ctx, "cool-off", 24*time.Hour); err != nil {
//			return Receipt{}, err
//		}
//		return Receipt{Charge: charge}, nil
//	})
//
//	func main() { worker.Main(Checkout) }
//
// The program in main is a worker: with the URL of a database in OPENWORKFLOW_POSTGRES_URL,
// or in the pods of a WorkerPool, it executes runs of the workflow. A WorkflowRun object or
// package client starts a run. Package workflowtest tests the workflow without either.
//
// # Determinism
//
// The code between the steps is executed again at every execution, and must do the same each
// time. It may use the workflow's input, the results of steps, and [Info]. Reading the clock,
// random numbers, and everything outside the function belong in steps.
// workflowtest.CrashEverywhere checks this.
//
// Numbers such as R61 are rules of docs/openworkflow-rules.md.
package workflow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Causes of the end of the context of a workflow or of a step's function. context.Cause
// returns them; find them with errors.Is.
var (
	// ErrCanceled means that the run was canceled.
	ErrCanceled = durable.ErrCanceled
	// ErrLeaseLost means that the worker did not extend its lease in time, and another worker
	// may hold the run now. Nothing that this execution does is stored any more.
	ErrLeaseLost = durable.ErrLeaseLost
	// ErrDeadlineExceeded means that the run has passed its deadline, and fails.
	ErrDeadlineExceeded = durable.ErrDeadlineExceeded
	// ErrShutdown means that the grace period of a worker that was told to stop is over.
	// Another worker continues the run.
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

// Workflow is a workflow with its input and output types. [Define] and [Declare] make one. It
// is immutable and safe for concurrent use.
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

// Option is an option of [Define] and [Declare].
type Option interface{ define(*durable.Definition) }

type optionFunc func(*durable.Definition)

func (o optionFunc) define(d *durable.Definition) { o(d) }

// Version sets the version of a workflow. A definition executes the runs that were started
// with exactly its name and version. A definition without a version executes the runs without
// one, and no others (R61).
func Version(version string) Option {
	return optionFunc(func(d *durable.Definition) { d.Version = &version })
}

// RetryPolicy sets the number of attempts of a step or workflow, and the delays between them.
// The delay after the n-th failure is
//
//	min(InitialInterval × BackoffCoefficient^(n−1), MaximumInterval)
//
// A member that is zero has its default, and so has a negative one, except MaximumAttempts. A
// run that only waits for a retry occupies no worker.
type RetryPolicy struct {
	// InitialInterval is the delay after the first failure. Default: 1 s.
	InitialInterval time.Duration
	// BackoffCoefficient multiplies the delay after each further failure. Default: 2.
	BackoffCoefficient float64
	// MaximumInterval is the longest delay. Default: 100 s.
	MaximumInterval time.Duration
	// MaximumAttempts is the number of attempts, including the first. Default: 10 for a step,
	// 1 for a workflow. Unlimited, or any negative number, removes the limit.
	MaximumAttempts int
}

// Unlimited is a value for RetryPolicy.MaximumAttempts: retry until an attempt succeeds.
const Unlimited = -1

// Retry sets the policy for errors that the workflow's function returns. Without it the run
// fails at the first one (R96). Errors of steps are retried by the policy of the step only
// (R77).
func Retry(policy RetryPolicy) Option {
	return optionFunc(func(d *durable.Definition) {
		d.Retry = durable.MergeRetry(openworkflow.RetryPolicy(policy), openworkflow.DefaultWorkflowPolicy)
	})
}

// StepLimit sets the number of step attempts, including retries, that a run may have before it
// fails (R110). It stops loops that never end. Default: 1000; zero means the default. A pass
// may read all step attempts of its run, so split longer work among child runs instead of raising
// the limit far.
func StepLimit(n int) Option {
	return optionFunc(func(d *durable.Definition) { d.StepLimit = n })
}

// Declare describes a workflow that another program implements, in Go or TypeScript, so that
// step.RunWorkflow or package client can start it. A worker refuses to serve it. Declare
// panics when the name is empty.
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

// Define makes a workflow from a function. encoding/json decodes the input of a run into In
// and encodes what fn returns from Out. A run whose input does not decode fails at once with an
// [*InputError]. An error of fn, or a panic, fails the run, unless [Retry] sets a policy.
//
// The context of fn ends when the execution has to stop; see [ErrCanceled] and the other
// causes. fn is called on a new goroutine for each execution, and may run concurrently for
// different runs. Define panics when the name is empty.
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

// InputError is the failure of a run whose input does not decode into the input type of its
// workflow. Its text names the field.
type InputError struct {
	// Field is the JSON path of the field, for example "items.amount". Empty: the whole input.
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

// RunInfo describes a run to its own workflow. It is the same at every execution of the run.
type RunInfo struct {
	// ID is the id of the run: the uid of its WorkflowRun object, if an object started it. ID
	// and the name of a step make an idempotency key for a call to another system. A fork of the
	// run (client.Fork) has another id.
	ID string
	// WorkflowName and Version are those that the run was started with. Version is empty for
	// the unversioned workflow.
	WorkflowName, Version string
	// CreatedAt is when the run was created, by the clock of the database, in milliseconds.
	CreatedAt time.Time
}

// Info describes the run that ctx belongs to: the context of a workflow or of a step's
// function. It panics with any other context.
func Info(ctx context.Context) RunInfo {
	execution := durable.ExecutionFrom(ctx)
	if execution == nil {
		panic("workflow.Info: the context is not a workflow's")
	}
	return RunInfo(execution.Info())
}

// maxState bounds what SetState publishes, in bytes.
const maxState = 16 << 10

// SetState publishes a value about the run, which people and programs can read at any time, also
// while no worker executes the run: "kubectl workflow describe" shows it to those who may read
// payloads. The value is encoded with encoding/json, and has at most 16 KiB of valid UTF-8 then. It
// replaces the one before.
//
// It costs no transaction of its own: it is stored with the next write of the run, which is that of
// the next step's result, of a step that takes longer than a few tens of milliseconds, of a wait, or
// of the run's end. A later execution of the run publishes nothing older than what is stored.
//
// Nothing may be decided by it: a workflow cannot read it, and a fork of the run starts without. Call
// SetState in the workflow's function, not in a step's. It returns an error for a value that cannot be
// published, and for another context than a workflow's.
func SetState(ctx context.Context, value any) error {
	execution := durable.ExecutionFrom(ctx)
	if execution == nil {
		return errors.New("workflow.SetState: the context is not a workflow's")
	}
	if name, inside := durable.StepFrom(ctx); inside {
		return fmt.Errorf("workflow.SetState inside step %q: call it in the workflow's function", name)
	}
	state, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("workflow.SetState: encode the value: %w", err)
	}
	if len(state) > maxState {
		return fmt.Errorf("workflow.SetState: the value has %d bytes of JSON, more than %d", len(state), maxState)
	}
	if !utf8.Valid(state) { // a json.RawMessage, or a MarshalJSON, may hold any bytes
		return errors.New("workflow.SetState: the JSON of the value is not valid UTF-8")
	}
	execution.SetState(state)
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
