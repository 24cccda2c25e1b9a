package runner

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// claimTimeout bounds one claim, and one poll for children and signals.
const claimTimeout = 5 * time.Second

// givenBackPolls is how many poll intervals pass between two claims of runs that were given
// back.
const givenBackPolls = 4

// givenBackTurns says which claims are for runs that OpenWorkflow's workers have given back,
// of which no notification tells (R62). They have a timer of their own, and the slots of every
// other claim while there are more of them, so that no load of other runs starves them.
type givenBackTurns struct {
	mu sync.Mutex
	// due says that there may be such runs, and mine that the next claim is for them.
	due, mine bool
}

// look is called when the timer fires.
func (g *givenBackTurns) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.due {
		g.due, g.mine = true, true
	}
}

// take reports whether the next claim is for runs that were given back.
func (g *givenBackTurns) take() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	mine := g.due && g.mine
	g.mine = !mine
	return mine
}

// found is called after such a claim. More says that it has used all its slots, or failed.
func (g *givenBackTurns) found(more bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.due = more
}

// wakeAfter wakes the claim loop when a run that this worker has parked is due, if that is
// within a minute. Runs that are due later are found by the poll, so no timer is held for as
// long as a run may sleep.
func (r *Runner) wakeAfter(wait time.Duration) {
	const soon = time.Minute
	if wait < soon {
		time.AfterFunc(max(wait, 0), r.claimWake.Set)
	}
}

// claimLoop claims due runs until ctx ends. It tries when a slot is free and claimWake is set
// (by a notification, a freed slot, or a local write that made a run due), and at every poll.
//
// While all slots are taken, the next runs are claimed by the write that ends one
// (claimForEnding). Either claim may take runs that were given back instead (givenBackTurns).
func (r *Runner) claimLoop(ctx context.Context) {
	poll := time.NewTimer(0)
	defer poll.Stop()
	givenBack := time.NewTimer(r.givenBackInterval())
	defer givenBack.Stop()
	failures := 0
	for {
		if n := r.slots.acquireAll(); n > 0 {
			claimed, err := 0, error(nil)
			if r.givenBack.take() {
				claimed, err = r.claim(ctx, n, true)
			}
			if err == nil && claimed < n {
				var more int
				more, err = r.claim(ctx, n-claimed, false)
				claimed += more
			}
			r.slots.returnUnused(n-claimed, claimed == n || err != nil)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				if failures++; failures == 1 {
					r.log.Warn("Could not claim runs", "error", err)
				}
				r.ready.Store(false)
			default:
				if failures > 0 {
					r.log.Info("Database answers again")
				}
				failures = 0
				r.ready.Store(true)
			}
		}
		poll.Reset(r.untilPoll(failures)) // also if no slot was free: while claims fail, nothing else ends a wait
		select {
		case <-ctx.Done():
			return
		case <-r.claimWake:
			if failures > 0 { // a wake-up does not cut the backoff short
				select {
				case <-ctx.Done():
					return
				case <-poll.C:
				}
			}
		case <-poll.C:
		case <-givenBack.C:
			r.givenBack.look()
			givenBack.Reset(r.givenBackInterval())
			if failures > 0 { // nor does this
				select {
				case <-ctx.Done():
					return
				case <-poll.C:
				}
			}
		}
	}
}

// untilPoll is the time until the next claim of a loop whose last claims, so many in a row, have
// failed.
func (r *Runner) untilPoll(failures int) time.Duration {
	if failures > 0 {
		return databaseBackoff.Delay(failures)
	}
	interval := r.pollInterval()
	return interval/2 + rand.N(interval/2)
}

// givenBackInterval is the time until the next look for runs that were given back.
func (r *Runner) givenBackInterval() time.Duration {
	return backoff.Jitter(givenBackPolls * r.pollInterval())
}

// releaseSlots gives back n slots. It wakes the claim loop if more runs may be due.
func (r *Runner) releaseSlots(n int) {
	if r.slots.release(n) {
		r.claimWake.Set()
	}
}

// claimForEnding returns a claim to send with the writes that end this many runs, and
// reserves their slots for it. It returns nil if no more runs are known to be due.
func (r *Runner) claimForEnding(ending int) *store.ClaimRequest {
	if ending == 0 || r.draining.Load() {
		return nil
	}
	n := r.slots.acquireForEnding(ending)
	if n == 0 {
		return nil
	}
	request := r.claimRequest(n)
	request.GivenBack = r.givenBack.take()
	return request
}

// finishClaim starts passes for what claimForEnding has claimed, and gives back the slots for
// which there was no run.
func (r *Runner) finishClaim(request *store.ClaimRequest, runs []openworkflow.Run) {
	if request == nil {
		return
	}
	r.startPasses(runs)
	unused := request.Max - len(runs)
	if request.GivenBack {
		r.givenBack.found(unused == 0)
	}
	if unused > 0 {
		r.releaseSlots(unused) // the claim loop finds out whether more are due
	}
}

// pollInterval is the longest time between two polls of this worker. Peers share the polls:
// together they poll as often as one would alone. A run without a notification is found
// equally soon, and an idle pool costs nearly the same at any size.
func (r *Runner) pollInterval() time.Duration {
	const longest = 30 * time.Second
	shared := time.Duration(r.peers.Load()) * r.options.PollInterval
	return max(r.options.PollInterval, min(shared, longest))
}

// claim claims up to n runs, due or given back, and starts a pass for each. It returns how
// many it has claimed.
func (r *Runner) claim(ctx context.Context, n int, givenBack bool) (int, error) {
	// A claim that is canceled may have been committed, so it does not end with ctx. Passes
	// that start while the runner drains hand their runs back.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	request := r.claimRequest(n)
	request.GivenBack = givenBack
	runs, err := r.store.Claim(ctx, *request)
	if givenBack {
		r.givenBack.found(len(runs) == n || err != nil)
	}
	r.startPasses(runs)
	return len(runs), err
}

// claimRequest asks for up to n runs. Each gets its own fencing token: unique per claim, with
// this pod and process as its prefix (decision 4 in ARCHITECTURE.md).
func (r *Runner) claimRequest(n int) *store.ClaimRequest {
	return &store.ClaimRequest{
		Served:         r.served,
		Max:            n,
		WorkerIDPrefix: r.options.PodUID + "." + r.process + ".",
		First:          r.claims.Add(int64(n)) - int64(n) + 1,
		Lease:          r.options.Lease,
	}
}
