package openworkflow

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Approvals are ours. For OpenWorkflow, a step that waits for an approval is a wait for a signal
// (R25), to which the last decision is delivered.

// approvalSignalPrefix begins the names of the signals that only decisions send.
const approvalSignalPrefix = "openworkflow.dev/approval:"

// ApprovalSignal returns the name of the signal by which the decision about a step reaches it.
func ApprovalSignal(runID, step string) string { return approvalSignalPrefix + runID + ":" + step }

// IsApprovalSignal reports whether a signal's name is reserved for decisions.
func IsApprovalSignal(name string) bool { return strings.HasPrefix(name, approvalSignalPrefix) }

// WaitsForApproval reports whether an attempt is that of a step which waits for an approval.
func WaitsForApproval(a *StepAttempt) bool {
	if a.Kind != KindSignalWait {
		return false
	}
	c := DecodeWaitContext(a.Context)
	return c.Signal != nil && IsApprovalSignal(*c.Signal)
}

// ApprovalRequest is what an approver decides about. Its members are in the order in which
// Canonical writes them.
type ApprovalRequest struct {
	Approvers Approvers       `json:"approvers"`
	Details   json.RawMessage `json:"details,omitempty"`
	Prompt    string          `json:"prompt"`
	// Required is how many must approve. One who denies is enough for a denial.
	Required int `json:"required"`
	// RunID and Step, the durable name, are those of the step that waits.
	RunID string `json:"runID"`
	Step  string `json:"step"`
}

// Approvers are the users who may decide, and the groups whose members may. Without any, everybody
// may who may send a decision at all.
type Approvers struct {
	Groups []string `json:"groups,omitempty"`
	Users  []string `json:"users,omitempty"`
}

// Any reports whether everybody may decide.
func (a Approvers) Any() bool { return len(a.Groups) == 0 && len(a.Users) == 0 }

// Include reports whether a user with these groups may decide. An empty user is not known.
func (a Approvers) Include(user string, groups []string) bool {
	return a.Any() || user != "" && (slices.Contains(a.Users, user) ||
		slices.ContainsFunc(groups, func(group string) bool { return slices.Contains(a.Groups, group) }))
}

// Canonical returns the request as one JSON text that depends on nothing but its content, and the
// text's SHA-256 in hexadecimal digits: members are sorted, and there are no spaces. Details must
// be valid JSON or nil; numbers in them keep their form.
func (r ApprovalRequest) Canonical() (text, digest string, err error) {
	r.Approvers = Approvers{Groups: sorted(r.Approvers.Groups), Users: sorted(r.Approvers.Users)}
	if r.Details = Column(r.Details); r.Details != nil {
		if r.Details, err = canonicalJSON(r.Details); err != nil {
			return "", "", fmt.Errorf("details of the approval: %w", err)
		}
	}
	encoded, err := json.Marshal(r)
	if err != nil {
		return "", "", fmt.Errorf("encode the approval: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return string(encoded), hex.EncodeToString(sum[:]), nil
}

// canonicalJSON sorts the members of all objects.
func canonicalJSON(value json.RawMessage) (json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.UseNumber()
	var decoded any
	if err := decoder.Decode(&decoded); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return json.Marshal(decoded)
}

// sorted returns the texts in order, each once.
func sorted(texts []string) []string {
	texts = slices.Clone(texts)
	slices.Sort(texts)
	return slices.Compact(texts)
}

// DecodeApprovalRequest reads a request as Canonical has written it, whoever wrote it since.
func DecodeApprovalRequest(text string) (r ApprovalRequest, err error) {
	err = json.Unmarshal([]byte(text), &r)
	return r, err
}
