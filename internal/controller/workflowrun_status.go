package controller

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/projection"
)

// writeOutcome is what became of a status.
type writeOutcome string

const (
	statusUnchanged writeOutcome = "unchanged"
	statusWritten   writeOutcome = "written"
	// statusStale: the object already shows something later. Nothing to do.
	statusStale writeOutcome = "stale"
	// statusGone: the object is deleted, or its name belongs to another by now.
	statusGone writeOutcome = "gone"
)

// runStatusWriter is the one way in which the manager writes the status of runs:
// a single blind patch that tests the object's uid. The API server refuses
// what is older than what it has, so there is nothing to read before and nothing
// to retry after.
type runStatusWriter struct {
	client.Client
	// live reads without a cache.
	live   client.Reader
	events events.EventRecorder
}

// write makes the status of the object what it should be, unless the object as
// it is known already shows that. An observedGeneration of 0 is left as it is.
func (w *runStatusWriter) write(ctx context.Context, run *v1alpha1.WorkflowRun, status v1alpha1.WorkflowRunStatus) (writeOutcome, error) {
	if sameStatus(&run.Status, &status) {
		if status.ObservedGeneration == 0 || status.ObservedGeneration == run.Status.ObservedGeneration {
			return statusUnchanged, nil
		}
		return w.writeGeneration(ctx, run)
	}
	patch, err := projection.Patch(string(run.UID), status)
	if err != nil {
		return "", fmt.Errorf("status of WorkflowRun %s/%s: %w", run.Namespace, run.Name, err)
	}
	outcome, err := w.send(ctx, run, patch)
	if outcome == statusWritten {
		w.event(run, &status)
	}
	return outcome, err
}

// writeGeneration sets only observedGeneration. It follows a stale status, whose writer
// was not the manager and did not see the spec.
func (w *runStatusWriter) writeGeneration(ctx context.Context, run *v1alpha1.WorkflowRun) (writeOutcome, error) {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": run.UID},
		{"op": "add", "path": "/status/observedGeneration", "value": run.Generation},
	})
	if err != nil {
		return "", err
	}
	return w.send(ctx, run, patch)
}

func (w *runStatusWriter) send(ctx context.Context, run *v1alpha1.WorkflowRun, patch []byte) (writeOutcome, error) {
	// Only metadata comes back: the object may carry a megabyte of input.
	target := &metav1.PartialObjectMetadata{}
	target.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
	target.Namespace, target.Name = run.Namespace, run.Name
	err := w.Status().Patch(ctx, target, client.RawPatch(projection.PatchContentType, patch), client.FieldOwner(v1alpha1.FieldManager))
	outcome := statusWritten
	switch {
	case err == nil:
	case apierrors.IsNotFound(err):
		outcome = statusGone
	case isStale(err):
		outcome = statusStale
	case apierrors.IsInvalid(err) && w.replaced(ctx, run):
		outcome = statusGone
	default:
		metrics.StatusWrites.WithLabelValues("error").Inc()
		return "", fmt.Errorf("write status of WorkflowRun %s/%s: %w", run.Namespace, run.Name, err)
	}
	metrics.StatusWrites.WithLabelValues(string(outcome)).Inc()
	return outcome, nil
}

// isStale reports whether a transition rule of the resource refused the status.
func isStale(err error) bool {
	return apierrors.IsInvalid(err) && projection.Outdated(err.Error())
}

// replaced reports whether the object's name belongs to another by now. The API
// server does not say which operation of a patch has failed.
func (w *runStatusWriter) replaced(ctx context.Context, run *v1alpha1.WorkflowRun) bool {
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
	err := w.live.Get(ctx, client.ObjectKeyFromObject(run), live)
	return apierrors.IsNotFound(err) || err == nil && live.UID != run.UID
}

// sameStatus reports whether writing b over a would change nothing but
// observedGeneration.
func sameStatus(a, b *v1alpha1.WorkflowRunStatus) bool {
	c := *b
	c.ObservedGeneration = a.ObservedGeneration
	return equality.Semantic.DeepEqual(a, &c)
}

// event tells what a user should notice, once, after the status shows it.
func (w *runStatusWriter) event(run *v1alpha1.WorkflowRun, status *v1alpha1.WorkflowRunStatus) {
	reason := conditionReason(status.Conditions)
	if reason == conditionReason(run.Status.Conditions) {
		return
	}
	good := false
	switch reason {
	case v1alpha1.ReasonCanceled, v1alpha1.ReasonSuspended:
		good = true
	case v1alpha1.ReasonNoWorker, v1alpha1.ReasonWorkflowFailed, v1alpha1.ReasonDeadlineExceeded,
		v1alpha1.ReasonInvalidInput, v1alpha1.ReasonRunMissing,
		v1alpha1.ReasonBackendNotFound, v1alpha1.ReasonBackendNotReady:
	default: // how a run goes on is told by its status
		return
	}
	w.events.Eventf(run, nil, eventType(good), reason, "Report", "%s", status.Message)
}
