package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/dryrun/execute"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/replay"
	"github.com/openworkflow-operator/operator/workflow"
)

// DryRunReport says what a fork would do, executed by the workflow's code in this program.
type DryRunReport struct {
	// Kept are the steps whose stored results the workflow gets, in the order of its calls.
	Kept []string
	// Next are the steps that it executes then: one, or several in parallel. What follows depends
	// on their results.
	Next []NextStep
	// NotAsked are steps whose results the fork takes over, and that the workflow does not ask for
	// until it waits for those of Next. Of sequential code they mean that it has changed.
	NotAsked []string
	// OtherKind are the names of steps whose stored result is of another kind than what the
	// workflow asks for now. It gets that result all the same.
	OtherKind []string
	// Ended is true when the workflow ends without another step: it completes, or fails with Err.
	Ended bool
	Err   error
}

// NextStep is a step that a fork executes.
type NextStep struct {
	Name string
	Kind StepKind
}

// DryRun says what a [Fork] of the run with these options would do, without starting it: it calls
// the workflow's function in this program with the results that the fork would take over, until the
// function waits for a step that has none. No function of a step is called, and nothing is
// stored. So a new build can be tried on the runs of an earlier one. The workflow must be
// implemented in this program, and its function must have no effects outside of steps. Errors are
// those of Fork, and the end of ctx for a function that waits for something else than steps.
func DryRun[In, Out any](
	ctx context.Context, c *Client, w *workflow.Workflow[In, Out], runID string, options ...ForkOption,
) (DryRunReport, error) {
	report, err := c.dryRun(ctx, durable.DefinitionOf(w), runID, options)
	if err != nil {
		return DryRunReport{}, fmt.Errorf("dry run: %w", forkError(runID, err))
	}
	return publicReport(report), nil
}

var errDeclaredOnly = errors.New("the workflow is only declared in this program: a dry run needs its function")

func (c *Client) dryRun(ctx context.Context, d durable.Definition, runID string, options []ForkOption) (replay.Report, error) {
	if d.Execute == nil {
		return replay.Report{}, errDeclaredOnly
	}
	r, err := forkRequest(runID, options)
	if err != nil {
		return replay.Report{}, err
	}
	runs, err := bounded(ctx, func(ctx context.Context) (map[string]*openworkflow.Run, error) {
		return c.store.GetRuns(ctx, []string{runID})
	})
	if err != nil {
		return replay.Report{}, err
	}
	source := runs[runID]
	if source == nil {
		return replay.Report{}, ErrNotFound
	}
	steps, err := bounded(ctx, func(ctx context.Context) (map[string][]openworkflow.StepAttempt, error) {
		return c.store.LoadSteps(ctx, []string{runID})
	})
	if err != nil {
		return replay.Report{}, err
	}
	return execute.Replay(ctx, d, source, steps[runID], r, c.store.ServerTime(time.Now()))
}

func publicReport(r replay.Report) DryRunReport {
	report := DryRunReport{Kept: r.Replayed, NotAsked: r.NotAsked, Ended: r.Ended, Err: r.Err}
	for _, step := range r.Next {
		report.Next = append(report.Next, NextStep{Name: step.Name, Kind: StepKind(step.Kind)})
	}
	for _, m := range r.OtherKind {
		report.OtherKind = append(report.OtherKind, m.Name)
	}
	return report
}
