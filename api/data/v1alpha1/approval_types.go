package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FieldRunID is the field of a selector that names the run of approvals.
const FieldRunID = "spec.runID"

// States of an Approval.
const (
	// ApprovalOpen waits for decisions.
	ApprovalOpen = "Open"
	// ApprovalApproved has as many approvals as are required.
	ApprovalApproved = "Approved"
	// ApprovalDenied was denied by somebody.
	ApprovalDenied = "Denied"
	// ApprovalExpired was not decided in time.
	ApprovalExpired = "Expired"
	// ApprovalRunEnded means that the run has ended while it waited.
	ApprovalRunEnded = "RunEnded"
)

// ApprovalSpec is what a run asks.
type ApprovalSpec struct {
	// backend is the Backend that holds the run.
	Backend string `json:"backend"`

	// runID is the run that asks.
	RunID string `json:"runID"`

	// object is the WorkflowRun of this namespace that the run mirrors. Empty if there is none.
	// +optional
	Object string `json:"object,omitempty"`

	// workflowName is the run's workflow.
	WorkflowName string `json:"workflowName"`

	// step is the durable name of the step that waits.
	Step string `json:"step"`

	// prompt is the question.
	// +optional
	Prompt string `json:"prompt,omitempty"`

	// details are what the approvers have to know, for callers who may get approvals/details. Absent
	// if there are none.
	// +optional
	Details *apiextensionsv1.JSON `json:"details,omitempty"`

	// detailsHidden says that there are details which the caller may not see.
	// +optional
	DetailsHidden bool `json:"detailsHidden,omitempty"`

	// users may decide.
	// +optional
	// +listType=atomic
	Users []string `json:"users,omitempty"`

	// groups are those whose members may decide. Without users and groups, everybody may who may
	// create a WorkflowSignal.
	// +optional
	// +listType=atomic
	Groups []string `json:"groups,omitempty"`

	// required is how many must approve.
	Required int32 `json:"required"`

	// digest is the SHA-256 of what is asked. A decision names it.
	Digest string `json:"digest"`

	// expiresAt is when the time for decisions is over, by the database's clock.
	ExpiresAt metav1.Time `json:"expiresAt"`

	// onExpiry is what the step does then: Deny, Approve or Fail.
	OnExpiry string `json:"onExpiry"`
}

// ApprovalDecision is what an approver has decided.
type ApprovalDecision struct {
	// user has decided. Empty if it is not known who.
	// +optional
	User string `json:"user,omitempty"`

	// decision is Approve or Deny.
	Decision string `json:"decision"`

	// comment is what the user has said.
	// +optional
	Comment string `json:"comment,omitempty"`

	// at is when, by the database's clock.
	At metav1.Time `json:"at"`
}

// ApprovalStatus is what was decided.
type ApprovalStatus struct {
	// state is Open, Approved, Denied, Expired or RunEnded.
	State string `json:"state"`

	// approvals is how many have approved.
	Approvals int32 `json:"approvals"`

	// decisions are those that were made, in their order.
	// +optional
	// +listType=atomic
	Decisions []ApprovalDecision `json:"decisions,omitempty"`

	// decidedAt is when the approval has ended.
	// +optional
	DecidedAt *metav1.Time `json:"decidedAt,omitempty"`
}

// +kubebuilder:object:root=true

// Approval is a question of a run to approvers. Its name is that of the run and the beginning of the
// digest.
type Approval struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ApprovalSpec `json:"spec"`

	Status ApprovalStatus `json:"status"`
}

// +kubebuilder:object:root=true

// ApprovalList is a list of Approvals, oldest first. It has those that are open or, for one run, all.
type ApprovalList struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Approval `json:"items"`
}
