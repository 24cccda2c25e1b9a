package memstore

import (
	"context"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// CreateRuns creates runs and returns a result for each, in the same order (R50, R51). An
// existing run of the same id is left as it is.
func (s *Store) CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	created := make([]store.Created, len(runs))
	for i, n := range runs {
		created[i] = s.create(n, nil, now)
	}
	s.sendHints(store.Hints{Due: slices.ContainsFunc(runs, func(n store.NewRun) bool { return n.Due(now) })})
	return created, nil
}

// create creates a run. Parent is the step attempt that started it, nil for none.
func (s *Store) create(n store.NewRun, parent *string, now time.Time) store.Created {
	if n.ID == "" {
		n.ID = openworkflow.NewID()
	}
	created := store.Created{RunID: n.ID}
	texts := []string{n.ID, n.WorkflowName}
	for _, text := range []*string{n.Version, n.IdempotencyKey} {
		if text != nil {
			texts = append(texts, *text)
		}
	}
	if created.Err = checkText(texts...); created.Err != nil {
		return created
	}
	if created.Err = normalizeJSON(&n.Input, &n.Context); created.Err != nil {
		return created
	}
	if s.runs[n.ID] != nil {
		return created
	}
	if n.IdempotencyKey != nil {
		if holder := s.holder(n.WorkflowName, *n.IdempotencyKey, n.KeyWindow, now); holder != nil {
			created.RunID = holder.ID
			return created
		}
	}
	r := &run{Run: openworkflow.Run{
		NamespaceID:         store.DefaultNamespaceID,
		ID:                  n.ID,
		WorkflowName:        n.WorkflowName,
		Version:             n.Version,
		Status:              openworkflow.RunPending,
		IdempotencyKey:      n.IdempotencyKey,
		Context:             n.Context,
		Input:               n.Input,
		ParentStepAttemptID: parent,
		CreatedAt:           now.Truncate(time.Millisecond),
		UpdatedAt:           now,
	}}
	switch {
	case n.DeadlineAt != nil:
		r.DeadlineAt = milliseconds(*n.DeadlineAt)
	case n.Timeout > 0:
		r.DeadlineAt = milliseconds(now.Add(n.Timeout))
	}
	due := now
	switch {
	case n.AvailableAt != nil && !n.AvailableAt.IsZero():
		due = *milliseconds(*n.AvailableAt)
	case n.Delay > 0:
		due = *milliseconds(now.Add(n.Delay))
	}
	if n.Suspended {
		r.SuspendedAt = &now
	}
	r.setDue(due)
	s.runs[r.ID], s.open[r.ID] = r, r
	created.Inserted = true
	return created
}

// holder returns the oldest run that holds an idempotency key (R51).
func (s *Store) holder(workflowName, key string, window time.Duration, now time.Time) *run {
	var oldest *run
	for _, r := range s.runs {
		switch {
		case r.WorkflowName != workflowName || r.IdempotencyKey == nil || *r.IdempotencyKey != key,
			window > 0 && r.CreatedAt.Before(now.Add(-window)),
			oldest != nil && (r.CreatedAt.After(oldest.CreatedAt) || r.CreatedAt.Equal(oldest.CreatedAt) && r.ID > oldest.ID):
			continue
		}
		oldest = r
	}
	return oldest
}

// GetRuns returns the runs by id. Those that do not exist are absent.
func (s *Store) GetRuns(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := make(map[string]*openworkflow.Run, len(ids))
	for _, id := range ids {
		if r := s.runs[id]; r != nil {
			runs[id] = new(r.Run)
		}
	}
	return runs, nil
}

// Runs returns all runs, in the order of their creation.
func (s *Store) Runs() []openworkflow.Run {
	s.mu.Lock()
	defer s.mu.Unlock()
	runs := make([]openworkflow.Run, 0, len(s.runs))
	for _, id := range sortedKeys(s.runs) {
		runs = append(runs, s.runs[id].Run)
	}
	return runs
}

// LoadSteps returns all step attempts of the runs, oldest first (R71). A run without
// any is absent from the map.
func (s *Store) LoadSteps(ctx context.Context, runIDs []string) (map[string][]openworkflow.StepAttempt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	steps := make(map[string][]openworkflow.StepAttempt, len(runIDs))
	for _, id := range runIDs {
		if len(s.steps[id]) == 0 || steps[id] != nil {
			continue
		}
		attempts := make([]openworkflow.StepAttempt, 0, len(s.steps[id]))
		for _, a := range s.steps[id] {
			attempts = append(attempts, *a)
		}
		steps[id] = attempts
	}
	return steps, nil
}

// CancelRuns cancels the runs that are open and returns the status of each afterwards (R125).
// Runs that do not exist are absent.
func (s *Store) CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	statuses := make(map[string]openworkflow.RunStatus, len(ids))
	for _, id := range ids {
		r := s.runs[id]
		if r == nil {
			continue
		}
		if isOpen(r.Status) {
			s.forceEnd(r, openworkflow.RunCanceled, now)
		}
		statuses[id] = r.Status
	}
	return statuses, nil
}

// FailExpired fails up to limit open runs whose deadline has passed and returns their ids
// (R44). Parents that wait for them are woken.
func (s *Store) FailExpired(ctx context.Context, limit int) ([]string, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	return s.failExpired(now, limit), nil
}

func (s *Store) failExpired(now time.Time, limit int) []string {
	var failed []string
	for _, id := range sortedKeys(s.open) {
		r := s.open[id]
		if r.DeadlineAt == nil || r.DeadlineAt.After(now) || len(failed) == limit {
			continue
		}
		payload := openworkflow.Error{Message: openworkflow.DeadlineMessage}.Encode()
		if err := normalizeJSON(&payload); err != nil { // a constant is storable
			panic(err)
		}
		r.Error = payload
		s.forceEnd(r, openworkflow.RunFailed, now)
		failed = append(failed, id)
	}
	return failed
}

// forceEnd ends a run, whoever holds it, and wakes its parent (R42).
func (s *Store) forceEnd(r *run, status openworkflow.RunStatus, now time.Time) {
	r.Status, r.FinishedAt, r.UpdatedAt = status, &now, now
	r.WorkerID = nil
	s.afterEnd(r, r.ParentStepAttemptID, now)
}

// afterEnd removes an ended run from the open ones, and wakes the parent if its attempt waits
// for the run (R82).
func (s *Store) afterEnd(r *run, parent *string, now time.Time) {
	r.AvailableAt, r.resumeAt = nil, nil
	delete(s.open, r.ID)
	if parent == nil {
		return
	}
	a := s.attempts[*parent]
	if a == nil || a.Kind != openworkflow.KindWorkflow || a.Status != openworkflow.StepRunning ||
		a.ChildWorkflowRunID == nil || *a.ChildWorkflowRunID != r.ID {
		return
	}
	if parent := s.open[a.WorkflowRunID]; parent != nil && parent.Parked() {
		parent.wake(now)
	}
}
