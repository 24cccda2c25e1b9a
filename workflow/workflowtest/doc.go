// Package workflowtest executes workflows in "go test" without Postgres, without Kubernetes,
// and without waiting for sleeps.
//
//	func TestCheckout(t *testing.T) {
//		env := workflowtest.New(t, Checkout, PrintLabel)
//		env.FailStep("charge-card", errors.New("card network is down"))
//		env.Signal("approval:1", Approval{By: "ann"})
//
//		receipt, err := workflowtest.Start(env, Checkout, Order{ID: "1"}).Result()
//		if err != nil || receipt.ApprovedBy != "ann" {
//			t.Fatal(receipt, err)
//		}
//	}
//
// An environment is the worker of production on a store in memory, which passes the same tests
// as the store on Postgres. Its clock jumps: while a call of Result waits and every run waits
// too, the clock moves to the next instant at which a run is due. A workflow that sleeps for a
// month is tested in milliseconds.
//
// Tests can make steps fail and replace their functions, send signals, and kill the worker:
// CrashBefore and CrashAfter at one step, CrashEverywhere at each write in turn.
// CrashEverywhere also finds code between steps that is not deterministic. [Replay] finds out whether
// the code still follows the history of an exported run.
package workflowtest
