package main

import (
	"context"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Order is the input of an approval.
type Order struct {
	OrderID     string `json:"orderID"`
	AmountCents int64  `json:"amountCents"`
	// Approver is the person who decides.
	Approver string `json:"approver"`
}

// Answer is the approver's decision, the data of the signal approvalSignal.
type Answer struct {
	Approved bool   `json:"approved"`
	By       string `json:"by"`
}

// Decision is the output of an approval.
type Decision struct {
	OrderID string `json:"orderID"`
	// Status is shipped, rejected or expired.
	Status string `json:"status"`
	// By is the person who answered; empty if nobody did, or if no approval was needed.
	By string `json:"by,omitempty"`
}

// Office is the outside world of the steps.
type Office interface {
	// Ask asks the approver, once for each key, however often it is called.
	Ask(ctx context.Context, key string, order Order, reminder bool) error
	// Ship sends the order to the warehouse, once for each key.
	Ship(ctx context.Context, key string, order Order) error
}

const (
	approvalLimit = 100_00         // orders below this amount need no approval
	answerTimeout = 48 * time.Hour // how long the approver has to answer
	reminderDelay = 24 * time.Hour // when the approver is reminded
)

// approvalSignal is the name of the signal with the answer for an order.
func approvalSignal(orderID string) string { return "approval:" + orderID }

// Approval returns the workflow "approval". It asks for the approval of a large order, waits up
// to two days for the answer, reminds the approver after one day, and ships an approved order.
// A run that waits occupies no worker.
func Approval(office Office) *workflow.Workflow[Order, Decision] {
	return workflow.Define("approval", func(ctx context.Context, order Order) (Decision, error) {
		decision := Decision{OrderID: order.OrderID}
		if order.AmountCents >= approvalLimit {
			answer, received, err := ask(ctx, office, order)
			decision.By = answer.By
			switch {
			case err != nil:
				return decision, err
			case !received:
				decision.Status = "expired"
				return decision, nil
			case !answer.Approved:
				decision.Status = "rejected"
				return decision, nil
			}
		}
		err := do(ctx, "ship", func(ctx context.Context, key string) error {
			return office.Ship(ctx, key, order)
		})
		decision.Status = "shipped"
		return decision, err
	})
}

// ask asks the approver and returns the answer, or received as false after the timeout.
func ask(ctx context.Context, office Office, order Order) (answer Answer, received bool, err error) {
	// A signal is not kept for runs that wait later, so start the wait before anybody can
	// answer.
	waiting := step.GoWaitForSignal[Answer](ctx, approvalSignal(order.OrderID), step.Timeout(answerTimeout))
	err = do(ctx, "ask", func(ctx context.Context, key string) error {
		return office.Ask(ctx, key, order, false)
	})
	if err != nil {
		return answer, false, err
	}
	first, err := step.Select(ctx, "answer or reminder", waiting, step.GoSleep(ctx, "a day", reminderDelay))
	if err != nil {
		return answer, false, err
	}
	if first == 1 {
		err := do(ctx, "remind", func(ctx context.Context, key string) error {
			return office.Ask(ctx, key, order, true)
		})
		if err != nil {
			return answer, false, err
		}
	}
	signal, err := waiting.Await()
	return signal.Data, signal.Received, err
}

// do is step.Run for a function without a result. The key is the same at each attempt, so that
// the other system can recognize a repetition.
func do(ctx context.Context, name string, fn func(ctx context.Context, key string) error) error {
	_, err := step.Run(ctx, name, func(ctx context.Context) (any, error) {
		return nil, fn(ctx, workflow.Info(ctx).ID+" "+name)
	})
	return err
}
