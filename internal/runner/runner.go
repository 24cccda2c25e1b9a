package runner

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// Store is what the runner needs of a database. Package store implements it.
type Store interface {
	Claim(ctx context.Context, request store.ClaimRequest) ([]openworkflow.Run, error)
	LoadSteps(ctx context.Context, runIDs []string) (map[string][]openworkflow.StepAttempt, error)
	Heartbeat(ctx context.Context, leases []openworkflow.Lease, d time.Duration) ([]store.LeaseState, error)
	ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error)
	ReleaseLeases(ctx context.Context, r store.ReleaseRequest) ([]store.ReleasedRun, error)
	SaveWorker(ctx context.Context, worker store.Worker, within time.Duration) (peers int, err error)
	RemoveWorker(ctx context.Context, podUID, process string) error
	Notify(ctx context.Context) error
	NotifyEnds(ctx context.Context) error
	NotifyWaits(ctx context.Context) error
	Listen(ctx context.Context, wake func()) error
	WaitResults(ctx context.Context, attemptIDs []string) (map[string]store.WaitResult, error)
	SendSignal(ctx context.Context, step store.StepWrite, signal store.Signal) (runIDs []string, err error)
	ExpireApproval(ctx context.Context, runID, step string) (store.ApprovalState, error)
	Sweep(ctx context.Context, every time.Duration, limit int) (store.Swept, error)
}

// Options configure a Runner. The zero value of each field selects the default.
type Options struct {
	// Concurrency is how many runs are executed at once. Default: 10.
	Concurrency int
	// Lease is how long a claim holds a run after its last heartbeat. Default: 10 s.
	Lease time.Duration
	// PollInterval is the longest time between two polls for due runs, the safety net below
	// notifications. Workers that serve the same workflows share the polls: each of n workers
	// polls every n intervals, and at least every 30 s. Default: 1 s.
	PollInterval time.Duration
	// MaxWorkerDeaths is how many processes in a row may die while they execute a run, without
	// progress of the run, until it fails. Default: 5.
	MaxWorkerDeaths int
	// PodUID and PodName identify the pod; the uid survives a restart of the container.
	// Default: a random uid.
	PodUID, PodName string
	// Pool is the name of the WorkerPool.
	Pool string
	// Reporter gets the progress of each run. Default: none.
	Reporter Reporter
	// Logger gets one line per notable event. Default: slog.Default().
	Logger *slog.Logger
	// Tracer gets a span per pass and step. Nil means no tracing.
	Tracer *tracing.Tracer
}

// Runner executes the runs of a set of workflows. Make one with New, then call Run once.
type Runner struct {
	store       Store
	options     Options
	log         *slog.Logger
	definitions map[openworkflow.DefinitionKey]durable.Definition
	served      []openworkflow.Definition

	// process distinguishes this process from earlier ones in the same pod.
	process string
	claims  atomic.Int64
	// peers is how many live workers serve the same workflows, this one included.
	peers atomic.Int64

	flusher     *flusher
	leases      *leaseKeeper
	histories   *historyCache
	waitPoller  *waitPoller
	runningRows runningRows
	notifyDue   *notifyLimiter // tells workers of due runs
	notifyEnds  *notifyLimiter // tells managers and clients of ended runs
	notifyWaits *notifyLimiter // tells managers, which keep signals, of new waits

	// passCtx is the parent of the context of every pass. It ends when the grace period is
	// over.
	passCtx      context.Context
	cancelPasses context.CancelCauseFunc
	// writeCtx is the parent of the context of every write of a pass. It ends when Run
	// returns.
	writeCtx     context.Context
	cancelWrites context.CancelCauseFunc

	passes     sync.WaitGroup
	slots      slots
	quarantine quarantine
	stuck      stuckPasses
	givenBack  givenBackTurns
	claimWake  wake.Flag     // runs may be due, and a slot may be free
	drain      chan struct{} // closed by Drain
	drainOnce  sync.Once
	draining   atomic.Bool
	ready      atomic.Bool
}

// New returns a runner of these definitions. It fails when there are none, or when two have
// the same name and version (R61).
func New(s Store, definitions []durable.Definition, options Options) (*Runner, error) {
	if options.Concurrency <= 0 {
		options.Concurrency = 10
	}
	if options.Lease <= 0 {
		options.Lease = 10 * time.Second
	}
	if options.PollInterval <= 0 {
		options.PollInterval = time.Second
	}
	if options.MaxWorkerDeaths <= 0 {
		options.MaxWorkerDeaths = openworkflow.DefaultMaxWorkerDeaths
	}
	if options.PodUID == "" {
		options.PodUID = openworkflow.NewID()
	}
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if len(definitions) == 0 {
		return nil, errors.New("no workflows: a worker needs at least one definition")
	}
	r := &Runner{
		store:       s,
		options:     options,
		definitions: make(map[openworkflow.DefinitionKey]durable.Definition, len(definitions)),
		process:     rand.Text()[:10],
		slots:       slots{free: options.Concurrency},
		claimWake:   wake.New(),
		drain:       make(chan struct{}),
	}
	r.log = options.Logger.With("worker", options.PodUID+"."+r.process)
	for _, d := range definitions {
		if d.Execute == nil {
			return nil, fmt.Errorf("workflow %q is only declared here: a worker needs its function (workflow.Define)", d.Name)
		}
		key := d.Key()
		if _, twice := r.definitions[key]; twice {
			if d.Version != nil {
				return nil, fmt.Errorf("workflow %q (version: %s) is already registered", d.Name, *d.Version)
			}
			return nil, fmt.Errorf("workflow %q is already registered", d.Name)
		}
		r.definitions[key] = d
		r.served = append(r.served, d.Definition)
	}
	r.passCtx, r.cancelPasses = context.WithCancelCause(context.Background())
	r.writeCtx, r.cancelWrites = context.WithCancelCause(context.Background())
	r.flusher = newFlusher(r)
	r.leases = newLeaseKeeper(s, options.Lease, r.log)
	r.stuck = stuckPasses{
		log:       r.log,
		slots:     options.Concurrency,
		functions: r.runningRows.executingOf,
		changed:   wake.New(),
		passes:    map[*execution]struct{}{},
	}
	r.histories = newHistoryCache()
	r.waitPoller = newWaitPoller(r)
	r.notifyDue = newNotifyLimiter(s.Notify)
	r.notifyEnds = newNotifyLimiter(s.NotifyEnds)
	r.notifyWaits = newNotifyLimiter(s.NotifyWaits)
	return r, nil
}

// Ready reports whether the runner has reached the database and claims runs.
func (r *Runner) Ready() bool { return r.ready.Load() && !r.draining.Load() && !r.stuck.blocked() }

// Drain stops the claims, and lets each pass end at its next step. Runs that are not finished
// are handed back, and are due at once for other workers. Drain returns immediately; wait for
// Run to return. It may be called more than once, from any goroutine.
func (r *Runner) Drain() {
	r.drainOnce.Do(func() {
		r.draining.Store(true)
		close(r.drain)
	})
}

// Run executes runs until ctx ends or Drain is called. It then waits up to grace for the
// passes to end. After that, the contexts of the remaining passes end with ErrShutdown; one
// second later their runs are handed back. Run does not return because the database fails: it
// retries.
func (r *Runner) Run(ctx context.Context, grace time.Duration) error {
	defer r.stuck.stop()
	defer r.cancelPasses(durable.ErrShutdown)
	defer r.cancelWrites(durable.ErrShutdown)
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	var tasks sync.WaitGroup
	defer func() {
		stopBackground()
		tasks.Wait()
	}()
	tasks.Go(func() { r.flusher.group.Run(background) })
	tasks.Go(func() { r.leases.run(background) })
	tasks.Go(func() { r.waitPoller.run(background) })
	for _, limiter := range []*notifyLimiter{r.notifyDue, r.notifyEnds, r.notifyWaits} {
		tasks.Go(func() {
			limiter.run(background, func(err error) { r.log.Debug("Could not notify", "error", err) })
		})
	}
	stopDrain := context.AfterFunc(ctx, r.Drain)
	defer stopDrain()

	started, stop := context.WithCancel(background)
	defer stop()
	tasks.Go(func() {
		select {
		case <-r.drain:
			stop()
		case <-started.Done():
		}
	})
	if r.releasePreviousProcess(started) {
		tasks.Go(func() { r.announce(started) })
		tasks.Go(func() { r.sweep(started) })
		tasks.Go(func() {
			woken := func() {
				r.claimWake.Set()
				r.waitPoller.wakes.Set()
			}
			if err := r.store.Listen(started, woken); err != nil && started.Err() == nil {
				r.log.Error("Stopped listening for notifications; polling continues", "error", err)
			}
		})
		r.claimLoop(started)
	}
	<-r.drain
	r.waitForPasses(background, grace)
	return nil
}

// releasePreviousProcess makes due again the runs that an earlier process of this pod has
// claimed: it has died, or it would have handed them back and this one would not have been
// started. It retries until ctx ends, and reports whether it succeeded.
func (r *Runner) releasePreviousProcess(ctx context.Context) bool {
	var released []store.ReleasedRun
	err := retry(ctx, r.log, "Could not reach the database", func(ctx context.Context) (err error) {
		released, err = r.store.ReleaseLeases(ctx, store.ReleaseRequest{
			PodUID: r.options.PodUID, ExceptProcess: r.process, Died: true, MaxDeaths: r.options.MaxWorkerDeaths,
		})
		return err
	})
	if err != nil {
		return false
	}
	if len(released) > 0 {
		r.log.Info("Released the runs of this pod's previous process", "runs", len(released))
		for _, run := range released {
			if run.Deaths > 1 {
				r.log.Warn("The process has died again while it executed a run", "run", run.ID, "deaths", run.Deaths)
			}
		}
		r.notifyDue.request()
	}
	return true
}

// announce writes every 10 s, until ctx ends, that this worker is live and what it serves, and
// at once when functions do not return. It then removes that row.
func (r *Runner) announce(ctx context.Context) {
	const interval = 10 * time.Second
	worker := store.Worker{
		PodUID:    r.options.PodUID,
		Process:   r.process,
		PodName:   r.options.PodName,
		Pool:      r.options.Pool,
		Workflows: r.served,
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	save := func(ctx context.Context) error {
		worker.StuckSteps, worker.Blocked = r.stuck.count(), r.stuck.blocked()
		peers, err := r.store.SaveWorker(ctx, worker, 3*interval)
		if err == nil {
			r.peers.Store(int64(peers))
		}
		return err
	}
	for retry(ctx, r.log, "Could not announce the worker", save) == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-r.stuck.changed:
		}
	}
	removeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := r.store.RemoveWorker(removeCtx, worker.PodUID, worker.Process); err != nil {
		r.log.Debug("Could not remove the announcement of the worker", "error", err)
	}
}

// waitForPasses waits up to grace for the passes to end. It then ends passCtx, waits another
// second, and hands back the runs that are still held.
func (r *Runner) waitForPasses(ctx context.Context, grace time.Duration) {
	done := make(chan struct{})
	go func() {
		r.passes.Wait()
		close(done)
	}()
	graceTimer := time.NewTimer(grace)
	defer graceTimer.Stop()
	select {
	case <-done:
		r.log.Info("Stopped; every run was finished or handed back")
		return
	case <-graceTimer.C:
	}
	r.cancelPasses(durable.ErrShutdown)
	const returnTime = time.Second
	timer := time.NewTimer(returnTime)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if n := r.handBack(ctx, r.leases.held(0)); n > 0 {
		r.log.Warn("Handed back runs whose steps did not end within the grace period", "runs", n)
	}
}

// handBack makes runs due now for other workers, and returns how many it could.
func (r *Runner) handBack(ctx context.Context, leases []openworkflow.Lease) int {
	if len(leases) == 0 {
		return 0
	}
	writes := make([]store.RunWrite, len(leases))
	for i, lease := range leases {
		writes[i] = store.RunWrite{Lease: lease, Op: store.RunRelease}
	}
	result, err := r.store.ApplyAndClaim(ctx, store.Batch{Runs: writes, Hints: store.Hints{Due: true}})
	if err != nil {
		r.log.Warn("Could not hand back runs; they are claimed again when their leases end", "error", err)
		return 0
	}
	handed := 0
	for _, err := range result.Runs {
		if err == nil {
			handed++
		}
	}
	return handed
}
