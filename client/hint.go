package client

import (
	"context"
	"sync"
	"time"
)

// hintTimeout bounds one notification.
const hintTimeout = 2 * time.Second

// hinter sends notifications, one at a time: hints that come while one is under way
// share the next. Losing one loses nothing but time, so errors are nobody's concern.
type hinter struct {
	life  context.Context // ends with the client
	send  func(ctx context.Context) error
	begin func(func())

	mu sync.Mutex
	// sending is true while a goroutine sends notifications.
	sending bool
	// next is closed when the next notification has been sent; nil when nobody waits
	// for one.
	next chan struct{}
}

func newHinter(life context.Context, send func(context.Context) error, begin func(func())) *hinter {
	return &hinter{life: life, send: send, begin: begin}
}

// hint returns after a notification that was sent after hint was called, so that a
// program which ends then has sent it, or when ctx ends.
func (h *hinter) hint(ctx context.Context) {
	h.mu.Lock()
	if h.next == nil {
		h.next = make(chan struct{})
	}
	sent := h.next
	if !h.sending {
		h.sending = true
		h.begin(h.run)
	}
	h.mu.Unlock()
	select {
	case <-sent:
	case <-ctx.Done():
	case <-h.life.Done():
	}
}

// run sends notifications until nobody waits for one.
func (h *hinter) run() {
	for {
		h.mu.Lock()
		waiting := h.next
		h.next = nil
		if waiting == nil {
			h.sending = false
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		ctx, cancel := context.WithTimeout(h.life, hintTimeout)
		_ = h.send(ctx)
		cancel()
		close(waiting)
	}
}
