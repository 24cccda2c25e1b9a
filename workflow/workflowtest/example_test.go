package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// order is a workflow with a step, a sleep and a signal.
var order = workflow.Define("order", func(ctx context.Context, id string) (string, error) {
	charge, err := step.Run(ctx, "charge-card", func(context.Context) (string, error) {
		return "charged for " + id, nil
	})
	if err != nil {
		return "", err
	}
	if err := step.Sleep(ctx, "cool-off", 24*time.Hour); err != nil {
		return "", err
	}
	by, approved, err := step.WaitForSignal[string](ctx, "approval:"+id, step.Timeout(7*24*time.Hour))
	if err != nil || !approved {
		return charge + ", not approved", err
	}
	return charge + ", approved by " + by, nil
})

// t stands for the *testing.T of a test.
var t = workflowtest.ForExample()

func ExampleNew() {
	env := workflowtest.New(t, order)
	env.Signal("approval:1001", "ann")
	fmt.Println(workflowtest.Start(env, order, "1001").Result())
	// Output: charged for 1001, approved by ann <nil>
}

// No signal is sent: the clock jumps to the end of the timeout.
func ExampleStart() {
	env := workflowtest.New(t, order)
	started := env.Now()
	run := workflowtest.Start(env, order, "1001")
	fmt.Println(run.Result())
	fmt.Println(env.Now().Sub(started).Round(time.Hour))
	// Output:
	// charged for 1001, not approved <nil>
	// 192h0m0s
}

func ExampleDeadline() {
	env := workflowtest.New(t, order)
	_, err := workflowtest.Start(env, order, "1001", workflowtest.Deadline(time.Hour)).Result()
	fmt.Println(errors.Is(err, workflow.ErrDeadlineExceeded))
	// Output: true
}

func ExampleRun_Steps() {
	env := workflowtest.New(t, order)
	env.Signal("approval:1001", "ann")
	run := workflowtest.Start(env, order, "1001")
	_, _ = run.Result()
	for _, s := range run.Steps() {
		fmt.Println(s)
	}
	// Output:
	// charge-card completed: "charged for 1001"
	// cool-off completed
	// approval:1001 completed: {"data": "ann"}
}

func ExampleRun_Cancel() {
	env := workflowtest.New(t, order)
	run := workflowtest.Start(env, order, "1001")
	run.Cancel()
	_, err := run.Result()
	fmt.Println(errors.Is(err, workflow.ErrCanceled))
	// Output: true
}

// The signal comes a minute after the wait has timed out.
func ExampleEnv_SignalAfter() {
	env := workflowtest.New(t, order)
	env.SignalAfter(8*24*time.Hour+time.Minute, "approval:1001", "ann")
	fmt.Println(workflowtest.Start(env, order, "1001").Result())
	// Output: charged for 1001, not approved <nil>
}

func ExampleMockStep() {
	env := workflowtest.New(t, order)
	workflowtest.MockStep(env, "charge-card", func(context.Context) (string, error) { return "free", nil })
	fmt.Println(workflowtest.Start(env, order, "1001").Result())
	// Output: free, not approved <nil>
}

func ExampleEnv_FailStep() {
	env := workflowtest.New(t, order)
	env.FailStep("charge-card", errors.New("timeout"), step.NonRetryable(errors.New("card declined")))
	run := workflowtest.Start(env, order, "1001")
	_, err := run.Result()
	fmt.Println(err)
	for _, s := range run.Steps() {
		fmt.Println(s)
	}
	// Output:
	// workflow "order" failed: card declined
	// charge-card failed: timeout
	// charge-card (attempt 2) failed: card declined
}

// The function of a step is called again after a crash: an idempotency key makes that
// harmless.
func ExampleEnv_CrashBefore() {
	charges := map[string]bool{}
	charge := workflow.Define("charge", func(ctx context.Context, _ string) (int, error) {
		return step.Run(ctx, "charge-card", func(ctx context.Context) (int, error) {
			fmt.Println("calling")
			charges[workflow.Info(ctx).ID+"/charge-card"] = true
			return len(charges), nil
		})
	})
	env := workflowtest.New(t, charge)
	env.CrashBefore("charge-card")
	fmt.Println(workflowtest.Start(env, charge, "1001").Result())
	// Output:
	// calling
	// calling
	// 1 <nil>
}

func ExampleEnv_CrashAfter() {
	charge := workflow.Define("charge", func(ctx context.Context, id string) (string, error) {
		return step.Run(ctx, "charge-card", func(context.Context) (string, error) {
			fmt.Println("calling")
			return "charged for " + id, nil
		})
	})
	env := workflowtest.New(t, charge)
	env.CrashAfter("charge-card")
	fmt.Println(workflowtest.Start(env, charge, "1001").Result())
	// Output:
	// calling
	// charged for 1001 <nil>
}

func ExampleCrashEverywhere() {
	workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
		env.Signal("approval:1001", "ann")
		out, err := workflowtest.Start(env, order, "1001").Result()
		if err != nil || out != "charged for 1001, approved by ann" {
			fmt.Println(out, err)
		}
	}, order)
	fmt.Println("the same each time")
	// Output: the same each time
}
