package replay_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/replay"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// never is a step's function that no replay calls.
func never(t *testing.T) func(context.Context) (int, error) {
	return func(context.Context) (int, error) {
		t.Error("the function of a step was called")
		return 0, nil
	}
}

func record(name string, kind openworkflow.StepKind, output string) openworkflow.StepAttempt {
	return openworkflow.StepAttempt{StepName: name, Kind: kind, Status: openworkflow.StepCompleted, Output: json.RawMessage(output)}
}

func failure(name, message string) openworkflow.StepAttempt {
	return openworkflow.StepAttempt{
		StepName: name, Kind: openworkflow.KindFunction, Status: openworkflow.StepFailed,
		Error: openworkflow.Error{Message: message}.Encode(),
	}
}

const (
	function = openworkflow.KindFunction
	sleep    = openworkflow.KindSleep
	child    = openworkflow.KindWorkflow
	send     = openworkflow.KindSignalSend
	wait     = openworkflow.KindSignalWait
)

func TestRun_SaysWhatComesNext(t *testing.T) {
	t.Parallel()
	other := workflow.Declare[int, int]("other")
	once := step.Retry(workflow.RetryPolicy{MaximumAttempts: 1})
	// all has a step of each kind.
	all := func(ctx context.Context, in int) (int, error) {
		a, err := step.Run(ctx, "a", never(t))
		err = errors.Join(err, step.Sleep(ctx, "nap", time.Hour))
		b, childErr := step.RunWorkflow(ctx, other, in)
		data, _, waitErr := step.WaitForSignal[int](ctx, "go on")
		sent, sendErr := step.SendSignal(ctx, "gone", a)
		return a + b + data + len(sent), errors.Join(err, childErr, waitErr, sendErr)
	}
	history := []openworkflow.StepAttempt{
		record("a", function, `1`), record("nap", sleep, ""), record("other", child, `2`),
		record("go on", wait, `{"data": 3}`), record("gone", send, `{"workflowRunIds": ["r"]}`),
	}
	items := func(limit int) func(ctx context.Context, in int) (int, error) {
		return func(ctx context.Context, in int) (int, error) {
			_, err := step.Map(ctx, "item", make([]int, in), limit, func(ctx context.Context, _ int) (int, error) { return never(t)(ctx) })
			return in, err
		}
	}
	instead := func(ctx context.Context, _ int) (int, error) {
		if n, err := step.Run(ctx, "card", never(t), once); err == nil {
			return n, nil
		}
		return step.Run(ctx, "invoice", never(t))
	}
	race := func(ctx context.Context, _ int) (int, error) {
		a, b := step.Go(ctx, "a", never(t)), step.Go(ctx, "b", never(t))
		return step.Select(ctx, "first", a, b)
	}
	for name, c := range map[string]struct {
		code     func(ctx context.Context, in int) (int, error)
		attempts []openworkflow.StepAttempt
		want     replay.Report
	}{
		"nothing is recorded": {all, nil, replay.Report{Next: []replay.Step{{"a", function}}}},
		"some":                {all, history[:2], replay.Report{Replayed: []string{"a", "nap"}, Next: []replay.Step{{"other", child}}}},
		"up to a wait":        {all, history[:3], replay.Report{Replayed: []string{"a", "nap", "other"}, Next: []replay.Step{{"go on", wait}}}},
		"up to a send":        {all, history[:4], replay.Report{Replayed: []string{"a", "nap", "other", "go on"}, Next: []replay.Step{{"gone", send}}}},
		"everything": {all, history, replay.Report{
			Replayed: []string{"a", "nap", "other", "go on", "gone"}, Ended: true, Output: json.RawMessage(`7`),
		}},
		"a record that the code does not ask for": {
			all, append([]openworkflow.StepAttempt{record("old", function, `1`)}, history[:1]...),
			replay.Report{Replayed: []string{"a"}, Next: []replay.Step{{"nap", sleep}}, NotAsked: []string{"old"}},
		},
		"a record of another kind": {
			all, []openworkflow.StepAttempt{record("a", child, `1`)}, replay.Report{
				Replayed: []string{"a"}, Next: []replay.Step{{"nap", sleep}},
				OtherKind: []replay.Mismatch{{Step: replay.Step{Name: "a", Kind: function}, Recorded: child}},
			},
		},
		"parallel steps": {
			items(0), []openworkflow.StepAttempt{record("item:1", function, `1`)}, replay.Report{
				Replayed: []string{"item:1"}, Next: []replay.Step{{"item", function}, {"item:2", function}},
			},
		},
		"one at a time": {items(1), []openworkflow.StepAttempt{record("item", function, `1`)}, replay.Report{
			Replayed: []string{"item"}, Next: []replay.Step{{"item:1", function}},
		}},
		"a failure that is final": {instead, []openworkflow.StepAttempt{failure("card", "declined"), record("invoice", function, `1`)},
			replay.Report{Replayed: []string{"card", "invoice"}, Ended: true, Output: json.RawMessage(`1`)}},
		"a failure that is not": {func(ctx context.Context, _ int) (int, error) { return step.Run(ctx, "a", never(t)) },
			[]openworkflow.StepAttempt{failure("a", "no")}, replay.Report{Next: []replay.Step{{"a", function}}}},
		"a choice that was made": {
			race, []openworkflow.StepAttempt{record("b", function, `1`), record("first", function, `1`)},
			replay.Report{Replayed: []string{"b", "first"}, Next: []replay.Step{{"a", function}}, Ended: true, Output: json.RawMessage(`1`)},
		},
		"a choice that is made now": {
			race, []openworkflow.StepAttempt{record("b", function, `1`)},
			replay.Report{
				Replayed: []string{"b"}, Next: []replay.Step{{"a", function}, {"first", function}}, Ended: true, Output: json.RawMessage(`1`),
			},
		},
		"a choice without candidates": {race, nil, replay.Report{Next: []replay.Step{{"a", function}, {"b", function}}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := durable.DefinitionOf(workflow.Define("wf", c.code))
			got, err := replay.Run(t.Context(), d, &openworkflow.Run{ID: "r", WorkflowName: "wf", Input: json.RawMessage(`3`)}, c.attempts)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateErrors()); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRun_P7_SaysHowTheCodeFails(t *testing.T) {
	t.Parallel()
	run := &openworkflow.Run{ID: "r", WorkflowName: "wf"}
	broken := durable.DefinitionOf(workflow.Define("wf", func(context.Context, int) (int, error) { panic("at the disco") }))
	report, err := replay.Run(t.Context(), broken, run, nil)
	if err != nil || !report.Ended || report.Err == nil || report.Err.Error() != "panic: at the disco" {
		t.Errorf("a panic: %+v, %v", report, err)
	}
	typedNil := durable.DefinitionOf(workflow.Define("wf", func(context.Context, int) (int, error) { return 0, (*step.Error)(nil) }))
	report, err = replay.Run(t.Context(), typedNil, run, nil)
	if err != nil || !report.Ended || durable.EncodeError(report.Err).Name != "PanicError" {
		t.Errorf("an error whose methods panic: %+v, %v", report, err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	stuck := durable.DefinitionOf(workflow.Define("wf", func(_ context.Context, _ int) (int, error) {
		cancel(errors.New("no patience"))
		<-t.Context().Done()
		return 0, nil
	}))
	_, err = replay.Run(ctx, stuck, run, nil)
	if want := `replay workflow "wf": its code waits for something that is no step: no patience`; err == nil || err.Error() != want {
		t.Errorf("code that waits for something else: %v, want %s", err, want)
	}
}
