package runner

import "sync"

// slots limits how many runs are executed at once.
type slots struct {
	mu sync.Mutex
	// free may be negative for a moment: the write that ends a run may already have claimed
	// the next one, before the first pass has released its slot.
	free int
	// moreDue says that more runs may be due than have been claimed.
	moreDue bool
}

// acquireAll takes all free slots, and returns how many. If none is free, it remembers that
// more runs may be due.
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

// returnUnused gives back the slots for which a claim has found no run, and sets whether more
// runs may be due.
func (s *slots) returnUnused(unused int, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += unused
	s.moreDue = more
}

// acquireForEnding takes the slots of runs that are about to end, and all free ones. It takes
// none and returns 0 unless more runs may be due.
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

// release gives back n slots, and reports whether a run may be due for a free one.
func (s *slots) release(n int) (moreDue bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free += n
	return s.moreDue && s.free > 0
}
