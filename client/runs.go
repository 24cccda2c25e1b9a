package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Status is the status of a run or a step.
type Status string

// Statuses of runs. Steps are Running, Completed or Failed (R40, R41).
const (
	// Pending runs wait for a worker: for the first time, or for a retry.
	Pending Status = "pending"
	// Running runs are executed by a worker, or are parked until a step can continue.
	Running Status = "running"
	// Completed, Failed and Canceled runs have ended and never change.
	Completed Status = "completed"
	Failed    Status = "failed"
	Canceled  Status = "canceled"
)

// Ended reports whether a run with this status has ended.
func (s Status) Ended() bool { return openworkflow.RunStatus(s).Terminal() }

// Error is the stored error of a run or a step.
type Error struct {
	// Name is the type of the error, without package and pointer, and Message its text.
	Name, Message string
	// Stack is set for panics and for errors of TypeScript.
	Stack string
}

// Run is a run as it is stored. Times that have not come and texts that were not given are
// zero values.
type Run struct {
	ID           string
	WorkflowName string
	// Version is the workflow's version, empty for the unversioned workflow.
	Version        string
	Status         Status
	IdempotencyKey string
	// Input and Output are JSON, nil for none and for null. Filter.Brief leaves them out.
	Input, Output json.RawMessage
	// Error is the error of a failed run, or of the last failure of a run that will be or was
	// retried; nil for none.
	Error *Error
	// Attempts is the number of claims of the run by workers: for its first execution, after
	// waits and retries, and after a worker died (R9).
	Attempts int
	// ParentStepID is the Step.ID of the step that started the run as a child. Empty for
	// other runs.
	ParentStepID string
	// ForkedFrom is the id of the run whose results the run took over (see [Fork]), and ForkStep
	// the step at which it left that run's history. Empty for other runs, and ForkStep also for a
	// run that took over all results or none.
	ForkedFrom, ForkStep string
	// SupersededBy is the id of the newest run that was forked from this one. Empty for none.
	SupersededBy string
	// WorkerID is the fencing token of the claim under which the run executes or has
	// completed. Its form has no meaning.
	WorkerID string
	// AvailableAt is when an open run is due for a claim. While a worker executes the run, it
	// is the end of the worker's lease.
	AvailableAt time.Time
	// DeadlineAt is when the run fails if it has not ended.
	DeadlineAt time.Time
	// SuspendedAt is when spec.suspend of a WorkflowRun stopped the run.
	SuspendedAt time.Time
	// StartedAt is when a worker first claimed the run. A failure resets it to zero (R42).
	StartedAt, FinishedAt time.Time
	CreatedAt, UpdatedAt  time.Time
}

// StepKind is the kind of a step (R41).
type StepKind string

// Kinds of step.
const (
	KindFunction   StepKind = "function"
	KindSleep      StepKind = "sleep"
	KindWorkflow   StepKind = "workflow"
	KindSignalSend StepKind = "signal-send"
	KindSignalWait StepKind = "signal-wait"
)

// Step is one attempt of a step, as it is stored.
type Step struct {
	ID, RunID string
	// Name is the durable name of the step: "page:1" for the second "page".
	Name   string
	Kind   StepKind
	Status Status
	// Output is JSON, nil for none and for null. For a wait for a signal it is {"data": …}, or
	// nil after a timeout (R26).
	Output json.RawMessage
	Error  *Error
	// Signal is the name of the signal that the step waits for. Empty for other kinds.
	Signal string
	// Until is when a sleep ends, or when a wait for a child or a signal times out. Zero for
	// other kinds.
	Until time.Time
	// ChildRunID is the id of the child run that the step started. Empty for other kinds.
	ChildRunID            string
	StartedAt, FinishedAt time.Time
	CreatedAt, UpdatedAt  time.Time
}

// Filter selects runs for [Client.List]. The zero value selects all.
type Filter struct {
	// Status selects runs with this status. Empty: any.
	Status Status
	// WorkflowName selects runs of this workflow, in any version. Empty: any.
	WorkflowName string
	// Brief leaves out inputs and outputs, which may be large.
	Brief bool
}

// Page selects a part of a list. The zero value selects the first 100 items.
type Page struct {
	// After is the Next of the page before. Before is the Prev of the page after. Set at most
	// one of them.
	After, Before string
	// Limit is the largest number of items. Default: 100.
	Limit int
}

// RunPage is a part of a list of runs, newest first. Next and Prev are cursors for the pages
// after and before it, empty if there is none. They are the same as those of OpenWorkflow (R131).
type RunPage struct {
	Runs       []Run
	Next, Prev string
}

// StepPage is a part of the list of a run's steps, oldest first. Next and Prev are as in
// [RunPage].
type StepPage struct {
	Steps      []Step
	Next, Prev string
}

// Get returns a run. The error is [ErrNotFound] if it does not exist.
func (c *Client) Get(ctx context.Context, runID string) (Run, error) {
	runs, err := bounded(ctx, func(ctx context.Context) (map[string]*openworkflow.Run, error) {
		return c.store.GetRuns(ctx, []string{runID})
	})
	if err != nil {
		return Run{}, fmt.Errorf("get run %s: %w", runID, err)
	}
	run := runs[runID]
	if run == nil {
		return Run{}, fmt.Errorf("get run %s: %w", runID, ErrNotFound)
	}
	return publicRun(run), nil
}

// List returns a page of runs, newest first. Pages do not shift when runs are created between
// two calls. The error is [ErrInvalidCursor] for a cursor that is none.
func (c *Client) List(ctx context.Context, filter Filter, page Page) (RunPage, error) {
	got, err := bounded(ctx, func(ctx context.Context) (store.RunPage, error) {
		return c.store.ListRuns(ctx, store.RunFilter{
			Status:       openworkflow.RunStatus(filter.Status),
			WorkflowName: filter.WorkflowName,
			Brief:        filter.Brief,
		}, store.Page(page))
	})
	if err != nil {
		return RunPage{}, fmt.Errorf("list runs: %w", err)
	}
	list := RunPage{Runs: make([]Run, len(got.Runs)), Next: got.Next, Prev: got.Prev}
	for i := range got.Runs {
		list.Runs[i] = publicRun(&got.Runs[i])
	}
	return list, nil
}

// Steps returns a page of the step attempts of a run, oldest first. A step that was retried has
// one entry for each attempt. A run that does not exist has none.
func (c *Client) Steps(ctx context.Context, runID string, page Page) (StepPage, error) {
	got, err := bounded(ctx, func(ctx context.Context) (store.StepPage, error) {
		return c.store.ListSteps(ctx, runID, store.Page(page))
	})
	if err != nil {
		return StepPage{}, fmt.Errorf("list the steps of run %s: %w", runID, err)
	}
	list := StepPage{Steps: make([]Step, len(got.Steps)), Next: got.Next, Prev: got.Prev}
	for i := range got.Steps {
		list.Steps[i] = publicStep(&got.Steps[i])
	}
	return list, nil
}

// Counts returns the number of runs for each of the five statuses. It reads an index entry for
// each run of the namespace, so do not call it every second.
func (c *Client) Counts(ctx context.Context) (map[Status]int64, error) {
	got, err := bounded(ctx, c.store.CountRuns)
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
		ForkedFrom:     value(r.ForkedFrom),
		ForkStep:       value(r.ForkStep),
		SupersededBy:   value(r.SupersededBy),
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

// waitsFor decodes the context of a step that waits (R25).
func waitsFor(raw json.RawMessage) (signal string, until time.Time) {
	c := openworkflow.DecodeWaitContext(raw)
	until, err := c.Until()
	if err != nil {
		until = time.Time{}
	}
	return value(c.Signal), until
}

// publicStatus maps the deprecated statuses to the current ones (R40, R41).
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
