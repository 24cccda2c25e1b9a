package runner

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
)

// history is the step attempts of a run, by step name alone (R71). It belongs to one
// execution, whose mu guards it.
type history struct {
	completed map[string]openworkflow.StepAttempt
	failures  map[string]int
	failed    map[string]openworkflow.StepAttempt
	names     map[string]struct{}
	// waiting are the running attempts of sleeps, child runs and waits for signals.
	waiting map[string]openworkflow.StepAttempt
	// sending are the running attempts to send a signal.
	sending  map[string]openworkflow.StepAttempt
	attempts int
	// progressAt is when an attempt has last brought the run forward.
	progressAt time.Time
	summary    openworkflow.StepSummary
}

func newHistory(attempts []openworkflow.StepAttempt) *history {
	h := &history{completed: map[string]openworkflow.StepAttempt{}, names: map[string]struct{}{}}
	for _, a := range attempts {
		h.add(a)
		if a.Status != openworkflow.StepRunning {
			h.finish(a)
		}
	}
	return h
}

// add records an attempt that starts.
func (h *history) add(a openworkflow.StepAttempt) {
	a.Output = nil
	h.attempts++
	h.noteProgress(a)
	h.names[a.StepName] = struct{}{}
	h.summary.Names = len(h.names)
	h.summary.Running++
	switch a.Kind {
	case openworkflow.KindSleep, openworkflow.KindWorkflow, openworkflow.KindSignalWait:
		insert(&h.waiting, a.StepName, a)
	case openworkflow.KindSignalSend:
		insert(&h.sending, a.StepName, a)
	case openworkflow.KindFunction:
	}
	if len(h.summary.Newest) == projection.NewestSteps {
		h.summary.Newest = h.summary.Newest[1:]
	}
	h.summary.Newest = append(h.summary.Newest, a)
}

// finish records the outcome of an attempt that was added.
func (h *history) finish(a openworkflow.StepAttempt) {
	h.summary.Running--
	h.noteProgress(a)
	delete(h.waiting, a.StepName)
	delete(h.sending, a.StepName)
	switch a.Status {
	case openworkflow.StepCompleted, openworkflow.StepSucceeded:
		h.summary.Completed++
		h.completed[a.StepName] = a
	case openworkflow.StepFailed:
		h.summary.Failed++
		insert(&h.failures, a.StepName, h.failures[a.StepName]+1)
		insert(&h.failed, a.StepName, a)
	case openworkflow.StepRunning:
	}
	for i := range h.summary.Newest {
		if h.summary.Newest[i].ID == a.ID {
			a.Output = nil
			h.summary.Newest[i] = a
		}
	}
}

func (h *history) noteProgress(a openworkflow.StepAttempt) {
	if at := a.ProgressAt(); at.After(h.progressAt) {
		h.progressAt = at
	}
}

// insert makes the map if it is nil: most runs need few of these maps.
func insert[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[key] = value
}

// externalWaits returns the ids of the attempts that wait for a child or a signal.
func (h *history) externalWaits() []string {
	var ids []string
	for _, a := range h.waiting {
		if a.Kind != openworkflow.KindSleep {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

// size estimates how many bytes the history occupies.
func (h *history) size() int {
	const perAttempt = 512
	size := h.attempts * perAttempt
	for _, attempts := range []map[string]openworkflow.StepAttempt{h.completed, h.failed, h.waiting} {
		for _, a := range attempts {
			size += len(a.StepName) + len(a.Context) + len(a.Output) + len(a.Error)
		}
	}
	return size
}

// snapshot returns a summary that later changes do not affect.
func (h *history) snapshot() openworkflow.StepSummary {
	s := h.summary
	s.Newest = append([]openworkflow.StepAttempt(nil), s.Newest...)
	return s
}
