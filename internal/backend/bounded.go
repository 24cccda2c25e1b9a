package backend

import (
	"context"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// boundedStore gives each call of a database a deadline of callTimeout: a reconcile has none,
// and one that waits for a connection that hangs would wait for ever. The callers of
// Ping, Migrate and CheckSchema set other deadlines, and ListenWaits lasts until its ctx ends.
type boundedStore struct {
	Store
	slow *slowness
}

// answer calls the database with a deadline.
func answer[T any](ctx context.Context, call func(ctx context.Context) (T, error)) (result T, err error) {
	err = within(ctx, callTimeout, func(ctx context.Context) (err error) {
		result, err = call(ctx)
		return err
	})
	return result, err
}

func (s boundedStore) ServerVersion(ctx context.Context) (string, error) {
	return answer(ctx, s.Store.ServerVersion)
}

func (s boundedStore) CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error) {
	return answer(ctx, func(ctx context.Context) ([]store.Created, error) { return s.Store.CreateRuns(ctx, runs) })
}

func (s boundedStore) KeyHolder(ctx context.Context, id string, run store.NewRun) (store.KeyHolder, error) {
	return answer(ctx, func(ctx context.Context) (store.KeyHolder, error) { return s.Store.KeyHolder(ctx, id, run) })
}

func (s boundedStore) RunStates(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	return answer(ctx, func(ctx context.Context) (map[string]*openworkflow.Run, error) { return s.Store.RunStates(ctx, ids) })
}

func (s boundedStore) StepSummaries(ctx context.Context, runIDs []string, newest int) (map[string]openworkflow.StepSummary, error) {
	return answer(ctx, func(ctx context.Context) (map[string]openworkflow.StepSummary, error) {
		return s.Store.StepSummaries(ctx, runIDs, newest)
	})
}

func (s boundedStore) CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	return answer(ctx, func(ctx context.Context) (map[string]openworkflow.RunStatus, error) {
		return s.Store.CancelRuns(ctx, ids)
	})
}

func (s boundedStore) SuspendRuns(ctx context.Context, ids []string) (int, error) {
	return answer(ctx, func(ctx context.Context) (int, error) { return s.Store.SuspendRuns(ctx, ids) })
}

func (s boundedStore) ResumeRuns(ctx context.Context, ids []string) (int, error) {
	return answer(ctx, func(ctx context.Context) (int, error) { return s.Store.ResumeRuns(ctx, ids) })
}

func (s boundedStore) Fork(ctx context.Context, r store.ForkRequest) (store.ForkResult, error) {
	return answer(ctx, func(ctx context.Context) (store.ForkResult, error) { return s.Store.Fork(ctx, r) })
}

func (s boundedStore) Forks(ctx context.Context, after string, limit int) ([]store.NotedFork, error) {
	return answer(ctx, func(ctx context.Context) ([]store.NotedFork, error) { return s.Store.Forks(ctx, after, limit) })
}

func (s boundedStore) ArchivedRun(ctx context.Context, id string) (*openworkflow.Run, error) {
	return answer(ctx, func(ctx context.Context) (*openworkflow.Run, error) { return s.Store.ArchivedRun(ctx, id) })
}

func (s boundedStore) Decide(ctx context.Context, in store.DecideInput) (store.Decision, error) {
	return answer(ctx, func(ctx context.Context) (store.Decision, error) { return s.Store.Decide(ctx, in) })
}

func (s boundedStore) ForgetForks(ctx context.Context, ids []string) error {
	return within(ctx, callTimeout, func(ctx context.Context) error { return s.Store.ForgetForks(ctx, ids) })
}

// FailExpired is called every second, and waits for no row. So it notices that the database is
// slow while no run starts.
func (s boundedStore) FailExpired(ctx context.Context, limit int) (ids []string, err error) {
	s.slow.watch(func() error {
		ids, err = answer(ctx, func(ctx context.Context) ([]string, error) { return s.Store.FailExpired(ctx, limit) })
		return err
	})
	return ids, err
}

func (s boundedStore) Sweep(ctx context.Context, every time.Duration, limit int) (store.Swept, error) {
	return answer(ctx, func(ctx context.Context) (store.Swept, error) { return s.Store.Sweep(ctx, every, limit) })
}

func (s boundedStore) OpenObjectRuns(ctx context.Context, cluster, afterRunID string, limit int) ([]store.ObjectRun, error) {
	return answer(ctx, func(ctx context.Context) ([]store.ObjectRun, error) {
		return s.Store.OpenObjectRuns(ctx, cluster, afterRunID, limit)
	})
}

func (s boundedStore) EndedRuns(
	ctx context.Context, r store.Retention, after openworkflow.Cursor, limit int,
) (runs []store.EndedRun, next openworkflow.Cursor, err error) {
	err = within(ctx, callTimeout, func(ctx context.Context) (err error) {
		runs, next, err = s.Store.EndedRuns(ctx, r, after, limit)
		return err
	})
	return runs, next, err
}

func (s boundedStore) RemoveRuns(ctx context.Context, r store.Retention, ids []string) (removed store.Removed, rest []string, err error) {
	err = within(ctx, callTimeout, func(ctx context.Context) (err error) {
		removed, rest, err = s.Store.RemoveRuns(ctx, r, ids)
		return err
	})
	return removed, rest, err
}

func (s boundedStore) RemoveStrayDeliveries(
	ctx context.Context, r store.Retention, after string, limit int,
) (next string, removed int, err error) {
	err = within(ctx, callTimeout, func(ctx context.Context) (err error) {
		next, removed, err = s.Store.RemoveStrayDeliveries(ctx, r, after, limit)
		return err
	})
	return next, removed, err
}

func (s boundedStore) RemoveArchives(ctx context.Context, age time.Duration, limit int) (int, error) {
	return answer(ctx, func(ctx context.Context) (int, error) { return s.Store.RemoveArchives(ctx, age, limit) })
}

func (s boundedStore) RecordSlots(ctx context.Context, outcomes []store.SlotOutcome, ttl time.Duration) error {
	return within(ctx, callTimeout, func(ctx context.Context) error { return s.Store.RecordSlots(ctx, outcomes, ttl) })
}

func (s boundedStore) RemoveSlots(ctx context.Context, ttl time.Duration, limit int) (int, error) {
	return answer(ctx, func(ctx context.Context) (int, error) { return s.Store.RemoveSlots(ctx, ttl, limit) })
}

func (s boundedStore) ReleaseLeases(ctx context.Context, r store.ReleaseRequest) ([]store.ReleasedRun, error) {
	return answer(ctx, func(ctx context.Context) ([]store.ReleasedRun, error) { return s.Store.ReleaseLeases(ctx, r) })
}

func (s boundedStore) ForeignClaims(ctx context.Context, limit int) ([]store.ForeignClaim, error) {
	return answer(ctx, func(ctx context.Context) ([]store.ForeignClaim, error) { return s.Store.ForeignClaims(ctx, limit) })
}

func (s boundedStore) CountTakeover(ctx context.Context, lease openworkflow.Lease, since time.Time, from int, workerID string) (int, error) {
	return answer(ctx, func(ctx context.Context) (int, error) {
		return s.Store.CountTakeover(ctx, lease, since, from, workerID)
	})
}

func (s boundedStore) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	return answer(ctx, func(ctx context.Context) (store.BatchResult, error) { return s.Store.ApplyAndClaim(ctx, batch) })
}

func (s boundedStore) ClaimBulkRetry(ctx context.Context) (*store.BulkWork, error) {
	return answer(ctx, s.Store.ClaimBulkRetry)
}

func (s boundedStore) BulkSources(ctx context.Context, work *store.BulkWork) (store.BulkSources, error) {
	return answer(ctx, func(ctx context.Context) (store.BulkSources, error) { return s.Store.BulkSources(ctx, work) })
}

func (s boundedStore) AdvanceBulkRetry(ctx context.Context, work *store.BulkWork, p store.BulkProgress) error {
	return within(ctx, callTimeout, func(ctx context.Context) error { return s.Store.AdvanceBulkRetry(ctx, work, p) })
}

func (s boundedStore) KeepSignal(ctx context.Context, k store.KeptSignal) (store.SignalResult, error) {
	return answer(ctx, func(ctx context.Context) (store.SignalResult, error) { return s.Store.KeepSignal(ctx, k) })
}

func (s boundedStore) DeliverKept(ctx context.Context, id string) (store.SignalResult, error) {
	return answer(ctx, func(ctx context.Context) (store.SignalResult, error) { return s.Store.DeliverKept(ctx, id) })
}

func (s boundedStore) DueSignals(
	ctx context.Context, after openworkflow.Cursor, limit int,
) (ids []string, next openworkflow.Cursor, err error) {
	err = within(ctx, callTimeout, func(ctx context.Context) (err error) {
		ids, next, err = s.Store.DueSignals(ctx, after, limit)
		return err
	})
	return ids, next, err
}

func (s boundedStore) DueDecisions(ctx context.Context, steps []store.ApprovalStep) ([]int, error) {
	return answer(ctx, func(ctx context.Context) ([]int, error) { return s.Store.DueDecisions(ctx, steps) })
}

func (s boundedStore) WithdrawSignals(ctx context.Context, ids []string) error {
	return within(ctx, callTimeout, func(ctx context.Context) error { return s.Store.WithdrawSignals(ctx, ids) })
}

func (s boundedStore) RemoveSignals(
	ctx context.Context, keyedAfter time.Duration, after string, limit int,
) (next string, removed int, err error) {
	err = within(ctx, callTimeout, func(ctx context.Context) (err error) {
		next, removed, err = s.Store.RemoveSignals(ctx, keyedAfter, after, limit)
		return err
	})
	return next, removed, err
}

func (s boundedStore) Workers(ctx context.Context, within time.Duration) ([]store.Worker, error) {
	return answer(ctx, func(ctx context.Context) ([]store.Worker, error) { return s.Store.Workers(ctx, within) })
}

func (s boundedStore) RemoveWorker(ctx context.Context, podUID, process string) error {
	return within(ctx, callTimeout, func(ctx context.Context) error { return s.Store.RemoveWorker(ctx, podUID, process) })
}
