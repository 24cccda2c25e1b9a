// Package backoff spaces out retries: exponential delays with jitter.
package backoff

import (
	"context"
	"math/rand/v2"
	"time"
)

// Policy is an exponential backoff. The nth delay is First × 2^(n-1), at most Max, less a
// random part of up to a quarter, so that callers that failed together do not retry
// together. Both must be positive. A Policy has no state: the caller counts its attempts.
type Policy struct {
	First, Max time.Duration
}

// Delay returns how long to wait before the nth retry in a row, counted from 1. Lower
// numbers count as 1.
func (p Policy) Delay(n int) time.Duration {
	d := min(p.First, p.Max)
	for ; n > 1 && d < p.Max; n-- {
		if d > p.Max/2 {
			d = p.Max
		} else {
			d *= 2
		}
	}
	return Jitter(d)
}

// Wait sleeps for Delay(n) or until ctx ends, and returns ctx's error then.
func (p Policy) Wait(ctx context.Context, n int) error {
	timer := time.NewTimer(p.Delay(n))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Jitter returns d less a random part of up to a quarter.
func Jitter(d time.Duration) time.Duration {
	return d - rand.N(d/4+1)
}
