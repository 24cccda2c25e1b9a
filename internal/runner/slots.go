package runner

import "sync"

// slots are what limits how many runs are executed at once.
type slots struct {
	mu sync.Mutex
	// free may be below zero for a moment: a run that has ended in the database has made
	// room for another before its pass has left.
	free int
	// moreDue says that there may be more to claim than there was room for.
	moreDue bool
}

// acquireAll takes all that are free, and returns how many. None are left over for what there
// may be, then.
func (s *slots) acquireAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := max(s.free, 0)
	s.free -= n
	if n == 0 {
		s.moreDue = true
	}
	return n
}

// returnUnused gives back those for which there was no run, and says whether there may be more.
func (s *slots) returnUnused(unused int, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += unused
	s.moreDue = more
}

// acquireForEnding takes those of runs that are about to end, and all that are free, if there
// may be runs to claim for them.
func (s *slots) acquireForEnding(ending int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.free + ending
	if !s.moreDue || n <= 0 {
		return 0
	}
	s.free -= n
	return n
}

// release gives back slots, and reports whether there may be a run to claim for them.
func (s *slots) release(n int) (moreDue bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	return s.moreDue && s.free > 0
}
