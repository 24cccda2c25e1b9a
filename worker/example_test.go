package worker_test

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/worker"
	"github.com/openworkflow-operator/operator/workflow"
)

var greet = workflow.Define("greet", func(ctx context.Context, name string) (string, error) {
	return step.Run(ctx, "greet", func(context.Context) (string, error) { return "hello, " + name, nil })
})

// This is a whole worker program. OPENWORKFLOW_POSTGRES_URL names the database; in a
// WorkerPool the manager sets it.
func ExampleMain() {
	worker.Main(greet)
}

// A program that does other things too, such as starting runs.
func ExampleRun() {
	ctx, stop := context.WithCancel(context.Background())
	config, err := worker.ConfigFromEnv() // OPENWORKFLOW_POSTGRES_URL
	if err != nil {
		log.Fatal(err)
	}
	config.Logger = slog.New(slog.DiscardHandler)
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx, config, greet) }()

	c, err := client.Open(ctx, client.Config{PostgresURL: config.PostgresURL})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, greet, "ada")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(run.Result(ctx))

	stop() // running steps end, other workers continue the runs
	fmt.Println("the worker has ended:", <-ended)
	// Output:
	// hello, ada <nil>
	// the worker has ended: <nil>
}

func ExampleConfigFromEnv() {
	before := os.Getenv("OPENWORKFLOW_CONCURRENCY")
	defer os.Setenv("OPENWORKFLOW_CONCURRENCY", before) //nolint:errcheck // the name is a valid one
	_ = os.Setenv("OPENWORKFLOW_CONCURRENCY", "many")
	_, err := worker.ConfigFromEnv()
	fmt.Println(err)
	// Output: OPENWORKFLOW_CONCURRENCY is "many": it must be a positive whole number
}
