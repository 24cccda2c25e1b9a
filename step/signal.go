package step

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Signal is what has become of a wait for a signal.
type Signal[T any] struct {
	// Data is what was sent; the zero value when nothing was.
	Data T
	// Received is false when the timeout has passed.
	Received bool
}

// WaitForSignal waits until a signal of this name is sent, by [SendSignal], by package
// client or by OpenWorkflow in TypeScript, and returns what was sent with it. After the
// timeout (a calendar year, unless an option says otherwise) received is false. The run
// is parked meanwhile.
//
// Signals are not kept for those who come later: only runs that wait at the moment of
// sending get it, each once. Make the name unique where one run is meant, for example
// with an order's number. One run cannot wait for one signal in two steps at a time.
//
// The step has the name of the signal unless [Name] says otherwise.
func WaitForSignal[T any](ctx context.Context, signal string, options ...SignalOption) (data T, received bool, err error) {
	s, err := GoWaitForSignal[T](ctx, signal, options...).Await()
	return s.Data, s.Received, err
}

// GoWaitForSignal begins WaitForSignal without waiting. The signal can be delivered as
// soon as the next function step has begun, or the workflow waits for anything.
func GoWaitForSignal[T any](ctx context.Context, signal string, options ...SignalOption) *Future[Signal[T]] {
	call := durable.SignalWaitStep{Name: signal, Signal: signal, Timeout: defaultTimeout}
	for _, option := range options {
		option.signalWait(&call)
	}
	return startStep(ctx, call.Name, call, decodeSignal[T])
}

// decodeSignal decodes the output of a wait (R26).
func decodeSignal[T any](name string, output json.RawMessage) (Signal[T], error) {
	var s Signal[T]
	if len(output) == 0 {
		return s, nil
	}
	s.Received = true
	if err := json.Unmarshal(output, &s); err != nil {
		return s, NonRetryable(fmt.Errorf("decode what step %q received into %T: %w", name, s.Data, err))
	}
	return s, nil
}

// SendSignal sends a signal to all runs that wait for it at this moment, and returns
// their ids. It is sent once, whatever crashes.
//
// The step has the name of the signal unless [Name] says otherwise.
func SendSignal(ctx context.Context, signal string, data any, options ...SendOption) (runIDs []string, err error) {
	send := durable.SignalSend{Name: signal, Signal: signal}
	for _, option := range options {
		option.signalSend(&send)
	}
	execution, err := executionOf(ctx, send.Name)
	if err != nil {
		return nil, err
	}
	if send.Data, err = json.Marshal(data); err != nil {
		return nil, fmt.Errorf("step %q: encode the data: %w", send.Name, err)
	}
	runIDs, err = execution.SendSignal(send)
	return runIDs, authorError(err)
}
