package runner

import (
	"context"
	"math/rand/v2"
	"time"
)

// sweepInterval is how long ago the last sweep of the namespace must be for a worker
// to make one. Where there is a manager, it sweeps more often, and workers do not.
const (
	sweepInterval = 15 * time.Second
	sweepLimit    = 1000
)

// sweep heals what nobody else would, for as long as the worker lives: it fails runs
// past their deadline that nobody executes, and wakes runs that wait for something that
// has come already, which a TypeScript worker that crashed can leave behind (R171).
func (r *Runner) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval + rand.N(sweepInterval)):
		}
		swept, err := r.store.Sweep(ctx, sweepInterval, sweepLimit)
		if err != nil {
			r.log.Debug("Could not sweep", "error", err)
			continue
		}
		if len(swept.Expired) > 0 || len(swept.Rescued) > 0 {
			r.log.Info("Swept runs", "expired", len(swept.Expired), "rescued", len(swept.Rescued))
			r.claimWake.Set()
			r.notifyDue.request()
			r.notifyEnds.request()
		}
	}
}
