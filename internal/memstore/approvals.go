package memstore

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// stepKey names a step of a run.
type stepKey struct{ runID, step string }

// approval is what a step asks for.
type approval struct {
	store.ApprovalRow
	attempt *openworkflow.StepAttempt
}

// publish stores what the step of an attempt asks for, unless it is stored already.
func (s *Store) publish(a *openworkflow.StepAttempt, asked store.NewApproval) {
	key := stepKey{a.WorkflowRunID, a.StepName}
	if s.approvals[key] == nil {
		asked.ExpiresAt = asked.ExpiresAt.UTC().Truncate(time.Millisecond)
		s.approvals[key] = &approval{ApprovalRow: store.ApprovalRow{NewApproval: asked, State: store.ApprovalOpen}, attempt: a}
	}
}

// Decide makes a decision about an approval; see the method of package store.
func (s *Store) Decide(ctx context.Context, in store.DecideInput) (decision store.Decision, err error) {
	if err := in.Check(); err != nil {
		return store.Decision{}, err
	}
	err = s.changeApproval(ctx, in.RunID, in.Step, func(a *store.ApprovalRow, now time.Time) error {
		decision, err = a.Decide(in, now)
		return err
	})
	if err != nil {
		return store.Decision{}, err
	}
	if decision.State != store.ApprovalOpen && !decision.Repeated {
		s.due.notify()
	}
	return decision, nil
}

// ExpireApproval ends the approval of a step if its time is over, and returns its state; see the
// method of package store.
func (s *Store) ExpireApproval(ctx context.Context, runID, step string) (state store.ApprovalState, err error) {
	err = s.changeApproval(ctx, runID, step, func(a *store.ApprovalRow, now time.Time) error {
		a.Expire(now)
		state = a.State
		return nil
	})
	return state, err
}

// changeApproval changes the approval of a step, and delivers its end to the step.
func (s *Store) changeApproval(
	ctx context.Context, runID, step string, change func(a *store.ApprovalRow, now time.Time) error,
) error {
	now, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer s.commit()
	a := s.approvals[stepKey{runID, step}]
	if a == nil {
		return fmt.Errorf("%w: step %q of run %s asks for none", store.ErrNoSuchApproval, step, runID)
	}
	changed := a.ApprovalRow
	changed.Ended = s.open[runID] == nil || a.attempt.Status != openworkflow.StepRunning || s.deliveries[a.attempt.ID] != nil
	if err := change(&changed, now); err != nil {
		return err
	}
	wasOpen := a.State == store.ApprovalOpen
	a.ApprovalRow = changed
	data := changed.Outcome()
	if !wasOpen || data == nil {
		return nil
	}
	if data, err = jsonb(data); err != nil {
		return err
	}
	s.deliveries[a.attempt.ID] = &delivery{
		signal: openworkflow.ApprovalSignal(runID, step), data: slices.Clip(data), runID: runID,
	}
	if r := s.open[runID]; r.WorkerID == nil {
		r.wake(now)
	}
	return nil
}

// Asking returns the first open run that waits for an approval of a step of this name, in the order
// of ids, "" if there is none.
func (s *Store) Asking(step string) (runID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for _, id := range sortedKeys(s.open) {
		if a := s.approvals[stepKey{id, step}]; a != nil && a.State == store.ApprovalOpen && a.ExpiresAt.After(now) &&
			a.attempt.Status == openworkflow.StepRunning {
			return id
		}
	}
	return ""
}
