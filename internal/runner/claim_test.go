package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// lateStore fails one claim when that is asked for, and holds the next write that claims, which has
// taken all slots, until it is released.
type lateStore struct {
	*memstore.Store
	fail, hold       atomic.Bool
	failed, released chan struct{}
}

func (s *lateStore) Claim(ctx context.Context, request store.ClaimRequest) ([]openworkflow.Run, error) {
	if s.fail.CompareAndSwap(true, false) {
		s.hold.Store(true)
		close(s.failed)
		return nil, errors.New("the database does not answer")
	}
	return s.Store.Claim(ctx, request)
}

func (s *lateStore) ApplyAndClaim(ctx context.Context, batch store.Batch) (store.BatchResult, error) {
	if batch.Claim != nil && s.hold.CompareAndSwap(true, false) {
		<-s.released
		batch.Claim = nil
	}
	return s.Store.ApplyAndClaim(ctx, batch)
}

// TestClaim_P3_GoesOnWhenAPollMeetsNoFreeSlot: after a claim has failed, the poll that would repeat
// it finds all slots taken by a write that claims for them.
func TestClaim_P3_GoesOnWhenAPollMeetsNoFreeSlot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lateStore{failed: make(chan struct{}), released: make(chan struct{})}
		began := make(chan struct{}, 1)
		w := workflow.Define("w", func(ctx context.Context, held bool) (bool, error) {
			return step.Run(ctx, "work", func(context.Context) (bool, error) {
				if held {
					began <- struct{}{}
					<-s.failed
				}
				return held, nil
			})
		})
		definitions := definitions(w)
		s.Store = memstore.New(definitions[0].Definition)
		r, err := runner.New(s, definitions, runner.Options{Concurrency: 2})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if err := r.Run(context.Background(), time.Second); err != nil {
				t.Error(err)
			}
		}()
		defer func() { r.Drain(); <-ended }()
		start := func(input string) string {
			created, err := s.CreateRuns(t.Context(), []store.NewRun{
				{ID: openworkflow.NewID(), WorkflowName: w.Name(), Input: json.RawMessage(input)},
			})
			if err != nil {
				t.Fatal(err)
			}
			return created[0].RunID
		}
		start(`true`)
		<-began
		s.fail.Store(true)
		<-s.failed
		past() // the poll has fired
		close(s.released)
		id := start(`false`)
		past()
		runs, err := s.GetRuns(t.Context(), []string{id})
		if err != nil || runs[id].Status != openworkflow.RunCompleted {
			t.Errorf("a run that is due is %+v, %v", runs[id], err)
		}
		if s.hold.Load() {
			t.Error("no write claimed for the slots")
		}
	})
}
