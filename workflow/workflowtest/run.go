package workflowtest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

// Run is a run that the test started.
type Run[Out any] struct {
	env  *Env
	id   string
	name string
}

// StartOption is an option of [Start].
type StartOption interface {
	start(run *store.NewRun, now time.Time)
}

type startOption func(run *store.NewRun, now time.Time)

func (o startOption) start(run *store.NewRun, now time.Time) { o(run, now) }

// Deadline sets how long the run may take, by the environment's clock. Then it fails with an
// error that is [workflow.ErrDeadlineExceeded].
func Deadline(d time.Duration) StartOption {
	return startOption(func(run *store.NewRun, now time.Time) { run.DeadlineAt = new(now.Add(d)) })
}

// Start starts a run of a workflow that the environment serves, and does not wait for it. The
// run executes until it waits; the clock advances only while a call of Result waits.
func Start[In, Out any](env *Env, w *workflow.Workflow[In, Out], in In, options ...StartOption) *Run[Out] {
	env.t.Helper()
	input, err := json.Marshal(in)
	if err != nil {
		env.t.Fatalf("workflowtest: encode the input of workflow %q: %v", w.Name(), err)
	}
	definition := durable.DefinitionOf(w)
	n := store.NewRun{
		ID:           openworkflow.NewID(),
		WorkflowName: definition.Name,
		Version:      definition.Version,
		Input:        input,
	}
	for _, option := range options {
		option.start(&n, env.store.Now())
	}
	created, err := env.store.CreateRuns(context.Background(), []store.NewRun{n})
	if err == nil {
		err = created[0].Err
	}
	if err != nil {
		env.t.Fatalf("workflowtest: start a run of workflow %q: %v", w.Name(), err)
	}
	env.mu.Lock()
	env.started = append(env.started, n.ID)
	env.mu.Unlock()
	env.notify()
	return &Run[Out]{env: env, id: n.ID, name: w.Name()}
}

// ID returns the run's id.
func (r *Run[Out]) ID() string { return r.id }

// Result waits until the run has ended and returns its output. Whenever all runs of the
// environment wait, the clock jumps to the next retry, end of a sleep, timeout or signal. The
// error is an [*Error] when the run failed, and [workflow.ErrCanceled] when it was canceled.
//
// Call Result on the goroutine of the test: it ends the test with Fatalf when the run waits
// for something that never comes, or when the output does not decode into Out.
func (r *Run[Out]) Result() (Out, error) {
	r.env.t.Helper()
	var out Out
	r.env.awaitEnd(r.id)
	run := r.env.run(r.id)
	switch run.Status {
	case openworkflow.RunCompleted:
		if run.Output == nil {
			return out, nil
		}
		if err := json.Unmarshal(run.Output, &out); err != nil {
			r.env.t.Fatalf("workflowtest: decode the output of workflow %q into %T: %v", r.name, out, err)
		}
		return out, nil
	case openworkflow.RunCanceled:
		return out, workflow.ErrCanceled
	default:
		failure := openworkflow.DecodeError(run.Error)
		return out, &Error{Workflow: r.name, Name: failure.Name, Message: failure.Message}
	}
}

// Cancel cancels the run. It does nothing when the run has ended.
func (r *Run[Out]) Cancel() {
	r.env.t.Helper()
	if _, err := r.env.store.CancelRuns(context.Background(), []string{r.id}); err != nil {
		r.env.t.Fatalf("workflowtest: cancel run %s: %v", r.id, err)
	}
	r.env.notify()
}

// Steps returns the stored attempts of the run's steps, oldest first.
func (r *Run[Out]) Steps() []Step { return r.env.steps(r.id) }

// State decodes what the run has published last with [workflow.SetState] into the value to which into
// points, and reports whether it has published anything.
func (r *Run[Out]) State(into any) bool {
	r.env.t.Helper()
	state := r.env.store.RunState(r.id)
	if state == nil {
		return false
	}
	if err := json.Unmarshal(state, into); err != nil {
		r.env.t.Fatalf("workflowtest: decode the state of workflow %q into %T: %v", r.name, into, err)
	}
	return true
}

// Error is the failure of a run, as [Run.Result] returns it.
type Error struct {
	// Workflow is the name of the workflow.
	Workflow string
	// Name is the type of the error that the workflow returned, without package and pointer,
	// and Message its text.
	Name, Message string
}

func (e *Error) Error() string { return fmt.Sprintf("workflow %q failed: %s", e.Workflow, e.Message) }

// Is reports whether target is [workflow.ErrDeadlineExceeded] and the run failed at its
// deadline.
func (e *Error) Is(target error) bool {
	return target == workflow.ErrDeadlineExceeded && e.Message == openworkflow.DeadlineMessage
}

// Step is one attempt of a step.
type Step struct {
	// Name is the step's durable name: "page:1" for the second "page".
	Name string
	// Kind is function, sleep, workflow, signal-send or signal-wait.
	Kind string
	// Status is running, completed or failed.
	Status string
	// Attempt is the number of the attempt, from 1.
	Attempt int
	// Output is the stored result, nil for null.
	Output json.RawMessage
	// Error is the text of the attempt's error, empty if it did not fail.
	Error string
	// StartedAt and FinishedAt are times of the environment's clock. FinishedAt is zero while
	// the attempt is running.
	StartedAt, FinishedAt time.Time
}

// String returns the name, the attempt after the first, the status, and the output or error.
func (s Step) String() string {
	text := fmt.Sprintf("%s %s", s.Name, s.Status)
	if s.Attempt > 1 {
		text = fmt.Sprintf("%s (attempt %d) %s", s.Name, s.Attempt, s.Status)
	}
	switch {
	case s.Error != "":
		text += ": " + s.Error
	case s.Output != nil:
		text += ": " + string(s.Output)
	}
	return text
}

func (env *Env) run(id string) *openworkflow.Run {
	env.t.Helper()
	runs, err := env.store.GetRuns(context.Background(), []string{id})
	if err != nil || runs[id] == nil {
		env.t.Fatalf("workflowtest: read run %s: %v", id, err)
	}
	return runs[id]
}

func (env *Env) steps(id string) []Step {
	env.t.Helper()
	attempts, err := env.store.LoadSteps(context.Background(), []string{id})
	if err != nil {
		env.t.Fatalf("workflowtest: read the steps of run %s: %v", id, err)
	}
	steps := make([]Step, 0, len(attempts[id]))
	count := map[string]int{}
	for _, a := range attempts[id] {
		count[a.StepName]++
		s := Step{
			Name: a.StepName, Kind: string(a.Kind), Status: string(a.Status), Attempt: count[a.StepName], Output: a.Output,
		}
		if a.Error != nil {
			s.Error = openworkflow.DecodeError(a.Error).Message
		}
		if a.StartedAt != nil {
			s.StartedAt = *a.StartedAt
		}
		if a.FinishedAt != nil {
			s.FinishedAt = *a.FinishedAt
		}
		steps = append(steps, s)
	}
	return steps
}
