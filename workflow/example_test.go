package workflow_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

func Example() {
	type order struct {
		ID     string `json:"id"`
		Amount int    `json:"amount"`
	}
	type receipt struct {
		Charge, Email string
	}
	checkout := workflow.Define("checkout", func(ctx context.Context, in order) (receipt, error) {
		var r receipt
		var err error
		r.Charge, err = step.Run(ctx, "charge-card", func(context.Context) (string, error) {
			return fmt.Sprintf("charged %d for %s", in.Amount, in.ID), nil
		})
		if err != nil {
			return r, err
		}
		r.Email, err = step.Run(ctx, "send-email", func(context.Context) (string, error) {
			return "email sent", nil
		})
		return r, err
	})
	env := workflowtest.New(workflowtest.ForExample(), checkout)
	fmt.Println(workflowtest.Start(env, checkout, order{ID: "1001", Amount: 42}).Result())
	// Output: {charged 42 for 1001 email sent} <nil>
}

func ExampleDefine() {
	greet := workflow.Define("greet", func(ctx context.Context, name string) (string, error) {
		return step.Run(ctx, "greet", func(context.Context) (string, error) { return "hello, " + name, nil })
	})
	env := workflowtest.New(workflowtest.ForExample(), greet)
	fmt.Println(workflowtest.Start(env, greet, "ada").Result())
	// Output: hello, ada <nil>
}

// The workflow is implemented by another program, in Go or TypeScript.
func ExampleDeclare() {
	resize := workflow.Declare[string, string]("resize-image", workflow.Version("2"))
	fmt.Println(resize.Name(), resize.Version())
	// Output: resize-image 2
}

// A run keeps the version that it was started with. Serve both versions until the last run of
// the old one has ended.
func ExampleVersion() {
	v1 := workflow.Define("greet", func(_ context.Context, name string) (string, error) {
		return "hello, " + name, nil
	})
	v2 := workflow.Define("greet", func(_ context.Context, name string) (string, error) {
		return "good morning, " + name, nil
	}, workflow.Version("2"))
	env := workflowtest.New(workflowtest.ForExample(), v1, v2)
	fmt.Println(workflowtest.Start(env, v1, "ada").Result())
	fmt.Println(workflowtest.Start(env, v2, "ada").Result())
	// Output:
	// hello, ada <nil>
	// good morning, ada <nil>
}

// Errors outside steps are retried by the policy of the workflow. Completed steps are not
// executed again.
func ExampleRetry() {
	charges, attempts := 0, 0
	pay := workflow.Define("pay", func(ctx context.Context, _ any) (int, error) {
		_, err := step.Run(ctx, "charge", func(context.Context) (any, error) {
			charges++
			return nil, nil
		})
		if err != nil {
			return 0, err
		}
		if attempts++; attempts < 3 {
			return 0, errors.New("not yet")
		}
		return attempts, nil
	}, workflow.Retry(workflow.RetryPolicy{MaximumAttempts: 3, InitialInterval: time.Minute}))
	env := workflowtest.New(workflowtest.ForExample(), pay)
	fmt.Println(workflowtest.Start(env, pay, nil).Result())
	fmt.Println("charges:", charges)
	// Output:
	// 3 <nil>
	// charges: 1
}

func ExampleStepLimit() {
	endless := workflow.Define("endless", func(ctx context.Context, _ any) (any, error) {
		for {
			if _, err := step.Run(ctx, "again", func(context.Context) (any, error) { return nil, nil }); err != nil {
				return nil, err
			}
		}
	}, workflow.StepLimit(10))
	env := workflowtest.New(workflowtest.ForExample(), endless)
	_, err := workflowtest.Start(env, endless, nil).Result()
	fmt.Println(err)
	// Output: workflow "endless" failed: Exceeded the step limit of 10 attempts (current count: 10)
}

// The id of the run and the name of a step make an idempotency key for another system.
func ExampleInfo() {
	pay := workflow.Define("pay", func(ctx context.Context, _ any) (bool, error) {
		run := workflow.Info(ctx).ID
		return step.Run(ctx, "charge", func(ctx context.Context) (bool, error) {
			key := workflow.Info(ctx).ID + "/charge" // works in steps too
			return key == run+"/charge", nil
		})
	})
	env := workflowtest.New(workflowtest.ForExample(), pay)
	fmt.Println(workflowtest.Start(env, pay, nil).Result())
	// Output: true <nil>
}

// A run whose input does not decode fails at once with an error that names the field.
func ExampleInputError() {
	type order struct {
		Amount int `json:"amount"`
	}
	pay := workflow.Define("pay", func(_ context.Context, in order) (int, error) { return in.Amount, nil })
	anything := workflow.Declare[any, int]("pay")
	env := workflowtest.New(workflowtest.ForExample(), pay)
	_, err := workflowtest.Start(env, anything, any(map[string]any{"amount": "ten"})).Result()
	fmt.Println(err)
	// Output: workflow "pay" failed: input field "amount" must be int, not a JSON string
}
