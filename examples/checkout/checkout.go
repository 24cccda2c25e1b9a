package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Order is the input of a checkout.
type Order struct {
	OrderID     string `json:"orderID"`
	AmountCents int64  `json:"amountCents"`
	Currency    string `json:"currency"`
	Email       string `json:"email"`
}

// Receipt is the output of a checkout.
type Receipt struct {
	OrderID string  `json:"orderID"`
	Charge  Charge  `json:"charge"`
	Message Message `json:"message"`
}

// Charge is a row of the payment ledger.
type Charge struct {
	ID  int64  `json:"id"`
	Pod string `json:"pod"`
}

// Message is a row of the mailbox.
type Message struct {
	ID  int64  `json:"id"`
	Pod string `json:"pod"`
}

// Shop is the outside world of the steps.
type Shop struct {
	Database *pgxpool.Pool
	// Pod is written to the ledger and the mailbox, to show which pod executed a step.
	Pod string
	// MailLatency is how long sending an email takes.
	MailLatency time.Duration
}

// Checkout returns the workflow "checkout": it charges the card and sends an email. A crash after
// the first step does not charge the card again.
func (s *Shop) Checkout() *workflow.Workflow[Order, Receipt] {
	return workflow.Define("checkout", func(ctx context.Context, order Order) (Receipt, error) {
		charge, err := step.Run(ctx, "charge-card", func(ctx context.Context) (Charge, error) {
			return s.charge(ctx, order)
		})
		if err != nil {
			return Receipt{}, err
		}
		message, err := step.Run(ctx, "send-email", func(ctx context.Context) (Message, error) {
			return s.send(ctx, order, charge)
		})
		if err != nil {
			return Receipt{}, err
		}
		return Receipt{OrderID: order.OrderID, Charge: charge, Message: message}, nil
	})
}

func (s *Shop) charge(ctx context.Context, order Order) (Charge, error) {
	if order.AmountCents <= 0 {
		return Charge{}, step.NonRetryable(fmt.Errorf("order %q: amountCents must be above 0, not %d", order.OrderID, order.AmountCents))
	}
	if err := s.createTables(ctx); err != nil {
		return Charge{}, err
	}
	charge := Charge{Pod: s.Pod}
	err := s.Database.QueryRow(ctx, `
		INSERT INTO checkout_ledger (order_id, run_id, amount_cents, currency, pod)
		VALUES ($1, $2, $3, $4, $5)
		RETURNING id`,
		order.OrderID, workflow.Info(ctx).ID, order.AmountCents, order.Currency, s.Pod,
	).Scan(&charge.ID)
	if err != nil {
		return Charge{}, fmt.Errorf("charge the card for order %q: %w", order.OrderID, err)
	}
	return charge, nil
}

func (s *Shop) send(ctx context.Context, order Order, charge Charge) (Message, error) {
	select {
	case <-time.After(s.MailLatency):
	case <-ctx.Done():
		return Message{}, context.Cause(ctx)
	}
	message := Message{Pod: s.Pod}
	err := s.Database.QueryRow(ctx, `
		INSERT INTO checkout_mailbox (recipient, subject, order_id, run_id, pod)
		VALUES ($1, $2, $3, $4, $5)
		RETURNING id`,
		order.Email, fmt.Sprintf("Your order %s, charge %d", order.OrderID, charge.ID),
		order.OrderID, workflow.Info(ctx).ID, s.Pod,
	).Scan(&message.ID)
	if err != nil {
		return Message{}, fmt.Errorf("send the email for order %q: %w", order.OrderID, err)
	}
	return message, nil
}

// createTables creates the tables if they are missing. The lock serializes workers that start
// at the same time.
func (s *Shop) createTables(ctx context.Context) error {
	var exist bool
	err := s.Database.QueryRow(ctx,
		`SELECT to_regclass('checkout_ledger') IS NOT NULL AND to_regclass('checkout_mailbox') IS NOT NULL`).Scan(&exist)
	if err == nil && !exist {
		_, err = s.Database.Exec(ctx, `
			SELECT pg_advisory_xact_lock(hashtextextended('checkout example tables', 0));
			CREATE TABLE IF NOT EXISTS checkout_ledger (
				id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
				order_id     text NOT NULL,
				run_id       text NOT NULL,
				amount_cents bigint NOT NULL,
				currency     text NOT NULL,
				pod          text NOT NULL,
				charged_at   timestamptz NOT NULL DEFAULT now()
			);
			CREATE TABLE IF NOT EXISTS checkout_mailbox (
				id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
				recipient text NOT NULL,
				subject   text NOT NULL,
				order_id  text NOT NULL,
				run_id    text NOT NULL,
				pod       text NOT NULL,
				sent_at   timestamptz NOT NULL DEFAULT now()
			)`)
	}
	if err != nil {
		return fmt.Errorf("create ledger and mailbox: %w", err)
	}
	return nil
}
