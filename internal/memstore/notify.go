package memstore

import (
	"context"
	"sync"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// listeners are the listeners of a channel.
type listeners struct {
	mu    sync.Mutex
	flags map[wake.Flag]struct{}
}

// notify wakes all listeners. Notifications that come before a listener looks count once.
func (l *listeners) notify() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for flag := range l.flags {
		flag.Set()
	}
}

func (l *listeners) listen(ctx context.Context, notified func()) error {
	flag := wake.New()
	l.mu.Lock()
	if l.flags == nil {
		l.flags = map[wake.Flag]struct{}{}
	}
	l.flags[flag] = struct{}{}
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.flags, flag)
	}()
	for {
		notified()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-flag:
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
	if hints.Waits {
		s.waits.notify()
	}
}

// Notify hints that a run may be due.
func (s *Store) Notify(ctx context.Context) error {
	s.sendHints(store.Hints{Due: true})
	return ctx.Err()
}

// Listen calls wake at once and for each Notify, until ctx ends.
func (s *Store) Listen(ctx context.Context, wake func()) error { return s.due.listen(ctx, wake) }

// NotifyEnds hints that runs may have ended.
func (s *Store) NotifyEnds(ctx context.Context) error {
	s.sendHints(store.Hints{Ends: true})
	return ctx.Err()
}

// ListenEnds calls wake at once and for each NotifyEnds, until ctx ends.
func (s *Store) ListenEnds(ctx context.Context, wake func()) error { return s.ends.listen(ctx, wake) }

// NotifyWaits hints that runs may have begun to wait for signals.
func (s *Store) NotifyWaits(ctx context.Context) error {
	s.sendHints(store.Hints{Waits: true})
	return ctx.Err()
}

// ListenWaits calls wake at once and for each NotifyWaits, until ctx ends.
func (s *Store) ListenWaits(ctx context.Context, wake func()) error { return s.waits.listen(ctx, wake) }
