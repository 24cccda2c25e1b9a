package backend

import (
	"context"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Store is what is needed of a Backend's database. *store.Store implements it.
type Store interface {
	Close()
	Ping(ctx context.Context) error
	CheckWritable(ctx context.Context) error
	TransactionPooled() bool
	Encrypted() bool
	ServerTime(t time.Time) time.Time
	CollationChange(ctx context.Context) (built, actual string, err error)
	ServerVersion(ctx context.Context) (string, error)
	Migrate(ctx context.Context) error
	CheckSchema(ctx context.Context) error

	CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error)
	KeyHolder(ctx context.Context, id string, run store.NewRun) (store.KeyHolder, error)
	RunStates(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error)
	StepSummaries(ctx context.Context, runIDs []string, newest int) (map[string]openworkflow.StepSummary, error)
	CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error)
	SuspendRuns(ctx context.Context, ids []string) (int, error)
	ResumeRuns(ctx context.Context, ids []string) (int, error)
	Fork(ctx context.Context, r store.ForkRequest) (store.ForkResult, error)
	Forks(ctx context.Context, after string, limit int) ([]store.NotedFork, error)
	ForgetForks(ctx context.Context, ids []string) error
	ArchivedRun(ctx context.Context, id string) (*openworkflow.Run, error)
	Decide(ctx context.Context, in store.DecideInput) (store.Decision, error)

	FailExpired(ctx context.Context, limit int) ([]string, error)
	Sweep(ctx context.Context, every time.Duration, limit int) (store.Swept, error)
	OpenObjectRuns(ctx context.Context, cluster, afterRunID string, limit int) ([]store.ObjectRun, error)
	EndedRuns(ctx context.Context, r store.Retention, after openworkflow.Cursor, limit int) ([]store.EndedRun, openworkflow.Cursor, error)
	RemoveRuns(ctx context.Context, r store.Retention, ids []string) (store.Removed, []string, error)
	RemoveStrayDeliveries(ctx context.Context, r store.Retention, after string, limit int) (string, int, error)
	RemoveArchives(ctx context.Context, age time.Duration, limit int) (removed int, err error)
	RecordSlots(ctx context.Context, outcomes []store.SlotOutcome, ttl time.Duration) error
	RemoveSlots(ctx context.Context, ttl time.Duration, limit int) (removed int, err error)
	ReleaseLeases(ctx context.Context, r store.ReleaseRequest) ([]store.ReleasedRun, error)
	ForeignClaims(ctx context.Context, limit int) ([]store.ForeignClaim, error)
	CountTakeover(ctx context.Context, lease openworkflow.Lease, since time.Time, from int, workerID string) (deaths int, err error)
	ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error)
	Workers(ctx context.Context, within time.Duration) ([]store.Worker, error)
	RemoveWorker(ctx context.Context, podUID, process string) error
	Notify(ctx context.Context) error
	NotifyEnds(ctx context.Context) error

	KeepSignal(ctx context.Context, k store.KeptSignal) (store.SignalResult, error)
	DeliverKept(ctx context.Context, id string) (store.SignalResult, error)
	DueSignals(ctx context.Context, after openworkflow.Cursor, limit int) ([]string, openworkflow.Cursor, error)
	DueDecisions(ctx context.Context, steps []store.ApprovalStep) ([]int, error)
	WithdrawSignals(ctx context.Context, ids []string) error
	RemoveSignals(ctx context.Context, keyedAfter time.Duration, after string, limit int) (next string, removed int, err error)
	ListenWaits(ctx context.Context, wake func()) error

	ClaimBulkRetry(ctx context.Context) (*store.BulkWork, error)
	BulkSources(ctx context.Context, work *store.BulkWork) (store.BulkSources, error)
	AdvanceBulkRetry(ctx context.Context, work *store.BulkWork, p store.BulkProgress) error
}

// OpenFunc opens the database of a Backend.
type OpenFunc func(ctx context.Context, o store.Options) (Store, error)

// OpenStore opens a database with package store.
func OpenStore(ctx context.Context, o store.Options) (Store, error) {
	s, err := store.Open(ctx, o)
	if err != nil {
		return nil, err // an untyped nil: a nil *store.Store would be a non-nil Store
	}
	return s, nil
}
