package client

import (
	"context"
	"errors"

	"github.com/openworkflow-operator/operator/internal/groupcommit"
	"github.com/openworkflow-operator/operator/internal/store"
)

// creator creates runs one by one, in transactions that those of the same moment share.
type creator struct {
	store *store.Store
	group *groupcommit.Group[*creation]
}

// creation is a run to be created and what has become of it.
type creation struct {
	run     store.NewRun
	created store.Created
}

func newCreator(s *store.Store) *creator {
	c := &creator{store: s}
	c.group = groupcommit.New(c.flush)
	return c
}

// create creates a run. One with a key, or with an id that another may have, has a
// transaction of its own: it may have to wait for the end of somebody else's (StartTx),
// which must not hold up those that share its transaction.
func (c *creator) create(ctx context.Context, run newRun) (store.Created, error) {
	if !run.unique {
		return c.alone(ctx, run.NewRun)
	}
	if c.group.TryAcquire() {
		defer c.group.Release()
		return c.alone(ctx, run.NewRun)
	}
	creation := &creation{run: run.NewRun}
	if err := c.group.Join(ctx, creation); errors.Is(err, groupcommit.ErrStopped) {
		return store.Created{}, ErrClosed
	} else if err != nil {
		return store.Created{}, err
	}
	return creation.created, nil
}

// alone creates one run.
func (c *creator) alone(ctx context.Context, run store.NewRun) (store.Created, error) {
	created, err := c.store.CreateRuns(ctx, []store.NewRun{run})
	if err != nil {
		return store.Created{}, err
	}
	return created[0], created[0].Err
}

// flush creates the runs of a batch, in one statement.
func (c *creator) flush(ctx context.Context, batch []*groupcommit.Write[*creation]) {
	runs := make([]store.NewRun, len(batch))
	for i, w := range batch {
		runs[i] = w.Item.run
	}
	created, err := c.store.CreateRuns(ctx, runs)
	for i, w := range batch {
		if err != nil {
			w.Finish(err)
			continue
		}
		w.Item.created = created[i]
		w.Finish(created[i].Err)
	}
}
