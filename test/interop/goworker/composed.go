package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// parentInput says which child to start.
type parentInput struct {
	Child   string
	Version string
	Input   json.RawMessage
	Timeout int
}

func (in parentInput) workflow() *workflow.Workflow[json.RawMessage, json.RawMessage] {
	var options []workflow.Option
	if in.Version != "" {
		options = append(options, workflow.Version(in.Version))
	}
	return workflow.Declare[json.RawMessage, json.RawMessage](in.Child, options...)
}

func (in parentInput) options() []step.WorkflowOption {
	options := []step.WorkflowOption{step.Name("child")}
	if in.Timeout > 0 {
		options = append(options, step.Timeout(milliseconds(in.Timeout)))
	}
	return options
}

// parentOutput is what became of it.
type parentOutput struct {
	One   string          `json:"one"`
	Child json.RawMessage `json:"child"`
	Last  string          `json:"last"`
}

type catchingOutput struct {
	Failure string `json:"failure"`
	Last    string `json:"last"`
}

type waiterInput struct {
	Signal       string
	Milliseconds *int
}

type waiterOutput struct {
	One      string          `json:"one"`
	Received bool            `json:"received"`
	Data     json.RawMessage `json:"data"`
	Last     string          `json:"last"`
}

type senderInput struct {
	Signal string
	Data   json.RawMessage
}

type senderOutput struct {
	One        string `json:"one"`
	Recipients int    `json:"recipients"`
	Last       string `json:"last"`
}

type listenerInput struct {
	Signal              string
	Waits, Milliseconds int
}

type listenerOutput struct {
	Received int `json:"received"`
}

type callerInput struct {
	Signals      []string
	First, Sends int
}

type callerOutput struct {
	Sent int `json:"sent"`
}

// composed are the workflows that have to do with other runs.
func (l *ledger) composed() []workflow.Definition {
	return []workflow.Definition{
		// parent has a child.
		workflow.Define("parent", func(ctx context.Context, in parentInput) (out parentOutput, err error) {
			if out.One, err = l.work(ctx, "one"); err != nil {
				return out, err
			}
			if out.Child, err = step.RunWorkflow(ctx, in.workflow(), in.Input, in.options()...); err != nil {
				return out, err
			}
			out.Last, err = l.work(ctx, "last")
			return out, err
		}),

		// catching has a child whose failure it returns.
		workflow.Define("catching", func(ctx context.Context, in parentInput) (out catchingOutput, err error) {
			_, err = step.RunWorkflow(ctx, in.workflow(), in.Input, in.options()...)
			failure, ok := errors.AsType[*step.Error](err)
			if !ok {
				return out, err
			}
			out.Failure = failure.Message
			out.Last, err = l.work(ctx, "last")
			return out, err
		}),

		// waiter waits for a signal.
		workflow.Define("waiter", func(ctx context.Context, in waiterInput) (out waiterOutput, err error) {
			if out.One, err = l.work(ctx, "one"); err != nil {
				return out, err
			}
			options := []step.SignalOption{step.Name("wait")}
			if in.Milliseconds != nil {
				options = append(options, step.Timeout(time.Duration(*in.Milliseconds)*time.Millisecond))
			}
			out.Data, out.Received, err = step.WaitForSignal[json.RawMessage](ctx, in.Signal, options...)
			if err != nil {
				return out, err
			}
			out.Last, err = l.work(ctx, "last")
			return out, err
		}),

		// sender sends one.
		workflow.Define("sender", func(ctx context.Context, in senderInput) (out senderOutput, err error) {
			if out.One, err = l.work(ctx, "one"); err != nil {
				return out, err
			}
			recipients, err := step.SendSignal(ctx, in.Signal, in.Data, step.Name("send"))
			if err != nil {
				return out, err
			}
			out.Recipients = len(recipients)
			out.Last, err = l.work(ctx, "last")
			return out, err
		}),

		// listener waits for a signal again and again. Most waits end by their timeouts.
		workflow.Define("listener", func(ctx context.Context, in listenerInput) (out listenerOutput, err error) {
			for i := range in.Waits {
				if _, err := l.work(ctx, fmt.Sprint("work ", i)); err != nil {
					return out, err
				}
				_, received, err := step.WaitForSignal[json.RawMessage](ctx, in.Signal,
					step.Name(fmt.Sprint("wait ", i)), step.Timeout(milliseconds(in.Milliseconds)))
				if err != nil {
					return out, err
				}
				if received {
					out.Received++
				}
			}
			return out, nil
		}),

		// caller sends many signals to listeners, and has a child now and then. It has a version
		// of its own, so that runs of both languages send at once.
		workflow.Define("caller", func(ctx context.Context, in callerInput) (out callerOutput, err error) {
			echo := workflow.Declare[int, int]("echo")
			for ; out.Sent < in.Sends; out.Sent++ {
				name := in.Signals[(in.First+out.Sent)%len(in.Signals)]
				if _, err := step.SendSignal(ctx, name, out.Sent, step.Name(fmt.Sprint("send ", out.Sent))); err != nil {
					return out, err
				}
				if out.Sent%5 == 4 {
					if _, err := step.RunWorkflow(ctx, echo, out.Sent, step.Name(fmt.Sprint("child ", out.Sent))); err != nil {
						return out, err
					}
				}
			}
			return out, nil
		}, workflow.Version("go")),
	}
}
