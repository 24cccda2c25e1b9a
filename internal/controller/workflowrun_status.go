package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/projection"
)

// writeOutcome is the outcome of writing a status.
type writeOutcome string

const (
	statusUnchanged writeOutcome = "unchanged"
	statusWritten   writeOutcome = "written"
	// statusStale means that the object shows a later revision.
	statusStale writeOutcome = "stale"
	// statusGone means that the object was deleted, or replaced by one of the same name.
	statusGone writeOutcome = "gone"
	// statusRefused means that the API server has refused the status, now or lately.
	statusRefused writeOutcome = "refused"
)

// runStatusWriter writes the status of runs, by one blind patch that tests the object's
// uid. The API server refuses a smaller revision than it has, so nothing is read before and
// nothing is retried after.
type runStatusWriter struct {
	client.Client
	// live reads objects without a cache.
	live    client.Reader
	events  events.EventRecorder
	refused refusals
}

// write writes the status of an object unless the given object has it already. With an
// observedGeneration of 0 it does not change that field. A refusal of this one status is an outcome,
// not an error.
func (w *runStatusWriter) write(ctx context.Context, run *v1alpha1.WorkflowRun, status v1alpha1.WorkflowRunStatus) (writeOutcome, error) {
	if sameStatus(&run.Status, &status) {
		if status.ObservedGeneration == 0 || status.ObservedGeneration == run.Status.ObservedGeneration {
			return statusUnchanged, nil
		}
		return w.writeGeneration(ctx, run)
	}
	if w.refused.wait(run.UID, status.State) > 0 {
		return statusRefused, nil
	}
	patch, err := projection.Patch(string(run.UID), status)
	if err != nil {
		return "", fmt.Errorf("status of WorkflowRun %s/%s: %w", run.Namespace, run.Name, err)
	}
	outcome, err := w.send(ctx, run, status.State, patch)
	if outcome == statusWritten {
		w.event(run, &status)
	}
	return outcome, err
}

// writeRow writes the status of an object's row. It corrects the object if its status cannot have
// come from that row.
func (w *runStatusWriter) writeRow(ctx context.Context, seen runSeen) (writeOutcome, error) {
	if !forged(&seen) {
		return w.write(ctx, seen.Run, runStatus(seen))
	}
	run, status := seen.Run, rowStatus(&seen)
	if w.refused.wait(run.UID, status.State) > 0 {
		return statusRefused, nil
	}
	status.ObservedGeneration = run.Status.ObservedGeneration
	status.Corrections = new(ptr.Deref(run.Status.Corrections, 0) + 1)
	patch, err := projection.Correction(string(run.UID), run.ResourceVersion, status)
	if err != nil {
		return "", fmt.Errorf("status of WorkflowRun %s/%s: %w", run.Namespace, run.Name, err)
	}
	outcome, err := w.send(ctx, run, status.State, patch)
	if outcome == statusWritten {
		metrics.StatusWrites.WithLabelValues("corrected").Inc()
		w.events.Eventf(run, nil, eventType(false), v1alpha1.ReasonStatusCorrected, "Correct",
			"The status was not that of run %s in the database and was replaced: somebody else has written it, or the database was restored", seen.RunID)
	}
	return outcome, err
}

// writeGeneration writes only observedGeneration. It follows a stale status: a worker has
// written a later one, and workers do not know the spec.
func (w *runStatusWriter) writeGeneration(ctx context.Context, run *v1alpha1.WorkflowRun) (writeOutcome, error) {
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": run.UID},
		{"op": "add", "path": "/status/observedGeneration", "value": run.Generation},
	})
	if err != nil {
		return "", err
	}
	return w.send(ctx, run, run.Status.State, patch)
}

// send sends a patch of the status, after which the object has this state.
func (w *runStatusWriter) send(ctx context.Context, run *v1alpha1.WorkflowRun, state v1alpha1.RunState, patch []byte) (writeOutcome, error) {
	// The response has only metadata: the object may have a megabyte of input.
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
	case failsTest(err): // the object has changed since; it is compared again
		outcome = statusStale
	case refuses(err):
		outcome = w.refuse(ctx, run, state, err)
	default:
		metrics.StatusWrites.WithLabelValues("error").Inc()
		return "", fmt.Errorf("write status of WorkflowRun %s/%s: %w", run.Namespace, run.Name, err)
	}
	if outcome != statusRefused {
		w.refused.remove(run.UID)
	}
	metrics.StatusWrites.WithLabelValues(string(outcome)).Inc()
	return outcome, nil
}

// failsTest reports whether a test of a patch has failed: the refusal names no cause.
func failsTest(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &status) {
		return false
	}
	details := status.Status().Details
	return details == nil || len(details.Causes) == 0
}

// isStale reports whether a transition rule of the CRD refused the status.
func isStale(err error) bool {
	return apierrors.IsInvalid(err) && projection.Outdated(err.Error())
}

// replaced reports whether the object was deleted, or replaced by one of the same name. The
// API server does not say which operation of a patch has failed.
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

// event records an event for a new reason that a user should notice. It follows the write
// of the status.
func (w *runStatusWriter) event(run *v1alpha1.WorkflowRun, status *v1alpha1.WorkflowRunStatus) {
	reason := conditionReason(status.Conditions)
	if reason == conditionReason(run.Status.Conditions) {
		return
	}
	good := false
	switch reason {
	case v1alpha1.ReasonCanceled, v1alpha1.ReasonSuspended, v1alpha1.ReasonSuperseded:
		good = true
	case v1alpha1.ReasonNoWorker, v1alpha1.ReasonWorkflowFailed, v1alpha1.ReasonDeadlineExceeded,
		v1alpha1.ReasonQuarantined, v1alpha1.ReasonInvalidInput, v1alpha1.ReasonKeyConflict, v1alpha1.ReasonRunMissing,
		v1alpha1.ReasonInvalidFork, v1alpha1.ReasonSourceNotFound,
		v1alpha1.ReasonBackendNotFound, v1alpha1.ReasonBackendNotReady, v1alpha1.ReasonUnreadable:
	default: // the status alone shows progress
		return
	}
	w.events.Eventf(run, nil, eventType(good), reason, "Report", "%s", status.Message)
}
