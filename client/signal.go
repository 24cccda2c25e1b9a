package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// SignalOption is an option of [Client.Signal]. [IdempotencyKey] is one.
type SignalOption interface{ signal(s *store.Signal) error }

// Signal sends a signal to all runs that wait for its name now (step.WaitForSignal), and returns
// their ids. A signal is not kept for runs that wait later: if no run waits, the result is empty
// and the signal is lost (R104). The data is encoded with encoding/json.
func (c *Client) Signal(ctx context.Context, name string, data any, options ...SignalOption) (runIDs []string, err error) {
	signal := store.Signal{Name: name}
	for _, option := range options {
		if err := option.signal(&signal); err != nil {
			return nil, signalError(name, err)
		}
	}
	if signal.Data, err = json.Marshal(data); err != nil {
		return nil, signalError(name, fmt.Errorf("encode the data: %w", err))
	}
	recipients, err := c.send(ctx, []store.Signal{signal})
	if err != nil {
		return nil, signalError(name, err)
	}
	return recipients[0], nil
}

// Signal is one signal of [Client.SignalBatch].
type Signal struct {
	Name string
	Data any
	// IdempotencyKey is the key of the signal, as in [IdempotencyKey]. Empty: none.
	IdempotencyKey string
}

// SignalBatch sends signals in one transaction and returns the ids of the runs that each has
// reached, in the order of the signals. Of two signals with the same name only the first is
// delivered, because no run waits after it. If SignalBatch returns an error other than
// [ErrUnreachable], none was sent.
func (c *Client) SignalBatch(ctx context.Context, signals []Signal) (runIDs [][]string, err error) {
	sent := make([]store.Signal, len(signals))
	for i, signal := range signals {
		sent[i].Name = signal.Name
		if signal.IdempotencyKey != "" {
			sent[i].IdempotencyKey = &signal.IdempotencyKey
		}
		if sent[i].Data, err = json.Marshal(signal.Data); err != nil {
			return nil, signalError(signal.Name, fmt.Errorf("encode the data: %w", err))
		}
	}
	recipients, err := c.send(ctx, sent)
	if err != nil {
		return nil, fmt.Errorf("send %d signals: %w", len(signals), err)
	}
	return recipients, nil
}

// send sends signals, and notifies workers when a run received one.
func (c *Client) send(ctx context.Context, signals []store.Signal) (recipients [][]string, err error) {
	spans := make([]tracing.Span, len(signals))
	for i, signal := range signals {
		_, spans[i] = c.tracer.StartSignalSend(ctx, c.namespace, signal.Name)
	}
	recipients, err = bounded(ctx, func(ctx context.Context) ([][]string, error) {
		return c.store.SendSignals(ctx, signals)
	})
	reached := false
	for i, span := range spans {
		if err == nil {
			span.SetRecipients(len(recipients[i]))
			reached = reached || len(recipients[i]) > 0
		}
		span.End("", err)
	}
	if reached {
		c.due.notify(ctx)
	}
	return recipients, err
}

func signalError(name string, err error) error { return fmt.Errorf("send signal %q: %w", name, err) }
