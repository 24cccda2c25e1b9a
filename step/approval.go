package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/internal/durable"
)

// ApprovalOptions say what is asked, of whom, and until when.
type ApprovalOptions struct {
	// Prompt is the question, for people. Required, up to 4,096 bytes.
	Prompt string
	// Details are what the approvers have to know to decide, encoded with encoding/json. A decision
	// is bound to them. Nil means none.
	Details any
	// Users and Groups are the Kubernetes users who may decide, and the groups whose members may, up
	// to 100 each. Without any, everybody may who may create a WorkflowSignal in the namespace.
	Users, Groups []string
	// Required is how many must approve, up to 100. Each counts once. Zero means one. A single denial
	// denies.
	Required int
	// ExpiresAfter is how long to wait for decisions, counted from the first execution of the call,
	// and ExpiresAt the instant until which to wait. Set at most one. Default: one calendar year
	// (R34). The clock of the database decides.
	ExpiresAfter time.Duration
	ExpiresAt    time.Time
	// OnExpiry is what happens then. Empty means ExpiryDeny.
	OnExpiry ExpiryAction
}

// ExpiryAction is what happens when the time for an approval is over.
type ExpiryAction string

const (
	// ExpiryDeny lets the call return an Approval that is not Approved.
	ExpiryDeny ExpiryAction = "Deny"
	// ExpiryApprove lets it return one that is.
	ExpiryApprove ExpiryAction = "Approve"
	// ExpiryFail lets it return ErrApprovalExpired.
	ExpiryFail ExpiryAction = "Fail"
)

// ErrApprovalExpired means that the time for an approval is over that has [ExpiryFail].
var ErrApprovalExpired = errors.New("the approval has expired")

// ApprovalOutcome is how an approval has ended.
type ApprovalOutcome string

// Outcomes of approvals.
const (
	Approved ApprovalOutcome = "Approved"
	Denied   ApprovalOutcome = "Denied"
	Expired  ApprovalOutcome = "Expired"
)

// Approval is the result of a wait for an approval.
type Approval struct {
	// Approved says to go on: as many as are required have approved, or the approval has expired with
	// ExpiryApprove.
	Approved bool
	// Outcome says how it has ended.
	Outcome ApprovalOutcome
	// Decisions are those that were made, in their order.
	Decisions []ApprovalDecision
}

// ApprovalDecision is what one approver has decided.
type ApprovalDecision struct {
	// User is the Kubernetes user who has decided. It is empty if the cluster does not tell who has
	// created an object; see docs/approvals.md.
	User string
	// Approved says whether the user has approved or denied.
	Approved bool
	// Comment is what the user has said.
	Comment string
	// At is when, by the clock of the database.
	At time.Time
}

// WaitForApproval parks the run until approvers have decided about the question, or until it expires.
// People see the question with "kubectl workflow inbox", and decide with "kubectl workflow approve"
// and "deny", or with a WorkflowSignal.
//
// What is asked is stored at the first execution of the call, with a digest of the prompt, the
// details, the approvers, the run and the step. A decision is bound to that digest, so a later change
// of the code does not change what was approved, and a fork of the run from before the call asks
// anew.
//
// The result is stored: later executions return the same. The step needs a name of its own in the
// run, as any other; approvers name it.
func WaitForApproval(ctx context.Context, name string, options ApprovalOptions) (Approval, error) {
	return GoWaitForApproval(ctx, name, options).Await()
}

// GoWaitForApproval is [WaitForApproval] without waiting. The question is published when the next
// step's function is called or when the workflow waits for anything.
func GoWaitForApproval(ctx context.Context, name string, options ApprovalOptions) *Future[Approval] {
	step, err := approvalStep(name, options)
	if err != nil {
		return &Future[Approval]{err: NonRetryable(fmt.Errorf("step %q: %w", name, err))}
	}
	return startStep(ctx, name, step, decodeApproval)
}

// Bounds of what is asked.
const (
	maxPrompt    = 4096
	maxApprovers = 100
	maxApprover  = 1024
)

// approvalStep checks the options.
func approvalStep(name string, o ApprovalOptions) (step durable.ApprovalStep, err error) {
	step = durable.ApprovalStep{
		Name: name, Prompt: o.Prompt, Users: o.Users, Groups: o.Groups, Required: o.Required, Expiry: defaultTimeout, OnExpiry: string(o.OnExpiry),
	}
	switch {
	case o.Prompt == "" || len(o.Prompt) > maxPrompt:
		return step, fmt.Errorf("the prompt has %d bytes: give one of 1 to %d", len(o.Prompt), maxPrompt)
	case o.Required < 0 || o.Required > maxApprovers:
		return step, fmt.Errorf("%d approvals cannot be required: give a number from 1 to %d, or 0 for 1", o.Required, maxApprovers)
	case len(o.Groups) == 0 && len(o.Users) > 0 && o.Required > len(o.Users):
		return step, fmt.Errorf("%d approvals are required of %d users: it would never be approved", o.Required, len(o.Users))
	case o.ExpiresAfter != 0 && !o.ExpiresAt.IsZero():
		return step, errors.New("ExpiresAfter and ExpiresAt are both set: give at most one")
	}
	for kind, names := range map[string][]string{"users": o.Users, "groups": o.Groups} {
		if err := checkApprovers(kind, names); err != nil {
			return step, err
		}
	}
	switch o.OnExpiry {
	case "":
		step.OnExpiry = string(ExpiryDeny)
	case ExpiryDeny, ExpiryApprove, ExpiryFail:
	default:
		return step, fmt.Errorf("OnExpiry %q is unknown: give %s, %s or %s", o.OnExpiry, ExpiryDeny, ExpiryApprove, ExpiryFail)
	}
	step.Required = max(1, o.Required)
	switch {
	case o.ExpiresAfter != 0:
		step.Expiry = durationFromNow(o.ExpiresAfter)
	case !o.ExpiresAt.IsZero():
		step.Expiry = func(time.Time) time.Time { return o.ExpiresAt }
	}
	if o.Details != nil {
		if step.Details, err = json.Marshal(o.Details); err != nil {
			return step, fmt.Errorf("encode the details: %w", err)
		}
	}
	return step, nil
}

func checkApprovers(kind string, names []string) error {
	if len(names) > maxApprovers {
		return fmt.Errorf("%d %s are too many approvers: give at most %d", len(names), kind, maxApprovers)
	}
	for _, name := range names {
		if name == "" || len(name) > maxApprover {
			return fmt.Errorf("a name among the %s has %d bytes: give 1 to %d", kind, len(name), maxApprover)
		}
	}
	return nil
}

// decodeApproval decodes the stored output of a wait for an approval. Without data, somebody has
// ended the wait otherwise, which approves nothing.
func decodeApproval(name string, output json.RawMessage) (Approval, error) {
	var stored struct {
		Data *struct {
			Outcome   ApprovalOutcome `json:"outcome"`
			OnExpiry  ExpiryAction    `json:"onExpiry"`
			Decisions []struct {
				User     string    `json:"user"`
				Decision string    `json:"decision"`
				Comment  string    `json:"comment"`
				At       time.Time `json:"at"`
			} `json:"decisions"`
		} `json:"data"`
	}
	if len(output) > 0 {
		if err := json.Unmarshal(output, &stored); err != nil {
			return Approval{}, NonRetryable(fmt.Errorf("decode the approval of step %q: %w", name, err))
		}
	}
	if stored.Data == nil {
		return Approval{Outcome: Expired}, nil
	}
	a := Approval{Outcome: stored.Data.Outcome}
	a.Approved = a.Outcome == Approved || a.Outcome == Expired && stored.Data.OnExpiry == ExpiryApprove
	for _, d := range stored.Data.Decisions {
		a.Decisions = append(a.Decisions, ApprovalDecision{User: d.User, Approved: d.Decision == "Approve", Comment: d.Comment, At: d.At})
	}
	if a.Outcome == Expired && stored.Data.OnExpiry == ExpiryFail {
		return a, NonRetryable(fmt.Errorf("step %q: %w", name, ErrApprovalExpired))
	}
	return a, nil
}
