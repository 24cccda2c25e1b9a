package controller

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// readinessPatience is how long a manager may be unable to do its work before it is not
	// ready: a restart of the API server takes less.
	readinessPatience = 30 * time.Second
	// readinessInterval is the time between two looks at the lease.
	readinessInterval = 10 * time.Second
)

// Readiness answers whether a manager can list its objects and read the lease by which a
// leader is elected. It says so for a leader and for one that stands by. A manager that starts
// is not ready before it has done both, so an installation without custom resources or rights
// never is.
type Readiness struct {
	// Live reads the lease without a cache.
	Live client.Reader
	// Lease names the lease. Without a name, none is needed.
	Lease types.NamespacedName
	// Synced blocks until the caches have listed their objects, or ctx ends.
	Synced func(ctx context.Context) bool
	Clock  clock.PassiveClock

	mu     sync.Mutex
	synced bool
	err    error     // of the last look at the lease
	good   time.Time // when all was well last, or zero
}

// Start looks at the lease until ctx ends.
func (r *Readiness) Start(ctx context.Context) error {
	var caches sync.WaitGroup
	defer caches.Wait()
	caches.Go(func() {
		if r.Synced(ctx) {
			r.mu.Lock()
			r.synced = true
			r.mu.Unlock()
			r.observe(r.readLease(ctx)) // ready at once, not at the next tick
		}
	})
	ticker := time.NewTicker(readinessInterval)
	defer ticker.Stop()
	for {
		r.observe(r.readLease(ctx))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// NeedLeaderElection says that a manager that stands by looks too.
func (r *Readiness) NeedLeaderElection() bool { return false }

func (r *Readiness) readLease(ctx context.Context) error {
	if r.Lease.Name == "" {
		return nil
	}
	lease := &metav1.PartialObjectMetadata{}
	lease.SetGroupVersionKind(schema.GroupVersionKind{Group: "coordination.k8s.io", Version: "v1", Kind: "Lease"})
	err := within(ctx, readinessInterval, func(ctx context.Context) error { return r.Live.Get(ctx, r.Lease, lease) })
	if err != nil && !apierrors.IsNotFound(err) { // nobody leads yet
		return fmt.Errorf("read the leader's lease: %w", err)
	}
	return nil
}

func (r *Readiness) observe(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err = err; err == nil && r.synced {
		r.good = r.Clock.Now()
	}
}

// Check is a healthz.Checker.
func (r *Readiness) Check(*http.Request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.good.IsZero() && r.Clock.Since(r.good) <= readinessPatience:
		return nil
	case r.err != nil:
		return r.err
	case !r.synced:
		return errors.New("the caches have not listed all objects yet; the manager's log says what fails")
	case r.good.IsZero():
		return errors.New("the leader's lease has not been read yet")
	default:
		return nil
	}
}
