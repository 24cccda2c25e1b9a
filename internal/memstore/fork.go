package memstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Fork creates a run that takes over results of one that has ended; see the method of package
// store.
func (s *Store) Fork(ctx context.Context, r store.ForkRequest) (store.ForkResult, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return store.ForkResult{}, err
	}
	defer s.commit()
	if s.runs[r.Run.ID] != nil && r.Run.ID != r.Source {
		return store.ForkResult{Created: store.Created{RunID: r.Run.ID}}, nil
	}
	source := s.runs[r.Source]
	if source == nil {
		return store.ForkResult{}, fmt.Errorf("run %s: %w", r.Source, store.ErrNotFound)
	}
	attempts := make([]openworkflow.StepAttempt, 0, len(s.steps[source.ID]))
	for _, a := range s.steps[source.ID] {
		attempts = append(attempts, *a)
	}
	plan, err := store.NewForkPlan(&source.Run, attempts, r)
	if err != nil {
		return store.ForkResult{}, err
	}
	var invalid []error
	for i := range plan.Copies {
		invalid = append(invalid, normalizeJSON(&plan.Copies[i].Output))
	}
	if err := errors.Join(invalid...); err != nil {
		return store.ForkResult{}, err
	}
	created := s.create(plan.Run, nil, now)
	if created.Err != nil || !created.Inserted {
		return store.ForkResult{Created: created}, created.Err
	}
	for _, c := range plan.Copies {
		s.copyStep(s.attempts[c.AttemptID], c, created.RunID, now)
	}
	fork := s.runs[created.RunID]
	fork.ForkedFrom, fork.ForkStep = &source.ID, plan.Step
	source.SupersededBy = &fork.ID
	s.sendHints(store.Hints{Due: plan.Run.Due(now)})
	return store.ForkResult{Created: created, Step: plan.Step, Kept: plan.Kept}, nil
}

// copyStep copies an attempt to another run, with its times.
func (s *Store) copyStep(of *openworkflow.StepAttempt, c store.ForkCopy, runID string, now time.Time) {
	a := *of
	a.ID, a.WorkflowRunID, a.UpdatedAt = openworkflow.NewID(), runID, now
	if c.Corrected {
		a.Status, a.Output, a.Error = openworkflow.StepCompleted, c.Output, nil
	}
	if a.FinishedAt == nil {
		a.FinishedAt = &now
	}
	s.attempts[a.ID] = &a
	s.steps[runID] = append(s.steps[runID], &a)
}
