package workflowtest_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// progress is what the workflow of these tests publishes.
type progress struct{ Done, Of int }

func counting(n int) *workflow.Workflow[string, string] {
	return workflow.Define("counting", func(ctx context.Context, _ string) (string, error) {
		for i := range n {
			if _, err := step.Run(ctx, "one", func(context.Context) (int, error) { return i, nil }); err != nil {
				return "", err
			}
			if err := workflow.SetState(ctx, progress{i + 1, n}); err != nil {
				return "", err
			}
			if err := step.Sleep(ctx, "pause", time.Hour); err != nil {
				return "", err
			}
		}
		return "counted", nil
	})
}

func TestRun_StateIsWhatWasPublishedLast(t *testing.T) {
	t.Parallel()
	w := counting(3)
	env := workflowtest.New(t, w)
	run := workflowtest.Start(env, w, "")
	if _, err := run.Result(); err != nil {
		t.Fatal(err)
	}
	var got progress
	if !run.State(&got) || got != (progress{3, 3}) {
		t.Errorf("state is %+v", got)
	}
	silent := workflow.Define("silent", func(context.Context, string) (string, error) { return "", nil })
	env = workflowtest.New(t, silent)
	none := workflowtest.Start(env, silent, "")
	if _, err := none.Result(); err != nil || none.State(&got) {
		t.Errorf("a run that publishes nothing: %+v, %v", got, err)
	}
}

func TestSetState_SurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	w := counting(2)
	workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) { workflowtest.Start(env, w, "") }, w)
}

func TestSetState_P7_RefusesWithAMessage(t *testing.T) {
	t.Parallel()
	if err := workflow.SetState(t.Context(), 1); err == nil || err.Error() != "workflow.SetState: the context is not a workflow's" {
		t.Errorf("outside: %v", err)
	}
	for want, call := range map[string]func(ctx context.Context) error{
		`workflow.SetState: the value has 16385 bytes of JSON, more than 16384`: func(ctx context.Context) error {
			return workflow.SetState(ctx, strings.Repeat("x", 16383))
		},
		`workflow.SetState: the JSON of the value is not valid UTF-8`: func(ctx context.Context) error {
			return workflow.SetState(ctx, json.RawMessage("\"caf\xe9\""))
		},
		`workflow.SetState: encode the value: json: unsupported type: chan int`: func(ctx context.Context) error {
			return workflow.SetState(ctx, make(chan int))
		},
		`workflow.SetState inside step "inside": call it in the workflow's function`: func(ctx context.Context) error {
			_, err := step.Run(ctx, "inside", func(ctx context.Context) (any, error) { return nil, workflow.SetState(ctx, 1) },
				step.Retry(workflow.RetryPolicy{MaximumAttempts: 1}))
			return err
		},
	} {
		w := workflow.Define("bad", func(ctx context.Context, _ string) (string, error) { return "", call(ctx) })
		env := workflowtest.New(t, w)
		if _, err := workflowtest.Start(env, w, "").Result(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %s", err, want)
		}
	}
}
