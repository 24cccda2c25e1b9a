// Command approval is a worker with one workflow that waits for the decision of a person: a
// signal, with a reminder and a timeout.
//
//	approval                          the worker
//	approval answer ORDER yes|no BY   sends the answer, from the same image:
//	                                  kubectl exec deploy/approval -- /approval answer order-1 yes ann
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/worker"
)

func main() {
	if len(os.Args) > 1 {
		if err := answer(context.Background(), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "approval:", err)
			os.Exit(1)
		}
		return
	}
	worker.Main(Approval(logOffice{}))
}

// answer sends an answer to the run that waits for it, and fails if there is none.
func answer(ctx context.Context, args []string) error {
	if len(args) != 4 || args[0] != "answer" || args[2] != "yes" && args[2] != "no" {
		return errors.New("usage: approval answer ORDER yes|no BY")
	}
	config, err := client.ConfigFromEnv()
	if err != nil {
		return err
	}
	c, err := client.Open(ctx, config)
	if err != nil {
		return err
	}
	defer c.Close()
	runs, err := c.Signal(ctx, approvalSignal(args[1]), Answer{Approved: args[2] == "yes", By: args[3]})
	if err == nil && len(runs) == 0 {
		err = fmt.Errorf("nobody waits for an answer on order %q", args[1])
	}
	return err
}

// logOffice is an office that only logs.
type logOffice struct{}

func (logOffice) Ask(_ context.Context, key string, order Order, reminder bool) error {
	slog.Info("Asked for approval", "order", order.OrderID, "approver", order.Approver, "reminder", reminder, "key", key)
	return nil
}

func (logOffice) Ship(_ context.Context, key string, order Order) error {
	slog.Info("Shipped", "order", order.OrderID, "key", key)
	return nil
}
