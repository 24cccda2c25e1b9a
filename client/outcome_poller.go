package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

const (
	// pollInterval is the longest time between two polls of all awaited runs, in case a
	// notification is lost (R140).
	pollInterval = time.Second
	// pollTimeout bounds one statement.
	pollTimeout = 15 * time.Second
	// pollBatch is the largest number of runs in one statement.
	pollBatch = 5000
	// pollPauseFactor times the duration of a poll of all runs is the pause after it, so
	// that a series of ends keeps the database busy for at most a quarter of the time.
	pollPauseFactor = 3
)

// outcomeStore is the part of the store that outcomePoller uses.
type outcomeStore interface {
	Outcomes(ctx context.Context, ids []string) (map[string]store.Outcome, error)
	ListenEnds(ctx context.Context, onEnd func()) error
}

// outcomePoller waits for the ends of any number of runs with one polling goroutine, one
// LISTEN connection and one statement at a time. The first call of wait starts both.
type outcomePoller struct {
	clientCtx context.Context // ends when the client is closed
	store     outcomeStore
	spawn     func(func())
	once      sync.Once

	runEnded wake.Flag // set when any run has ended
	runAdded wake.Flag // set when unpolled has grown

	mu sync.Mutex
	// runs holds the runs that a caller waits for, by id; unpolled the ids among them that
	// no statement has asked for yet.
	runs     map[string]*awaitedRun
	unpolled []string
	// lastErr is the error of the last poll, nil when it succeeded.
	lastErr error
}

// awaitedRun is a run that waiters callers wait for. Its outcome, or err, is set before done is
// closed.
type awaitedRun struct {
	done    chan struct{}
	outcome store.Outcome
	err     error
	waiters int
}

func newOutcomePoller(clientCtx context.Context, s outcomeStore, spawn func(func())) *outcomePoller {
	return &outcomePoller{
		clientCtx: clientCtx, store: s, spawn: spawn,
		runEnded: wake.New(), runAdded: wake.New(),
		runs: map[string]*awaitedRun{},
	}
}

// wait blocks until the run has ended and returns its outcome, which has no status when
// the run does not exist. It does not fail while the database does.
func (p *outcomePoller) wait(ctx context.Context, id string) (store.Outcome, error) {
	p.once.Do(func() {
		p.spawn(p.pollLoop)
		p.spawn(func() { _ = p.store.ListenEnds(p.clientCtx, p.runEnded.Set) })
	})
	run := p.subscribe(id)
	defer p.unsubscribe(id, run)
	p.runAdded.Set()
	select {
	case <-run.done:
		return run.outcome, run.err
	case <-p.clientCtx.Done():
		return store.Outcome{}, ErrClosed
	case <-ctx.Done():
		err := context.Cause(ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.lastErr != nil {
			err = fmt.Errorf("%w; the last query of the database failed: %w", err, p.lastErr)
		}
		return store.Outcome{}, err
	}
}

func (p *outcomePoller) subscribe(id string) *awaitedRun {
	p.mu.Lock()
	defer p.mu.Unlock()
	run := p.runs[id]
	if run == nil {
		run = &awaitedRun{done: make(chan struct{})}
		p.runs[id] = run
		p.unpolled = append(p.unpolled, id)
	}
	run.waiters++
	return run
}

func (p *outcomePoller) unsubscribe(id string, run *awaitedRun) {
	p.mu.Lock()
	defer p.mu.Unlock()
	run.waiters--
	if run.waiters == 0 && p.runs[id] == run {
		delete(p.runs, id)
	}
}

// pollLoop polls new runs at once, and all runs when one has ended or pollInterval has
// passed.
func (p *outcomePoller) pollLoop() {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		all := true
		select {
		case <-p.clientCtx.Done():
			return
		case <-p.runAdded:
			all = false
		case <-p.runEnded:
		case <-tick.C:
		}
		began := time.Now()
		for batch := range slices.Chunk(p.runsToPoll(all), pollBatch) {
			p.poll(batch)
		}
		if !all { // a new run is polled once for this reason, so no pause is needed
			continue
		}
		select {
		case <-p.clientCtx.Done():
			return
		case <-time.After(pollPauseFactor * time.Since(began)):
		}
	}
}

// runsToPoll returns the ids of all awaited runs, or of the unpolled ones only.
func (p *outcomePoller) runsToPoll(all bool) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	fresh := p.unpolled
	p.unpolled = nil
	if !all {
		return fresh
	}
	ids := make([]string, 0, len(p.runs))
	for id := range p.runs {
		ids = append(ids, id)
	}
	return ids
}

// poll asks for the outcomes of runs with one statement. If the database refuses it for a
// value, it asks in ever smaller parts, so that only the owner of the value gets the error.
func (p *outcomePoller) poll(ids []string) {
	outcomes, err := p.outcomesOf(ids)
	if errors.Is(err, store.ErrInvalidJSON) || errors.Is(err, store.ErrTooLarge) {
		if len(ids) > 1 {
			p.poll(ids[:len(ids)/2])
			p.poll(ids[len(ids)/2:])
			return
		}
		p.finish(ids[0], store.Outcome{}, err)
		return
	}
	p.mu.Lock()
	p.lastErr = err
	p.mu.Unlock()
	for id, outcome := range outcomes {
		p.finish(id, outcome, nil)
	}
}

func (p *outcomePoller) outcomesOf(ids []string) (map[string]store.Outcome, error) {
	ctx, cancel := context.WithTimeout(p.clientCtx, pollTimeout)
	defer cancel()
	return p.store.Outcomes(ctx, ids)
}

// finish releases those that wait for a run.
func (p *outcomePoller) finish(id string, outcome store.Outcome, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if run := p.runs[id]; run != nil {
		run.outcome, run.err = outcome, err
		close(run.done)
		delete(p.runs, id)
	}
}
