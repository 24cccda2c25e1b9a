package runner

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

const claimTimeout = 5 * time.Second

// wake makes the claim loop look for due runs now. It never blocks; wakes that
// come together count once.
func (r *Runner) wake() {
	select {
	case r.wakes <- struct{}{}:
	default:
	}
}

// wakeAt makes the claim loop look when a run that this worker has put off is due, if
// that is soon. For what is due later, the poll is prompt enough, and no timer is held
// for as long as a run may sleep.
func (r *Runner) wakeAt(at time.Time) {
	const soon = time.Minute
	if wait := time.Until(at); wait < soon {
		time.AfterFunc(max(wait, 0), r.wake)
	}
}

// claimLoop claims due runs whenever a slot is free and there may be some: after
// a notification, when a slot becomes free, when a full batch suggests that there
// are more, and, as a safety net, at every poll. Polls also look for runs that
// OpenWorkflow's workers have given back, of which nobody notifies (R62). It returns when
// ctx ends.
func (r *Runner) claimLoop(ctx context.Context) {
	poll := time.NewTimer(0)
	defer poll.Stop()
	trouble := newBackoff()
	troubled, polled := false, false
	for {
		slots := r.takeSlots(ctx)
		if slots == 0 {
			return
		}
		claimed, err := r.claim(ctx, slots, false)
		if err == nil && polled && claimed < slots {
			var n int
			n, err = r.claim(ctx, slots-claimed, true)
			claimed += n
		}
		for range slots - claimed {
			r.free <- struct{}{}
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !troubled {
				r.log.Warn("Could not claim runs", "error", err)
			}
			troubled = true
			r.ready.Store(false)
			poll.Reset(trouble.next())
		default:
			if troubled {
				r.log.Info("Database answers again")
			}
			troubled, trouble = false, newBackoff()
			r.ready.Store(true)
			if claimed == slots { // there may be more
				continue
			}
			interval := r.pollInterval()
			poll.Reset(interval/2 + rand.N(interval/2))
		}
		polled = false
		select {
		case <-ctx.Done():
			return
		case <-r.wakes:
			if troubled { // a wake is no reason to hammer a database that is down
				select {
				case <-ctx.Done():
					return
				case <-poll.C:
				}
			}
		case <-poll.C:
			polled = true
		}
	}
}

// pollInterval is the longest time between two polls of this worker. Those who serve the
// same poll as often as one of them would, or a little more: a run that nobody was
// notified of is found as soon, and an idle pool costs the same whatever its size.
func (r *Runner) pollInterval() time.Duration {
	const longest = 30 * time.Second
	shared := time.Duration(r.alike.Load()) * r.options.PollInterval * 6 / 10
	return max(r.options.PollInterval, min(shared, longest))
}

// takeSlots waits for a free slot and takes it, and all others that are free. It
// returns 0 when ctx has ended.
func (r *Runner) takeSlots(ctx context.Context) int {
	select {
	case <-ctx.Done():
		return 0
	case <-r.free:
	}
	n := 1
	for {
		select {
		case <-r.free:
			n++
		default:
			return n
		}
	}
}

// claim claims up to n runs, due or given back, and starts a pass for each.
func (r *Runner) claim(ctx context.Context, n int, givenBack bool) (int, error) {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = r.workerID()
	}
	// A claim that is cut off may have been made: let it end, and give the runs
	// back in order when the runner is draining meanwhile.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	defer cancel()
	runs, err := r.store.Claim(ctx, store.ClaimRequest{
		Served:    r.served,
		WorkerIDs: ids,
		Lease:     r.options.Lease,
		GivenBack: givenBack,
	})
	if err != nil {
		return 0, err
	}
	r.begin(runs)
	return len(runs), nil
}
