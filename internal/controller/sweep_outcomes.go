package controller

import (
	"context"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// outcomePage is the number of schedules whose outcomes are stored by one statement.
	outcomePage = 100
	// outcomeTTL is for how long the outcomes of slots stay where the Backend has no retention.
	outcomeTTL = 30 * 24 * time.Hour
)

// outcomeSweep stores the outcomes of the slots of schedules in one database. While none waits, it
// costs nothing.
type outcomeSweep struct {
	conn    *backend.Connection
	cluster string
	log     *outcomeLog
	local   *backendOutcomes
}

// run stores what waits. What has come to wait meanwhile is for the next turn.
func (s *outcomeSweep) run(ctx context.Context) error {
	for end := time.Now().Add(retentionBudget); time.Now().Before(end); {
		list := s.log.next(s.local, outcomePage)
		if len(list) == 0 {
			return nil
		}
		var rows []store.SlotOutcome
		for _, w := range list {
			rows = append(rows, w.rows(s.cluster)...)
		}
		err := s.conn.Store.RecordSlots(ctx, rows, slotTTL(s.conn))
		if s.log.settle(s.local, list, err); err != nil {
			return fmt.Errorf("store the outcomes of %d schedules: %w", len(list), err)
		}
		if len(list) < outcomePage {
			return nil
		}
	}
	return nil
}

// slotTTL returns for how long the outcome of a slot stays in a database, after the slot.
func slotTTL(conn *backend.Connection) time.Duration {
	if policy := conn.Retention(); policy != nil {
		return policy.After
	}
	return outcomeTTL
}
