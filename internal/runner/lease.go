package runner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// leaseKeeper extends the leases of all passes with one statement per heartbeat, and tells a
// pass what the heartbeat has found out about its run.
type leaseKeeper struct {
	store    Store
	duration time.Duration
	log      *slog.Logger

	mu     sync.Mutex
	leases map[openworkflow.Lease]heldLease
}

// heldLease is a lease, the pass that holds it, and since when.
type heldLease struct {
	leaseHolder
	since time.Time
}

// leaseHolder is a pass, as the leaseKeeper sees it.
type leaseHolder interface {
	// revoke ends the pass at once: it can write nothing more.
	revoke(cause error)
	// suspend ends the pass at its next step.
	suspend()
}

func newLeaseKeeper(s Store, d time.Duration, log *slog.Logger) *leaseKeeper {
	return &leaseKeeper{store: s, duration: d, log: log, leases: map[openworkflow.Lease]heldLease{}}
}

func (k *leaseKeeper) add(lease openworkflow.Lease, holder leaseHolder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leases[lease] = heldLease{holder, time.Now()}
}

func (k *leaseKeeper) remove(lease openworkflow.Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.leases, lease)
}

// held returns the leases that are at least this old.
func (k *leaseKeeper) held(age time.Duration) []openworkflow.Lease {
	before := time.Now().Add(-age)
	k.mu.Lock()
	defer k.mu.Unlock()
	held := make([]openworkflow.Lease, 0, len(k.leases))
	for lease, entry := range k.leases {
		if !entry.since.After(before) {
			held = append(held, lease)
		}
	}
	return held
}

func (k *leaseKeeper) holder(lease openworkflow.Lease) leaseHolder {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.leases[lease].leaseHolder
}

// run sends a heartbeat every third of a lease (R173) until ctx ends, and sooner after one
// that failed, or that found runs locked by other sessions.
func (k *leaseKeeper) run(ctx context.Context) {
	interval := k.duration / 3
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var waiter sync.WaitGroup
	defer waiter.Wait()
	free, unlocked := wake.New(), wake.New()
	free.Set()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-unlocked:
		}
		locked, err := k.beat(ctx, interval)
		if len(locked) == 0 && err == nil {
			ticker.Reset(interval)
			continue
		}
		ticker.Reset(max(interval/3, 100*time.Millisecond))
		if err != nil && ctx.Err() == nil {
			k.log.Warn("Could not extend leases", "error", err)
		}
		if len(locked) == 0 {
			continue
		}
		select {
		case <-free:
			waiter.Go(func() {
				defer free.Set()
				k.extendLocked(ctx, locked[0])
				unlocked.Set()
			})
		default: // one waits already
		}
	}
}

// extendLocked waits for the lock of a run, in the queue of its row. When the lock ends, the
// lease is extended before a worker can claim the run, even if it has expired meanwhile.
func (k *leaseKeeper) extendLocked(ctx context.Context, lease openworkflow.Lease) {
	k.log.Warn("Another session has locked a run that is executed here", "run", lease.RunID)
	ctx, cancel := context.WithTimeout(ctx, k.duration)
	defer cancel()
	if states, err := k.store.Heartbeat(ctx, []openworkflow.Lease{lease}, k.duration); err == nil {
		k.tell(states)
	}
}

// beat extends all leases but those younger than a sixth of a lease: the next heartbeat is
// early enough for them. Most runs end before that, and need none. It returns the leases of
// runs that other sessions have locked, which are neither extended nor lost.
func (k *leaseKeeper) beat(ctx context.Context, timeout time.Duration) (locked []openworkflow.Lease, err error) {
	leases := k.held(k.duration / 6)
	if len(leases) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	states, err := k.store.Heartbeat(ctx, leases, k.duration)
	if err != nil {
		return nil, err
	}
	return k.tell(states), nil
}

// tell tells the passes what a heartbeat has found, and returns the leases of locked runs.
func (k *leaseKeeper) tell(states []store.LeaseState) (locked []openworkflow.Lease) {
	for _, state := range states {
		holder := k.holder(state.Lease)
		switch {
		case holder == nil: // the pass has ended in the meantime
		case state.Locked:
			locked = append(locked, state.Lease)
		case !state.Held:
			holder.revoke(causeOfLoss(state))
		case state.Suspended:
			holder.suspend()
		}
	}
	return locked
}

// lossCause reads from the row of a run why a write of it was refused.
func (k *leaseKeeper) lossCause(ctx context.Context, lease openworkflow.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	states, err := k.store.Heartbeat(ctx, []openworkflow.Lease{lease}, k.duration)
	if err != nil || len(states) != 1 || states[0].Held {
		return durable.ErrLeaseLost
	}
	return causeOfLoss(states[0])
}

// causeOfLoss returns why a lease was lost, as far as the row tells.
func causeOfLoss(state store.LeaseState) error {
	switch {
	case state.Status == openworkflow.RunCanceled:
		return durable.ErrCanceled
	case state.Status == openworkflow.RunFailed && state.DeadlineAt != nil:
		return durable.ErrDeadlineExceeded
	default:
		return durable.ErrLeaseLost
	}
}
