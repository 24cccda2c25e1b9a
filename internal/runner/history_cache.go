package runner

import (
	"container/list"
	"sync"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// historyCache holds the histories of runs that this worker has put aside, so that they need
// not be read again. A history is good as long as nobody else has claimed the run since:
// each claim adds one to its attempts (R9), and only who holds a run writes its steps
// (R46).
type historyCache struct {
	mu    sync.Mutex
	runs  map[string]*list.Element
	order list.List // of *remembered, the one put aside last at the back
	size  int
}

type cachedHistory struct {
	run      string
	attempts int
	history  *history
	size     int
}

const (
	// maxCacheSize is how many bytes of histories are held, roughly; memoryOfRun how many
	// of one.
	maxCacheSize     = 32 << 20
	maxCachedHistory = 1 << 20
)

func newHistoryCache() *historyCache { return &historyCache{runs: map[string]*list.Element{}} }

// put holds the history of a run that was put aside.
func (c *historyCache) put(run *openworkflow.Run, h *history) {
	size := h.size()
	if size > maxCachedHistory {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(run.ID)
	c.runs[run.ID] = c.order.PushBack(&cachedHistory{run: run.ID, attempts: run.Attempts, history: h, size: size})
	c.size += size
	for c.size > maxCacheSize {
		c.removeLocked(c.order.Front().Value.(*cachedHistory).run)
	}
}

// pop returns the history of a run that was claimed, and forgets it; nil when there is
// none that is good.
func (c *historyCache) pop(run *openworkflow.Run) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.runs[run.ID]
	if !ok {
		return nil
	}
	cached := element.Value.(*cachedHistory)
	c.removeLocked(run.ID)
	if run.Attempts != cached.attempts+1 {
		return nil
	}
	return cached.history
}

func (c *historyCache) removeLocked(id string) {
	if element, ok := c.runs[id]; ok {
		c.size -= c.order.Remove(element).(*cachedHistory).size
		delete(c.runs, id)
	}
}
