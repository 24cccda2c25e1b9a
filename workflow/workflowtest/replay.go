package workflowtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/replay"
	"github.com/openworkflow-operator/operator/workflow"
)

// replayTimeout bounds a replay, which waits for no step.
const replayTimeout = time.Minute

// Replayed is what a workflow does with the stored results of a run.
type Replayed struct {
	// Kept are the durable names of the steps whose stored results it gets, in the order of its calls.
	Kept []string
	// Next are the steps without a stored result that it starts then, in the order of its calls: one,
	// or several in parallel. It is empty if the workflow ends.
	Next []string
	// Output and Err are how the workflow ends, if it starts no step.
	Output json.RawMessage
	Err    error
}

// Replay executes the code of a workflow on the stored results of a run, to find out whether this
// build can go on with runs of an earlier one. The file is what "kubectl workflow export RUN" has
// written, in JSON, and the run's workflow must be one of those given. It calls no function of a
// step, and ends at the first step without a stored result.
//
// It fails the test if the code does not follow the history:
//
//   - it does not ask for a stored result, or asks for it as a step of another kind,
//   - the run has completed, and the code starts a further step or returns another output.
//
// A run's CreatedAt is that of the file, in which it has no fractions of a second.
func Replay(t TB, file string, workflows ...workflow.Definition) Replayed {
	t.Helper()
	history, err := readExported(file)
	if err != nil {
		t.Fatalf("workflowtest: replay %s: %v", file, err)
		return Replayed{}
	}
	definition, err := history.definition(workflows)
	if err != nil {
		t.Fatalf("workflowtest: replay %s: %v", file, err)
		return Replayed{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), replayTimeout)
	defer cancel()
	report, err := replay.Run(ctx, definition, history.run(), history.attempts())
	if err != nil {
		t.Fatalf("workflowtest: replay %s: %v", file, err)
		return Replayed{}
	}
	if problems := history.compare(&report); len(problems) > 0 {
		t.Errorf("workflowtest: workflow %q does not follow the history of run %s in %s:\n  %s",
			history.Spec.WorkflowName, history.Metadata.Name, file, strings.Join(problems, "\n  "))
	}
	replayed := Replayed{Kept: report.Replayed, Output: report.Output, Err: report.Err}
	for _, step := range report.Next {
		replayed.Next = append(replayed.Next, step.Name)
	}
	return replayed
}

// exported is the part of a RunHistory of the data API that a replay reads. The type itself would
// bring Kubernetes' packages into the module of the workflow's tests.
type exported struct {
	Kind     string
	Continue string
	Metadata struct {
		Name              string
		CreationTimestamp time.Time
	}
	Spec struct {
		WorkflowName string
		Version      string
		Input        json.RawMessage
	}
	Status struct{ State string }
	Output json.RawMessage
	Steps  []exportedStep
}

type exportedStep struct {
	ID, Name, Kind, State string
	Output, Error         json.RawMessage
}

func readExported(file string) (*exported, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var history exported
	if err := json.Unmarshal(content, &history); err != nil {
		return nil, fmt.Errorf("it is no JSON of a run and its history: make it by kubectl workflow export: %w", err)
	}
	switch {
	case history.Kind != "RunHistory" || history.Metadata.Name == "" || history.Spec.WorkflowName == "":
		return nil, fmt.Errorf("it has the kind %q, not a RunHistory: make it by kubectl workflow export", history.Kind)
	case history.Continue != "":
		return nil, fmt.Errorf("it is one page of a history: kubectl workflow export writes all of it")
	}
	return &history, nil
}

// definition returns the one of the run's workflow and version.
func (h *exported) definition(workflows []workflow.Definition) (durable.Definition, error) {
	of := h.run().Definition()
	for _, w := range workflows {
		if d := durable.DefinitionOf(w); d.Key() == of.Key() && d.Execute != nil {
			return d, nil
		}
	}
	return durable.Definition{}, fmt.Errorf("run %s is of workflow %q, version %q, which is none of those given", h.Metadata.Name, h.Spec.WorkflowName, h.Spec.Version)
}

func (h *exported) run() *openworkflow.Run {
	run := &openworkflow.Run{
		ID: h.Metadata.Name, WorkflowName: h.Spec.WorkflowName, Input: h.Spec.Input, CreatedAt: h.Metadata.CreationTimestamp,
	}
	if h.Spec.Version != "" {
		run.Version = &h.Spec.Version
	}
	return run
}

func (h *exported) attempts() []openworkflow.StepAttempt {
	attempts := make([]openworkflow.StepAttempt, 0, len(h.Steps))
	for _, s := range h.Steps {
		attempts = append(attempts, openworkflow.StepAttempt{
			ID: s.ID, WorkflowRunID: h.Metadata.Name, StepName: s.Name, Kind: openworkflow.StepKind(s.Kind),
			Status: openworkflow.StepStatus(s.State), Output: s.Output, Error: s.Error,
		})
	}
	return attempts
}

// compare returns in what a replay departs from the history.
func (h *exported) compare(r *replay.Report) (problems []string) {
	for _, name := range r.NotAsked {
		problems = append(problems, fmt.Sprintf("it does not ask for the stored result of step %q", name))
	}
	for _, m := range r.OtherKind {
		problems = append(problems, fmt.Sprintf("step %q is a %s, and was a %s", m.Name, m.Kind, m.Recorded))
	}
	if h.Status.State != "Completed" {
		return problems
	}
	for _, step := range r.Next {
		problems = append(problems, fmt.Sprintf("it starts step %q (%s), which the completed run did not have", step.Name, step.Kind))
	}
	switch {
	case !r.Ended:
	case r.Err != nil:
		problems = append(problems, fmt.Sprintf("it fails, and the run has completed: %v", r.Err))
	case !sameJSON(r.Output, h.Output):
		problems = append(problems, fmt.Sprintf("it returns %s, and the run has returned %s", orNull(r.Output), orNull(h.Output)))
	}
	return problems
}

// sameJSON reports whether two values are the same, whatever the order of members. None is null.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(orNull(a), &x) == nil && json.Unmarshal(orNull(b), &y) == nil && reflect.DeepEqual(x, y)
}

func orNull(value json.RawMessage) json.RawMessage {
	if len(value) == 0 {
		return json.RawMessage("null")
	}
	return value
}
