package memstore

import (
	"context"
	"encoding/json"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// ApplyAndClaim writes step attempts, ends leases and claims runs; see the method of package
// store. Each write succeeds or fails by itself.
func (s *Store) ApplyAndClaim(ctx context.Context, batch store.Batch) (result store.BatchResult, err error) {
	now, err := s.begin(ctx)
	if err != nil {
		return store.BatchResult{}, err
	}
	defer s.commit()
	valueErrs := map[openworkflow.Lease]error{}
	result.Steps, result.Runs = make([]error, len(batch.Steps)), make([]error, len(batch.Runs))
	for i, w := range batch.Steps {
		if err := normalizeStep(&w); err != nil {
			result.Steps[i], valueErrs[w.Lease] = err, err
			continue
		}
		result.Steps[i] = s.writeStep(w, now)
	}
	written := map[openworkflow.Lease]bool{}
	for i, w := range batch.Runs {
		valueErr := valueErrs[w.Lease]
		if valueErr == nil {
			valueErr = normalizeJSON(&w.Output, &w.Error)
		}
		if valueErr == nil {
			valueErr = checkState(w.State)
		}
		switch {
		case valueErr != nil:
			result.Runs[i] = valueErr
		case written[w.Lease]:
			result.Runs[i] = store.ErrLeaseLost
		default:
			written[w.Lease] = true
			result.Runs[i] = s.writeRun(w, now)
		}
	}
	woken := false
	for _, w := range batch.Runs {
		if w.Op == store.RunPark {
			woken = s.wakeParked(s.runs[w.RunID], now) || woken
		}
	}
	s.sendHints(store.Hints{Due: batch.Hints.Due || woken, Ends: batch.Hints.Ends, Waits: batch.Hints.Waits})
	if batch.Claim != nil {
		result.Claimed = s.claim(*batch.Claim, now)
	}
	return result, nil
}

// normalizeStep replaces the values of a write by what Postgres would store.
func normalizeStep(w *store.StepWrite) error {
	if err := checkText(w.Attempt.ID, w.Attempt.StepName); err != nil {
		return err
	}
	if err := normalizeJSON(&w.Attempt.Context, &w.Attempt.Output, &w.Attempt.Error); err != nil {
		return err
	}
	if err := checkState(w.State); err != nil {
		return err
	}
	if w.Child == nil {
		return nil
	}
	child := *w.Child
	w.Child = &child
	if err := checkText(child.WorkflowName); err != nil {
		return err
	}
	return normalizeJSON(&child.Input, &child.Context)
}

// writeStep inserts or ends an attempt (R46), and creates its child.
func (s *Store) writeStep(w store.StepWrite, now time.Time) error {
	held := s.held(w.Lease) != nil
	a, exists := s.attempts[w.Attempt.ID]
	switch {
	case exists && a.WorkflowRunID != w.RunID:
		return store.ErrLeaseLost
	case exists && w.Attempt.Status != openworkflow.StepRunning && a.Status == w.Attempt.Status: // written before
	case !held:
		return store.ErrLeaseLost
	case !exists:
		a = s.insertStep(w, now)
	case w.Attempt.Status == openworkflow.StepRunning:
	case a.Status == openworkflow.StepRunning:
		a.UpdatedAt = now
		endStep(a, w.Attempt, now)
	default:
		return store.ErrLeaseLost
	}
	if held && w.Child != nil && a.Kind == openworkflow.KindWorkflow && a.ChildWorkflowRunID == nil {
		s.startChild(a, *w.Child, now)
	}
	if held {
		s.publishState(w.RunID, w.State)
	}
	if held && w.Approval != nil {
		s.publish(a, *w.Approval)
	}
	return nil
}

// checkState refuses a state that a column of text cannot hold.
func checkState(state *store.NewState) error {
	if state == nil {
		return nil
	}
	return checkText(string(state.State))
}

// publishState keeps the newest state of a run.
func (s *Store) publishState(runID string, state *store.NewState) {
	if state != nil && s.states[runID].Sequence < state.Sequence {
		s.states[runID] = *state
	}
}

// RunState returns what a run has published, nil for nothing.
func (s *Store) RunState(runID string) json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[runID].State
}

func (s *Store) insertStep(w store.StepWrite, now time.Time) *openworkflow.StepAttempt {
	a := &openworkflow.StepAttempt{
		NamespaceID:   store.DefaultNamespaceID,
		ID:            w.Attempt.ID,
		WorkflowRunID: w.RunID,
		StepName:      w.Attempt.StepName,
		Kind:          w.Attempt.Kind,
		Status:        openworkflow.StepRunning,
		Context:       w.Attempt.Context,
		StartedAt:     new(now.Add(-max(0, w.Elapsed)).Truncate(time.Microsecond)),
		CreatedAt:     now.Truncate(time.Millisecond),
		UpdatedAt:     now,
	}
	if w.Attempt.Status != openworkflow.StepRunning {
		endStep(a, w.Attempt, now)
	}
	s.attempts[a.ID] = a
	// Keep the order in which a history is read: creation, then ids (R71).
	all := append(s.steps[w.RunID], a)
	for i := len(all) - 1; i > 0 && all[i].CreatedAt.Equal(all[i-1].CreatedAt) && all[i].ID < all[i-1].ID; i-- {
		all[i], all[i-1] = all[i-1], all[i]
	}
	s.steps[w.RunID] = all
	return a
}

func endStep(a *openworkflow.StepAttempt, outcome openworkflow.StepAttempt, now time.Time) {
	a.Status, a.FinishedAt = outcome.Status, &now
	if a.Status == openworkflow.StepCompleted {
		a.Output = outcome.Output
	} else {
		a.Error = outcome.Error
	}
}

// startChild gives an attempt without a child the run that holds the attempt's key or, if
// there is none, a new run (R98c).
func (s *Store) startChild(a *openworkflow.StepAttempt, child store.NewRun, now time.Time) {
	created := s.create(store.NewRun{
		ID:             child.ID,
		WorkflowName:   child.WorkflowName,
		Version:        child.Version,
		IdempotencyKey: new(openworkflow.ChildKey(a.NamespaceID, a.ID)),
		Input:          child.Input,
		Context:        child.Context,
	}, &a.ID, now)
	a.ChildWorkflowRunID, a.UpdatedAt = &created.RunID, now
}

// writeRun ends a lease by the write matrix (R42).
func (s *Store) writeRun(w store.RunWrite, now time.Time) error {
	r := s.held(w.Lease)
	if r == nil {
		r = s.runs[w.RunID]
		if w.Op == store.RunComplete && r != nil && r.Status == openworkflow.RunCompleted &&
			r.WorkerID != nil && *r.WorkerID == w.WorkerID {
			return nil // written before
		}
		return store.ErrLeaseLost
	}
	s.publishState(w.RunID, w.State)
	var parent *string
	if w.HasParent {
		parent = r.ParentStepAttemptID
	}
	due := now
	if at := milliseconds(w.At); at != nil && w.Op != store.RunRelease {
		due = *at
	}
	if w.Failure && (w.Op == store.RunFail || w.Op == store.RunRetry) {
		r.Failures++
		r.Deaths, r.DiedAt = 0, nil
	}
	r.UpdatedAt = now
	if w.Op == store.RunComplete {
		r.Status, r.Output, r.Error, r.FinishedAt = openworkflow.RunCompleted, w.Output, nil, &now
		s.afterEnd(r, parent, now) // the worker id stays
		return nil
	}
	r.WorkerID = nil
	switch w.Op {
	case store.RunFail:
		r.Status, r.Error, r.StartedAt, r.FinishedAt = openworkflow.RunFailed, w.Error, nil, milliseconds(w.FinishedAt)
		if r.FinishedAt == nil {
			r.FinishedAt = new(now.Truncate(time.Millisecond))
		}
		s.afterEnd(r, parent, now)
	case store.RunRetry:
		r.Status, r.Error, r.StartedAt, r.FinishedAt = openworkflow.RunPending, w.Error, nil, nil
		r.setDue(due)
	case store.RunPark, store.RunRelease, store.RunSetAside, store.RunComplete:
		r.setDue(due)
	}
	return nil
}

// wakeParked makes a parked run due if one of its waits has a result (R83).
func (s *Store) wakeParked(r *run, now time.Time) bool {
	if r == nil || r.Status != openworkflow.RunRunning || r.WorkerID != nil {
		return false
	}
	for _, a := range s.steps[r.ID] {
		if _, ok := s.waitResult(a); ok {
			return r.wake(now)
		}
	}
	return false
}
