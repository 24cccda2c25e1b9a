package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// lookInterval is the longest time between two looks at the runs that are awaited,
	// the safety net below notifications (R140).
	lookInterval = time.Second
	// lookTimeout bounds one look.
	lookTimeout = 15 * time.Second
	// lookBatch bounds the runs of one statement.
	lookBatch = 5000
	// lookPause is how much longer than a look at all runs the pause after it is, so that
	// many ends in a row cost the database a share of its time and not all of it.
	lookPause = 3
)

// outcomeStore is what the awaiter needs of a store.
type outcomeStore interface {
	Outcomes(ctx context.Context, ids []string) (map[string]store.Outcome, error)
	ListenEnds(ctx context.Context, wake func()) error
}

// awaiter awaits the ends of any number of runs with one goroutine, one listening
// connection and one statement at a time. It begins with the first run that is awaited.
type awaiter struct {
	life  context.Context // ends with the client
	store outcomeStore
	begin func(func())
	once  sync.Once

	ended chan struct{} // some run has ended
	asked chan struct{} // a run is awaited that was not looked at yet

	mu sync.Mutex
	// awaited are the runs somebody waits for, by id; fresh those not looked at yet.
	awaited map[string]*awaited
	fresh   []string
	// trouble is why the last look failed, nil when it did not.
	trouble error
}

// awaited is a run that somebody waits for. The outcome is set before done is closed.
type awaited struct {
	done    chan struct{}
	outcome store.Outcome
	waiters int
}

func newAwaiter(life context.Context, s outcomeStore, begin func(func())) *awaiter {
	return &awaiter{
		life: life, store: s, begin: begin,
		ended: make(chan struct{}, 1), asked: make(chan struct{}, 1),
		awaited: map[string]*awaited{},
	}
}

// await returns how the run ends, once it has, or an outcome without a status when it
// does not exist. Trouble with the database is waited out.
func (w *awaiter) await(ctx context.Context, id string) (store.Outcome, error) {
	w.once.Do(func() {
		w.begin(w.look)
		w.begin(func() { _ = w.store.ListenEnds(w.life, func() { poke(w.ended) }) })
	})
	run := w.join(id)
	defer w.leave(id, run)
	poke(w.asked)
	select {
	case <-run.done:
		return run.outcome, nil
	case <-w.life.Done():
		return store.Outcome{}, ErrClosed
	case <-ctx.Done():
		err := context.Cause(ctx)
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.trouble != nil {
			err = fmt.Errorf("%w; the last look at the database failed: %w", err, w.trouble)
		}
		return store.Outcome{}, err
	}
}

func (w *awaiter) join(id string) *awaited {
	w.mu.Lock()
	defer w.mu.Unlock()
	run := w.awaited[id]
	if run == nil {
		run = &awaited{done: make(chan struct{})}
		w.awaited[id] = run
		w.fresh = append(w.fresh, id)
	}
	run.waiters++
	return run
}

func (w *awaiter) leave(id string, run *awaited) {
	w.mu.Lock()
	defer w.mu.Unlock()
	run.waiters--
	if run.waiters == 0 && w.awaited[id] == run {
		delete(w.awaited, id)
	}
}

// look looks at runs that have just been asked for, and at all when one has ended or an
// interval has passed.
func (w *awaiter) look() {
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	for {
		all := true
		select {
		case <-w.life.Done():
			return
		case <-w.asked:
			all = false
		case <-w.ended:
		case <-tick.C:
		}
		began := time.Now()
		for batch := range slices.Chunk(w.take(all), lookBatch) {
			w.lookAt(batch)
		}
		if !all { // each run is looked at once for that
			continue
		}
		select {
		case <-w.life.Done():
			return
		case <-time.After(lookPause * time.Since(began)):
		}
	}
}

// take returns the runs to look at.
func (w *awaiter) take(all bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := w.fresh
	w.fresh = nil
	if !all {
		return fresh
	}
	ids := make([]string, 0, len(w.awaited))
	for id := range w.awaited {
		ids = append(ids, id)
	}
	return ids
}

func (w *awaiter) lookAt(ids []string) {
	ctx, cancel := context.WithTimeout(w.life, lookTimeout)
	defer cancel()
	outcomes, err := w.store.Outcomes(ctx, ids)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble = err
	for id, outcome := range outcomes {
		if run := w.awaited[id]; run != nil {
			run.outcome = outcome
			close(run.done)
			delete(w.awaited, id)
		}
	}
}

// poke leaves a message in a channel of capacity 1, unless there is one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
