package runner

import (
	"container/list"
	"errors"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// showDelay is how long a step must last before its running row is written. The
// row is information for those who look, not a lock (R177).
const showDelay = 50 * time.Millisecond

// shower writes the running rows of attempts that last. Most do not, so an attempt
// costs an entry in a list, and one timer serves them all: each that is set wakes a
// thread, which is felt where a run's steps take less than a millisecond.
type shower struct {
	mu sync.Mutex
	// young are the attempts that may come to last, *lasting, oldest first.
	young list.List
	timer *time.Timer
	armed bool
}

// lasting is an attempt that may come to last.
type lasting struct {
	execution *execution
	attempt   openworkflow.StepAttempt
	began     time.Time
	entry     *list.Element
	// written is closed once the row is written or will never be; nil while it is not
	// to be.
	written chan struct{}
}

// watch shows an attempt that begins now, should it last.
func (s *shower) watch(e *execution, attempt openworkflow.StepAttempt) *lasting {
	l := &lasting{execution: e, attempt: attempt, began: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	l.entry = s.young.PushBack(l)
	s.arm(showDelay)
	return l
}

// forget is called when an attempt has ended, and reports whether its running row may
// have been written. It waits for one that is being written.
func (s *shower) forget(l *lasting) (shown bool) {
	s.mu.Lock()
	written := l.written
	if written == nil {
		s.young.Remove(l.entry)
	}
	s.mu.Unlock()
	if written == nil {
		return false
	}
	<-written
	return true
}

// arm sets the timer unless it is set.
func (s *shower) arm(after time.Duration) {
	switch {
	case s.armed:
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(after, s.show)
	default:
		s.timer.Reset(after)
	}
	s.armed = true
}

// show begins to write the rows of those that have lasted.
func (s *shower) show() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	for entry := s.young.Front(); entry != nil; entry = s.young.Front() {
		l := entry.Value.(*lasting)
		if rest := showDelay - time.Since(l.began); rest > 0 {
			s.arm(rest)
			return
		}
		s.young.Remove(entry)
		l.written = make(chan struct{})
		go l.write()
	}
}

func (l *lasting) write() {
	defer close(l.written)
	e := l.execution
	err := e.runner.flusher.submit(e.writeCtx, []store.StepWrite{e.firstWrite(l.attempt)}, nil)
	if errors.Is(err, store.ErrLeaseLost) {
		e.disowned()
	}
}
