package faults

import (
	"context"
	"encoding/json"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Call is one call of the function of a step.
type Call struct {
	Run durable.RunInfo
	// Worker is the worker id under which the run is executed.
	Worker string
	// Step is the step's durable name.
	Step string
	// Next calls the function.
	Next func(ctx context.Context) (json.RawMessage, error)
}

// Intercept returns the definition with every call of a step's function wrapped by the
// interceptor.
func (s *Store) Intercept(
	d durable.Definition, interceptor func(ctx context.Context, call Call) (json.RawMessage, error),
) durable.Definition {
	if d.Execute == nil {
		return d
	}
	inner := d.Execute
	d.Execute = func(ctx context.Context, input json.RawMessage) (json.RawMessage, error) {
		e := &execution{Execution: durable.ExecutionFrom(ctx), interceptor: interceptor}
		e.worker = s.Holder(e.Info().ID)
		return inner(durable.WithExecution(ctx, e), input)
	}
	return d
}

// execution is an execution whose function steps are called through an interceptor.
type execution struct {
	durable.Execution
	worker      string
	interceptor func(ctx context.Context, call Call) (json.RawMessage, error)
}

func (e *execution) Run(ctx context.Context, step durable.FunctionStep) (json.RawMessage, error) {
	return e.Execution.Run(ctx, e.intercept(step))
}

func (e *execution) Start(ctx context.Context, step durable.Step) (durable.Future, error) {
	if function, ok := step.(durable.FunctionStep); ok {
		step = e.intercept(function)
	}
	return e.Execution.Start(ctx, step)
}

func (e *execution) intercept(step durable.FunctionStep) durable.FunctionStep {
	next := step.Call
	step.Call = func(ctx context.Context) (json.RawMessage, error) {
		name, _ := durable.StepFrom(ctx)
		return e.interceptor(ctx, Call{Run: e.Info(), Worker: e.worker, Step: name, Next: next})
	}
	return step
}
