package store

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ApprovalView is an approval, and the run that asks for it without payloads.
type ApprovalView struct {
	Run     RunView
	Step    string
	Digest  string
	Request openworkflow.ApprovalRequest
	// Unreadable says that the request is none of ours: it is longer or of another shape.
	Unreadable bool
	OnExpiry   string
	ExpiresAt  time.Time
	// State is ApprovalExpired also of an approval whose time is over and whose run has not noticed.
	State     ApprovalState
	Decisions []ApprovalDecision
	CreatedAt time.Time
	DecidedAt *time.Time

	requestSize int // of its text
}

// Approvals returns how many have approved.
func (v *ApprovalView) Approvals() int {
	return (&ApprovalRow{Decisions: v.Decisions}).approvals()
}

// ApprovalCursor is a position in a list of approvals.
type ApprovalCursor struct {
	CreatedAt   time.Time
	RunID, Step string
}

// viewApprovalsSQL reads operator_approvals_open_idx, or with a run a range of the primary key, and
// then runs by primary key. LATERAL with OFFSET 0 keeps the planner from reading all open runs.
var viewApprovalsSQL = `
SELECT ` + viewColumns + `,
	p.step_name, left(p.digest, 128), CASE WHEN octet_length(p.request) <= ` + maxApprovalRequest + ` THEN p.request ELSE '' END,
	left(p.on_expiry, 64), p.expires_at,
	CASE WHEN p.state = 'Open' AND p.expires_at <= now() THEN 'Expired' ELSE left(p.state, 64) END,
	CASE WHEN octet_length(p.decisions::text) <= ` + maxApprovalDecisions + ` THEN p.decisions END, p.created_at, p.decided_at
FROM {schema}.operator_approvals p
CROSS JOIN LATERAL (
	SELECT r.*
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = p.namespace_id AND r.id = p.run_id
	OFFSET 0
) r
WHERE p.namespace_id = $1 {conditions}
ORDER BY p.created_at, p.run_id, p.step_name
LIMIT $2`

// openApprovals are those about which a decision is taken.
const openApprovals = `AND p.state = 'Open' AND p.expires_at > now() AND r.status IN (` + openStatuses + `)`

// ApprovalFilter selects approvals. Its zero value selects those about which a decision is taken.
type ApprovalFilter struct {
	// RunID, if not empty, selects the approvals of a run instead, in any state.
	RunID string
	// CreatedFrom bounds the creation: it is included. Zero means no bound.
	CreatedFrom time.Time
}

// Approvals returns a page of up to limit of the approvals that the filter selects, oldest first, after
// the cursor if there is one.
func (v *View) Approvals(ctx context.Context, f ApprovalFilter, after *ApprovalCursor, limit int) (ViewPage[ApprovalView], error) {
	if !storableID(f.RunID) || after != nil && (!storableID(after.RunID) || !storableID(after.Step)) {
		return ViewPage[ApprovalView]{}, nil
	}
	q := viewQuery{args: []any{v.store.namespace, limit + 1}}
	conditions := openApprovals
	if f.RunID != "" {
		conditions = "AND p.run_id = " + q.arg(f.RunID)
	}
	if !f.CreatedFrom.IsZero() {
		conditions += " AND p.created_at >= " + q.arg(f.CreatedFrom)
	}
	if after != nil {
		conditions += " AND (p.created_at, p.run_id, p.step_name) > (" +
			strings.Join([]string{q.arg(after.CreatedAt), q.arg(after.RunID), q.arg(after.Step)}, ", ") + ")"
	}
	return v.approvals(ctx, conditions, limit, q.args)
}

// Approval returns the first approval of a run whose digest begins so, in any state, nil if there is none.
func (v *View) Approval(ctx context.Context, runID, digest string) (*ApprovalView, error) {
	if !storableID(runID) || !storableID(digest) {
		return nil, nil
	}
	page, err := v.approvals(ctx, "AND p.run_id = $3 AND starts_with(p.digest, $4)", 1, []any{v.store.namespace, 2, runID, digest})
	if err != nil || len(page.Items) == 0 {
		return nil, err
	}
	return &page.Items[0], nil
}

func (v *View) approvals(ctx context.Context, conditions string, limit int, args []any) (ViewPage[ApprovalView], error) {
	return readPage(ctx, v, limit, scanApproval, strings.Replace(viewApprovalsSQL, "{conditions}", conditions, 1), args)
}

func scanApproval(row pgx.CollectableRow) (ApprovalView, error) {
	var a ApprovalView
	var request string
	var decisions json.RawMessage
	var err error
	a.Run.Run, err = scanRunAnd(row, &a.Run.ParentRunID, &a.Step, &a.Digest, &request, &a.OnExpiry, &a.ExpiresAt, &a.State,
		(*jsonColumn)(&decisions), &a.CreatedAt, &a.DecidedAt)
	if err != nil {
		return a, err
	}
	a.requestSize = len(request)
	if a.Request, err = openworkflow.DecodeApprovalRequest(request); err != nil {
		a.Request, a.Unreadable = openworkflow.ApprovalRequest{}, true
	}
	if json.Unmarshal(decisions, &a.Decisions) != nil {
		a.Decisions = nil
	}
	return a, nil
}
