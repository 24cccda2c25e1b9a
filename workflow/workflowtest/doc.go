// Package workflowtest executes workflows in a plain "go test": without Postgres,
// without Kubernetes, and without waiting.
//
//	func TestCheckout(t *testing.T) {
//		env := workflowtest.New(t, Checkout, PrintLabel)
//		env.FailStep("charge-card", errors.New("card network is down"))
//		env.Signal("approval:1", Approval{By: "ann"})
//
//		receipt, err := workflowtest.Start(env, Checkout, Order{ID: "1"}).Result()
//		…
//	}
//
// The worker is the one of production, on a store in memory that keeps to the same
// rules. Its clock is its own: whenever every run of the environment waits, it jumps to
// the next instant at which one of them goes on. A workflow that sleeps for a month
// is tested in a millisecond.
//
// Workers can be killed: CrashBefore and CrashAfter do it at one step, CrashEverywhere
// at each write in turn. Within a workflow's function, what happens between steps must
// be the same at every execution; CrashEverywhere is the test for that.
package workflowtest
