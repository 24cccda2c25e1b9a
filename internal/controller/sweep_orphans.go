package controller

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// orphanSweep cancels the runs of deleted objects and clears the leases of dead workers.
// It does what the events of the deletion would have done, had the manager seen them. It
// runs before a Backend becomes ready, and periodically after that.
type orphanSweep struct {
	cache, live client.Reader
	cluster     string
	deaths      *deaths
}

func (s *orphanSweep) run(ctx context.Context, conn *backend.Connection) error {
	for after := ""; ; {
		runs, err := conn.Store.OpenObjectRuns(ctx, s.cluster, after, sweepBatch)
		if err != nil {
			return fmt.Errorf("list open runs: %w", err)
		}
		if len(runs) == 0 {
			return s.deaths.releaseDead(ctx, s.cache, conn)
		}
		after = runs[len(runs)-1].RunID
		if err := s.cancelOrphans(ctx, conn, runs); err != nil {
			return err
		}
	}
}

// cancelOrphans cancels those of the runs whose object is gone.
func (s *orphanSweep) cancelOrphans(ctx context.Context, conn *backend.Connection, runs []store.ObjectRun) error {
	var orphans []string
	for _, run := range runs {
		if !run.Object.Valid() {
			continue // no object's run
		}
		gone, err := s.objectGone(ctx, types.NamespacedName{Namespace: run.Object.Namespace, Name: run.Object.Name}, types.UID(run.Object.UID))
		if err != nil {
			return err
		}
		if gone {
			orphans = append(orphans, run.RunID)
		}
	}
	if len(orphans) == 0 {
		return nil
	}
	canceled, err := conn.Store.CancelRuns(ctx, orphans)
	if err != nil {
		return fmt.Errorf("cancel runs of deleted objects: %w", err)
	}
	for _, status := range canceled {
		if status == openworkflow.RunCanceled {
			metrics.RunsCanceled.WithLabelValues("orphaned").Inc()
		}
	}
	conn.Ended()
	ctrl.LoggerFrom(ctx).Info("Canceled runs of deleted objects", "runs", len(orphans))
	return nil
}

// objectGone reports whether an object does not exist any more. The cache is believed when
// it has the object; that the object is gone must come from the API server.
func (s *orphanSweep) objectGone(ctx context.Context, key types.NamespacedName, uid types.UID) (bool, error) {
	var run v1alpha1.WorkflowRun
	if err := s.cache.Get(ctx, key, &run, client.UnsafeDisableDeepCopy); err == nil && run.UID == uid {
		return false, nil
	}
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
	switch err := s.live.Get(ctx, key, meta); {
	case apierrors.IsNotFound(err):
		return true, nil
	case apierrors.IsForbidden(err): // in a namespace that this manager may not read
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look for WorkflowRun %s: %w", key, err)
	default:
		return meta.UID != uid, nil
	}
}
