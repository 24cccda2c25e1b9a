package client

import (
	"context"
	"errors"

	"github.com/openworkflow-operator/operator/internal/groupcommit"
	"github.com/openworkflow-operator/operator/internal/store"
)

// startBatcher creates runs. Concurrent calls of create share a transaction.
type startBatcher struct {
	store *store.Store
	group *groupcommit.Group[*pendingStart]
}

// pendingStart is a run to be created, and the result.
type pendingStart struct {
	run     store.NewRun
	created store.Created
}

func newStartBatcher(s *store.Store) *startBatcher {
	b := &startBatcher{store: s}
	b.group = groupcommit.New(b.flush)
	return b
}

// maxSharedInput bounds the inputs that share a batch. A message to Postgres may have at most
// a gigabyte, and a longer one breaks the connection for all of the batch.
const maxSharedInput = 256 << 10

// create creates a run. A run with a key, or with an id that the caller chose, has a
// transaction of its own: it may have to wait for the end of another transaction (StartTx),
// which must not delay runs that share its batch. So has a run with a large input.
func (b *startBatcher) create(ctx context.Context, run newRun) (store.Created, error) {
	if !run.unique || len(run.Input) > maxSharedInput {
		return b.createOne(ctx, run.NewRun)
	}
	if b.group.TryAcquire() {
		defer b.group.Release()
		return b.createOne(ctx, run.NewRun)
	}
	start := &pendingStart{run: run.NewRun}
	if err := b.group.Join(ctx, start); errors.Is(err, groupcommit.ErrStopped) {
		return store.Created{}, ErrClosed
	} else if err != nil {
		return store.Created{}, err
	}
	return start.created, nil
}

// createOne creates a run in a transaction of its own.
func (b *startBatcher) createOne(ctx context.Context, run store.NewRun) (store.Created, error) {
	created, err := bounded(ctx, func(ctx context.Context) ([]store.Created, error) {
		return b.store.CreateRuns(ctx, []store.NewRun{run})
	})
	if err != nil {
		return store.Created{}, err
	}
	return created[0], created[0].Err
}

// flush creates the runs of a batch with one statement.
func (b *startBatcher) flush(ctx context.Context, batch []*groupcommit.Write[*pendingStart]) {
	runs := make([]store.NewRun, len(batch))
	for i, w := range batch {
		runs[i] = w.Item.run
	}
	created, err := bounded(ctx, func(ctx context.Context) ([]store.Created, error) {
		return b.store.CreateRuns(ctx, runs)
	})
	for i, w := range batch {
		if err != nil {
			w.Finish(err)
			continue
		}
		w.Item.created = created[i]
		w.Finish(created[i].Err)
	}
}
