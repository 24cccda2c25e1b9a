package step

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/workflow"
)

// Option is an option of [Run], [Go] and [Map].
type Option interface{ function(*durable.FunctionStep) }

// WorkflowOption is an option of [RunWorkflow] and [GoWorkflow].
type WorkflowOption interface{ workflow(*durable.WorkflowStep) }

// SignalOption is an option of [WaitForSignal] and [GoWaitForSignal].
type SignalOption interface {
	signalWait(*durable.SignalWaitStep)
}

// SendOption is an option of [SendSignal].
type SendOption interface{ signalSend(*durable.SignalSend) }

type functionOption func(*durable.FunctionStep)

func (o functionOption) function(s *durable.FunctionStep) { o(s) }

// Retry sets how often a step is attempted, and the delays between the attempts. The default
// is 10 attempts, with delays from 1 s that double up to 100 s (R93).
func Retry(policy workflow.RetryPolicy) Option {
	return functionOption(func(s *durable.FunctionStep) {
		s.Retry = durable.MergeRetry(openworkflow.RetryPolicy(policy), openworkflow.DefaultStepPolicy)
	})
}

// MaxDuration limits each attempt of a step: after d, the context of its function ends. If the
// function then returns an error, the attempt has failed and is retried like any other. A
// function that ignores its context cannot be stopped: the step waits for it, and keeps its
// result. Zero or less means no limit.
func MaxDuration(d time.Duration) Option {
	return functionOption(func(s *durable.FunctionStep) { s.MaxDuration = d })
}

// NameOption is returned by [Name]. It is an option of child runs and signals.
type NameOption string

// Name sets the name of a step. Without it, the step has the name of its workflow or signal.
func Name(name string) NameOption { return NameOption(name) }

func (o NameOption) workflow(s *durable.WorkflowStep)     { s.Name = string(o) }
func (o NameOption) signalWait(s *durable.SignalWaitStep) { s.Name = string(o) }
func (o NameOption) signalSend(s *durable.SignalSend)     { s.Name = string(o) }

// TimeoutOption is returned by [Timeout] and [TimeoutAt]. It is an option of waits for child
// runs and signals.
type TimeoutOption struct{ at func(now time.Time) time.Time }

// Timeout sets how long to wait, counted from the first execution of the call. Default: one
// calendar year (R34).
func Timeout(d time.Duration) TimeoutOption { return TimeoutOption{at: durationFromNow(d)} }

// TimeoutAt sets the instant at which to stop waiting. The first execution of the call stores
// it; a later change does not move it.
func TimeoutAt(t time.Time) TimeoutOption {
	return TimeoutOption{at: func(time.Time) time.Time { return t }}
}

func (o TimeoutOption) workflow(s *durable.WorkflowStep)     { s.Timeout = o.at }
func (o TimeoutOption) signalWait(s *durable.SignalWaitStep) { s.Timeout = o.at }
