package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/openworkflow-operator/operator/internal/dryrun"
	"github.com/openworkflow-operator/operator/internal/dryrun/execute"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/workflow"
)

const (
	// dryRunTimeout bounds a dry run, that of the database's start included.
	dryRunTimeout = 2 * time.Minute
	// dryRunStatement bounds a statement, and dryRunPage the step attempts that one reads.
	dryRunStatement = 30 * time.Second
	dryRunPage      = 1000
	// maxDryRunAttempts bounds the history that is read into memory.
	maxDryRunAttempts = 100_000
)

// errProblem means that the result says why there is none.
var errProblem = errors.New("no dry run")

// dryRun says what a fork of a run would do with these workflows, in a file or on standard output.
// It reads in read-only transactions, announces no worker and claims nothing.
func dryRun(ctx context.Context, config Config, request, file string, workflows []workflow.Definition) error {
	r, err := dryrun.ParseRequest(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dryRunTimeout)
	defer cancel()
	result, err := replayFork(ctx, config, &r, workflows)
	if err != nil {
		result = dryrun.Result{RunID: r.RunID, Problem: problem(err)}
	}
	encoded := result.Encode()
	if file == "" {
		_, writeErr := fmt.Println(string(encoded))
		return errors.Join(err, writeErr)
	}
	if writeErr := os.WriteFile(file, encoded, 0o600); writeErr != nil {
		return errors.Join(err, fmt.Errorf("write the result of the dry run: %w", writeErr))
	}
	return err
}

// problem is the text for an error. What a server or a driver says stays in the worker's log.
func problem(err error) string {
	for _, kind := range []error{
		errProblem, store.ErrInvalidFork, store.ErrNotEnded, store.ErrNotFound, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, kind) {
			return err.Error()
		}
	}
	return "the database could not be read: the log of the pod says why"
}

func replayFork(ctx context.Context, config Config, r *dryrun.Request, workflows []workflow.Definition) (dryrun.Result, error) {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	database, err := open(ctx, config)
	if err != nil {
		return dryrun.Result{}, err
	}
	if database == nil {
		return dryrun.Result{}, fmt.Errorf("reach the database: %w", ctx.Err())
	}
	defer database.Close()
	view := database.View(dryRunStatement)
	source, err := view.FullRun(ctx, r.RunID)
	if err != nil {
		return dryrun.Result{}, err
	}
	if source == nil {
		return dryrun.Result{}, fmt.Errorf("run %s: %w", r.RunID, store.ErrNotFound)
	}
	definition, err := definitionOf(source, workflows)
	if err != nil {
		return dryrun.Result{}, err
	}
	attempts, err := history(ctx, view, r.RunID)
	if err != nil {
		return dryrun.Result{}, err
	}
	report, err := execute.Replay(ctx, definition, source, attempts, execute.ForkRequest(r), database.ServerTime(time.Now()))
	if err != nil {
		return dryrun.Result{}, err
	}
	return execute.Result(source, &report), nil
}

// definitionOf returns the workflow of the run.
func definitionOf(run *openworkflow.Run, workflows []workflow.Definition) (durable.Definition, error) {
	for _, w := range workflows {
		if d := durable.DefinitionOf(w); d.Key() == run.Definition().Key() && d.Execute != nil {
			return d, nil
		}
	}
	version := ""
	if run.Version != nil {
		version = *run.Version
	}
	return durable.Definition{}, fmt.Errorf("%w: this image has no workflow %q, version %q", errProblem, run.WorkflowName, version)
}

// history returns all step attempts of a run, in their order.
func history(ctx context.Context, view *store.View, runID string) (attempts []openworkflow.StepAttempt, err error) {
	var after *openworkflow.Cursor
	for {
		page, err := view.Steps(ctx, runID, true, after, dryRunPage)
		if err != nil {
			return nil, err
		}
		attempts = append(attempts, page...)
		switch {
		case len(attempts) > maxDryRunAttempts:
			return nil, fmt.Errorf("%w: run %s has more than %d step attempts", errProblem, runID, maxDryRunAttempts)
		case len(page) < dryRunPage:
			return attempts, nil
		}
		last := page[len(page)-1]
		after = &openworkflow.Cursor{CreatedAt: last.CreatedAt, ID: last.ID}
	}
}
