package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

// refusedDecisions are the reasons of decisions that are never made.
var refusedDecisions = []struct {
	err    error
	reason string
}{
	{store.ErrStaleDigest, v1alpha1.ReasonStale},
	{store.ErrAlreadyDecided, v1alpha1.ReasonAlreadyDecided},
	{store.ErrNotApprover, v1alpha1.ReasonNotAnApprover},
	{store.ErrInvalidDecision, v1alpha1.ReasonInvalidSignal},
}

// decide makes the decision of a signal about an approval. Whoever has created the object decides. If
// the object does not say who that is, or not so that it can be read, it is not known.
func (r *WorkflowSignalReconciler) decide(ctx context.Context, conn *backend.Connection, seen *signalSeen) error {
	if isFound, err := r.resolve(ctx, seen); err != nil || !isFound {
		return err
	}
	s := seen.Signal
	creator, _ := v1alpha1.ParseCreator(s.Annotations)
	step := store.ApprovalStep{RunID: seen.RunID, Step: *s.Spec.Approval.Step}
	decision, err := conn.Store.Decide(ctx, store.DecideInput{
		RunID: step.RunID, Step: step.Step, Digest: s.Spec.Approval.Digest, Decision: string(s.Spec.Approval.Decision),
		DeciderUser: creator.Username, DeciderGroups: creator.Groups, Comment: s.Spec.Approval.Comment,
		IdempotencyKey: cmp.Or(s.Spec.IdempotencyKey, string(s.UID)),
	})
	for _, refused := range refusedDecisions {
		if errors.Is(err, refused.err) {
			seen.Refused, seen.Message = refused.reason, truncateText(err.Error(), 1024)
			r.kept.remove(s.UID, client.ObjectKeyFromObject(s))
			return nil
		}
	}
	switch {
	case errors.Is(err, store.ErrNoSuchApproval):
		return r.keepDecision(ctx, conn, seen, step)
	case err != nil:
		return fmt.Errorf("decide about step %q of run %s: %w", step.Step, step.RunID, err)
	}
	seen.Result = &store.SignalResult{
		State: store.SignalDelivered, Runs: 1, FinishedAt: &decision.At,
		Deliveries: []store.SignalDelivery{{RunID: step.RunID, Step: step.Step, At: decision.At}},
	}
	if decision.State == store.ApprovalOpen {
		seen.Note = fmt.Sprintf(": %d of %d have approved", decision.Approvals, decision.Required)
	}
	r.kept.remove(s.UID, client.ObjectKeyFromObject(s))
	return nil
}

// keepDecision keeps a decision about a step that has not asked for an approval yet. It is not in the
// database: what is needed of it is in the object.
func (r *WorkflowSignalReconciler) keepDecision(ctx context.Context, conn *backend.Connection, seen *signalSeen, step store.ApprovalStep) error {
	row, err := conn.RunState(ctx, step.RunID)
	if err != nil {
		return fmt.Errorf("read run %s: %w", step.RunID, err)
	}
	s, expiresAt := seen.Signal, signalExpiry(seen.Signal)
	result := store.SignalResult{State: store.SignalWaiting, FinishedAt: &seen.ServerNow}
	switch {
	case expiresAt == nil:
		result.State = store.SignalUnreceived
	case !expiresAt.After(seen.ServerNow):
		result.State = store.SignalExpired
	case row != nil && row.Status.Terminal():
		result.State = store.SignalRunEnded
	}
	seen.Result = &result
	if name := client.ObjectKeyFromObject(s); result.State == store.SignalWaiting {
		r.kept.addDecision(conn.Key, s.UID, name, step)
	} else {
		r.kept.remove(s.UID, name)
	}
	return nil
}
