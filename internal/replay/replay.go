// Package replay executes a workflow's function on records alone, to say what an execution of
// this build would do next. It calls no function of a step, and writes nothing.
//
// It knows neither rows nor the engine: a replay ends where the engine would have to do
// something.
package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Report says what an execution does with a history.
type Report struct {
	// Replayed are the recorded steps that the workflow asks for, in the order of its calls.
	Replayed []string
	// Next are the steps without a record that it starts then, in the order of its calls: one, or
	// several in parallel. What follows them depends on their results.
	Next []Step
	// NotAsked are recorded steps that it does not ask for before it waits for those, in the order
	// of the history.
	NotAsked []string
	// OtherKind are the steps that it asks for as another kind than that of their record. It gets
	// the recorded result all the same (R74).
	OtherKind []Mismatch
	// Ended says that the workflow returns without any further step, with Output or Err.
	Ended  bool
	Output json.RawMessage
	Err    error
}

// Step is a step that a workflow starts.
type Step struct {
	Name string
	Kind openworkflow.StepKind
}

// Mismatch is a step whose record is of another kind.
type Mismatch struct {
	Step
	Recorded openworkflow.StepKind
}

// Run replays the attempts, in the order of their history, with the definition's function. It
// returns an error if ctx ends first.
func Run(ctx context.Context, d durable.Definition, run *openworkflow.Run, attempts []openworkflow.StepAttempt) (Report, error) {
	e := newExecution(run, attempts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		output, err := protect(func() (json.RawMessage, error) {
			return d.Execute(durable.WithExecution(ctx, e), run.Input)
		})
		e.report.Ended, e.report.Output, e.report.Err = true, output, err
	}()
	select {
	case <-done:
	case <-ctx.Done():
		return Report{}, fmt.Errorf("replay workflow %q: its code waits for something that is no step: %w", d.Name, context.Cause(ctx))
	}
	seen := map[string]bool{}
	for _, a := range attempts {
		if !e.asked[a.StepName] && !seen[a.StepName] {
			seen[a.StepName] = true
			e.report.NotAsked = append(e.report.NotAsked, a.StepName)
		}
	}
	return e.report, nil
}

// protect turns a panic of the workflow, or of a method of its error, into its error, as an execution
// does.
func protect(f func() (json.RawMessage, error)) (output json.RawMessage, err error) {
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, &durable.PanicError{Value: value, Stack: string(debug.Stack())}
		}
	}()
	if output, err = f(); err != nil {
		_ = durable.NewFailure(err) // panics if that of an execution would
	}
	return output, err
}

// execution implements durable.Execution on records.
type execution struct {
	run       *openworkflow.Run
	names     *openworkflow.Names
	completed map[string]openworkflow.StepAttempt
	failures  map[string][]openworkflow.StepAttempt
	asked     map[string]bool
	report    Report
}

func newExecution(run *openworkflow.Run, attempts []openworkflow.StepAttempt) *execution {
	e := &execution{
		run: run, names: openworkflow.NewNames(),
		completed: map[string]openworkflow.StepAttempt{},
		failures:  map[string][]openworkflow.StepAttempt{},
		asked:     map[string]bool{},
	}
	for _, a := range attempts {
		switch a.Status {
		case openworkflow.StepCompleted, openworkflow.StepSucceeded:
			e.completed[a.StepName] = a
		case openworkflow.StepFailed:
			e.failures[a.StepName] = append(e.failures[a.StepName], a)
		case openworkflow.StepRunning:
		}
	}
	return e
}

// Info implements durable.Execution.
func (e *execution) Info() durable.RunInfo {
	info := durable.RunInfo{ID: e.run.ID, WorkflowName: e.run.WorkflowName, CreatedAt: e.run.CreatedAt}
	if e.run.Version != nil {
		info.Version = *e.run.Version
	}
	return info
}

// onePolicy is the retry policy of steps that wait: every failure is final.
var onePolicy = openworkflow.RetryPolicy{MaximumAttempts: 1}

// ask returns the future of a step. Without a record, it never resolves.
func (e *execution) ask(step Step, policy openworkflow.RetryPolicy) *future {
	e.asked[step.Name] = true
	record, recorded := e.completed[step.Name]
	f := &future{resolved: recorded, output: record.Output}
	if failures := e.failures[step.Name]; !recorded && len(failures) > 0 {
		record = failures[len(failures)-1]
		failure := openworkflow.DecodeError(record.Error)
		if failure.NonRetryable || policy.MaximumAttempts > 0 && len(failures) >= policy.MaximumAttempts {
			f.resolved, f.err = true, durable.NewStepError(step.Name, failure)
		}
	}
	if !f.resolved {
		e.report.Next = append(e.report.Next, step)
		return f
	}
	e.report.Replayed = append(e.report.Replayed, step.Name)
	if record.Kind != step.Kind {
		e.report.OtherKind = append(e.report.OtherKind, Mismatch{Step: step, Recorded: record.Kind})
	}
	return f
}

// Run (might not return) implements durable.Execution.
func (e *execution) Run(ctx context.Context, step durable.FunctionStep) (json.RawMessage, error) {
	f, err := e.Start(ctx, step)
	if err != nil {
		return nil, err
	}
	return f.Await()
}

// Start implements durable.Execution.
func (e *execution) Start(_ context.Context, step durable.Step) (durable.Future, error) {
	switch step := step.(type) {
	case durable.FunctionStep:
		name := step.Reserved
		if name == "" {
			name = e.names.Resolve(step.Name)
		}
		return e.ask(Step{name, openworkflow.KindFunction}, step.Retry), nil
	case durable.SleepStep:
		return e.ask(Step{e.names.Resolve(step.Name), openworkflow.KindSleep}, onePolicy), nil
	case durable.WorkflowStep:
		return e.ask(Step{e.names.Resolve(step.Name), openworkflow.KindWorkflow}, onePolicy), nil
	case durable.SignalWaitStep:
		return e.ask(Step{e.names.Resolve(step.Name), openworkflow.KindSignalWait}, onePolicy), nil
	case durable.ApprovalStep:
		return e.ask(Step{e.names.Resolve(step.Name), openworkflow.KindSignalWait}, onePolicy), nil
	default:
		return nil, fmt.Errorf("unknown kind of step %T", step)
	}
}

// SetState implements durable.Execution. A replay writes nothing.
func (e *execution) SetState(json.RawMessage) {}

// SendSignal (might not return) implements durable.Execution.
func (e *execution) SendSignal(send durable.SignalSend) ([]string, error) {
	output, err := e.ask(Step{e.names.Resolve(send.Name), openworkflow.KindSignalSend}, onePolicy).Await()
	var sent struct {
		WorkflowRunIDs []string `json:"workflowRunIds"`
	}
	if err == nil {
		err = json.Unmarshal(output, &sent)
	}
	return sent.WorkflowRunIDs, err
}

// Select (might not return) implements durable.Execution. Without a record it chooses as an
// execution does, which then stores the choice.
func (e *execution) Select(base string, futures []durable.Future) (int, error) {
	step := Step{e.names.Resolve(base), openworkflow.KindFunction}
	if len(futures) == 0 {
		return 0, fmt.Errorf("select %q: there is nothing to wait for", step.Name)
	}
	_, recorded := e.completed[step.Name]
	if !recorded {
		first := e.AwaitSome(futures, 1)[0]
		e.ask(step, onePolicy)
		return first, nil
	}
	output, err := e.ask(step, onePolicy).Await()
	var index int
	if err == nil {
		err = json.Unmarshal(output, &index)
	}
	if err == nil && (index < 0 || index >= len(futures)) {
		err = fmt.Errorf("select %q: an earlier execution chose number %d of %d futures", step.Name, index, len(futures))
	}
	return index, err
}

// Reserve implements durable.Execution.
func (e *execution) Reserve(base string, n int) ([]string, error) {
	names := make([]string, n)
	for i := range names {
		names[i] = e.names.Resolve(base)
	}
	return names, nil
}

// AwaitSome (might not return) implements durable.Execution.
func (e *execution) AwaitSome(futures []durable.Future, n int) (resolved []int) {
	for i, f := range futures {
		if f.(*future).resolved {
			resolved = append(resolved, i)
		}
	}
	if len(resolved) < n {
		runtime.Goexit()
	}
	return resolved
}

// future implements durable.Future.
type future struct {
	resolved bool
	output   json.RawMessage
	err      error
}

// Await (might not return) implements durable.Future.
func (f *future) Await() (json.RawMessage, error) {
	if !f.resolved {
		runtime.Goexit()
	}
	return f.output, f.err
}
