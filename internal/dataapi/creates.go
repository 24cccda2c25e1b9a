package dataapi

import (
	"context"
	"errors"
	"time"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// maxShared is the length of the longest input that shares a transaction with others. Up to 500
	// do, so this bounds their memory.
	maxShared = 64 << 10
	// keyPatience is how long a create waits for the lock of its idempotency key, while others that
	// share its transaction wait too. It is tried again for lockedFor in all.
	keyPatience, lockedFor = 50 * time.Millisecond, 2 * time.Second
)

// lockedBackoff spaces out the tries of a create that met a lock.
var lockedBackoff = backoff.Policy{First: 20 * time.Millisecond, Max: 250 * time.Millisecond}

// started is a run that was created, or the one that exists.
type started struct {
	// run is nil if err is not, or if the run was removed since.
	run *store.RunView
	err error
}

// createRuns creates runs, and reads all of them back at once.
func createRuns(ctx context.Context, s *store.Store, runs []store.NewRun) ([]started, error) {
	created, err := s.CreateRuns(ctx, runs)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, c := range created {
		if c.Err == nil {
			ids = append(ids, c.RunID)
		}
	}
	views, err := s.View(readTimeout).RunsByID(ctx, ids)
	if err != nil {
		return nil, err
	}
	out := make([]started, len(created))
	for i, c := range created {
		out[i] = started{run: views[c.RunID], err: c.Err}
	}
	return out, nil
}

// create creates a run, in a transaction with others if its input is short. If somebody else's
// transaction holds its key or id, it tries again for lockedFor.
func (d *database) create(ctx context.Context, run store.NewRun) (made started, err error) {
	for began, try := time.Now(), 1; ; try++ {
		made, err = d.createOnce(ctx, run)
		if !errors.Is(errors.Join(err, made.err), store.ErrLocked) || time.Since(began) > lockedFor {
			return made, err
		}
		if err := lockedBackoff.Wait(ctx, try); err != nil {
			return started{}, err
		}
	}
}

func (d *database) createOnce(ctx context.Context, run store.NewRun) (started, error) {
	if len(run.Input) <= maxShared {
		return d.creates.Create(ctx, run)
	}
	all, err := createRuns(ctx, d.Store, []store.NewRun{run})
	if err != nil {
		return started{}, err
	}
	return all[0], nil
}
