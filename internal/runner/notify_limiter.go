package runner

import (
	"context"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/wake"
)

// notifyLimiter bounds the rate of one kind of notification: at most one per
// minNotifyInterval, however many are requested. The first after a quiet time is sent at
// once. A lost notification costs a poll interval and nothing else.
type notifyLimiter struct {
	send     func(ctx context.Context) error
	requests wake.Flag

	mu       sync.Mutex
	earliest time.Time // when the next notification may be sent
}

const (
	minNotifyInterval = 5 * time.Millisecond
	notifyTimeout     = 2 * time.Second
)

func newNotifyLimiter(send func(ctx context.Context) error) *notifyLimiter {
	return &notifyLimiter{send: send, requests: wake.New()}
}

// request asks for a notification. It never blocks.
func (l *notifyLimiter) request() { l.requests.Set() }

// tryAcquire reports whether the caller may notify now, with the transaction that it is about
// to send. Otherwise it calls request once that transaction is committed.
func (l *notifyLimiter) tryAcquire() bool { return l.reserve() <= 0 }

// reserve returns 0 if the caller may notify now, else how long to wait before asking again.
func (l *notifyLimiter) reserve() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if wait := l.earliest.Sub(now); wait > 0 {
		return wait
	}
	l.earliest = now.Add(minNotifyInterval)
	return 0
}

// run sends requested notifications until ctx ends, and then one that is still requested.
func (l *notifyLimiter) run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-ctx.Done():
			select {
			case <-l.requests:
				l.notify(ctx, failed)
			default:
			}
			return
		case <-l.requests:
		}
		for wait := l.reserve(); wait > 0 && ctx.Err() == nil; wait = l.reserve() {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		l.notify(ctx, failed)
	}
}

func (l *notifyLimiter) notify(ctx context.Context, failed func(error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyTimeout)
	defer cancel()
	if err := l.send(ctx); err != nil {
		failed(err)
	}
}
