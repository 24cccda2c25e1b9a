package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Status says how far a run or a step is.
type Status string

// Statuses. A step is running, completed or failed.
const (
	// Pending runs wait for a worker: for the first time, or to be tried again.
	Pending Status = "pending"
	// Running runs have begun: a worker executes them, or they wait for a step.
	Running Status = "running"
	// Completed, Failed and Canceled runs have ended and do not change any more.
	Completed Status = "completed"
	Failed    Status = "failed"
	Canceled  Status = "canceled"
)

// Ended reports whether a run of this status does not change any more.
func (s Status) Ended() bool { return openworkflow.RunStatus(s).Terminal() }

// Error is why a run or a step failed.
type Error struct {
	// Name is the name of the error's type, and Message its text.
	Name, Message string
	// Stack is there for errors of TypeScript and for panics.
	Stack string
}

// Run is a run as it is stored. Times that have not come and texts that were not given
// are zero.
type Run struct {
	ID           string
	WorkflowName string
	// Version is the workflow's version, empty for the unversioned workflow.
	Version        string
	Status         Status
	IdempotencyKey string
	// Input and Output are JSON, nil for none or null. A brief list has neither.
	Input, Output json.RawMessage
	// Error is that of a failed run, or of the last failure of a run that is tried
	// again; nil for none.
	Error *Error
	// Attempts counts how often a worker has taken up the run: at its beginning, after
	// waits and retries, and after a worker died.
	Attempts int
	// ParentStepID is the id of the step that started the run as a child; empty for
	// other runs.
	ParentStepID string
	// WorkerID says who executes the run, or completed it. It means something to that
	// worker only.
	WorkerID string
	// AvailableAt is when an open run is due: when it is to begin or to go on, or until
	// when its worker holds it.
	AvailableAt time.Time
	DeadlineAt  time.Time
	// SuspendedAt is since when an operator has kept the run from going on.
	SuspendedAt time.Time
	// StartedAt is when a worker took up the run first. It is zero again after a
	// failure.
	StartedAt, FinishedAt time.Time
	CreatedAt, UpdatedAt  time.Time
}

// StepKind says what a step does.
type StepKind string

// Kinds of step.
const (
	KindFunction   StepKind = "function"
	KindSleep      StepKind = "sleep"
	KindWorkflow   StepKind = "workflow"
	KindSignalSend StepKind = "signal-send"
	KindSignalWait StepKind = "signal-wait"
)

// Step is an attempt of a step, as it is stored.
type Step struct {
	ID, RunID string
	// Name is the step's name, with a number where the workflow used it before.
	Name   string
	Kind   StepKind
	Status Status
	// Output is JSON, nil for none or null. Of a wait for a signal it is
	// {"data": …}, and nil when nothing came.
	Output json.RawMessage
	Error  *Error
	// Signal is the name of the signal that the step waits for.
	Signal string
	// Until is how long the step waits: when a sleep ends, or when a wait for a child or a
	// signal is given up. Zero for other steps.
	Until time.Time
	// ChildRunID is the run that the step started and waits for.
	ChildRunID            string
	StartedAt, FinishedAt time.Time
	CreatedAt, UpdatedAt  time.Time
}

// Filter selects runs. The zero Filter selects all.
type Filter struct {
	// Status selects runs of this status.
	Status Status
	// WorkflowName selects runs of this workflow, of any version.
	WorkflowName string
	// Brief leaves inputs and outputs out, which may be large.
	Brief bool
}

// Page selects a part of a list. The zero Page is the first 100 items.
type Page struct {
	// After is a page's Next: the list goes on there. Before is a page's Prev: the list
	// ends there. Set at most one of them.
	After, Before string
	// Limit is the largest number of items. 0 means 100.
	Limit int
}

// RunPage is a part of a list of runs, newest first. Next and Prev say where the pages
// after and before it are, and are empty where there is none.
type RunPage struct {
	Runs       []Run
	Next, Prev string
}

// StepPage is a part of the list of a run's steps, oldest first. Next and Prev say where
// the pages after and before it are, and are empty where there is none.
type StepPage struct {
	Steps      []Step
	Next, Prev string
}

// Get returns a run, or ErrNotFound.
func (c *Client) Get(ctx context.Context, runID string) (Run, error) {
	runs, err := c.store.GetRuns(ctx, []string{runID})
	if err != nil {
		return Run{}, fmt.Errorf("get run %s: %w", runID, err)
	}
	run := runs[runID]
	if run == nil {
		return Run{}, fmt.Errorf("get run %s: %w", runID, ErrNotFound)
	}
	return publicRun(run), nil
}

// List returns runs, newest first, a page at a time. Pages do not shift when runs are
// created meanwhile.
func (c *Client) List(ctx context.Context, filter Filter, page Page) (RunPage, error) {
	got, err := c.store.ListRuns(ctx, store.RunFilter{
		Status:       openworkflow.RunStatus(filter.Status),
		WorkflowName: filter.WorkflowName,
		Brief:        filter.Brief,
	}, store.Page(page))
	if err != nil {
		return RunPage{}, fmt.Errorf("list runs: %w", err)
	}
	list := RunPage{Runs: make([]Run, len(got.Runs)), Next: got.Next, Prev: got.Prev}
	for i := range got.Runs {
		list.Runs[i] = publicRun(&got.Runs[i])
	}
	return list, nil
}

// Steps returns the steps of a run, oldest first, a page at a time. A step that was
// tried again is there once for each attempt. A run that does not exist has none.
func (c *Client) Steps(ctx context.Context, runID string, page Page) (StepPage, error) {
	got, err := c.store.ListSteps(ctx, runID, store.Page(page))
	if err != nil {
		return StepPage{}, fmt.Errorf("list the steps of run %s: %w", runID, err)
	}
	list := StepPage{Steps: make([]Step, len(got.Steps)), Next: got.Next, Prev: got.Prev}
	for i := range got.Steps {
		list.Steps[i] = publicStep(&got.Steps[i])
	}
	return list, nil
}

// Counts returns how many runs there are of each status. All five are there. It reads
// an entry for each run of the namespace, so do not ask every second.
func (c *Client) Counts(ctx context.Context) (map[Status]int64, error) {
	got, err := c.store.CountRuns(ctx)
	if err != nil {
		return nil, fmt.Errorf("count runs: %w", err)
	}
	counts := make(map[Status]int64, len(got))
	for status, n := range got {
		counts[Status(status)] = n
	}
	return counts, nil
}

func publicRun(r *openworkflow.Run) Run {
	return Run{
		ID:             r.ID,
		WorkflowName:   r.WorkflowName,
		Version:        value(r.Version),
		Status:         publicStatus(string(r.Status)),
		IdempotencyKey: value(r.IdempotencyKey),
		Input:          r.Input,
		Output:         r.Output,
		Error:          publicError(r.Error),
		Attempts:       r.Attempts,
		ParentStepID:   value(r.ParentStepAttemptID),
		WorkerID:       value(r.WorkerID),
		AvailableAt:    value(r.AvailableAt),
		DeadlineAt:     value(r.DeadlineAt),
		SuspendedAt:    value(r.SuspendedAt),
		StartedAt:      value(r.StartedAt),
		FinishedAt:     value(r.FinishedAt),
		CreatedAt:      r.CreatedAt,
		UpdatedAt:      r.UpdatedAt,
	}
}

func publicStep(a *openworkflow.StepAttempt) Step {
	signal, until := waitsFor(a.Context)
	return Step{
		ID:         a.ID,
		RunID:      a.WorkflowRunID,
		Name:       a.StepName,
		Kind:       StepKind(a.Kind),
		Status:     publicStatus(string(a.Status)),
		Output:     a.Output,
		Error:      publicError(a.Error),
		Signal:     signal,
		Until:      until,
		ChildRunID: value(a.ChildWorkflowRunID),
		StartedAt:  value(a.StartedAt),
		FinishedAt: value(a.FinishedAt),
		CreatedAt:  a.CreatedAt,
		UpdatedAt:  a.UpdatedAt,
	}
}

// waitsFor reads the context of a step that waits (R25).
func waitsFor(raw json.RawMessage) (signal string, until time.Time) {
	c := openworkflow.DecodeWaitContext(raw)
	until, err := c.Until()
	if err != nil {
		until = time.Time{}
	}
	return value(c.Signal), until
}

// publicStatus folds the deprecated statuses into what became of them (R40, R41).
func publicStatus(status string) Status {
	switch status {
	case string(openworkflow.RunSleeping):
		return Running
	case string(openworkflow.RunSucceeded):
		return Completed
	default:
		return Status(status)
	}
}

func publicError(raw json.RawMessage) *Error {
	if raw == nil {
		return nil
	}
	e := openworkflow.DecodeError(raw)
	return &Error{Name: e.Name, Message: e.Message, Stack: e.Stack}
}

// value returns what p points at, or zero.
func value[T any](p *T) T {
	if p == nil {
		return *new(T)
	}
	return *p
}
