package memstore

import (
	"context"
	"sync"

	"github.com/openworkflow-operator/operator/internal/store"
)

// listeners are those who listen to a channel.
type listeners struct {
	mu    sync.Mutex
	wakes map[chan struct{}]struct{}
}

// notify wakes all of them. Notifications that nobody has taken yet count once.
func (l *listeners) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for wake := range l.wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

func (l *listeners) listen(ctx context.Context, wake func()) error {
	wakes := make(chan struct{}, 1)
	l.mu.Lock()
	if l.wakes == nil {
		l.wakes = map[chan struct{}]struct{}{}
	}
	l.wakes[wakes] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.wakes, wakes)
	}()
	for {
		wake()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wakes:
		}
	}
}

// sendHints notifies the listeners of the channels that hints names.
func (s *Store) sendHints(hints store.Hints) {
	if hints.Due {
		s.due.notify()
	}
	if hints.Ends {
		s.ends.notify()
	}
}

// Notify hints that a run may be due.
func (s *Store) Notify(ctx context.Context) error {
	s.sendHints(store.Hints{Due: true})
	return ctx.Err()
}

// Listen calls wake when it begins and for each Notify, until ctx ends.
func (s *Store) Listen(ctx context.Context, wake func()) error { return s.due.listen(ctx, wake) }

// NotifyEnds hints that runs have ended.
func (s *Store) NotifyEnds(ctx context.Context) error {
	s.sendHints(store.Hints{Ends: true})
	return ctx.Err()
}

// ListenEnds calls wake when it begins and for each NotifyEnds, until ctx ends.
func (s *Store) ListenEnds(ctx context.Context, wake func()) error { return s.ends.listen(ctx, wake) }
