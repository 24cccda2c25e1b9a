package memstore

import (
	"context"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// AwaitIdle waits until no served run is claimed or due. Nothing happens then before somebody
// creates a run, sends a signal, or advances the time. It returns early, and reports it, when
// the run with this id has ended.
func (s *Store) AwaitIdle(ctx context.Context, runID string) (ended bool, err error) {
	for {
		s.mu.Lock()
		r := s.runs[runID]
		ended, busy, due, changed := r != nil && r.Status.Terminal(), s.busy(), s.claimable(), s.changed
		s.mu.Unlock()
		if ended || !busy && !due {
			return ended, nil
		}
		if due { // perhaps because time has passed, which sends no notification
			s.due.notify()
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-changed:
		}
	}
}

// busy reports whether a served run is claimed.
func (s *Store) busy() bool {
	for _, r := range s.open {
		if s.isServed(r) && r.Status == openworkflow.RunRunning && r.WorkerID != nil {
			return true
		}
	}
	return false
}

// claimable reports whether a served run is due.
func (s *Store) claimable() bool {
	now := s.now()
	for _, r := range s.open {
		if r.claimable(now, s.served) {
			return true
		}
	}
	return false
}

func (s *Store) isServed(r *run) bool { return s.served[r.Definition().Key()] }

// Advance skips to the next instant at which an idle store has something to do: a run is due,
// or reaches its deadline and is failed. It does not skip beyond until, unless that is zero.
// It reports false if nothing will be due.
func (s *Store) Advance(until time.Time) bool {
	s.mu.Lock()
	now, next := s.now(), until
	for _, r := range s.open {
		if !s.isServed(r) {
			continue
		}
		for _, at := range []*time.Time{r.AvailableAt, r.DeadlineAt} {
			if at != nil && (next.IsZero() || at.Before(next)) {
				next = *at
			}
		}
	}
	if next.IsZero() {
		s.mu.Unlock()
		return false
	}
	if next.After(now) {
		// now truncates to microseconds. One more makes it reach next.
		s.skippedTo, s.skippedAt = next.Add(time.Microsecond), time.Now()
	}
	s.failExpired(s.now(), len(s.open))
	s.commit()
	s.due.notify()
	s.ends.notify()
	return true
}

// Unserved returns the names of the workflows with open runs that nobody serves.
func (s *Store) Unserved() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := map[string]bool{}
	for _, r := range s.open {
		if !s.isServed(r) {
			names[r.WorkflowName] = true
		}
	}
	return sortedKeys(names)
}
