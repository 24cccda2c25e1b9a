package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// ended starts a run of the workflow that nobody serves, gives it a completed step "a", and cancels it.
func (f *fixture) ended() string {
	f.t.Helper()
	run := started(f.t)(client.Start(f.t.Context(), f.Client, plain, order{ID: "7"}))
	f.exec(`
INSERT INTO openworkflow.step_attempts (
	namespace_id, id, workflow_run_id, step_name, kind, status, config, output, started_at, finished_at, created_at, updated_at
)
VALUES ('default', 'attempt', $1, 'a', 'function', 'completed', '{}', '1', now(), now(), now(), now())`, run.ID())
	if err := run.Cancel(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	return run.ID()
}

func TestFork_TakesTheOptionsOfAStart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.ended()
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	fork := started(t)(client.Fork[string](t.Context(), f.Client, source,
		client.ID("mine"), client.IdempotencyKey("again"), client.At(at), client.Deadline(at.Add(time.Hour)),
		client.Input(order{ID: "8"}), client.FromStep("a"), client.Output("a", 2)))
	if fork.ID() != "mine" || fork.Existed() {
		t.Errorf("handle %+v", fork)
	}
	run := must[client.Run](t)(fork.Run(t.Context()))
	if run.WorkflowName != "wf" || run.Status != client.Pending || run.IdempotencyKey != "again" || !run.AvailableAt.Equal(at) ||
		!run.DeadlineAt.Equal(at.Add(time.Hour)) || string(run.Input) != `{"id": "8", "items": 0}` ||
		run.ForkedFrom != source || run.ForkStep != "a" || run.SupersededBy != "" {
		t.Errorf("run is %+v", run)
	}
	steps := must[client.StepPage](t)(f.Steps(t.Context(), "mine", client.Page{})).Steps
	if len(steps) != 1 || steps[0].Name != "a" || steps[0].Status != client.Completed || string(steps[0].Output) != `2` {
		t.Errorf("steps are %+v", steps)
	}
	if source := must[client.Run](t)(f.Get(t.Context(), source)); source.SupersededBy != "mine" || source.Status != client.Canceled {
		t.Errorf("the source is %+v", source)
	}

	again := started(t)(client.Fork[string](t.Context(), f.Client, source, client.ID("mine")))
	keyed := started(t)(client.Retry[string](t.Context(), f.Client, source, client.IdempotencyKey("again")))
	if again.ID() != "mine" || !again.Existed() || keyed.ID() != "mine" || !keyed.Existed() {
		t.Errorf("with the same id: %+v, with the same key: %+v", again, keyed)
	}
}

func TestFork_P7_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.ended()
	open := started(t)(client.Start(t.Context(), f.Client, plain, order{ID: "8"})).ID()
	for name, c := range map[string]struct {
		run     string
		options []client.ForkOption
		is      error
		want    string
	}{
		"no such run":  {"missing", nil, client.ErrNotFound, "fork run missing: workflow run does not exist"},
		"an open run":  {open, nil, client.ErrNotEnded, "fork run " + open + ": run " + open + " is pending: run has not ended"},
		"no such step": {source, []client.ForkOption{client.FromStep("b")}, client.ErrInvalidFork, "fork run " + source + ": invalid fork: run " + source + ` has no step "b"; the nearest of its 1 steps: "a"`},
		"output of no such step": {
			source, []client.ForkOption{client.FromStep("a"), client.Output("b", 1)}, client.ErrInvalidFork,
			"fork run " + source + ": output of a step: invalid fork: run " + source + ` has no step "b"; the nearest of its 1 steps: "a"`,
		},
		"an output that is no JSON": {
			source, []client.ForkOption{client.FromStep("a"), client.Output("a", func() {})}, nil,
			"fork run " + source + `: encode the output of step "a": json: unsupported type: func()`,
		},
		"an input that is no JSON": {
			source, []client.ForkOption{client.Input(func() {})}, nil, "fork run " + source + ": encode the input: json: unsupported type: func()",
		},
		"an empty key": {source, []client.ForkOption{client.IdempotencyKey("")}, nil, "fork run " + source + ": the idempotency key is empty"},
		"an empty id":  {source, []client.ForkOption{client.ID("")}, nil, "fork run " + source + ": the id is empty"},
		"its own id": {
			source, []client.ForkOption{client.ID(source)}, client.ErrInvalidFork,
			"fork run " + source + ": invalid fork: run " + source + " cannot be its own fork: the new run needs another id",
		},
	} {
		fork, err := client.Fork[string](t.Context(), f.Client, c.run, c.options...)
		if err == nil || err.Error() != c.want || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v, %v\nwant %s", name, fork, err, c.want)
		}
	}
	f.expect(open, "status", "pending")
	if _, err := client.Retry[string](t.Context(), f.Client, open); !errors.Is(err, client.ErrNotEnded) {
		t.Errorf("retry of an open run: %v", err)
	}
}

func TestDryRun_StoresNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.ended()
	w := workflow.Define("wf", func(ctx context.Context, in order) (string, error) {
		for _, name := range []string{"a", "b"} {
			if _, err := step.Run(ctx, name, func(context.Context) (int, error) {
				t.Error("the function of a step was called")
				return 0, nil
			}); err != nil {
				return "", err
			}
		}
		return in.ID, nil
	})
	report := must[client.DryRunReport](t)(client.DryRun(t.Context(), f.Client, w, source, client.FromFailure()))
	want := client.DryRunReport{Kept: []string{"a"}, Next: []client.NextStep{{Name: "b", Kind: client.KindFunction}}}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	f.expect(source, "config", "{}")
	f.expect(source, "(SELECT count(*) FROM openworkflow.workflow_runs)", "1")
}

func TestDryRun_P7_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.ended()
	open := started(t)(client.Start(t.Context(), f.Client, plain, order{ID: "8"})).ID()
	nothing := func(context.Context, order) (string, error) { return "", nil }
	w := workflow.Define("wf", nothing)
	prefix := "dry run: fork run "
	for name, c := range map[string]struct {
		workflow *workflow.Workflow[order, string]
		run      string
		options  []client.ForkOption
		want     string
	}{
		"only declared": {plain, source, nil, prefix + source + ": the workflow is only declared in this program: a dry run needs its function"},
		"another workflow": {
			workflow.Define("other", nothing), source, nil, prefix + source + `: invalid fork: it is a run of workflow "wf", version ""`,
		},
		"no such run": {w, "missing", nil, prefix + "missing: workflow run does not exist"},
		"an open run": {w, open, nil, prefix + open + ": run " + open + " is pending: run has not ended"},
		"no such step": {
			w, source, []client.ForkOption{client.FromStep("b")},
			prefix + source + ": invalid fork: run " + source + ` has no step "b"; the nearest of its 1 steps: "a"`,
		},
		"two fork points": {
			w, source, []client.ForkOption{client.FromStep("a"), client.FromFailure()},
			prefix + source + ": invalid fork: a fork starts either from a named step or from the one that failed, not from both",
		},
	} {
		if report, err := client.DryRun(t.Context(), f.Client, c.workflow, c.run, c.options...); err == nil || err.Error() != c.want {
			t.Errorf("%s: %+v, %v\nwant %s", name, report, err, c.want)
		}
	}
}
