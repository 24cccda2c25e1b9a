package controller

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// asking returns what a step asks, and its digest.
func asking(t *testing.T, runID string, approvers openworkflow.Approvers) *store.NewApproval {
	t.Helper()
	request := openworkflow.ApprovalRequest{RunID: runID, Step: "approve", Prompt: "Ship?", Required: 1, Approvers: approvers}
	text, digest, err := request.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return &store.NewApproval{Request: text, Digest: digest, ExpiresAt: time.Now().Add(time.Hour), OnExpiry: "Deny"}
}

// ask claims the run and makes its step wait for an approval.
func (w *world) ask(s *store.Store, approval *store.NewApproval) (attemptID string) {
	w.t.Helper()
	run := claim(w.t, s, "pod")
	lease := openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}
	signal := openworkflow.ApprovalSignal(run.ID, "approve")
	attempt := openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: "approve", Kind: openworkflow.KindSignalWait, Status: openworkflow.StepRunning,
		Context: openworkflow.WaitContext{Kind: openworkflow.KindSignalWait, Signal: &signal, TimeoutAt: "2100-01-01T00:00:00.000Z"}.Encode(),
	}
	result, err := s.ApplyAndClaim(context.Background(), store.Batch{
		Steps: []store.StepWrite{{Lease: lease, Attempt: attempt, New: true, Approval: approval}},
		Runs:  []store.RunWrite{{Lease: lease, Op: store.RunPark, At: time.Now().Add(time.Hour)}},
	})
	if err != nil || errors.Join(append(result.Steps, result.Runs...)...) != nil {
		w.t.Fatalf("ask: %+v, %v", result, err)
	}
	return attempt.ID
}

func newDecision(name string, decision v1alpha1.DecisionKind, digest string, changes ...func(*sig)) *sig {
	return newSignal(name, append([]func(*sig){func(s *sig) {
		s.Spec.Signal, s.Spec.Data = "", nil
		s.Spec.Approval = &v1alpha1.ApprovalDecision{RunName: "order-1", Step: new("approve"), Digest: digest, Decision: decision, Comment: "fine"}
	}}, changes...)...)
}

// TestSignal_DecidesAnApproval: the decision is applied before the run exists, and others come later.
func TestSignal_DecidesAnApproval(t *testing.T) {
	w := newManagedWorld(t)
	run := w.pendingRun("order-1")
	s := w.store()
	approval := asking(t, string(run.UID), openworkflow.Approvers{})
	early := newDecision("early", v1alpha1.DecisionApprove, approval.Digest)
	w.create(early)
	if message := w.awaitSignal(early, v1alpha1.ReasonWaiting); !strings.HasPrefix(message, `the decision about step "approve" is kept until a run waits for it`) {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(early, v1alpha1.ConditionReady)
	now := newDecision("now", v1alpha1.DecisionApprove, approval.Digest, sendNow)
	w.create(now)
	w.awaitSignal(now, v1alpha1.ReasonNoReceiver)

	attempt := w.ask(s, approval)
	if message := w.awaitSignal(early, v1alpha1.ReasonDelivered); message != `a run has received the decision about step "approve"` {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(early, v1alpha1.ConditionReady, v1alpha1.ConditionDelivered)
	if d := early.Status.Deliveries; len(d) != 1 || d[0].RunID != string(run.UID) || d[0].Step != "approve" {
		t.Errorf("deliveries are %+v", d)
	}
	if data, ok := w.received(s, attempt); !ok || !strings.Contains(data, `"Approved"`) {
		t.Errorf("the step has received %s, %v", data, ok)
	}

	late := newDecision("late", v1alpha1.DecisionDeny, approval.Digest)
	w.create(late)
	if message := w.awaitSignal(late, v1alpha1.ReasonAlreadyDecided); !strings.Contains(message, "already decided") {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(late, v1alpha1.ConditionStalled)
	reserved := newSignal("reserved", func(s *sig) { s.Spec.Signal = openworkflow.ApprovalSignal(string(run.UID), "approve") })
	w.create(reserved)
	if message := w.awaitSignal(reserved, v1alpha1.ReasonInvalidSignal); !strings.Contains(message, "is that of an approval: create a WorkflowSignal with spec.approval") {
		t.Errorf("message is %q", message)
	}
}

// TestSignal_RefusesDecisions: about something else, and of somebody who is no approver.
func TestSignal_RefusesDecisions(t *testing.T) {
	w := newManagedWorld(t)
	run := w.pendingRun("order-1")
	s := w.store()
	approval := asking(t, string(run.UID), openworkflow.Approvers{Users: []string{"ann-" + w.Namespace}})
	attempt := w.ask(s, approval)
	stale := newDecision("stale", v1alpha1.DecisionApprove, "0123")
	nobody := newDecision("nobody", v1alpha1.DecisionApprove, approval.Digest)
	w.create(stale, nobody)
	if message := w.awaitSignal(stale, v1alpha1.ReasonStale); !strings.Contains(message, "asks for something else now, with digest "+approval.Digest) {
		t.Errorf("message is %q", message)
	}
	if message := w.awaitSignal(nobody, v1alpha1.ReasonNotAnApprover); !strings.Contains(message, "it is not known who decides") {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(nobody, v1alpha1.ConditionStalled)

	named := func(user string) func(*sig) {
		return func(s *sig) {
			s.Namespace, s.Annotations = w.Namespace, map[string]string{
				v1alpha1.AnnotationCreatedBy: v1alpha1.Creator{Username: user + "-" + w.Namespace, Groups: []string{"system:authenticated"}}.String(),
			}
		}
	}
	for _, user := range []string{"ben", "ann"} {
		c := w.as(user, signals("default")...)
		s := newDecision(user, v1alpha1.DecisionDeny, approval.Digest, named(user))
		awaitAllowed(t, func() error { return c.Create(context.Background(), s) })
		w.awaitSignal(s, map[string]string{"ben": v1alpha1.ReasonNotAnApprover, "ann": v1alpha1.ReasonDelivered}[user])
	}
	if data, ok := w.received(s, attempt); !ok || !strings.Contains(data, `"Denied"`) || !strings.Contains(data, "ann-"+w.Namespace) {
		t.Errorf("the step has received %s, %v", data, ok)
	}
	gone := newDecision("gone", v1alpha1.DecisionApprove, approval.Digest, func(s *sig) { s.Spec.Approval.Step = new("other") })
	w.create(gone)
	w.awaitSignal(gone, v1alpha1.ReasonWaiting)
	if _, err := w.store().CancelRuns(t.Context(), []string{string(run.UID)}); err != nil {
		t.Fatal(err)
	}
	w.awaitSignal(gone, v1alpha1.ReasonRunEnded)
}

// TestSignal_ADecisionIsAppliedAnHourBeforeTheQuestion: by the clock of the database, by which decisions
// expire. The manager is another one then.
func TestSignal_ADecisionIsAppliedAnHourBeforeTheQuestion(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.backend()
	run := w.pendingRun("order-1")
	approval := asking(t, string(run.UID), openworkflow.Approvers{})
	early := newDecision("early", v1alpha1.DecisionApprove, approval.Digest)
	impatient := newDecision("impatient", v1alpha1.DecisionDeny, approval.Digest, func(s *sig) { s.Spec.ExpirationSeconds = new(int64(1800)) })
	noRun := newDecision("no-run", v1alpha1.DecisionDeny, approval.Digest, func(s *sig) {
		s.Spec.Approval.RunName, s.Spec.ExpirationSeconds = "order-2", new(int64(1800))
	})
	w.create(early, impatient, noRun)
	w.awaitSignal(early, v1alpha1.ReasonWaiting)
	w.awaitSignal(impatient, v1alpha1.ReasonWaiting)
	w.awaitSignal(noRun, v1alpha1.ReasonRunNotFound)
	m.halt()

	testpg.SetClock(t, w.URL, time.Hour)
	w.start()
	for s, want := range map[*sig]string{
		impatient: `no run has waited for the decision about step "approve" in time`,
		noRun:     `the signal has expired: WorkflowRun "order-2" does not exist in this namespace`,
	} {
		if message := w.awaitSignal(s, v1alpha1.ReasonExpired); message != want {
			t.Errorf("message is %q, want %q", message, want)
		}
		w.wantTruths(s, v1alpha1.ConditionStalled)
	}
	if fetch(w, early); early.Status.FinishedAt != nil {
		t.Fatalf("a decision that is kept for a week is %+v after an hour", early.Status)
	}
	approval.ExpiresAt = time.Now().Add(2 * time.Hour) // an hour after the question
	attempt := w.ask(w.store(), approval)
	w.awaitSignal(early, v1alpha1.ReasonDelivered)
	w.wantTruths(early, v1alpha1.ConditionReady, v1alpha1.ConditionDelivered)
	if d := early.Status.Deliveries; len(d) != 1 || d[0].Time.Sub(early.CreationTimestamp.Time) < 59*time.Minute {
		t.Errorf("deliveries are %+v, want one after an hour", d)
	}
	if data, ok := w.received(w.store(), attempt); !ok || !strings.Contains(data, `"Approved"`) || strings.Contains(data, "Deny") {
		t.Errorf("the step has received %s, %v", data, ok)
	}
}

// TestSignal_ADecisionExpires: while a manager keeps it, so that the question finds nothing.
func TestSignal_ADecisionExpires(t *testing.T) {
	w := newManagedWorld(t)
	run := w.pendingRun("order-1")
	s := w.store()
	approval := asking(t, string(run.UID), openworkflow.Approvers{})
	kept := newDecision("kept", v1alpha1.DecisionApprove, approval.Digest, func(s *sig) { s.Spec.ExpirationSeconds = new(int64(2)) })
	w.create(kept)
	w.awaitSignal(kept, v1alpha1.ReasonExpired)
	w.wantTruths(kept, v1alpha1.ConditionStalled)
	attempt := w.ask(s, approval)
	deny := newDecision("deny", v1alpha1.DecisionDeny, approval.Digest)
	w.create(deny)
	w.awaitSignal(deny, v1alpha1.ReasonDelivered)
	if data, ok := w.received(s, attempt); !ok || !strings.Contains(data, `"Denied"`) || strings.Contains(data, "Approve") {
		t.Errorf("the step has received %s, %v", data, ok)
	}
}
