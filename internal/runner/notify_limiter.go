package runner

import (
	"context"
	"sync"
	"time"
)

// notifyLimiter bounds the rate of one kind of notification: at most one per
// minNotifyInterval, however many are requested. The first after a quiet time is sent at
// once. A lost notification costs a poll interval and nothing else.
type notifyLimiter struct {
	send     func(ctx context.Context) error
	requests chan struct{}

	mu       sync.Mutex
	earliest time.Time // when the next notification may be sent
}

const (
	minNotifyInterval = 5 * time.Millisecond
	notifyTimeout     = 2 * time.Second
)

func newNotifyLimiter(send func(ctx context.Context) error) *notifyLimiter {
	return &notifyLimiter{send: send, requests: make(chan struct{}, 1)}
}

// request asks for a notification. It never blocks.
func (h *notifyLimiter) request() {
	select {
	case h.requests <- struct{}{}:
	default:
	}
}

// tryAcquire reports whether the caller may notify now, with the transaction that it is about
// to send. Otherwise it calls request once that transaction is committed.
func (h *notifyLimiter) tryAcquire() bool { return h.reserve() <= 0 }

// reserve returns 0 if the caller may notify now, else how long to wait before asking again.
func (h *notifyLimiter) reserve() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if wait := h.earliest.Sub(now); wait > 0 {
		return wait
	}
	h.earliest = now.Add(minNotifyInterval)
	return 0
}

// run sends requested notifications until ctx ends, and then one that is still requested.
func (h *notifyLimiter) run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-ctx.Done():
			select {
			case <-h.requests:
				h.notify(ctx, failed)
			default:
			}
			return
		case <-h.requests:
		}
		for wait := h.reserve(); wait > 0 && ctx.Err() == nil; wait = h.reserve() {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		h.notify(ctx, failed)
	}
}

func (h *notifyLimiter) notify(ctx context.Context, failed func(error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), notifyTimeout)
	defer cancel()
	if err := h.send(ctx); err != nil {
		failed(err)
	}
}
