package runner

import (
	"context"
	"time"
)

// hinter sends notifications: at once after a quiet time, and no more than one every few
// milliseconds, however many hints there are. Losing one loses nothing but time.
type hinter struct {
	send  func(ctx context.Context) error
	hints chan struct{}
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

// run sends what was asked for until ctx ends, and then what is left.
func (h *hinter) run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-ctx.Done():
			select {
			case <-h.hints:
				h.notify(context.WithoutCancel(ctx), failed)
			default:
			}
			return
		case <-h.hints:
		}
		h.notify(ctx, failed)
		select {
		case <-ctx.Done():
		case <-time.After(hintPause):
		}
	}
}

func (h *hinter) notify(ctx context.Context, failed func(error)) {
	ctx, cancel := context.WithTimeout(ctx, hintTimeout)
	defer cancel()
	if err := h.send(ctx); err != nil {
		failed(err)
	}
}
