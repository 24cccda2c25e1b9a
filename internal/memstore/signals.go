package memstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// SendSignals delivers signals to the attempts that wait for them. It returns, for each
// signal, the runs that received it (R104).
func (s *Store) SendSignals(ctx context.Context, signals []store.Signal) ([][]string, error) {
	signals = slices.Clone(signals)
	for i := range signals {
		if err := normalizeSignal(&signals[i]); err != nil {
			return nil, err
		}
	}
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	runIDs := make([][]string, len(signals))
	for i, signal := range signals {
		runIDs[i] = s.deliver(signal, now)
	}
	return runIDs, nil
}

func normalizeSignal(signal *store.Signal) error {
	if openworkflow.IsApprovalSignal(signal.Name) {
		return reservedSignal(signal.Name)
	}
	texts := []string{signal.Name}
	if signal.IdempotencyKey != nil {
		texts = append(texts, *signal.IdempotencyKey)
	}
	if err := checkText(texts...); err != nil {
		return err
	}
	return normalizeJSON(&signal.Data)
}

// reservedSignal refuses the name of a signal that only decisions send.
func reservedSignal(name string) error { return fmt.Errorf("%w: %q", store.ErrReservedSignal, name) }

// deliver delivers one signal. A signal for which no attempt waits is not kept.
func (s *Store) deliver(signal store.Signal, now time.Time) []string {
	var runIDs []string
	if signal.IdempotencyKey != nil {
		for _, d := range s.deliveries {
			if d.signal == signal.Name && d.key != nil && *d.key == *signal.IdempotencyKey && !slices.Contains(runIDs, d.runID) {
				runIDs = append(runIDs, d.runID)
			}
		}
		if len(runIDs) > 0 {
			slices.Sort(runIDs)
			return runIDs
		}
	}
	for _, id := range sortedKeys(s.attempts) {
		a := s.attempts[id]
		if !waitsFor(a, signal.Name) || s.deliveries[id] != nil {
			continue
		}
		s.deliveries[id] = &delivery{signal: signal.Name, data: signal.Data, key: signal.IdempotencyKey, runID: a.WorkflowRunID, at: now}
		if !slices.Contains(runIDs, a.WorkflowRunID) {
			runIDs = append(runIDs, a.WorkflowRunID)
		}
		if r := s.open[a.WorkflowRunID]; r != nil && r.WorkerID == nil {
			r.wake(now)
		}
	}
	slices.Sort(runIDs)
	return runIDs
}

// waitsFor reports whether an attempt waits for a signal (R25).
func waitsFor(a *openworkflow.StepAttempt, signal string) bool {
	c := openworkflow.DecodeWaitContext(a.Context)
	return a.Kind == openworkflow.KindSignalWait && a.Status == openworkflow.StepRunning && c.Signal != nil && *c.Signal == signal
}

// Waiting reports whether an open run waits for the signal, which has not been delivered to it
// yet.
func (s *Store) Waiting(signal string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.open {
		for _, a := range s.steps[id] {
			if waitsFor(a, signal) && s.deliveries[a.ID] == nil {
				return true
			}
		}
	}
	return false
}

// SendSignal delivers the signal that a step sends and completes the step's attempt, under the
// run's lease (R99a). A repeated call returns the runs that the first one stored.
func (s *Store) SendSignal(ctx context.Context, step store.StepWrite, signal store.Signal) ([]string, error) {
	if openworkflow.IsApprovalSignal(signal.Name) {
		return nil, reservedSignal(signal.Name)
	}
	now, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.commit()
	var output struct {
		WorkflowRunIDs []string `json:"workflowRunIds"`
	}
	if a := s.attempts[step.Attempt.ID]; a != nil && a.Status != openworkflow.StepRunning {
		if a.WorkflowRunID != step.RunID || a.Status != openworkflow.StepCompleted {
			return nil, store.ErrLeaseLost
		}
		err := json.Unmarshal(a.Output, &output)
		return output.WorkflowRunIDs, err
	}
	if s.held(step.Lease) == nil {
		return nil, store.ErrLeaseLost
	}
	if signal.IdempotencyKey == nil {
		signal.IdempotencyKey = new(openworkflow.SignalKey(step.RunID, step.Attempt.StepName))
	}
	if err := normalizeSignal(&signal); err != nil {
		return nil, err
	}
	output.WorkflowRunIDs = s.deliver(signal, now)
	if output.WorkflowRunIDs == nil {
		output.WorkflowRunIDs = []string{}
	}
	step.Attempt.Kind, step.Attempt.Status, step.Attempt.Context = openworkflow.KindSignalSend, openworkflow.StepCompleted, nil
	if step.Attempt.Output, err = json.Marshal(output); err != nil {
		return nil, err
	}
	if err := normalizeStep(&step); err != nil {
		return nil, err
	}
	return output.WorkflowRunIDs, s.writeStep(step, now)
}

// WaitResults returns, by attempt, the results of those waits that have one: a child's end, or
// a signal. Other attempts are absent.
func (s *Store) WaitResults(ctx context.Context, attemptIDs []string) (map[string]store.WaitResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	results := map[string]store.WaitResult{}
	for _, id := range attemptIDs {
		if a := s.attempts[id]; a != nil {
			if result, ok := s.waitResult(a); ok {
				results[id] = result
			}
		}
	}
	return results, nil
}

func (s *Store) waitResult(a *openworkflow.StepAttempt) (store.WaitResult, bool) {
	if a.Status != openworkflow.StepRunning {
		return store.WaitResult{}, false
	}
	switch a.Kind {
	case openworkflow.KindWorkflow:
		if a.ChildWorkflowRunID == nil {
			return store.WaitResult{}, false
		}
		c := s.runs[*a.ChildWorkflowRunID]
		if c == nil || !c.Status.Terminal() {
			return store.WaitResult{}, false
		}
		return store.WaitResult{Child: &openworkflow.Run{
			ID: c.ID, Status: c.Status, Output: c.Output, Error: c.Error, FinishedAt: c.FinishedAt,
		}}, true
	case openworkflow.KindSignalWait:
		d := s.deliveries[a.ID]
		if d == nil {
			return store.WaitResult{}, false
		}
		return store.WaitResult{Data: d.data}, true
	default:
		return store.WaitResult{}, false
	}
}

// Sweep does nothing unless the last sweep is older than every. It fails runs past their
// deadline, and rescues those of up to limit parked runs whose wait has a result (R171).
func (s *Store) Sweep(ctx context.Context, every time.Duration, limit int) (store.Swept, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return store.Swept{}, err
	}
	defer s.commit()
	if !s.sweptAt.IsZero() && now.Sub(s.sweptAt) < every {
		return store.Swept{}, nil
	}
	s.sweptAt = now
	swept := store.Swept{Ran: true, Expired: s.failExpired(now, limit)}
	seen := 0
	for _, id := range sortedKeys(s.open) {
		r := s.open[id]
		if id <= s.sweepCursor || !r.Parked() {
			continue
		}
		if seen == limit { // the next sweep continues here
			return swept, nil
		}
		seen++
		s.sweepCursor = id
		if s.wakeParked(r, now) {
			swept.Rescued = append(swept.Rescued, id)
		}
	}
	s.sweepCursor = ""
	return swept, nil
}
