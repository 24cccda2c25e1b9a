package step_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

type declinedError struct{}

func (declinedError) Error() string { return "declined" }

// failing fails with an error of a type that has a name.
func failing(context.Context) (any, error) { return nil, step.NonRetryable(declinedError{}) }

// TestError_IsFoundWhereverAStepFails: at the first execution and after a replay, for each
// kind of call.
func TestError_IsFoundWhereverAStepFails(t *testing.T) {
	t.Parallel()
	child := workflow.Define("child", func(ctx context.Context, _ any) (any, error) { return step.Run(ctx, "inner", failing) })
	calls := map[string]struct {
		call func(ctx context.Context) error
		want step.Error
	}{
		"Run": {
			call: func(ctx context.Context) error { return second(step.Run(ctx, "a", failing)) },
			want: step.Error{Step: "a", Name: "declinedError", Message: "declined"},
		},
		"Go": {
			call: func(ctx context.Context) error { return second(step.Go(ctx, "a", failing).Await()) },
			want: step.Error{Step: "a", Name: "declinedError", Message: "declined"},
		},
		"Map": {
			call: func(ctx context.Context) error {
				return second(step.Map(ctx, "a", []int{1}, 0, func(ctx context.Context, _ int) (any, error) { return failing(ctx) }))
			},
			want: step.Error{Step: "a", Name: "declinedError", Message: "declined"},
		},
		"RunWorkflow": {
			call: func(ctx context.Context) error { return second(step.RunWorkflow(ctx, child, nil, step.Name("c"))) },
			want: step.Error{Step: "c", Name: "declinedError", Message: "declined"},
		},
	}
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen []step.Error
			w := workflow.Define("parent", func(ctx context.Context, _ any) (string, error) {
				failed, ok := errors.AsType[*step.Error](c.call(ctx))
				if !ok {
					return "", errors.New("not a step.Error")
				}
				seen = append(seen, *failed)
				return failed.Error(), step.Sleep(ctx, "replay", time.Hour)
			})
			out, err := workflowtest.Start(workflowtest.New(t, w, child), w, nil).Result()
			if want := fmt.Sprintf("step %q failed: declined", c.want.Step); out != want || err != nil {
				t.Errorf("%q, %v, want %q", out, err, want)
			}
			if len(seen) < 2 {
				t.Fatalf("%d executions, want a replay", len(seen))
			}
			for _, got := range seen {
				if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(step.Error{})); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// TestError_R77_AWorkflowThatReturnsItFails: passed on as it is, it keeps name and text of the
// step's error; wrapped, it has a text of its own. Neither is retried.
func TestError_R77_AWorkflowThatReturnsItFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wrap func(error) error
		want workflowtest.Error
	}{
		"as it is": {
			wrap: func(err error) error { return err },
			want: workflowtest.Error{Workflow: "w", Name: "declinedError", Message: "declined"},
		},
		"wrapped": {
			wrap: func(err error) error { return fmt.Errorf("pay: %w", err) },
			want: workflowtest.Error{Workflow: "w", Name: "StepError", Message: `pay: step "a" failed: declined`},
		},
		"made by hand": {
			wrap: func(error) error { return &step.Error{Step: "b", Name: "OtherError", Message: "other"} },
			want: workflowtest.Error{Workflow: "w", Name: "OtherError", Message: "other"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			executions := 0
			w := workflow.Define("w", func(ctx context.Context, _ any) (any, error) {
				executions++
				return nil, c.wrap(second(step.Run(ctx, "a", failing)))
			}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 5}))
			_, err := workflowtest.Start(workflowtest.New(t, w), w, nil).Result()
			failed, ok := errors.AsType[*workflowtest.Error](err)
			if !ok || executions != 1 {
				t.Fatalf("%v after %d executions, want a failure after one", err, executions)
			}
			if diff := cmp.Diff(c.want, *failed); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }
