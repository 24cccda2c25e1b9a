package backend

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// lockedStore is a database of which somebody has locked the tables.
type lockedStore struct {
	Store
	calls  atomic.Int64
	unlock chan struct{}
}

func (s *lockedStore) Close() {}

func (s *lockedStore) wait(ctx context.Context) error {
	s.calls.Add(1)
	select {
	case <-s.unlock:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *lockedStore) CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error) {
	return make([]store.Created, len(runs)), s.wait(ctx)
}

func (s *lockedStore) CancelRuns(ctx context.Context, _ []string) (map[string]openworkflow.RunStatus, error) {
	return nil, s.wait(ctx)
}

func (s *lockedStore) FailExpired(ctx context.Context, _ int) ([]string, error) {
	return nil, s.wait(ctx)
}

func (s *lockedStore) StepSummaries(ctx context.Context, _ []string, _ int) (map[string]openworkflow.StepSummary, error) {
	return nil, s.wait(ctx)
}

func TestConnection_P9_NobodyWaitsForABlockedDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lockedStore{unlock: make(chan struct{})}
		conn := NewConnection(key, s, store.Options{}, "1")
		r := NewRegistry()
		var rechecks atomic.Int64
		r.OnRecheck(func(types.NamespacedName) { rechecks.Add(1) })
		r.Publish(key, conn, ready)

		began := time.Now()
		const callers = 100
		errs := make(chan error, callers)
		for range callers {
			go func() {
				_, err := conn.CreateRun(t.Context(), store.NewRun{})
				errs <- err
			}()
		}
		for range callers {
			if err := <-errs; !errors.Is(err, ErrSlow) {
				t.Fatalf("a start ended with %v, want %v", err, ErrSlow)
			}
		}
		if took := time.Since(began); took != SlowAfter {
			t.Errorf("they waited for %v, want %v", took, SlowAfter)
		}
		if _, err := conn.CancelRun(t.Context(), "a"); !errors.Is(err, ErrSlow) || time.Since(began) != SlowAfter {
			t.Errorf("a cancel ended with %v after %v", err, time.Since(began))
		}
		if n := rechecks.Load(); n != 1 || conn.Slow() == nil {
			t.Errorf("%d checks were asked for, want one; Slow is %v", n, conn.Slow())
		}
		calls := s.calls.Load()
		if err := conn.Probe(t.Context()); !errors.Is(err, ErrSlow) || s.calls.Load() != calls+1 {
			t.Errorf("the probe ended with %v after %d calls", err, s.calls.Load()-calls)
		}

		go func() {
			time.Sleep(5 * time.Second)
			close(s.unlock)
		}()
		began = time.Now()
		if err := conn.Probe(t.Context()); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("the probe ended with %v after %v, want it to end with the lock", err, time.Since(began))
		}
		if _, err := conn.CreateRun(t.Context(), store.NewRun{}); err != nil || conn.Slow() != nil {
			t.Errorf("a start after the end of the lock ended with %v", err)
		}
		stopRegistry(t, r)
	})
}

func TestConnection_P9_AnIdleBlockedDatabaseIsNoticed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn := NewConnection(key, &lockedStore{unlock: make(chan struct{})}, store.Options{}, "1")
		if _, err := conn.Store.FailExpired(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) || conn.Slow() == nil {
			t.Errorf("the sweep ended with %v, Slow is %v", err, conn.Slow())
		}
	})
}

// timeoutStore is a database whose statements give up a lock after 200 ms.
type timeoutStore struct{ Store }

func (timeoutStore) CreateRuns(_ context.Context, runs []store.NewRun) ([]store.Created, error) {
	time.Sleep(200 * time.Millisecond)
	created := make([]store.Created, len(runs))
	for i := range created {
		if created[i].Err = store.ErrLocked; runs[i].ID == "free" {
			created[i].Err = nil
		}
	}
	return created, nil
}

func (timeoutStore) Close() {}

func TestConnection_P9_LocksThatAllFindTakenMakeItSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn := NewConnection(key, timeoutStore{}, store.Options{}, "1")
		r := NewRegistry()
		r.Publish(key, conn, ready)
		slowWithin := func(d time.Duration, id string) bool {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(time.Second) {
				if _, err := conn.CreateRun(t.Context(), store.NewRun{ID: id}); errors.Is(err, ErrSlow) {
					return true
				}
			}
			return false
		}
		if slowWithin(SlowAfter-time.Second, "a") {
			t.Error("it is slow too soon")
		}
		if slowWithin(time.Second, "free") || slowWithin(SlowAfter-time.Second, "a") {
			t.Error("it is slow although a statement found no lock")
		}
		if !slowWithin(10*time.Second, "a") {
			t.Error("it is not slow")
		}
		stopRegistry(t, r)
	})
}

// stopRegistry closes all connections.
func stopRegistry(t *testing.T, r *Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Start(ctx); err != nil {
		t.Error(err)
	}
}
