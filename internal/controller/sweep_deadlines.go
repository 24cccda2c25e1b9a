package controller

import (
	"context"
	"fmt"

	"github.com/openworkflow-operator/operator/internal/backend"
)

// expireBatch is the number of runs that one statement may fail at their deadline.
const expireBatch = 500

// deadlineSweep fails the runs of a database that are past their deadline (R44).
type deadlineSweep struct {
	conn     *backend.Connection
	repairer *statusRepairer
}

func (s *deadlineSweep) run(ctx context.Context) error {
	for {
		ids, err := s.conn.Store.FailExpired(ctx, expireBatch)
		if err != nil {
			return fmt.Errorf("fail runs past their deadline: %w", err)
		}
		if err := s.repairer.showExpired(ctx, ids); err != nil {
			return err
		}
		if len(ids) < expireBatch {
			return nil
		}
	}
}
