package runner

import (
	"context"
	"sync"
	"time"
)

// arrivals looks for what executions wait for while they go on with something else:
// children that have ended, signals that were delivered. A run that only waits is
// parked, and looks when it is executed again.
type arrivals struct {
	runner  *Runner
	kicks   chan struct{}
	mu      sync.Mutex
	waiting map[*execution]struct{}
}

// arrivalPause is the shortest time between two looks.
const arrivalPause = 5 * time.Millisecond

func newArrivals(r *Runner) *arrivals {
	return &arrivals{runner: r, kicks: make(chan struct{}, 1), waiting: map[*execution]struct{}{}}
}

// watch looks on behalf of an execution from now on, until forget.
func (a *arrivals) watch(e *execution) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[e] = struct{}{}
}

func (a *arrivals) forget(e *execution) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.waiting, e)
}

// kick makes run look now. It never blocks.
func (a *arrivals) kick() {
	select {
	case a.kicks <- struct{}{}:
	default:
	}
}

// run looks whenever there may be something, and at every poll interval, until ctx
// ends.
func (a *arrivals) run(ctx context.Context) {
	poll := time.NewTicker(a.runner.options.PollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.kicks:
		case <-poll.C:
		}
		if err := a.look(ctx); err != nil && ctx.Err() == nil {
			a.runner.log.Debug("Could not look for children and signals", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(arrivalPause):
		}
	}
}

// look asks for all executions at once, and tells each what has come.
func (a *arrivals) look(ctx context.Context) error {
	a.mu.Lock()
	executions := make([]*execution, 0, len(a.waiting))
	for e := range a.waiting {
		executions = append(executions, e)
	}
	a.mu.Unlock()
	var ids []string
	of := map[string]*execution{}
	for _, e := range executions {
		for _, id := range e.awaited() {
			ids = append(ids, id)
			of[id] = e
		}
	}
	if len(ids) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	found, err := a.runner.store.Arrivals(ctx, ids)
	if err != nil {
		return err
	}
	for id, arrival := range found {
		of[id].arrive(id, arrival)
	}
	return nil
}
