package backend

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// silentStore is a database on a connection that hangs.
type silentStore struct{ Store }

func (silentStore) CancelRuns(ctx context.Context, _ []string) (map[string]openworkflow.RunStatus, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silentStore) Sweep(ctx context.Context, _ time.Duration, _ int) (store.Swept, error) {
	<-ctx.Done()
	return store.Swept{}, ctx.Err()
}

func (silentStore) RemoveRuns(ctx context.Context, _ store.Retention, ids []string) (store.Removed, []string, error) {
	<-ctx.Done()
	return store.Removed{}, ids, ctx.Err()
}

func TestConnection_P6_NoCallWaitsForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn := NewConnection(types.NamespacedName{}, silentStore{}, store.Options{}, "")
		ctx := t.Context()
		_, cancelErr := conn.Store.CancelRuns(ctx, []string{"a"})
		_, sweepErr := conn.Store.Sweep(ctx, time.Second, 1)
		_, _, removeErr := conn.Store.RemoveRuns(ctx, store.Retention{}, []string{"a"})
		for _, err := range []error{cancelErr, sweepErr, removeErr} {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the call ended with %v, want %v", err, context.DeadlineExceeded)
			}
		}
	})
}
