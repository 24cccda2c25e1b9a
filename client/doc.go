// Package client starts workflow runs from Go programs. It also awaits, signals, cancels, forks,
// lists and reads runs. It needs Postgres and a worker, but no Kubernetes.
//
// A worker is a program that implements workflows (packages workflow, step and worker). A client
// is any program that knows the name and the types of a workflow: it imports the definition, or
// declares the workflow.
//
//	var Checkout = workflow.Declare[Order, Receipt]("checkout")
//
//	c, err := client.Open(ctx, client.Config{PostgresURL: "postgres://…", Migrate: true})
//	…
//	defer c.Close()
//
//	run, err := client.Start(ctx, c, Checkout, order, client.IdempotencyKey(order.ID))
//	…
//	receipt, err := run.Result(ctx)
//
// Start returns once the run is stored. Crashes after that do not lose the run. A program need
// not wait for the result: another process gets it later, with [Attach] and the run's id. To
// start a run if and only if a transaction of your own commits, use [StartTx].
//
// The tables are OpenWorkflow's: TypeScript programs can execute the runs that this package
// starts, and the other way round. Numbers such as R51 are rules of docs/openworkflow-rules.md.
package client
