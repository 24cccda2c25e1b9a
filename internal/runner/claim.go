package runner

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

const claimTimeout = 5 * time.Second

// givenBackPolls is after how many polls a look is made for runs that were given back.
const givenBackPolls = 4

// wakeAt makes the claim loop look when a run that this worker has put off is due, if
// that is soon. For what is due later, the poll is prompt enough, and no timer is held
// for as long as a run may sleep.
func (r *Runner) wakeAt(at time.Time) {
	const soon = time.Minute
	if wait := time.Until(at); wait < soon {
		time.AfterFunc(max(wait, 0), r.claimWake.Set)
	}
}

// claimLoop claims due runs whenever there may be some and a slot is free: after a
// notification, when a full batch suggests that there are more, and, as a safety net, at
// every poll. While all slots are taken, runs are claimed together with the ends of
// others instead (claimForEnding). Some polls also look for runs that OpenWorkflow's workers have
// given back, of which nobody notifies (R62). It returns when ctx ends.
func (r *Runner) claimLoop(ctx context.Context) {
	poll := time.NewTimer(0)
	defer poll.Stop()
	failures, polls := 0, 0
	for {
		if n := r.slots.acquireAll(); n > 0 {
			claimed, err := r.claim(ctx, n, false)
			if err == nil && polls >= givenBackPolls && claimed < n {
				polls = 0
				var more int
				more, err = r.claim(ctx, n-claimed, true)
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
				poll.Reset(databaseBackoff.Delay(failures))
			default:
				if failures > 0 {
					r.log.Info("Database answers again")
				}
				failures = 0
				r.ready.Store(true)
				interval := r.pollInterval()
				poll.Reset(interval/2 + rand.N(interval/2))
			}
		}
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
			polls++
		}
	}
}

// releaseSlots gives back slots, and sees to it that runs are claimed for them if there may
// be some.
func (r *Runner) releaseSlots(n int) {
	if r.slots.release(n) {
		r.claimWake.Set()
	}
}

// claimForEnding returns what to claim together with the ends of so many runs, whose slots
// that takes; nil when there is nothing to claim, as far as is known.
func (r *Runner) claimForEnding(ending int) *store.ClaimRequest {
	if ending == 0 || r.draining.Load() {
		return nil
	}
	n := r.slots.acquireForEnding(ending)
	if n == 0 {
		return nil
	}
	return r.claimRequest(n)
}

// finishClaim takes in what has become of a claim with the ends of runs.
func (r *Runner) finishClaim(request *store.ClaimRequest, runs []openworkflow.Run) {
	if request == nil {
		return
	}
	r.startPasses(runs)
	if unused := request.Max - len(runs); unused > 0 {
		r.releaseSlots(unused) // the claim loop finds out whether that was all
	}
}

// pollInterval is the longest time between two polls of this worker. Those who serve the
// same poll together as often as one of them would alone: a run that nobody was notified
// of is found as soon, and an idle pool costs nearly the same whatever its size.
func (r *Runner) pollInterval() time.Duration {
	const longest = 30 * time.Second
	shared := time.Duration(r.peers.Load()) * r.options.PollInterval
	return max(r.options.PollInterval, min(shared, longest))
}

// claim claims up to n runs, due or given back, and starts a pass for each.
func (r *Runner) claim(ctx context.Context, n int, givenBack bool) (int, error) {
	// A claim that is cut off may have been made: let it end, and give the runs
	// back in order when the runner is draining meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	request := r.claimRequest(n)
	request.GivenBack = givenBack
	runs, err := r.store.Claim(ctx, *request)
	r.startPasses(runs)
	return len(runs), err
}

// claimRequest asks for up to n runs, each with a fencing token of its own: unique for
// each claim, and recognizable as this pod's and this process' (decision 4 of the
// architecture).
func (r *Runner) claimRequest(n int) *store.ClaimRequest {
	return &store.ClaimRequest{
		Served:         r.served,
		Max:            n,
		WorkerIDPrefix: r.options.PodUID + "." + r.process + ".",
		First:          r.claims.Add(int64(n)) - int64(n) + 1,
		Lease:          r.options.Lease,
	}
}
