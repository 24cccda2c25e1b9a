package controller

import (
	"context"
	"fmt"
	"time"

	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
)

// rescueSweep makes runs due again that wait for something that has happened. A worker
// that dies between two writes leaves such runs, and so does OpenWorkflow's own deadline
// sweep (R44, R171).
type rescueSweep struct {
	conn     *backend.Connection
	repairer *statusRepairer
	// every is the time since the last sweep of any process, below which this one leaves
	// the work to the others.
	every time.Duration
}

func (s *rescueSweep) run(ctx context.Context) error {
	swept, err := s.conn.Store.Sweep(ctx, s.every, sweepBatch)
	if err != nil {
		return fmt.Errorf("rescue waiting runs: %w", err)
	}
	if len(swept.Rescued) > 0 {
		metrics.RunsRescued.Add(float64(len(swept.Rescued)))
		s.conn.Wake()
		ctrl.LoggerFrom(ctx).Info("Rescued runs that waited for something that had happened", "runs", len(swept.Rescued))
	}
	return s.repairer.showExpired(ctx, swept.Expired)
}
