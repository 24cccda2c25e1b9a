package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// The errors of Decide about a decision. Each is final: the same decision meets it again, except
// ErrNoSuchApproval before the step is reached.
var (
	// ErrNoSuchApproval means that no step of this name has asked for an approval: the run does not
	// exist, or has not come so far.
	ErrNoSuchApproval = errors.New("no such approval")
	// ErrStaleDigest means that the decision is about something else than what the step asks.
	ErrStaleDigest = errors.New("stale digest")
	// ErrAlreadyDecided means that the approval has ended, or that this decider has decided.
	ErrAlreadyDecided = errors.New("already decided")
	// ErrNotApprover means that the decider is none of the approvers.
	ErrNotApprover = errors.New("not an approver")
	// ErrInvalidDecision means that a value of the decision cannot be.
	ErrInvalidDecision = errors.New("invalid decision")
	// ErrReservedSignal means that only decisions send signals of this name.
	ErrReservedSignal = errors.New("signal name is reserved for approvals")
)

// ApprovalState is the state of an approval.
type ApprovalState string

// States of approvals.
const (
	ApprovalOpen     ApprovalState = "Open"
	ApprovalApproved ApprovalState = "Approved"
	ApprovalDenied   ApprovalState = "Denied"
	ApprovalExpired  ApprovalState = "Expired"
)

// The decisions that approvers make.
const (
	DecisionApprove = "Approve"
	DecisionDeny    = "Deny"
)

// Bounds of what is stored of a decision, in bytes.
const (
	MaxDecisionComment = 4096
	maxDecider         = 1024
	maxDecisionKey     = 2048
)

// NewApproval is what a step asks for when it starts to wait. It is written with the step's attempt.
type NewApproval struct {
	// Request and Digest are those of openworkflow.ApprovalRequest.Canonical.
	Request, Digest string
	// ExpiresAt is the timeout of the step's wait, in whole milliseconds.
	ExpiresAt time.Time
	// OnExpiry is what the step does when it has expired. The store hands it back.
	OnExpiry string
}

// DecideInput is a decision about an approval.
type DecideInput struct {
	RunID, Step string
	// Digest is that of the request which the decider has seen. Empty means whatever is asked.
	Digest string
	// Decision is DecisionApprove or DecisionDeny.
	Decision string
	// DeciderUser is empty if it is not known who decides, which suffices if there are no approvers.
	DeciderUser   string
	DeciderGroups []string
	Comment       string
	// IdempotencyKey makes a decision that the same user repeats return what the first one did. Another
	// decision with the key is invalid. Required.
	IdempotencyKey string
}

// Decision says what a decision has led to.
type Decision struct {
	// State is that of the approval after the decision: ApprovalOpen if more must approve.
	State ApprovalState
	// Approvals is how many have approved, of those that are Required.
	Approvals, Required int
	// At is when the decision was made, by the server's clock.
	At time.Time
	// Repeated says that an earlier call with the same key has made it.
	Repeated bool
}

// ApprovalDecision is a stored decision.
type ApprovalDecision struct {
	User     string    `json:"user,omitempty"`
	Decision string    `json:"decision"`
	Comment  string    `json:"comment,omitempty"`
	At       time.Time `json:"at"`
	Key      string    `json:"key,omitempty"`
}

// ApprovalOutcome is the data that a step receives at the end of its approval.
type ApprovalOutcome struct {
	Outcome ApprovalState `json:"outcome"`
	// OnExpiry is that of the NewApproval if it has expired.
	OnExpiry  string             `json:"onExpiry,omitempty"`
	Decisions []ApprovalDecision `json:"decisions,omitempty"`
}

// ApprovalRow is an approval as both stores keep it.
type ApprovalRow struct {
	NewApproval
	State     ApprovalState
	Decisions []ApprovalDecision
	// Ended says that the run has ended, or that its step no longer waits.
	Ended bool
}

// Check returns ErrInvalidDecision for a decision that no approval takes.
func (in DecideInput) Check() error {
	switch {
	case in.Decision != DecisionApprove && in.Decision != DecisionDeny:
		return fmt.Errorf("%w: decision %q: want %s or %s", ErrInvalidDecision, cutText(in.Decision), DecisionApprove, DecisionDeny)
	case len(in.Comment) > MaxDecisionComment:
		return fmt.Errorf("%w: the comment has %d bytes, more than %d", ErrInvalidDecision, len(in.Comment), MaxDecisionComment)
	case len(in.DeciderUser) > maxDecider:
		return fmt.Errorf("%w: the name of the decider has %d bytes, more than %d", ErrInvalidDecision, len(in.DeciderUser), maxDecider)
	case in.IdempotencyKey == "" || len(in.IdempotencyKey) > maxDecisionKey:
		return fmt.Errorf("%w: the idempotency key must have 1 to %d bytes", ErrInvalidDecision, maxDecisionKey)
	}
	for _, text := range []string{in.DeciderUser, in.Comment, in.IdempotencyKey} {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w: %q is not valid UTF-8 without U+0000", ErrInvalidDecision, cutText(text))
		}
	}
	return nil
}

// Decide adds a decision to the row at an instant of the server's clock, and returns what it leads
// to. It is pure, and what both stores do. If it returns an error or a repeated decision, the row
// is unchanged.
func (a *ApprovalRow) Decide(in DecideInput, now time.Time) (Decision, error) {
	request, err := openworkflow.DecodeApprovalRequest(a.Request)
	if err != nil {
		return Decision{}, fmt.Errorf("%w: the request of step %q of run %s cannot be read: %w", ErrInvalidDecision, in.Step, in.RunID, err)
	}
	required := max(1, request.Required)
	isStale := in.Digest != "" && in.Digest != a.Digest
	ofKey := slices.IndexFunc(a.Decisions, func(d ApprovalDecision) bool { return d.Key == in.IdempotencyKey })
	if ofKey >= 0 && !isStale {
		if d := a.Decisions[ofKey]; d.User == in.DeciderUser && d.Decision == in.Decision {
			return Decision{State: a.State, Approvals: a.approvals(), Required: required, At: d.At, Repeated: true}, nil
		}
	}
	subject := fmt.Sprintf("step %q of run %s", in.Step, in.RunID)
	switch {
	case isStale:
		return Decision{}, fmt.Errorf("%w: %s asks for something else now, with digest %s", ErrStaleDigest, subject, a.Digest)
	case !request.Approvers.Include(in.DeciderUser, in.DeciderGroups):
		return Decision{}, fmt.Errorf("%w: %s: %s", ErrNotApprover, subject, unlisted(in.DeciderUser))
	case ofKey >= 0:
		return Decision{}, fmt.Errorf("%w: %s: the idempotency key is that of another decision, %s by %s: give each decision a key of its own",
			ErrInvalidDecision, subject, a.Decisions[ofKey].Decision, decider(a.Decisions[ofKey].User))
	case a.State == ApprovalExpired || a.State == ApprovalOpen && !a.ExpiresAt.After(now):
		return Decision{}, fmt.Errorf("%w: %s: the approval expired at %s", ErrAlreadyDecided, subject, a.ExpiresAt.UTC().Format(time.RFC3339))
	case a.State != ApprovalOpen:
		return Decision{}, fmt.Errorf("%w: %s: %s", ErrAlreadyDecided, subject, a.State)
	case a.Ended:
		return Decision{}, fmt.Errorf("%w: %s: the run has ended, or its step no longer waits", ErrAlreadyDecided, subject)
	case slices.ContainsFunc(a.Decisions, func(d ApprovalDecision) bool { return d.User == in.DeciderUser }):
		return Decision{}, fmt.Errorf("%w: %s: by %s", ErrAlreadyDecided, subject, decider(in.DeciderUser))
	}
	decision := ApprovalDecision{
		User: in.DeciderUser, Decision: in.Decision, Comment: in.Comment, At: now.UTC().Truncate(time.Millisecond), Key: in.IdempotencyKey,
	}
	a.Decisions = append(slices.Clip(a.Decisions), decision)
	switch {
	case in.Decision == DecisionDeny:
		a.State = ApprovalDenied
	case a.approvals() >= required:
		a.State = ApprovalApproved
	}
	return Decision{State: a.State, Approvals: a.approvals(), Required: required, At: decision.At}, nil
}

// Expire ends an open approval whose time is over, and reports whether it did. It is pure.
func (a *ApprovalRow) Expire(now time.Time) bool {
	if a.State != ApprovalOpen || a.Ended || a.ExpiresAt.After(now) {
		return false
	}
	a.State = ApprovalExpired
	return true
}

// approvals counts those who have approved.
func (a *ApprovalRow) approvals() int {
	n := 0
	for _, d := range a.Decisions {
		if d.Decision == DecisionApprove {
			n++
		}
	}
	return n
}

// Outcome returns the data for the step, nil while the approval is open. Keys of decisions are not
// the workflow's business.
func (a *ApprovalRow) Outcome() json.RawMessage {
	if a.State == ApprovalOpen {
		return nil
	}
	outcome := ApprovalOutcome{Outcome: a.State, Decisions: slices.Clone(a.Decisions)}
	if a.State == ApprovalExpired {
		outcome.OnExpiry = a.OnExpiry
	}
	for i := range outcome.Decisions {
		outcome.Decisions[i].Key = ""
	}
	data, err := json.Marshal(outcome)
	if err != nil { // texts and times of four-digit years always marshal
		panic(err)
	}
	return data
}

// unlisted says why somebody is no approver.
func unlisted(user string) string {
	if user == "" {
		return "it is not known who decides"
	}
	return fmt.Sprintf("%q and the groups of this user are not among the approvers", cutText(user))
}

func decider(user string) string {
	if user == "" {
		return "somebody unknown"
	}
	return fmt.Sprintf("%q", cutText(user))
}
