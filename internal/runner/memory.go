package runner

import (
	"container/list"
	"sync"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// memory holds the histories of runs that this worker has put aside, so that they need
// not be read again. A history is good as long as nobody else has claimed the run since:
// each claim adds one to its attempts (R9), and only who holds a run writes its steps
// (R46).
type memory struct {
	mu    sync.Mutex
	runs  map[string]*list.Element
	order list.List // of *remembered, the one put aside last at the back
	size  int
}

type remembered struct {
	run      string
	attempts int
	history  *history
	size     int
}

const (
	// memorySize is how many bytes of histories are held, roughly; memoryOfRun how many
	// of one.
	memorySize  = 32 << 20
	memoryOfRun = 1 << 20
)

func newMemory() *memory { return &memory{runs: map[string]*list.Element{}} }

// keep holds the history of a run that was put aside.
func (m *memory) keep(run *openworkflow.Run, h *history) {
	size := h.size()
	if size > memoryOfRun {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(run.ID)
	m.runs[run.ID] = m.order.PushBack(&remembered{run: run.ID, attempts: run.Attempts, history: h, size: size})
	m.size += size
	for m.size > memorySize {
		m.forget(m.order.Front().Value.(*remembered).run)
	}
}

// take returns the history of a run that was claimed, and forgets it; nil when there is
// none that is good.
func (m *memory) take(run *openworkflow.Run) *history {
	m.mu.Lock()
	defer m.mu.Unlock()
	element, ok := m.runs[run.ID]
	if !ok {
		return nil
	}
	r := element.Value.(*remembered)
	m.forget(run.ID)
	if run.Attempts != r.attempts+1 {
		return nil
	}
	return r.history
}

func (m *memory) forget(id string) {
	if element, ok := m.runs[id]; ok {
		m.size -= m.order.Remove(element).(*remembered).size
		delete(m.runs, id)
	}
}
