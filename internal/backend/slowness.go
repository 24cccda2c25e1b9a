package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// SlowAfter is the time that a statement may take which waits for nothing but the database. One
// that takes longer waits for the lock of a table, or the server is overloaded.
const SlowAfter = 10 * time.Second

// ErrSlow means that the database accepts connections, but its statements do not end.
var ErrSlow = errors.New("the statements of the database do not end")

// slowness is the circuit breaker of one database.
//
//	       a watched call takes SlowAfter, all of them in SlowAfter
//	       find a lock taken, or Blocked
//	fast ──────────────────────────────────────────────────────────> slow
//	  ^                                                                │
//	  └────────────────────── Probe has succeeded ─────────────────────┘
//
// While it is slow, coalesced calls return ErrSlow, those that wait as well as new ones.
type slowness struct {
	mu     sync.Mutex
	signal chan struct{} // closed while slow
	isSlow bool
	// lockedSince is the first of the watched calls that found a lock taken, zero after one that
	// did not.
	lockedSince time.Time
	onMark      func()
}

// marked returns a channel that is closed when the database is slow.
func (s *slowness) marked() <-chan struct{} {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signal == nil {
		s.signal = make(chan struct{})
	}
	return s.signal
}

func (s *slowness) mark() {
	s.mu.Lock()
	if s.isSlow {
		s.mu.Unlock()
		return
	}
	if s.signal == nil {
		s.signal = make(chan struct{})
	}
	s.isSlow = true
	close(s.signal)
	onMark := s.onMark
	s.mu.Unlock()
	if onMark != nil {
		onMark()
	}
}

func (s *slowness) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isSlow {
		s.isSlow, s.signal, s.lockedSince = false, make(chan struct{}), time.Time{}
	}
}

func (s *slowness) current() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isSlow {
		return ErrSlow
	}
	return nil
}

// watch calls f and makes the database slow when that takes SlowAfter, or when calls have found a
// lock taken for that long. A lock of a table does that to calls that wait for no row.
func (s *slowness) watch(f func() error) {
	timer := time.AfterFunc(SlowAfter, s.mark)
	err := f()
	timer.Stop()
	if s.locked(store.LockTimeout(err)) {
		s.mark()
	}
}

// locked notes whether a call found a lock taken, and reports whether calls have done so for
// SlowAfter.
func (s *slowness) locked(found bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !found:
		s.lockedSince = time.Time{}
	case s.lockedSince.IsZero():
		s.lockedSince = time.Now()
	default:
		return time.Since(s.lockedSince) >= SlowAfter
	}
	return false
}

// watched returns a call that is watched. FailureOf returns the error of one output.
func watched[in, out any](
	s *slowness, failureOf func(out) error, call func(context.Context, []in) ([]out, error),
) func(context.Context, []in) ([]out, error) {
	return func(ctx context.Context, inputs []in) (outputs []out, err error) {
		s.watch(func() error {
			outputs, err = call(ctx, inputs)
			if err != nil {
				return err
			}
			var failure error // of all outputs
			for _, output := range outputs {
				if failure = failureOf(output); failure == nil {
					break
				}
			}
			return failure
		})
		return outputs, err
	}
}

// Slow returns ErrSlow from when statements did not end for SlowAfter until a Probe has succeeded.
func (c *Connection) Slow() error { return c.slow.current() }

// Blocked makes the database slow. The caller has waited for an answer in vain.
func (c *Connection) Blocked() { c.slow.mark() }

// noRun is the id of no run.
const noRun = "00000000-0000-0000-0000-000000000000"

// Probe executes, if the database is slow, statements that need the same locks of tables as all
// others, and change nothing. It waits for the locks and returns ErrSlow after 10 s.
func (c *Connection) Probe(ctx context.Context) error {
	if c.slow.current() == nil {
		return nil
	}
	_, err := c.Store.CancelRuns(ctx, []string{noRun})
	if err == nil {
		_, err = c.Store.StepSummaries(ctx, []string{noRun}, 1)
	}
	if errors.Is(err, context.DeadlineExceeded) || store.LockTimeout(err) { // of the server, if it has one
		return fmt.Errorf("%w: %w", ErrSlow, err)
	}
	if err == nil {
		c.slow.clear()
	}
	return err
}
