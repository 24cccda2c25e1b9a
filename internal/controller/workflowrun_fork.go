package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// A run with spec.from is inserted by Fork, with the results that it takes over. Its id is the
// object's uid too, so that the insert may be repeated. What the source may still become is waited
// for: a GitOps tool applies objects in any order. What it never becomes refuses the run for good.

// forkProblem is why a fork cannot be made.
type forkProblem struct {
	reason, message string
	// waits says that it may end by itself.
	waits bool
}

func waitsFor(reason, format string, args ...any) *forkProblem {
	return &forkProblem{reason, fmt.Sprintf(format, args...), true}
}

func invalidFork(format string, args ...any) *forkProblem {
	return &forkProblem{v1alpha1.ReasonInvalidFork, fmt.Sprintf(format, args...) + forkRemedy, false}
}

// forkRemedy ends the messages about a fork that can never be made: spec.from is immutable.
const forkRemedy = "; delete this WorkflowRun and create it anew with a correct spec.from"

// fork makes the row of a fork, or says in seen why it cannot be made.
func (r *WorkflowRunReconciler) fork(ctx context.Context, conn *backend.Connection, seen *runSeen, row store.NewRun) error {
	own, err := conn.RunState(ctx, row.ID)
	if err != nil {
		return fmt.Errorf("read run %s: %w", row.ID, err)
	}
	if own != nil { // it was made before, and its source may be gone
		seen.RunID = own.ID
		return nil
	}
	if ptr.Deref(seen.Run.Spec.Cancel, false) {
		seen.NeverStarts = true
		return nil
	}
	source, problem, err := r.forkSource(ctx, conn, seen.Run)
	if err != nil {
		return err
	}
	if problem == nil {
		problem, err = r.forkRow(ctx, conn, seen, source.ID, row)
	}
	if err != nil || problem == nil {
		return err
	}
	if problem.waits {
		seen.Awaits = problem
		return nil
	}
	seen.RefusedReason, seen.Refused = problem.reason, problem.message
	metrics.RunsMirrored.WithLabelValues("rejected").Inc()
	return nil
}

// forkSource finds the run that an object forks.
func (r *WorkflowRunReconciler) forkSource(ctx context.Context, conn *backend.Connection, run *v1alpha1.WorkflowRun) (*openworkflow.Run, *forkProblem, error) {
	from := run.Spec.From
	if from.RunName != "" {
		return r.forkSourceObject(ctx, conn, run, from.RunName)
	}
	if from.RunID == string(run.UID) {
		return nil, invalidFork("spec.from.runID is that of this run itself"), nil
	}
	row, err := conn.RunState(ctx, from.RunID)
	if err == nil && row == nil {
		row, err = conn.Store.ArchivedRun(ctx, from.RunID)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read run %s: %w", from.RunID, err)
	}
	if row == nil {
		return nil, waitsFor(v1alpha1.ReasonSourceNotFound,
			"run %s is not in the database of Backend %q; this run starts once that one is there and has ended: if the id is wrong, delete this WorkflowRun and create it anew",
			from.RunID, conn.Key.Name), nil
	}
	return row, sourceProblem(run, row, "run "+from.RunID, r.AttachAcrossNamespaces), nil
}

// forkSourceObject finds the run of the object of this name.
func (r *WorkflowRunReconciler) forkSourceObject(
	ctx context.Context, conn *backend.Connection, run *v1alpha1.WorkflowRun, name string,
) (*openworkflow.Run, *forkProblem, error) {
	what := fmt.Sprintf("WorkflowRun %q", name)
	if name == run.Name {
		return nil, invalidFork("spec.from.runName is the name of this %s itself", what), nil
	}
	var object v1alpha1.WorkflowRun
	err := r.Get(ctx, types.NamespacedName{Namespace: run.Namespace, Name: name}, &object, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		return nil, waitsFor(v1alpha1.ReasonSourceNotFound,
			"%s does not exist in this namespace; this run starts once it does and has ended: if it was deleted, delete this WorkflowRun and create it anew with spec.from.runID", what), nil
	case err != nil:
		return nil, nil, fmt.Errorf("look for %s: %w", what, err)
	}
	if of := backend.NameOf(object.Spec.BackendRef); of != conn.Key.Name {
		return nil, invalidFork("%s is of Backend %q, and this run of %q: a fork has the Backend of its source", what, of, conn.Key.Name), nil
	}
	ids := rowCandidates(&object, startedRunID(&object))
	rows := make(map[string]*openworkflow.Run, len(ids))
	for _, id := range ids {
		if rows[id], err = conn.RunState(ctx, id); err != nil {
			return nil, nil, fmt.Errorf("read run %s: %w", id, err)
		}
	}
	row := rowOf(&object, ids, rows, r.AttachAcrossNamespaces)
	switch {
	case row != nil:
		return row, sourceProblem(run, row, what, r.AttachAcrossNamespaces), nil
	case !object.Status.State.Terminal():
		return nil, notEnded(what), nil
	case object.Status.RunID == "":
		return nil, invalidFork("%s was never started, so it has no results", what), nil
	default:
		return nil, invalidFork("the run of %s is no longer in the database", what), nil
	}
}

// sourceProblem returns why an object may not fork a run of its Backend, nil if it may. The run
// itself decides what else is wrong, once it has ended.
func sourceProblem(run *v1alpha1.WorkflowRun, source *openworkflow.Run, what string, acrossNamespaces bool) *forkProblem {
	switch {
	case !acrossNamespaces && ofOtherNamespace(run, source.Object()):
		return invalidFork("%s is that of another namespace, which shares the database: fork it there, or have the cluster's administrator start the manager with --attach-across-namespaces", what)
	case source.WorkflowName != run.Spec.WorkflowName:
		return invalidFork("%s is of workflow %q, and spec.workflowName is %q: a fork has the workflow of its source", what, source.WorkflowName, run.Spec.WorkflowName)
	case run.Spec.Version != "" && run.Spec.Version != ptr.Deref(source.Version, ""):
		return invalidFork("%s has version %q, and spec.version is %q: a fork has the version of its source, so leave spec.version empty", what, ptr.Deref(source.Version, ""), run.Spec.Version)
	case !source.Status.Terminal():
		return notEnded(what)
	default:
		return nil
	}
}

func notEnded(what string) *forkProblem {
	return waitsFor(v1alpha1.ReasonSourceNotEnded, "%s has not ended; this run starts once it has: to start now, cancel %s", what, what)
}

// forkRow forks the source into the row.
func (r *WorkflowRunReconciler) forkRow(ctx context.Context, conn *backend.Connection, seen *runSeen, source string, row store.NewRun) (*forkProblem, error) {
	size, _ := inputSize(seen.Run)
	object, release, err := r.inputs.object(ctx, seen.Run, max(size, tenantInputs/tenantForks))
	if err != nil {
		return nil, err
	}
	defer release()
	if object.Spec.From == nil { // it is immutable
		return nil, errObjectGone
	}
	result, err := conn.Store.Fork(ctx, forkRequest(&object.Spec, source, row))
	switch {
	case errors.Is(err, store.ErrInvalidFork):
		return invalidFork("%s", strings.TrimPrefix(err.Error(), store.ErrInvalidFork.Error()+": ")), nil
	case errors.Is(err, store.ErrNotEnded):
		return notEnded("run " + source), nil
	case errors.Is(err, store.ErrNotFound):
		return waitsFor(v1alpha1.ReasonSourceNotFound, "run %s is no longer in the database of Backend %q: delete this WorkflowRun", source, conn.Key.Name), nil
	case errors.Is(err, store.ErrInvalidJSON), errors.Is(err, store.ErrTooLarge):
		return &forkProblem{reason: v1alpha1.ReasonInvalidInput, message: unstorable(err)}, nil
	case err != nil:
		return nil, fmt.Errorf("fork run %s: %w", source, err)
	}
	seen.RunID = result.RunID
	if result.Inserted {
		seen.JustInserted = !row.Suspended
		metrics.RunsMirrored.WithLabelValues("inserted").Inc()
	}
	return nil, nil
}

// forkRequest returns the request for the fork that a spec describes.
func forkRequest(spec *v1alpha1.WorkflowRunSpec, source string, row store.NewRun) store.ForkRequest {
	from := spec.From
	if spec.Input != nil {
		row.Input = spec.Input.Raw
	}
	r := store.ForkRequest{
		Source: source, Run: row,
		From:            store.ForkPoint{Step: from.Step, LastFailed: ptr.Deref(from.LastFailed, false)},
		RestartChildren: from.Children == v1alpha1.ForkRestartChildren,
	}
	for _, output := range from.Outputs {
		if r.Outputs == nil {
			r.Outputs = make(map[string]json.RawMessage, len(from.Outputs))
		}
		value := json.RawMessage("null")
		if output.Value != nil {
			value = output.Value.Raw
		}
		r.Outputs[ptr.Deref(output.Step, "")] = value
	}
	return r
}

// The pauses between two looks at the source of a fork: a part of the time that the fork has waited.
const minSourcePause, maxSourcePause = time.Second, time.Minute

// sourcePause returns the time until the source of a fork is looked at again. An event of its object
// is faster.
func (s *runSeen) sourcePause() time.Duration {
	return backoff.Jitter(min(max(s.Now.Sub(s.Run.CreationTimestamp.Time)/4, minSourcePause), maxSourcePause))
}

// indexWaitingForks finds the forks that were not made yet by their source.
const indexWaitingForks = "fork.source"

// sourceOfName and sourceOfID are the values of indexWaitingForks.
func sourceOfName(name string) string { return "name/" + name }
func sourceOfID(id string) string     { return "id/" + id }

func waitingForkSource(object client.Object) []string {
	run, ok := object.(*v1alpha1.WorkflowRun)
	switch {
	case !ok || run.Spec.From == nil || run.Status.RunID != "" || run.Status.State.Terminal():
		return nil
	case run.Spec.From.RunName != "":
		return []string{sourceOfName(run.Spec.From.RunName)}
	default:
		return []string{sourceOfID(run.Spec.From.RunID)}
	}
}

// indexForks adds indexWaitingForks to the WorkflowRun cache.
func indexForks(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &v1alpha1.WorkflowRun{}, indexWaitingForks, waitingForkSource); err != nil {
		return fmt.Errorf("index WorkflowRuns by %s: %w", indexWaitingForks, err)
	}
	return nil
}

// sourceEvents requests a reconcile of the forks that wait for an object, when it was created or
// shows an end.
func sourceEvents(ctx context.Context, cache client.Reader) handler.TypedEventHandler[*v1alpha1.WorkflowRun, runRequest] {
	return typedEvents(func(before, after *v1alpha1.WorkflowRun) (requests []runRequest) {
		// No object has ended when it is created. Those of the initial list are looked at by their forks.
		ended := before != nil && before.Status.State.Terminal()
		if after == nil || after.Status.State.Terminal() == (before == nil) || ended {
			return nil
		}
		var forks v1alpha1.WorkflowRunList
		if err := cache.List(ctx, &forks, client.InNamespace(after.Namespace),
			client.MatchingFields{indexWaitingForks: sourceOfName(after.Name)}, client.UnsafeDisableDeepCopy); err != nil {
			return nil // the manager is stopping: reads are from the cache
		}
		for i := range forks.Items {
			requests = append(requests, runRequest{NamespacedName: client.ObjectKeyFromObject(&forks.Items[i])})
		}
		return requests
	})
}
