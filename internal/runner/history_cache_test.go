package runner

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

func TestHistoryCacheIsValidUntilAnotherWorkerClaimsTheRun(t *testing.T) {
	t.Parallel()
	c := newHistoryCache()
	h := newHistory(nil)
	c.put(&openworkflow.Run{ID: "a", Attempts: 3}, h)
	if got := c.pop(&openworkflow.Run{ID: "a", Attempts: 4}); got != h {
		t.Error("the next claim was this worker's, and its history was dropped")
	}
	if got := c.pop(&openworkflow.Run{ID: "a", Attempts: 4}); got != nil {
		t.Error("a history was returned twice")
	}
	c.put(&openworkflow.Run{ID: "a", Attempts: 3}, h)
	if got := c.pop(&openworkflow.Run{ID: "a", Attempts: 5}); got != nil {
		t.Error("a history was returned although another worker has claimed the run since")
	}
	if got := c.pop(&openworkflow.Run{ID: "b", Attempts: 1}); got != nil {
		t.Error("the history of another run was returned")
	}
	now := time.Now()
	c.put(&openworkflow.Run{ID: "a", Attempts: 1, CreatedAt: now}, h)
	if got := c.pop(&openworkflow.Run{ID: "a", Attempts: 2, CreatedAt: now.Add(time.Millisecond)}); got != nil {
		t.Error("the history of a run that was removed was returned for one that has its id now")
	}
}

func TestHistoryCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newHistoryCache()
	large := func(size int) *history {
		return newHistory([]openworkflow.StepAttempt{{
			ID: "s", StepName: "s", Status: openworkflow.StepCompleted, Output: make(json.RawMessage, size),
		}})
	}
	c.put(&openworkflow.Run{ID: "too large", Attempts: 1}, large(maxCachedHistory))
	const n = 100
	for i := range n {
		c.put(&openworkflow.Run{ID: fmt.Sprint(i), Attempts: 1}, large(maxCachedHistory/2))
	}
	if c.size > maxCacheSize || len(c.runs) != c.order.Len() || len(c.runs) < maxCacheSize/maxCachedHistory {
		t.Errorf("%d bytes of %d runs, %d in order", c.size, len(c.runs), c.order.Len())
	}
	if c.pop(&openworkflow.Run{ID: "too large", Attempts: 2}) != nil || c.pop(&openworkflow.Run{ID: "0", Attempts: 2}) != nil {
		t.Error("a history that is too large or the oldest was kept")
	}
	if c.pop(&openworkflow.Run{ID: fmt.Sprint(n - 1), Attempts: 2}) == nil {
		t.Error("the newest history was evicted")
	}
}
