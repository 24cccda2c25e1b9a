package controller

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
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
	case len(holderID) > projection.MaxRunID:
		return fmt.Sprintf("the run that holds idempotencyKey %q has an id of %d bytes, of which a status shows %d at most: choose another key",
			run.Spec.IdempotencyKey, len(holderID), projection.MaxRunID)
	case !holder.SameRun:
		return fmt.Sprintf("run %s holds idempotencyKey %q with another input or version: choose another key for other work, or create the object with the same input and version to see that run",
			holderID, run.Spec.IdempotencyKey)
	default:
		return ""
	}
}

// forged reports whether the object's status cannot have come from its row. The row must have
// been read after the object: what a row has once shown, it has still passed later.
//
// Within one claim a worker may report steps that are not stored yet, so only claims and their
// ends are compared.
func forged(seen *runSeen) bool {
	if seen.Row == nil {
		return false
	}
	if seen.Run.Unreadable.StatusUnreadable() {
		return true
	}
	shown := &seen.Run.Status
	if projection.Passes(ptr.Deref(shown.Revision, 0)) > projection.Passes(projection.Revision(seen.Row, openworkflow.StepSummary{})) {
		return true
	}
	if !shown.State.Terminal() {
		return false
	}
	status := projection.Status(seen.Row, openworkflow.StepSummary{}, "")
	if status.State != shown.State || !sameTime(status.FinishedAt, shown.FinishedAt) || shown.SupersededBy != "" && status.SupersededBy == "" {
		return true
	}
	if equality.Semantic.DeepEqual(shown.Output, endDigest(&status)) {
		return false // that another run has completed its work may not be shown yet
	}
	return !seen.Succession.possible() || !showsSuperseded(shown, &status, seen.Row)
}

// showsSuperseded reports whether an ended object shows this status of a failed run as that of one
// whose work another run has completed.
func showsSuperseded(shown, failed *v1alpha1.WorkflowRunStatus, successor *openworkflow.Run) bool {
	status := failed.DeepCopy()
	projection.Supersede(status, successor) // which one is not in the digest
	return equality.Semantic.DeepEqual(shown.Output, endDigest(status))
}

// behind reports whether an ended object does not show yet which run supersedes its own, or that
// one has completed.
func behind(seen *runSeen) bool {
	status := projection.Status(seen.Row, openworkflow.StepSummary{}, "")
	return seen.Run.Status.SupersededBy != status.SupersededBy ||
		seen.Succession.completed != nil && !showsSuperseded(&seen.Run.Status, &status, seen.Succession.completed)
}

// endTolerance is how much the end that a worker has reported may differ from the row's. A worker
// takes the time when the write has returned, which it may have repeated through an outage of
// the database. Nothing is decided by the status's time of an end that has a row.
const endTolerance = 10 * time.Minute

// sameTime reports whether a status shows the time of an end, within endTolerance.
func sameTime(end, shown *metav1.Time) bool {
	if end == nil || shown == nil {
		return end == shown
	}
	return end.Sub(shown.Time).Abs() <= endTolerance
}

// digestSeed makes the digests of this process unlike those that anybody could compute.
var digestSeed = maphash.MakeSeed()

// endDigest returns a digest of what an ended run's status says about the end, for the cache, which
// keeps nothing else of it but its time. Outputs are compared as JSON values: the API server writes them anew.
func endDigest(status *v1alpha1.WorkflowRunStatus) *apiextensionsv1.JSON {
	var hash maphash.Hash
	hash.SetSeed(digestSeed)
	part := func(text string) {
		_, _ = hash.WriteString(text) // never fails
		_ = hash.WriteByte(0)
	}
	part(string(status.State))
	part(status.RunID)
	if status.Output != nil {
		part(normalJSON(status.Output.Raw))
	}
	part(strconv.FormatBool(ptr.Deref(status.OutputTruncated, false)))
	if status.Error != nil {
		part(status.Error.Name)
		part(status.Error.Message)
	}
	for _, condition := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionComplete, v1alpha1.ConditionFailed} {
		part(strconv.FormatBool(meta.IsStatusConditionTrue(status.Conditions, condition)))
	}
	return &apiextensionsv1.JSON{Raw: binary.BigEndian.AppendUint64([]byte(leftOut), hash.Sum64())}
}

// isDigest reports whether the output in a status is that of endDigest.
func isDigest(status *v1alpha1.WorkflowRunStatus) bool {
	return status.Output != nil && strings.HasPrefix(string(status.Output.Raw), leftOut)
}

// normalJSON returns the text of a JSON value that all texts of that value share.
func normalJSON(raw []byte) string {
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return string(raw)
	}
	normal, err := json.Marshal(value)
	if err != nil { // what was decoded can be encoded
		return string(raw)
	}
	return string(normal)
}

// attachedHint says in the event of an attached object that its spec does not reach the run.
func attachedHint(run *v1alpha1.WorkflowRun) string {
	if ptr.Deref(run.Spec.Cancel, false) || ptr.Deref(run.Spec.Suspend, false) {
		return "; cancel and suspend work only on the object that started the run"
	}
	return ""
}
