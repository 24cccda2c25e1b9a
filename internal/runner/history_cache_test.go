package runner

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

func TestMemoryIsGoodUntilSomebodyElseHasClaimedTheRun(t *testing.T) {
	t.Parallel()
	m := newHistoryCache()
	h := newHistory(nil)
	m.put(&openworkflow.Run{ID: "a", Attempts: 3}, h)
	if got := m.pop(&openworkflow.Run{ID: "a", Attempts: 4}); got != h {
		t.Error("the next claim was this worker's, and the history was forgotten")
	}
	if got := m.pop(&openworkflow.Run{ID: "a", Attempts: 4}); got != nil {
		t.Error("a history was given twice")
	}
	m.put(&openworkflow.Run{ID: "a", Attempts: 3}, h)
	if got := m.pop(&openworkflow.Run{ID: "a", Attempts: 5}); got != nil {
		t.Error("somebody else has claimed the run in between, and may have written steps")
	}
	if got := m.pop(&openworkflow.Run{ID: "b", Attempts: 1}); got != nil {
		t.Error("a history of another run")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := newHistoryCache()
	large := func(size int) *history {
		return newHistory([]openworkflow.StepAttempt{{
			ID: "s", StepName: "s", Status: openworkflow.StepCompleted, Output: make(json.RawMessage, size),
		}})
	}
	m.put(&openworkflow.Run{ID: "too large", Attempts: 1}, large(maxCachedHistory))
	const n = 100
	for i := range n {
		m.put(&openworkflow.Run{ID: fmt.Sprint(i), Attempts: 1}, large(maxCachedHistory/2))
	}
	if m.size > maxCacheSize || len(m.runs) != m.order.Len() || len(m.runs) < maxCacheSize/maxCachedHistory {
		t.Errorf("%d bytes of %d runs, %d in order", m.size, len(m.runs), m.order.Len())
	}
	if m.pop(&openworkflow.Run{ID: "too large", Attempts: 2}) != nil || m.pop(&openworkflow.Run{ID: "0", Attempts: 2}) != nil {
		t.Error("what was to be forgotten was not")
	}
	if m.pop(&openworkflow.Run{ID: fmt.Sprint(n - 1), Attempts: 2}) == nil {
		t.Error("the newest was forgotten")
	}
}
