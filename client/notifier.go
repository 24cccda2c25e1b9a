package client

import (
	"context"
	"sync"
	"time"
)

// notifyTimeout bounds one notification.
const notifyTimeout = 2 * time.Second

// notifier sends hints to workers and waiting clients, one at a time. Requests that arrive
// while one is being sent share the next one. A lost hint costs only time, because its
// receivers also poll, so errors are ignored.
type notifier struct {
	clientCtx context.Context // ends when the client is closed
	send      func(ctx context.Context) error
	spawn     func(func())

	mu sync.Mutex
	// sending is true while the goroutine run is active.
	sending bool
	// next is closed when the next notification has been sent; nil when none was
	// requested.
	next chan struct{}
}

func newNotifier(clientCtx context.Context, send func(context.Context) error, spawn func(func())) *notifier {
	return &notifier{clientCtx: clientCtx, send: send, spawn: spawn}
}

// notify requests a notification and blocks until one that started after the call was
// sent, so that a program may exit right after it. It returns early when ctx ends.
func (n *notifier) notify(ctx context.Context) {
	n.mu.Lock()
	if n.next == nil {
		n.next = make(chan struct{})
	}
	sent := n.next
	if !n.sending {
		n.sending = true
		n.spawn(n.run)
	}
	n.mu.Unlock()
	select {
	case <-sent:
	case <-ctx.Done():
	case <-n.clientCtx.Done():
	}
}

// run sends notifications until none is requested.
func (n *notifier) run() {
	for {
		n.mu.Lock()
		waiting := n.next
		n.next = nil
		if waiting == nil {
			n.sending = false
			n.mu.Unlock()
			return
		}
		n.mu.Unlock()
		ctx, cancel := context.WithTimeout(n.clientCtx, notifyTimeout)
		_ = n.send(ctx)
		cancel()
		close(waiting)
	}
}
