package runner

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// A worker sweeps a namespace if there was no sweep for sweepInterval. The manager sweeps
// more often, so that workers sweep only where there is none. One sweep changes at most
// sweepLimit runs.
const (
	sweepInterval = 15 * time.Second
	sweepLimit    = 1000
)

// sweep runs until ctx ends. It fails runs past their deadline that no worker executes, and
// rescues runs whose wait is over but which nothing has woken: a TypeScript worker that
// crashes can leave those behind (R171).
func (r *Runner) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepInterval + rand.N(sweepInterval)):
		}
		var swept store.Swept
		err := within(ctx, maxCallTimeout, func(ctx context.Context) (err error) {
			swept, err = r.store.Sweep(ctx, sweepInterval, sweepLimit)
			return err
		})
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
