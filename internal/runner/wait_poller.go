package runner

import (
	"context"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/wake"
)

// waitPoller polls on behalf of executions that wait for a child or a signal while one of
// their functions is executing. An execution that only waits is parked instead, and reads
// what has arrived when it is claimed again.
type waitPoller struct {
	runner     *Runner
	wakes      wake.Flag
	mu         sync.Mutex
	executions map[*execution]struct{}
}

// minPollInterval is the shortest time between two polls.
const minPollInterval = 5 * time.Millisecond

func newWaitPoller(r *Runner) *waitPoller {
	return &waitPoller{runner: r, wakes: wake.New(), executions: map[*execution]struct{}{}}
}

// add includes an execution in the polls until remove is called.
func (p *waitPoller) add(e *execution) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.executions[e] = struct{}{}
}

func (p *waitPoller) remove(e *execution) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.executions, e)
}

// run polls when wakes is set and at every poll interval, until ctx ends.
func (p *waitPoller) run(ctx context.Context) {
	ticker := time.NewTicker(p.runner.options.PollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wakes:
		case <-ticker.C:
		}
		if err := p.poll(ctx); err != nil && ctx.Err() == nil {
			p.runner.log.Debug("Could not poll for children and signals", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(minPollInterval):
		}
	}
}

// poll asks for all executions with one query, and delivers what has arrived.
func (p *waitPoller) poll(ctx context.Context) error {
	p.mu.Lock()
	executions := make([]*execution, 0, len(p.executions))
	for e := range p.executions {
		executions = append(executions, e)
	}
	p.mu.Unlock()
	var ids []string
	byAttempt := map[string]*execution{}
	for _, e := range executions {
		for _, id := range e.externalWaits() {
			ids = append(ids, id)
			byAttempt[id] = e
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	found, err := p.runner.store.WaitResults(ctx, ids)
	if err != nil {
		return err
	}
	for id, arrival := range found {
		byAttempt[id].deliver(id, arrival)
	}
	return nil
}
