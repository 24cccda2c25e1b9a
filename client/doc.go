// Package client starts workflow runs from Go programs, and awaits, signals, cancels
// and looks at them. It needs a Postgres and a worker, but no Kubernetes.
//
// A worker is a program that implements workflows (packages workflow, step and worker).
// A client is any other program that knows the workflow's name and types: it imports
// the definition, or declares it.
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
// Start returns once the run is stored; from then on it will be executed, whatever
// crashes. Nobody needs to wait for the result: a later process gets it with Attach and
// the run's id.
//
// To start a run if and only if a transaction of your own commits, use StartTx.
//
// The tables are OpenWorkflow's, so runs that TypeScript programs start or execute are
// the same runs.
package client
