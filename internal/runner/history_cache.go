package runner

import (
	"container/list"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// historyCache holds the histories of runs that this worker has parked, oldest first, so that
// they need not be read again. An entry is valid if no other worker has claimed the run
// since: each claim increments the run's attempts (R9), and only the holder of a run writes
// its steps (R46). A run that was removed and made again under its id, as a schedule's are that has
// runs in the database, is another run: it was created at another time.
type historyCache struct {
	mu    sync.Mutex
	runs  map[string]*list.Element
	order list.List // of *cachedHistory, the newest at the back
	size  int
}

type cachedHistory struct {
	run      string
	created  time.Time
	attempts int
	history  *history
	size     int
}

// Sizes are estimates, in bytes. A history larger than maxCachedHistory is not cached.
const (
	maxCacheSize     = 32 << 20
	maxCachedHistory = 1 << 20
)

func newHistoryCache() *historyCache { return &historyCache{runs: map[string]*list.Element{}} }

// put caches the history of a run that is parked, and evicts the oldest ones if there is no
// room.
func (c *historyCache) put(run *openworkflow.Run, h *history) {
	size := h.size()
	if size > maxCachedHistory {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(run.ID)
	c.runs[run.ID] = c.order.PushBack(&cachedHistory{run: run.ID, created: run.CreatedAt, attempts: run.Attempts, history: h, size: size})
	c.size += size
	for c.size > maxCacheSize {
		c.removeLocked(c.order.Front().Value.(*cachedHistory).run)
	}
}

// pop removes the history of a run that was claimed, and returns it; nil if there is no valid
// one.
func (c *historyCache) pop(run *openworkflow.Run) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.runs[run.ID]
	if !ok {
		return nil
	}
	cached := element.Value.(*cachedHistory)
	c.removeLocked(run.ID)
	if run.Attempts != cached.attempts+1 || !run.CreatedAt.Equal(cached.created) {
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
