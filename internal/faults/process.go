package faults

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Process is the store of one process of a worker. The process may stop at any call, as by a kill
// or a crash: no later call reaches the database, and nobody learns of an error. A container that
// is started again is a new Process of the same Store; its runner has the same pod uid, and releases
// what the earlier one held.
type Process struct {
	*Store
	die func(writes []Write) Strike
	// Uncounted makes the process release what its predecessor held without counting a death, so
	// that no run is set aside for a time.
	Uncounted bool

	calls   sync.RWMutex // held for reading by each call
	stopped atomic.Bool
	once    sync.Once
	gone    chan struct{} // closed when it stops
}

// Process returns the store of a new process. It calls die for each transaction that writes for
// claimed runs, with all that it writes, and for each claim that finds runs; only After stops a
// process at a claim.
func (s *Store) Process(die func(writes []Write) Strike) *Process {
	return &Process{Store: s, die: die, gone: make(chan struct{})}
}

// Stopped is closed when the process stops.
func (p *Process) Stopped() <-chan struct{} { return p.gone }

// Dead reports whether the process has stopped.
func (p *Process) Dead() bool { return p.stopped.Load() }

// AwaitCalls returns when no call of a process that has stopped is under way.
func (p *Process) AwaitCalls() {
	p.calls.Lock()
	defer p.calls.Unlock()
}

func (p *Process) stop() {
	p.once.Do(func() {
		p.stopped.Store(true)
		close(p.gone)
	})
}

// gate makes a call, unless the process has stopped.
func gate[T any](p *Process, call func() (T, error)) (result T, err error) {
	p.calls.RLock()
	defer p.calls.RUnlock()
	if p.Dead() {
		return result, ErrDead
	}
	return call()
}

// gateWrite makes a call that writes, unless the process stops before it. If the process stops
// after it, nobody learns the result.
func gateWrite[T any](p *Process, writes []Write, call func() (T, error)) (T, error) {
	return gate(p, func() (result T, err error) {
		strike := None
		if len(writes) > 0 {
			strike = p.die(writes)
		}
		if strike == Before {
			p.stop()
			return result, ErrDead
		}
		result, err = call()
		if strike == After {
			p.stop()
		}
		if p.Dead() {
			var none T
			return none, ErrDead
		}
		return result, err
	})
}

// Claim implements runner.Store.
func (p *Process) Claim(ctx context.Context, request store.ClaimRequest) ([]openworkflow.Run, error) {
	return gate(p, func() ([]openworkflow.Run, error) {
		runs, err := p.Store.Claim(ctx, request)
		if len(runs) == 0 {
			return nil, err
		}
		writes := make([]Write, len(runs))
		for i, run := range runs {
			writes[i] = Write{Lease: openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}, Claim: true}
		}
		if p.die(writes) == After {
			p.stop()
		}
		if p.Dead() {
			return nil, ErrDead
		}
		return runs, err
	})
}

// ApplyAndClaim implements runner.Store.
func (p *Process) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	return gateWrite(p, writesOf(batch), func() (store.BatchResult, error) { return p.Store.ApplyAndClaim(ctx, batch) })
}

// SendSignal implements runner.Store.
func (p *Process) SendSignal(ctx context.Context, step store.StepWrite, signal store.Signal) ([]string, error) {
	writes := []Write{{Lease: step.Lease, Steps: []store.StepWrite{step}, Signal: &signal.Name}}
	return gateWrite(p, writes, func() ([]string, error) { return p.Store.SendSignal(ctx, step, signal) })
}

// ExpireApproval implements runner.Store.
func (p *Process) ExpireApproval(ctx context.Context, runID, step string) (store.ApprovalState, error) {
	return gate(p, func() (store.ApprovalState, error) { return p.Store.ExpireApproval(ctx, runID, step) })
}

// Heartbeat implements runner.Store.
func (p *Process) Heartbeat(ctx context.Context, leases []openworkflow.Lease, d time.Duration) ([]store.LeaseState, error) {
	return gate(p, func() ([]store.LeaseState, error) { return p.Store.Heartbeat(ctx, leases, d) })
}

// ReleaseLeases implements runner.Store.
func (p *Process) ReleaseLeases(ctx context.Context, r store.ReleaseRequest) ([]store.ReleasedRun, error) {
	r.Died = r.Died && !p.Uncounted
	return gate(p, func() ([]store.ReleasedRun, error) { return p.Store.ReleaseLeases(ctx, r) })
}

// Sweep implements runner.Store.
func (p *Process) Sweep(ctx context.Context, every time.Duration, limit int) (store.Swept, error) {
	return gate(p, func() (store.Swept, error) { return p.Store.Sweep(ctx, every, limit) })
}
