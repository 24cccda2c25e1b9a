package openworkflow

import (
	"encoding/json"
	"math"
	"time"
)

// RetryPolicy says whether and when to try again. The zero value retries at once, for ever.
// Start from DefaultStepPolicy or DefaultWorkflowPolicy.
type RetryPolicy struct {
	// InitialInterval is the delay after the first failure.
	InitialInterval time.Duration
	// BackoffCoefficient multiplies the delay after each further failure.
	BackoffCoefficient float64
	// MaximumInterval caps the delay.
	MaximumInterval time.Duration
	// MaximumAttempts includes the first try; 0 means no limit.
	MaximumAttempts int
}

var (
	// DefaultStepPolicy is the policy of a step without one (R93).
	DefaultStepPolicy = RetryPolicy{
		InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 100 * time.Second, MaximumAttempts: 10,
	}
	// DefaultWorkflowPolicy is the policy of a workflow without one: it fails at its first
	// error outside a step (R96).
	DefaultWorkflowPolicy = RetryPolicy{
		InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 100 * time.Second, MaximumAttempts: 1,
	}
)

// Delay returns how long to wait after the n-th failure (R95).
func (p RetryPolicy) Delay(n int) time.Duration {
	delay := float64(p.InitialInterval) * math.Pow(p.BackoffCoefficient, float64(max(0, n-1)))
	if math.IsNaN(delay) { // no interval times an infinite factor
		return 0
	}
	// Compared as floats: the product may exceed what a Duration holds.
	if delay >= float64(p.MaximumInterval) {
		return p.MaximumInterval
	}
	return time.Duration(delay)
}

// Decision says what a failure means for its run.
type Decision struct {
	// Retry is false when the run fails for good.
	Retry bool
	// At is when to retry or, without Retry, when the run failed, in whole milliseconds.
	At time.Time
	// Error is the run's error column.
	Error json.RawMessage
}

// Decide applies R100 to the n-th failure. A run fails if it is past its deadline, has used up
// its attempts, or could retry only after its deadline.
func Decide(p RetryPolicy, n int, deadline *time.Time, errPayload json.RawMessage, now time.Time) Decision {
	now = time.UnixMilli(now.UnixMilli()).UTC()
	failed := Decision{At: now, Error: errPayload}
	if deadline != nil && !now.Before(*deadline) {
		failed.Error = Error{Message: DeadlineMessage}.Encode()
		return failed
	}
	if p.MaximumAttempts > 0 && n >= p.MaximumAttempts {
		return failed
	}
	next := now.Add(p.Delay(n)).Truncate(time.Millisecond)
	if deadline != nil && !next.Before(*deadline) {
		return failed
	}
	return Decision{Retry: true, At: next, Error: errPayload}
}
