package runner

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// leaseKeeper extends the leases of all passes with one statement per beat, and
// tells a pass what the beat found out about its run.
type leaseKeeper struct {
	store    Store
	duration time.Duration
	log      *slog.Logger

	mu     sync.Mutex
	passes map[openworkflow.Lease]keptLease
}

// keptLease is a lease and who holds it.
type keptLease struct {
	leaseHolder
	since time.Time
}

// leaseHolder is what the keeper can tell a pass.
type leaseHolder interface {
	// lost ends the pass at once; it can write nothing any more. The cause says why.
	lost(cause error)
	// suspend ends the pass at its next step.
	suspend()
}

func newLeaseKeeper(s Store, d time.Duration, log *slog.Logger) *leaseKeeper {
	return &leaseKeeper{store: s, duration: d, log: log, passes: map[openworkflow.Lease]keptLease{}}
}

func (k *leaseKeeper) add(lease openworkflow.Lease, holder leaseHolder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.passes[lease] = keptLease{holder, time.Now()}
}

func (k *leaseKeeper) remove(lease openworkflow.Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.passes, lease)
}

// held returns the leases that are being kept and are at least that old.
func (k *leaseKeeper) held(age time.Duration) []openworkflow.Lease {
	before := time.Now().Add(-age)
	k.mu.Lock()
	defer k.mu.Unlock()
	leases := make([]openworkflow.Lease, 0, len(k.passes))
	for lease, kept := range k.passes {
		if !kept.since.After(before) {
			leases = append(leases, lease)
		}
	}
	return leases
}

func (k *leaseKeeper) holder(lease openworkflow.Lease) leaseHolder {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.passes[lease].leaseHolder
}

// run beats until ctx ends: well inside a lease (R173), more often after a beat
// that failed.
func (k *leaseKeeper) run(ctx context.Context) {
	interval := k.duration / 3
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := k.beat(ctx, interval); err != nil && ctx.Err() == nil {
			k.log.Warn("Could not extend leases", "error", err)
			ticker.Reset(max(interval/3, 100*time.Millisecond))
		} else {
			ticker.Reset(interval)
		}
	}
}

// beat extends the leases, except those so fresh that the next beat is early enough for
// them: most runs end before that, and cost no beat.
func (k *leaseKeeper) beat(ctx context.Context, timeout time.Duration) error {
	leases := k.held(k.duration / 6)
	if len(leases) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	states, err := k.store.Heartbeat(ctx, leases, k.duration)
	if err != nil {
		return err
	}
	for _, state := range states {
		holder := k.holder(state.Lease)
		switch {
		case holder == nil: // the pass has ended meanwhile
		case !state.Held:
			holder.lost(causeOf(state))
		case state.Suspended:
			holder.suspend()
		}
	}
	return nil
}

// whyLost asks the row of a run that a write was refused for.
func (k *leaseKeeper) whyLost(ctx context.Context, lease openworkflow.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	states, err := k.store.Heartbeat(ctx, []openworkflow.Lease{lease}, k.duration)
	if err != nil || len(states) != 1 || states[0].Held {
		return durable.ErrLeaseLost
	}
	return causeOf(states[0])
}

// causeOf says why a lease was lost, as far as the row tells.
func causeOf(state store.LeaseState) error {
	switch {
	case state.Status == openworkflow.RunCanceled:
		return durable.ErrCanceled
	case state.Status == openworkflow.RunFailed && state.DeadlineAt != nil:
		return durable.ErrDeadlineExceeded
	default:
		return durable.ErrLeaseLost
	}
}
