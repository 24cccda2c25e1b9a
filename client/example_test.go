package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Greet and Approve are the workflows that the worker of these examples serves.
var (
	Greet = workflow.Define("greet", func(ctx context.Context, name string) (string, error) {
		if name == "" {
			return "", errors.New("nobody to greet")
		}
		return step.Run(ctx, "greet", func(context.Context) (string, error) { return "hello, " + name, nil })
	})
	Approve = workflow.Define("approve", func(ctx context.Context, order string) (string, error) {
		by, approved, err := step.WaitForSignal[string](ctx, "approval:"+order, step.Timeout(time.Hour))
		if err != nil || !approved {
			return "nobody approved", err
		}
		return "approved by " + by, nil
	})
	Ship = workflow.Define("ship", func(ctx context.Context, _ string) (string, error) {
		parcel, err := step.Run(ctx, "pack", func(context.Context) (string, error) {
			packed.Add(1)
			return "packed", nil
		})
		if err != nil {
			return "", err
		}
		return step.Run(ctx, "ship", func(context.Context) (string, error) {
			if !shipperHasCome.Load() {
				return "", step.NonRetryable(errors.New("the shipper is away"))
			}
			return parcel + " and shipped", nil
		})
	})
)

// What the steps of Ship do, and depend on.
var (
	packed         atomic.Int32
	shipperHasCome atomic.Bool
)

// Reports is a workflow that no worker of these examples serves.
var Reports = workflow.Declare[string, string]("reports")

func Example() {
	ctx := context.Background()
	config, err := client.ConfigFromEnv() // OPENWORKFLOW_POSTGRES_URL
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.Open(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	run, err := client.Start(ctx, c, Greet, "world")
	if err != nil {
		log.Fatal(err)
	}
	greeting, err := run.Result(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(greeting)
	// Output: hello, world
}

func ExampleOpen() {
	ctx := context.Background()
	config, err := client.ConfigFromEnv()
	if err != nil {
		log.Fatal(err)
	}
	config.NamespaceID = "tests"
	config.Migrate = true // create the tables if there are none
	c, err := client.Open(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	counts, err := c.Counts(ctx)
	fmt.Println(counts[client.Pending], err)
	// Output: 0 <nil>
}

func ExampleStart_idempotencyKey() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	for range 2 {
		run, err := client.Start(ctx, c, Greet, "customer", client.IdempotencyKey("order-1001"))
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(run.Existed())
	}
	// Output:
	// false
	// true
}

func ExampleStart_later() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	midnight := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
	run, err := client.Start(ctx, c, Reports, "daily",
		client.At(midnight), client.Deadline(midnight.Add(time.Hour)))
	if err != nil {
		log.Fatal(err)
	}
	row, err := c.Get(ctx, run.ID())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(row.Status, row.AvailableAt.Equal(midnight), row.DeadlineAt.Sub(row.AvailableAt))
	// Output: pending true 1h0m0s
}

func ExampleStartTx() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	db, err := pgx.Connect(ctx, os.Getenv("OPENWORKFLOW_POSTGRES_URL")) // the same database
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close(ctx)
	if _, err := db.Exec(ctx, `CREATE TABLE orders (customer text)`); err != nil {
		log.Fatal(err)
	}

	var run *client.Handle[string]
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO orders VALUES ('Ada')`); err != nil {
			return err
		}
		run, err = client.StartTx(ctx, c, tx, Greet, "Ada")
		return err
	})
	if err != nil {
		log.Fatal(err) // neither the order nor the run is there
	}
	c.Wake(ctx)
	fmt.Println(run.Result(ctx))
	// Output: hello, Ada <nil>
}

func ExampleStartBatch() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	started, err := client.StartBatch(ctx, c, Greet, []client.Item[string]{
		{Input: "Ada"},
		{Input: "Grace", Options: []client.StartOption{client.IdempotencyKey("grace")}},
		{Input: "a NUL is not for Postgres: \x00"},
	}, client.Deadline(time.Now().Add(time.Hour)))
	if err != nil {
		log.Fatal(err)
	}
	for _, run := range started {
		if run.Err != nil {
			fmt.Println("not started")
			continue
		}
		fmt.Println(run.Result(ctx))
	}
	// Output:
	// hello, Ada <nil>
	// hello, Grace <nil>
	// not started
}

func ExampleHandle_Result() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	run, err := client.Start(ctx, c, Greet, "")
	if err != nil {
		log.Fatal(err)
	}
	_, err = run.Result(ctx)
	if failed, ok := errors.AsType[*client.FailedError](err); ok {
		fmt.Println(failed.WorkflowName, "failed with", failed.Message)
	}
	// Output: greet failed with nobody to greet
}

func ExampleHandle_Result_timeout() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	run, err := client.Start(ctx, c, Reports, "never")
	if err != nil {
		log.Fatal(err)
	}
	soon, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = run.Result(soon)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleAttach() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := client.Start(ctx, c, Greet, "again", client.ID("greeting-7")); err != nil {
		log.Fatal(err)
	}

	// Another process, later:
	run := client.Attach[string](c, "greeting-7")
	fmt.Println(run.Result(ctx))
	// Output: hello, again <nil>
}

func ExampleClient_Get() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Greet, "reader")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := run.Result(ctx); err != nil {
		log.Fatal(err)
	}

	row, err := c.Get(ctx, run.ID())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s, %s → %s\n", row.WorkflowName, row.Status, row.Input, row.Output)

	_, err = c.Get(ctx, "no-such-run")
	fmt.Println(errors.Is(err, client.ErrNotFound))
	// Output:
	// greet: completed, "reader" → "hello, reader"
	// true
}

func ExampleClient_List() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	weekly := workflow.Declare[int, int]("weekly")
	for week := range 5 {
		if _, err := client.Start(ctx, c, weekly, week, client.ID(fmt.Sprint("week-", week))); err != nil {
			log.Fatal(err)
		}
	}

	filter := client.Filter{WorkflowName: "weekly", Status: client.Pending}
	for page := (client.Page{Limit: 2}); ; {
		list, err := c.List(ctx, filter, page)
		if err != nil {
			log.Fatal(err)
		}
		for _, run := range list.Runs {
			fmt.Println(run.ID)
		}
		fmt.Println("more:", list.Next != "")
		if page.After = list.Next; list.Next == "" {
			break
		}
	}
	// Output:
	// week-4
	// week-3
	// more: true
	// week-2
	// week-1
	// more: true
	// week-0
	// more: false
}

func ExampleClient_Steps() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Greet, "steps")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := run.Result(ctx); err != nil {
		log.Fatal(err)
	}

	list, err := c.Steps(ctx, run.ID(), client.Page{})
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range list.Steps {
		fmt.Println(s.Name, s.Kind, s.Status, string(s.Output))
	}
	// Output: greet function completed "hello, steps"
}

func ExampleClient_Counts() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	counts, err := c.Counts(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, status := range []client.Status{client.Pending, client.Running, client.Completed, client.Failed, client.Canceled} {
		_, there := counts[status]
		fmt.Println(status, there)
	}
	// Output:
	// pending true
	// running true
	// completed true
	// failed true
	// canceled true
}

func ExampleClient_Cancel() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Reports, "monthly")
	if err != nil {
		log.Fatal(err)
	}

	if err := c.Cancel(ctx, run.ID(), client.Cascade()); err != nil {
		log.Fatal(err)
	}
	_, err = run.Result(ctx)
	fmt.Println(errors.Is(err, client.ErrCanceled))
	// Output: true
}

func ExampleRetry() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Ship, "order 7")
	if err != nil {
		log.Fatal(err)
	}
	_, err = run.Result(ctx)
	fmt.Println(err)

	// The order is packed, and a shipper has come: only the step that failed is executed again.
	shipperHasCome.Store(true)
	retried, err := client.Retry[string](ctx, c, run.ID())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(retried.Result(ctx))
	fmt.Println("packed", packed.Load(), "time")
	// Output:
	// workflow "ship" failed: the shipper is away
	// packed and shipped <nil>
	// packed 1 time
}

func ExampleFork() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Greet, "Ada")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := run.Result(ctx); err != nil {
		log.Fatal(err)
	}

	rerun, err := client.Fork[string](ctx, c, run.ID(), client.Input("Grace"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(rerun.Result(ctx))
	corrected, err := client.Fork[string](ctx, c, run.ID(), client.FromStep("greet"), client.Output("greet", "good day"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(corrected.Result(ctx))
	_, err = client.Fork[string](ctx, c, run.ID(), client.FromStep("great"))
	fmt.Println(errors.Is(err, client.ErrInvalidFork))
	// Output:
	// hello, Grace <nil>
	// good day <nil>
	// true
}

func ExampleDryRun() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Greet, "Ada")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := run.Result(ctx); err != nil {
		log.Fatal(err)
	}

	// The next release calls another step first.
	next := workflow.Define("greet", func(ctx context.Context, name string) (string, error) {
		title, err := step.Run(ctx, "title", func(context.Context) (string, error) { return "Countess ", nil })
		if err != nil {
			return "", err
		}
		return step.Run(ctx, "greet", func(context.Context) (string, error) { return "hello, " + title + name, nil })
	})
	report, err := client.DryRun(ctx, c, next, run.ID(), client.FromStep("greet"), client.Output("greet", "good day"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("executes", report.Next)
	fmt.Println("does not ask for", report.NotAsked)
	// Output:
	// executes [{title function}]
	// does not ask for [greet]
}

func ExampleClient_Signal() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, Approve, "1001")
	if err != nil {
		log.Fatal(err)
	}

	// A signal reaches only runs that already wait for it: repeat it until there is one.
	for {
		recipients, err := c.Signal(ctx, "approval:1001", "Ada")
		if err != nil {
			log.Fatal(err)
		}
		if len(recipients) > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	fmt.Println(run.Result(ctx))
	// Output: approved by Ada <nil>
}

func ExampleClient_SignalBatch() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	recipients, err := c.SignalBatch(ctx, []client.Signal{
		{Name: "approval:1", Data: "Ada"},
		{Name: "approval:2", Data: "Grace", IdempotencyKey: "mail-7"},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, runs := range recipients {
		fmt.Println(len(runs), "runs were waiting")
	}
	// Output:
	// 0 runs were waiting
	// 0 runs were waiting
}
