// Package execute says what a fork of a run would do, executed by the workflow's code in this
// process: which results the workflow gets, and which steps it executes then. It is linked into
// clients and workers, reads no database and writes nothing.
package execute

import (
	"context"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/dryrun"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/replay"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Replay executes the definition's function with the results that the fork would take over, until
// it waits for a step that has none. The attempts are all of the source, in the order of its
// history, and now is the time by the database's clock. Errors are those of a fork, and the end of
// ctx for a function that waits for something else than steps.
func Replay(
	ctx context.Context, d durable.Definition, source *openworkflow.Run, attempts []openworkflow.StepAttempt,
	r store.ForkRequest, now time.Time,
) (replay.Report, error) {
	if source.Definition().Key() != d.Key() {
		version := ""
		if source.Version != nil {
			version = *source.Version
		}
		return replay.Report{}, fmt.Errorf("%w: it is a run of workflow %q, version %q", store.ErrInvalidFork, source.WorkflowName, version)
	}
	plan, err := store.NewForkPlan(source, attempts, r)
	if err != nil {
		return replay.Report{}, err
	}
	fork := openworkflow.Run{
		NamespaceID: source.NamespaceID, ID: plan.Run.ID, WorkflowName: source.WorkflowName, Version: source.Version,
		Input: openworkflow.Column(plan.Run.Input), CreatedAt: now,
	}
	return replay.Run(ctx, d, &fork, plan.History(attempts))
}

// ForkRequest returns the fork that a request asks about.
func ForkRequest(r *dryrun.Request) store.ForkRequest {
	return store.ForkRequest{
		Source: r.RunID, Run: store.NewRun{ID: openworkflow.NewID(), Input: r.Input},
		From:            store.ForkPoint{Step: r.Step, LastFailed: r.LastFailed},
		RestartChildren: r.RestartChildren, Outputs: r.Outputs,
	}
}

// Result returns what a report says without payloads.
func Result(run *openworkflow.Run, r *replay.Report) dryrun.Result {
	report := dryrun.Report{Kept: r.Replayed, NotAsked: r.NotAsked, Ended: r.Ended}
	for _, step := range r.Next {
		report.Next = append(report.Next, dryrun.Step{Name: step.Name, Kind: string(step.Kind)})
	}
	for _, m := range r.OtherKind {
		report.OtherKind = append(report.OtherKind, m.Name)
	}
	if r.Err != nil {
		report.ErrorName = durable.EncodeError(r.Err).Name
	}
	version := ""
	if run.Version != nil {
		version = *run.Version
	}
	return dryrun.NewResult(run.ID, run.WorkflowName, version, &report)
}
