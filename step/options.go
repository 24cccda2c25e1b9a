package step

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/workflow"
)

// Option changes how a function step is run.
type Option interface{ function(*durable.FunctionStep) }

// WorkflowOption changes how a child run is waited for.
type WorkflowOption interface{ workflow(*durable.WorkflowStep) }

// SignalOption changes how a signal is waited for.
type SignalOption interface {
	signalWait(*durable.SignalWaitStep)
}

// SendOption changes how a signal is sent.
type SendOption interface{ signalSend(*durable.SignalSend) }

type functionOption func(*durable.FunctionStep)

func (o functionOption) function(s *durable.FunctionStep) { o(s) }

// Retry sets how often and when the step is tried again after a failure. The
// default is 10 attempts, 1 s to 100 s apart.
func Retry(policy workflow.RetryPolicy) Option {
	return functionOption(func(s *durable.FunctionStep) {
		s.Retry = durable.MergeRetry(openworkflow.RetryPolicy(policy), openworkflow.DefaultStepPolicy)
	})
}

// MaxDuration bounds each attempt of a step: after d, the context that the function got
// ends. A function that returns an error then has failed, and is retried as after any
// other failure. One that heeds no context cannot be stopped, and is waited for.
func MaxDuration(d time.Duration) Option {
	return functionOption(func(s *durable.FunctionStep) { s.MaxDuration = d })
}

// NameOption is the option that Name returns.
type NameOption string

// Name sets the name of a step that would otherwise have that of its workflow or
// signal.
func Name(name string) NameOption { return NameOption(name) }

func (o NameOption) workflow(s *durable.WorkflowStep)     { s.Name = string(o) }
func (o NameOption) signalWait(s *durable.SignalWaitStep) { s.Name = string(o) }
func (o NameOption) signalSend(s *durable.SignalSend)     { s.Name = string(o) }

// TimeoutOption is the option that Timeout and TimeoutAt return.
type TimeoutOption struct{ at func(now time.Time) time.Time }

// Timeout sets how long to wait, from the first execution of the call on.
func Timeout(d time.Duration) TimeoutOption { return TimeoutOption{at: durationFromNow(d)} }

// TimeoutAt sets until when to wait.
func TimeoutAt(t time.Time) TimeoutOption {
	return TimeoutOption{at: func(time.Time) time.Time { return t }}
}

func (o TimeoutOption) workflow(s *durable.WorkflowStep)     { s.Timeout = o.at }
func (o TimeoutOption) signalWait(s *durable.SignalWaitStep) { s.Timeout = o.at }
