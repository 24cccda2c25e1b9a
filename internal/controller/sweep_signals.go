package controller

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// signalSweep delivers the signals that are kept in one database to runs that have begun to wait for
// them. Go workers announce a wait. OpenWorkflow's own do not, so it also looks at its interval. While
// no signal is kept, it neither looks nor listens.
type signalSweep struct {
	conn  *backend.Connection
	kept  *keptSignals
	local *backendSignals
}

// run delivers what is due, the oldest signal first. A signal whose object is gone, or is of another
// manager, is not delivered.
func (s *signalSweep) run(ctx context.Context) error {
	if s.local.isEmpty() {
		return nil
	}
	for after := (openworkflow.Cursor{}); ; {
		ids, next, err := s.conn.Store.DueSignals(ctx, after, sweepBatch)
		if err != nil {
			return fmt.Errorf("look for runs that wait for signals: %w", err)
		}
		for _, id := range ids {
			if err := s.deliver(ctx, types.UID(id)); err != nil {
				return err
			}
		}
		if after = next; after == (openworkflow.Cursor{}) {
			return s.decide(ctx)
		}
	}
}

// decide has the decisions made about steps that have asked for an approval by now.
func (s *signalSweep) decide(ctx context.Context) error {
	uids, steps := s.local.waitingDecisions()
	for len(steps) > 0 {
		n := min(len(steps), sweepBatch)
		due, err := s.conn.Store.DueDecisions(ctx, steps[:n])
		if err != nil {
			return fmt.Errorf("look for steps that ask for approvals: %w", err)
		}
		for _, i := range due {
			if name, ok := s.local.name(uids[i]); ok {
				s.kept.settled(name)
			}
		}
		uids, steps = uids[n:], steps[n:]
	}
	return nil
}

func (s *signalSweep) deliver(ctx context.Context, uid types.UID) error {
	name, ok := s.local.name(uid)
	if !ok {
		return nil
	}
	result, err := s.conn.Store.DeliverKept(ctx, string(uid))
	switch {
	case store.LockTimeout(err): // the next turn tries again
		return nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("deliver the signal %s: %w", name, err)
	case err == nil && result.State == store.SignalDelivered:
		s.conn.Wake()
	case err == nil && result.State == store.SignalWaiting: // whoever waited has been locked, or waits no more
		return nil
	}
	s.kept.settled(name)
	return nil
}

// listen hears of waits that begin, while a signal is kept. It returns when ctx ends.
func (s *signalSweep) listen(ctx context.Context) {
	for ctx.Err() == nil {
		if !s.local.isEmpty() {
			s.listenWhileKept(ctx)
		}
		select {
		case <-ctx.Done():
		case <-s.local.changed:
		}
	}
}

func (s *signalSweep) listenWhileKept(ctx context.Context) {
	listening, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.conn.Contain(listening, "listen", func() error { return s.conn.Store.ListenWaits(listening, s.local.look.Set) })
	}()
	defer func() {
		stop()
		<-done
	}()
	for !s.local.isEmpty() {
		select {
		case <-ctx.Done():
			return
		case <-s.local.changed:
		}
	}
}
