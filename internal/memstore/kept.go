package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// keptSignal is a signal that is delivered at most once, and what has become of it.
type keptSignal struct {
	store.KeptSignal
	createdAt time.Time
	result    store.SignalResult
}

// maxDeliveries is the number of deliveries that a result has.
const maxDeliveries = 100

// KeepSignal keeps a signal until it is delivered or expires, and delivers it if somebody waits
// for it.
func (s *Store) KeepSignal(ctx context.Context, k store.KeptSignal) (store.SignalResult, error) {
	if openworkflow.IsApprovalSignal(k.Name) {
		return store.SignalResult{}, reservedSignal(k.Name)
	}
	k.Key = cmp.Or(k.Key, k.ID)
	if err := checkText(k.ID, k.Name, k.Key, k.RunID); err != nil {
		return store.SignalResult{}, err
	}
	if k.Step != nil {
		if err := checkText(*k.Step); err != nil {
			return store.SignalResult{}, err
		}
	}
	if err := normalizeJSON(&k.Data); err != nil {
		return store.SignalResult{}, err
	}
	now, err := s.begin(ctx)
	if err != nil {
		return store.SignalResult{}, err
	}
	defer s.commit()
	if s.kept[k.ID] == nil {
		k.ExpiresAt = k.ExpiresAt.Truncate(time.Millisecond)
		s.kept[k.ID] = &keptSignal{KeptSignal: k, createdAt: now, result: store.SignalResult{State: store.SignalWaiting}}
	}
	return s.deliverKept(s.kept[k.ID], now), nil
}

// DeliverKept delivers a signal that is kept if somebody waits for it.
func (s *Store) DeliverKept(ctx context.Context, id string) (store.SignalResult, error) {
	now, err := s.begin(ctx)
	if err != nil {
		return store.SignalResult{}, err
	}
	defer s.commit()
	k := s.kept[id]
	if k == nil {
		return store.SignalResult{}, fmt.Errorf("signal %s: %w", id, store.ErrNotFound)
	}
	return s.deliverKept(k, now), nil
}

func (s *Store) deliverKept(k *keptSignal, now time.Time) store.SignalResult {
	if k.result.State != store.SignalWaiting {
		return k.result
	}
	isExpired := !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(now)
	if !isExpired && !s.sentBefore(k) {
		for _, a := range s.receivers(k) {
			s.deliveries[a.ID] = &delivery{signal: k.Name, data: k.Data, key: &k.Key, runID: a.WorkflowRunID, at: now}
			if r := s.open[a.WorkflowRunID]; r != nil && r.WorkerID == nil {
				r.wake(now)
			}
		}
	}
	result := s.deliveriesOf(k)
	target := s.runs[k.RunID]
	switch {
	case result.Runs > 0:
		result.State = store.SignalDelivered
	case k.ExpiresAt.IsZero():
		result.State = store.SignalUnreceived
	case isExpired:
		result.State = store.SignalExpired
	case target != nil && target.Status.Terminal():
		result.State = store.SignalRunEnded
	default:
		return k.result
	}
	result.FinishedAt, k.Data = &now, nil
	k.result = result
	return result
}

// receivers returns the attempts that may receive a signal, by id.
func (s *Store) receivers(k *keptSignal) (receivers []*openworkflow.StepAttempt) {
	for _, id := range sortedKeys(s.attempts) {
		a := s.attempts[id]
		isWaiting := waitsFor(a, k.Name) && s.deliveries[id] == nil
		isMeant := (k.RunID == "" || a.WorkflowRunID == k.RunID && (k.Step == nil || a.StepName == *k.Step)) &&
			(k.ExpiresAt.IsZero() || s.open[a.WorkflowRunID] != nil)
		if isWaiting && isMeant {
			receivers = append(receivers, a)
		}
	}
	return receivers
}

// sentBefore reports whether a signal of this name and key was delivered.
func (s *Store) sentBefore(k *keptSignal) bool { return s.deliveriesOf(k).Runs > 0 }

// deliveriesOf returns the deliveries under the key of a signal.
func (s *Store) deliveriesOf(k *keptSignal) (result store.SignalResult) {
	runs := map[string]bool{}
	for _, id := range sortedKeys(s.deliveries) {
		d := s.deliveries[id]
		if d.signal != k.Name || d.key == nil || *d.key != k.Key {
			continue
		}
		runs[d.runID] = true
		found := store.SignalDelivery{RunID: d.runID, Step: s.attempts[id].StepName, At: d.at}
		if r := s.runs[d.runID]; r != nil {
			found.Object = r.Object()
		}
		result.Deliveries = append(result.Deliveries, found)
	}
	slices.SortStableFunc(result.Deliveries, func(a, b store.SignalDelivery) int { return strings.Compare(a.RunID, b.RunID) })
	result.Deliveries = result.Deliveries[:min(len(result.Deliveries), maxDeliveries)]
	result.Runs = len(runs)
	return result
}

// DueSignals reads up to limit of the signals that are kept, the oldest first, and returns
// those that can be delivered or have expired.
func (s *Store) DueSignals(ctx context.Context, after openworkflow.Cursor, limit int) (ids []string, next openworkflow.Cursor, err error) {
	now, err := s.begin(ctx)
	if err != nil {
		return nil, next, err
	}
	defer s.mu.Unlock()
	byAge := func(a, b openworkflow.Cursor) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	}
	var waiting []openworkflow.Cursor
	for id, k := range s.kept {
		at := openworkflow.Cursor{CreatedAt: k.createdAt, ID: id}
		if k.result.State == store.SignalWaiting && byAge(at, after) > 0 {
			waiting = append(waiting, at)
		}
	}
	slices.SortFunc(waiting, byAge)
	if len(waiting) >= limit {
		waiting = waiting[:limit]
		next = waiting[limit-1]
	}
	for _, at := range waiting {
		k, target := s.kept[at.ID], s.runs[s.kept[at.ID].RunID]
		if !k.ExpiresAt.After(now) || len(s.receivers(k)) > 0 || target != nil && target.Status.Terminal() || s.sentBefore(k) {
			ids = append(ids, at.ID)
		}
	}
	return ids, next, nil
}

// DueDecisions returns the indexes of those of the steps that have asked for an approval, or whose
// run has ended.
func (s *Store) DueDecisions(ctx context.Context, steps []store.ApprovalStep) (due []int, err error) {
	if _, err := s.begin(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	for i, step := range steps {
		r := s.runs[step.RunID]
		if s.approvals[stepKey{step.RunID, step.Step}] != nil || r != nil && r.Status.Terminal() {
			due = append(due, i)
		}
	}
	return due, nil
}

// WithdrawSignals removes those of the signals that were not delivered yet.
func (s *Store) WithdrawSignals(ctx context.Context, ids []string) error {
	if _, err := s.begin(ctx); err != nil {
		return err
	}
	defer s.commit()
	for _, id := range ids {
		if k := s.kept[id]; k != nil && k.result.State == store.SignalWaiting {
			delete(s.kept, id)
		}
	}
	return nil
}
