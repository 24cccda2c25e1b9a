package step

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// Signal is the result of a wait for a signal.
type Signal[T any] struct {
	// Data is what was sent with the signal, or the zero value.
	Data T
	// Received is false when the timeout passed first.
	Received bool
}

// WaitForSignal parks the run until a signal of this name is sent, and returns the data that was
// sent. The sender may be [SendSignal], package client or OpenWorkflow in TypeScript. When the
// timeout passes first (default: one calendar year), received is false and err is nil.
//
// A signal reaches the runs that wait for its name at the moment of sending, each once. It is
// not kept for runs that wait later (R104), unless it is a WorkflowSignal. To reach one run, make the name unique, for
// example with the number of an order. One run cannot wait for the same signal in two steps
// at a time.
//
// The options are [Timeout], [TimeoutAt] and [Name]; the step has the name of the signal by
// default.
func WaitForSignal[T any](ctx context.Context, signal string, options ...SignalOption) (data T, received bool, err error) {
	s, err := GoWaitForSignal[T](ctx, signal, options...).Await()
	return s.Data, s.Received, err
}

// GoWaitForSignal is [WaitForSignal] without waiting. The wait is stored, and can receive
// the signal, when the next step's function is called or when the workflow waits for
// anything. So start the wait before the step that asks for the signal.
func GoWaitForSignal[T any](ctx context.Context, signal string, options ...SignalOption) *Future[Signal[T]] {
	call := durable.SignalWaitStep{Name: signal, Signal: signal, Timeout: defaultTimeout}
	for _, option := range options {
		option.signalWait(&call)
	}
	return startStep(ctx, call.Name, call, decodeSignal[T])
}

// decodeSignal decodes the stored output of a wait (R26).
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

// SendSignal sends a signal to all runs that wait for its name now, and returns their ids;
// none is no error. Crashes do not send it twice. The data is encoded with encoding/json.
//
// The step has the name of the signal unless [Name] sets another.
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
