package runner

import (
	"context"
	"sync"
	"time"
)

// hinter says when to notify: at once after a quiet time, and no more than once every few
// milliseconds, however many hints there are. Losing one loses nothing but time.
type hinter struct {
	send  func(ctx context.Context) error
	hints chan struct{}

	mu   sync.Mutex
	next time.Time // not before that
}

const (
	hintPause   = 5 * time.Millisecond
	hintTimeout = 2 * time.Second
)

func newHinter(send func(ctx context.Context) error) *hinter {
	return &hinter{send: send, hints: make(chan struct{}, 1)}
}

// hint asks for a notification. It never blocks.
func (h *hinter) hint() {
	select {
	case h.hints <- struct{}{}:
	default:
	}
}

// seize reports whether the caller is to notify with what he writes now. Else he asks for
// a notification once that is written.
func (h *hinter) seize() bool { return h.turn() <= 0 }

// turn is the caller's turn to notify when it returns 0, and else how long it is nobody's.
func (h *hinter) turn() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if wait := h.next.Sub(now); wait > 0 {
		return wait
	}
	h.next = now.Add(hintPause)
	return 0
}

// run sends what was asked for until ctx ends, and then what is left.
func (h *hinter) run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-ctx.Done():
			select {
			case <-h.hints:
				h.notify(ctx, failed)
			default:
			}
			return
		case <-h.hints:
		}
		for wait := h.turn(); wait > 0 && ctx.Err() == nil; wait = h.turn() {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		h.notify(ctx, failed)
	}
}

func (h *hinter) notify(ctx context.Context, failed func(error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hintTimeout)
	defer cancel()
	if err := h.send(ctx); err != nil {
		failed(err)
	}
}
