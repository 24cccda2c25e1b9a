package conformance

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// ask is a write that starts to wait for an approval, by ann, bob or the group finance, in an hour.
func ask(t *testing.T, l openworkflow.Lease, name string, change ...func(*openworkflow.ApprovalRequest, *store.NewApproval)) store.StepWrite {
	t.Helper()
	request := openworkflow.ApprovalRequest{
		RunID: l.RunID, Step: name, Prompt: "Pay?", Required: 1, Details: json.RawMessage(`{"amount": 42}`),
		Approvers: openworkflow.Approvers{Users: []string{"ann", "bob"}, Groups: []string{"finance"}},
	}
	approval := &store.NewApproval{ExpiresAt: later(), OnExpiry: "Deny"}
	for _, c := range change {
		c(&request, approval)
	}
	var err error
	if approval.Request, approval.Digest, err = request.Canonical(); err != nil {
		t.Fatal(err)
	}
	w := wait(l, openworkflow.ApprovalSignal(l.RunID, name))
	w.Attempt.StepName, w.New, w.Approval = name, true, approval
	return w
}

func requiring(n int) func(*openworkflow.ApprovalRequest, *store.NewApproval) {
	return func(r *openworkflow.ApprovalRequest, _ *store.NewApproval) { r.Required = n }
}

// expired makes an approval that has expired.
func expired(_ *openworkflow.ApprovalRequest, a *store.NewApproval) {
	a.ExpiresAt = time.Now().Add(-time.Hour)
}

// decide is a decision about the step "ask" of a run. The key is new for each call.
func decide(l openworkflow.Lease, user, decision string, change ...func(*store.DecideInput)) store.DecideInput {
	in := store.DecideInput{RunID: l.RunID, Step: "ask", DeciderUser: user, Decision: decision, IdempotencyKey: openworkflow.NewID()}
	for _, c := range change {
		c(&in)
	}
	return in
}

// outcome returns what a step has received, without the times of decisions, or "" while it waits.
func (b bench) outcome(attemptID string) string {
	b.Helper()
	results, err := b.WaitResults(b.Context(), []string{attemptID})
	if err != nil {
		b.Fatal(err)
	}
	result, ok := results[attemptID]
	if !ok {
		return ""
	}
	var o store.ApprovalOutcome
	if err := json.Unmarshal(result.Data, &o); err != nil {
		b.Fatalf("outcome %s: %v", result.Data, err)
	}
	text := string(o.Outcome)
	if o.OnExpiry != "" {
		text += ", then " + o.OnExpiry
	}
	for _, d := range o.Decisions {
		if d.At.IsZero() || d.Key != "" {
			b.Errorf("decision %+v: want its time, and no key", d)
		}
		text += "; " + d.User + " " + d.Decision
		if d.Comment != "" {
			text += ": " + d.Comment
		}
	}
	return text
}

func TestDecide_DeliversTheOutcomeAndWakesTheRun(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		for _, test := range []struct{ decision, want string }{
			{store.DecisionApprove, "Approved; ann Approve: all right"},
			{store.DecisionDeny, "Denied; ann Deny: all right"},
		} {
			b := bench{t, s}
			l := b.start()
			w := ask(t, l, "ask")
			b.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
			if due(b.run(l.RunID)) || b.outcome(w.Attempt.ID) != "" {
				t.Errorf("before the decision the run is %+v, outcome %q", b.run(l.RunID), b.outcome(w.Attempt.ID))
			}
			in := decide(l, "ann", test.decision, func(in *store.DecideInput) { in.Comment, in.Digest = "all right", w.Approval.Digest })
			got, err := s.Decide(t.Context(), in)
			if err != nil || got.State == store.ApprovalOpen || got.Required != 1 || got.At.IsZero() || got.Repeated {
				t.Errorf("Decide: %+v, %v", got, err)
			}
			if o := b.outcome(w.Attempt.ID); o != test.want {
				t.Errorf("outcome is %q, want %q", o, test.want)
			}
			if !due(b.run(l.RunID)) {
				t.Errorf("the run is not due: %+v", b.run(l.RunID))
			}

			again, err := s.Decide(t.Context(), in)
			got.Repeated = true
			if diff := cmp.Diff(got, again); err != nil || diff != "" {
				t.Errorf("the same decision again: %v\n%s", err, diff)
			}
			if o := b.outcome(w.Attempt.ID); o != test.want {
				t.Errorf("then the outcome is %q, want %q", o, test.want)
			}
		}
	})
}

func TestDecide_AsManyAsAreRequiredMustApprove(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := ask(t, l, "ask", requiring(2))
		b.mustStep(w)
		if d, err := s.Decide(t.Context(), decide(l, "ann", store.DecisionApprove)); err != nil || d.State != store.ApprovalOpen || d.Approvals != 1 {
			t.Errorf("first approval: %+v, %v", d, err)
		}
		if o := b.outcome(w.Attempt.ID); o != "" {
			t.Errorf("after one of two approvals the outcome is %q", o)
		}
		finance := func(in *store.DecideInput) { in.DeciderGroups = []string{"dev", "finance"} }
		if d, err := s.Decide(t.Context(), decide(l, "eve", store.DecisionApprove, finance)); err != nil || d.State != store.ApprovalApproved || d.Approvals != 2 {
			t.Errorf("second approval: %+v, %v", d, err)
		}
		if o := b.outcome(w.Attempt.ID); o != "Approved; ann Approve; eve Approve" {
			t.Errorf("outcome is %q", o)
		}

		second := ask(t, l, "second", requiring(2))
		b.mustStep(second)
		about := func(in *store.DecideInput) { in.Step = "second" }
		if _, err := s.Decide(t.Context(), decide(l, "ann", store.DecisionApprove, about)); err != nil {
			t.Error(err)
		}
		if d, err := s.Decide(t.Context(), decide(l, "bob", store.DecisionDeny, about)); err != nil || d.State != store.ApprovalDenied {
			t.Errorf("denial: %+v, %v", d, err)
		}
		if o := b.outcome(second.Attempt.ID); o != "Denied; ann Approve; bob Deny" {
			t.Errorf("outcome is %q", o)
		}
	})
}

func TestDecide_P7_RefusesWithAReason(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := ask(t, l, "ask", requiring(2))
		b.mustStep(w, ask(t, l, "late", expired), ask(t, l, "done"))
		about := func(step string) func(*store.DecideInput) { return func(in *store.DecideInput) { in.Step = step } }
		first := decide(l, "ann", store.DecisionApprove)
		withItsKey := func(in *store.DecideInput) { in.IdempotencyKey = first.IdempotencyKey }
		for _, in := range []store.DecideInput{
			first, decide(l, "bob", store.DecisionDeny, about("done")),
		} {
			if _, err := s.Decide(t.Context(), in); err != nil {
				t.Fatal(err)
			}
		}
		before := b.outcome(w.Attempt.ID)
		for _, test := range []struct {
			in   store.DecideInput
			kind error
			text string
		}{
			{decide(l, "bob", store.DecisionApprove, func(in *store.DecideInput) { in.Digest = "4711" }),
				store.ErrStaleDigest, `step "ask" of run ` + l.RunID + ` asks for something else now, with digest ` + w.Approval.Digest},
			{decide(l, "ann", store.DecisionApprove), store.ErrAlreadyDecided, `step "ask" of run ` + l.RunID + `: by "ann"`},
			{decide(l, "ann", store.DecisionApprove, about("done")), store.ErrAlreadyDecided, `step "done" of run ` + l.RunID + `: Denied`},
			{decide(l, "ann", store.DecisionApprove, about("late")), store.ErrAlreadyDecided, `the approval expired at 20`},
			{decide(l, "eve", store.DecisionApprove), store.ErrNotApprover, `"eve" and the groups of this user are not among the approvers`},
			{decide(l, "", store.DecisionApprove), store.ErrNotApprover, `it is not known who decides`},
			{decide(l, "ann", store.DecisionApprove, about("aks")), store.ErrNoSuchApproval, `step "aks" of run ` + l.RunID + ` asks for none`},
			{decide(openworkflow.Lease{RunID: "x\x00"}, "ann", store.DecisionApprove), store.ErrNoSuchApproval, `asks for none`},
			{decide(l, "ann", "approve"), store.ErrInvalidDecision, `decision "approve": want Approve or Deny`},
			{decide(l, "bob", store.DecisionDeny, func(in *store.DecideInput) { in.Comment = strings.Repeat("x", 4097) }),
				store.ErrInvalidDecision, `the comment has 4097 bytes, more than 4096`},
			{decide(l, "bob", store.DecisionDeny, func(in *store.DecideInput) { in.Comment = "a\x00" }),
				store.ErrInvalidDecision, `"a\x00" is not valid UTF-8 without U+0000`},
			{decide(l, strings.Repeat("x", 1025), store.DecisionDeny), store.ErrInvalidDecision, `the name of the decider has 1025 bytes, more than 1024`},
			{decide(l, "bob", store.DecisionDeny, func(in *store.DecideInput) { in.IdempotencyKey = "" }),
				store.ErrInvalidDecision, `the idempotency key must have 1 to 2048 bytes`},
			{decide(l, "bob", store.DecisionApprove, withItsKey), store.ErrInvalidDecision,
				`the idempotency key is that of another decision, Approve by "ann": give each decision a key of its own`},
			{decide(l, "ann", store.DecisionDeny, withItsKey), store.ErrInvalidDecision, `the idempotency key is that of another decision`},
			{decide(l, "eve", store.DecisionApprove, withItsKey), store.ErrNotApprover, `"eve" and the groups of this user`},
			{decide(l, "ann", store.DecisionApprove, withItsKey, func(in *store.DecideInput) { in.Digest = "4711" }), store.ErrStaleDigest, `asks for something else now`},
		} {
			_, err := s.Decide(t.Context(), test.in)
			if !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%+v:\n got %v\nwant %v: … %s", test.in, err, test.kind, test.text)
			}
		}
		if o := b.outcome(w.Attempt.ID); o != before {
			t.Errorf("a refused decision changed the outcome from %q to %q", before, o)
		}
	})
}

func TestDecide_RefusesAboutARunThatHasEnded(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := ask(t, l, "ask")
		b.mustStep(w)
		if _, err := s.CancelRuns(t.Context(), []string{l.RunID}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Decide(t.Context(), decide(l, "ann", store.DecisionApprove))
		if !errors.Is(err, store.ErrAlreadyDecided) || !strings.Contains(err.Error(), "the run has ended, or its step no longer waits") {
			t.Errorf("Decide: %v", err)
		}
		if state, err := s.ExpireApproval(t.Context(), l.RunID, "ask"); err != nil || state != store.ApprovalOpen {
			t.Errorf("ExpireApproval: %s, %v", state, err)
		}
		if o := b.outcome(w.Attempt.ID); o != "" {
			t.Errorf("outcome is %q", o)
		}
	})
}

func TestDecide_WithoutApproversEverybodyMay(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := ask(t, l, "ask", func(r *openworkflow.ApprovalRequest, _ *store.NewApproval) { r.Approvers = openworkflow.Approvers{} })
		b.mustStep(w)
		if d, err := s.Decide(t.Context(), decide(l, "", store.DecisionApprove)); err != nil || d.State != store.ApprovalApproved {
			t.Errorf("Decide: %+v, %v", d, err)
		}
	})
}

func TestExpireApproval_EndsWhatIsOverByTheServersClock(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		late, early := ask(t, l, "late", expired), ask(t, l, "early")
		b.mustStep(late, early)
		for range 2 {
			if state, err := s.ExpireApproval(t.Context(), l.RunID, "late"); err != nil || state != store.ApprovalExpired {
				t.Errorf("ExpireApproval: %s, %v", state, err)
			}
			if o := b.outcome(late.Attempt.ID); o != "Expired, then Deny" {
				t.Errorf("outcome is %q", o)
			}
		}
		if state, err := s.ExpireApproval(t.Context(), l.RunID, "early"); err != nil || state != store.ApprovalOpen || b.outcome(early.Attempt.ID) != "" {
			t.Errorf("before its time: %s, %v", state, err)
		}
		if _, err := s.ExpireApproval(t.Context(), l.RunID, "none"); !errors.Is(err, store.ErrNoSuchApproval) {
			t.Errorf("of no approval: %v", err)
		}
	})
}

func TestApproval_P2_IsPublishedUnderTheLeaseAndOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l := b.start()
		w := ask(t, l, "ask")
		stranger := openworkflow.Lease{RunID: l.RunID, WorkerID: "stranger"}
		if stepErrs, _ := b.apply([]store.StepWrite{ask(t, stranger, "ask")}, nil); !errors.Is(stepErrs[0], store.ErrLeaseLost) {
			t.Errorf("without the lease: %v", stepErrs)
		}
		if _, err := s.Decide(t.Context(), decide(l, "ann", store.DecisionApprove)); !errors.Is(err, store.ErrNoSuchApproval) {
			t.Errorf("then a decision: %v", err)
		}
		b.mustStep(w)
		if _, err := s.Decide(t.Context(), decide(l, "ann", store.DecisionDeny)); err != nil {
			t.Fatal(err)
		}
		w.New = false // the answer to the first write was lost
		b.mustStep(w)
		if o := b.outcome(w.Attempt.ID); o != "Denied; ann Deny" {
			t.Errorf("after the write was repeated, the outcome is %q", o)
		}
	})
}

func TestSendSignals_RefusesTheNamesOfApprovals(t *testing.T) {
	onBoth(t, func(t *testing.T, s Store) {
		b := bench{t, s}
		l, sender := b.start(), b.start()
		w := ask(t, l, "ask")
		b.mustStep(w)
		forged := store.Signal{Name: openworkflow.ApprovalSignal(l.RunID, "ask"), Data: json.RawMessage(`{"outcome": "Approved"}`)}
		if _, err := s.SendSignals(t.Context(), []store.Signal{forged}); !errors.Is(err, store.ErrReservedSignal) {
			t.Errorf("SendSignals: %v", err)
		}
		send := function(sender, "send", running, "")
		if _, err := s.SendSignal(t.Context(), send, forged); !errors.Is(err, store.ErrReservedSignal) {
			t.Errorf("SendSignal: %v", err)
		}
		if o := b.outcome(w.Attempt.ID); o != "" {
			t.Errorf("outcome is %q", o)
		}
	})
}
