package controller

import (
	"fmt"

	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Which row an object shows is decided here, from the object's uid and spec and from what the
// row itself says:
//
//	the row whose id is the object's uid                          always
//	a row with the object's workflow and idempotency key          if no object of another
//	                                                              namespace started it
//
// Rows are only looked for in the object's own Backend. Workers may write status.runID, so it
// says where to look and nothing else. That it is set says that the run was started before.

// startedRunID returns the id of an object's row, or nothing if the run was not started yet.
func startedRunID(run *v1alpha1.WorkflowRun) string {
	if run.Status.RunID == "" || run.Spec.IdempotencyKey != "" {
		return run.Status.RunID
	}
	return string(run.UID)
}

// rowCandidates returns the ids of the rows that the object may show, the likeliest first.
func rowCandidates(run *v1alpha1.WorkflowRun, shown string) []string {
	own := string(run.UID)
	if run.Spec.IdempotencyKey == "" || shown == "" || shown == own {
		return []string{own}
	}
	return []string{shown, own}
}

// rowOf returns the first of the candidates that the object may show, or nil.
func rowOf(run *v1alpha1.WorkflowRun, candidates []string, rows map[string]*openworkflow.Run, acrossNamespaces bool) *openworkflow.Run {
	for _, id := range candidates {
		if row := rows[id]; row != nil && mayShow(run, row, acrossNamespaces) {
			return row
		}
	}
	return nil
}

// mayShow reports whether an object may show a row of its Backend.
func mayShow(run *v1alpha1.WorkflowRun, row *openworkflow.Run, acrossNamespaces bool) bool {
	if row.ID == string(run.UID) {
		return true
	}
	key := run.Spec.IdempotencyKey
	return key != "" && row.IdempotencyKey != nil && *row.IdempotencyKey == key && row.WorkflowName == run.Spec.WorkflowName &&
		(acrossNamespaces || !ofOtherNamespace(run, row.Object()))
}

// ofOtherNamespace reports whether a row mirrors an object of another namespace. A row
// without an object was started by a client, which has the rights of the Backend.
func ofOtherNamespace(run *v1alpha1.WorkflowRun, object *openworkflow.ObjectRef) bool {
	return object != nil && object.Namespace != run.Namespace
}

// keyConflict returns why the object may not show the run that holds its key, or nothing. Of a
// run of another namespace it says only that it exists.
func keyConflict(run *v1alpha1.WorkflowRun, holderID string, holder store.KeyHolder, acrossNamespaces bool) string {
	switch {
	case !acrossNamespaces && ofOtherNamespace(run, holder.Object):
		return fmt.Sprintf("a run of another namespace holds idempotencyKey %q in the database that both namespaces share: choose another key, or have the cluster's administrator start the manager with --attach-across-namespaces",
			run.Spec.IdempotencyKey)
	case !holder.SameRun:
		return fmt.Sprintf("run %s holds idempotencyKey %q with another input or version: choose another key for other work, or create the object with the same input and version to see that run",
			holderID, run.Spec.IdempotencyKey)
	default:
		return ""
	}
}

// attachedHint says in the event of an attached object that its spec does not reach the run.
func attachedHint(run *v1alpha1.WorkflowRun) string {
	if ptr.Deref(run.Spec.Cancel, false) || ptr.Deref(run.Spec.Suspend, false) {
		return "; cancel and suspend work only on the object that started the run"
	}
	return ""
}
