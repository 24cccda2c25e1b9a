package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkflowSignalSpec says what to send, and to whom. Only ttlSecondsAfterFinished may change.
//
// Immutability is one rule, because the API server evaluates each rule at every status write.
// +kubebuilder:validation:XValidation:rule="self == oldSelf || (self.backendRef == oldSelf.backendRef && (has(self.signal) ? has(oldSelf.signal) && self.signal == oldSelf.signal : !has(oldSelf.signal)) && (has(self.target) ? has(oldSelf.target) && self.target == oldSelf.target : !has(oldSelf.target)) && (has(self.approval) ? has(oldSelf.approval) && self.approval == oldSelf.approval : !has(oldSelf.approval)) && (has(self.idempotencyKey) ? has(oldSelf.idempotencyKey) && self.idempotencyKey == oldSelf.idempotencyKey : !has(oldSelf.idempotencyKey)) && (has(self.delivery) ? has(oldSelf.delivery) && self.delivery == oldSelf.delivery : !has(oldSelf.delivery)) && (has(self.expirationSeconds) ? has(oldSelf.expirationSeconds) && self.expirationSeconds == oldSelf.expirationSeconds : !has(oldSelf.expirationSeconds)))",message="a WorkflowSignal is immutable but for ttlSecondsAfterFinished: delete it and create another"
// +kubebuilder:validation:XValidation:rule="has(self.signal) != has(self.approval)",message="give signal, or approval: one of the two"
// +kubebuilder:validation:XValidation:rule="!has(self.approval) || !has(self.target)",message="an approval has no target: its run and step are in approval"
// +kubebuilder:validation:XValidation:rule="!has(self.delivery) || self.delivery != 'Now' || !has(self.expirationSeconds)",message="expirationSeconds is for delivery UntilReceived: with Now, nothing is kept"
// +kubebuilder:validation:MinProperties=1
type WorkflowSignalSpec struct {
	// backendRef names the Backend that holds the runs. Defaults to the one named default.
	// +optional
	// +default={"name": "default"}
	BackendRef BackendReference `json:"backendRef,omitzero"`

	// signal is the name of the signal, for which runs wait.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Signal string `json:"signal,omitempty"`

	// data is what the waiting step returns: any JSON value, up to 1 MiB. Empty means null.
	// +optional
	Data *apiextensionsv1.JSON `json:"data,omitempty"`

	// target is the only run, or the only step of a run, that receives the signal. Empty means every
	// run that waits for the signal.
	// +optional
	Target *SignalTarget `json:"target,omitzero"`

	// approval makes the signal the decision of an approval for which a run waits. It takes the place
	// of signal.
	// +optional
	Approval *ApprovalDecision `json:"approval,omitzero"`

	// idempotencyKey makes signals of the same name and key be delivered once, also those that are
	// sent otherwise. Empty means the uid of the object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	IdempotencyKey string `json:"idempotencyKey,omitempty"`

	// delivery says who receives the signal. Now: whoever waits for it when the manager first sees
	// the object. UntilReceived: whoever waits first, now or until the signal expires.
	// +optional
	// +default="UntilReceived"
	// +kubebuilder:validation:Enum=Now;UntilReceived
	Delivery SignalDeliveryMode `json:"delivery,omitempty"`

	// expirationSeconds is how long after the creation of the object a signal that is kept expires.
	// Empty means 604800, which is a week.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31622400
	ExpirationSeconds *int64 `json:"expirationSeconds,omitempty"`

	// ttlSecondsAfterFinished deletes the object this many seconds after its signal was delivered, or
	// can be no more. Empty means what the retention of the Backend says of objects, and to keep the
	// object if it says nothing.
	// +optional
	// +kubebuilder:validation:Minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty"`
}

// SignalDeliveryMode says who receives a signal.
// +enum
type SignalDeliveryMode string

const (
	// SignalNow is for those who wait at this moment.
	SignalNow SignalDeliveryMode = "Now"
	// SignalUntilReceived is for those who wait first.
	SignalUntilReceived SignalDeliveryMode = "UntilReceived"
)

// DefaultSignalExpirationSeconds is the expirationSeconds of a signal that names none.
const DefaultSignalExpirationSeconds = 7 * 24 * 3600

// SignalTarget names the run that receives a signal.
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:XValidation:rule="has(self.runName) != has(self.runID)",message="give runName, for a WorkflowRun of this namespace, or runID, for any run of the Backend: one of the two"
type SignalTarget struct {
	// runName is the name of a WorkflowRun of the same namespace and Backend. It need not exist yet.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunName string `json:"runName,omitempty"`

	// runID is the id of a run of the Backend: status.runID of its WorkflowRun, or the id of a run
	// without an object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunID string `json:"runID,omitempty"`

	// step is the durable name of the step that waits ("approved:1" is the second "approved"). Empty
	// means any step of the run.
	// +optional
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=1024
	Step *string `json:"step,omitempty"`
}

// ApprovalDecision is the decision of an approval for which a run waits. Who decides is whoever
// creates the object.
// +kubebuilder:validation:XValidation:rule="has(self.runName) != has(self.runID)",message="give runName, for a WorkflowRun of this namespace, or runID, for any run of the Backend: one of the two"
type ApprovalDecision struct {
	// runName is the name of a WorkflowRun of the same namespace and Backend. It need not exist yet.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunName string `json:"runName,omitempty"`

	// runID is the id of a run of the Backend: status.runID of its WorkflowRun, or the id of a run
	// without an object.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunID string `json:"runID,omitempty"`

	// step is the durable name of the step that waits for the approval.
	// +required
	// +kubebuilder:validation:MinLength=0
	// +kubebuilder:validation:MaxLength=1024
	Step *string `json:"step,omitempty"`

	// digest identifies what is decided, as the run has published it. A decision about anything else
	// is refused.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Digest string `json:"digest,omitempty"`

	// decision is Approve or Deny.
	// +required
	// +kubebuilder:validation:Enum=Approve;Deny
	Decision DecisionKind `json:"decision,omitempty"`

	// comment is what the run is told beside the decision. Empty means nothing.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Comment string `json:"comment,omitempty"`
}

// DecisionKind is what was decided.
// +enum
type DecisionKind string

const (
	// DecisionApprove lets the run go on.
	DecisionApprove DecisionKind = "Approve"
	// DecisionDeny refuses it.
	DecisionDeny DecisionKind = "Deny"
)

// WorkflowSignalStatus is what became of a signal.
// +kubebuilder:validation:MinProperties=1
type WorkflowSignalStatus struct {
	// observedGeneration is the generation of the spec that the manager last acted on.
	// +optional
	// +kubebuilder:validation:Minimum=1
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// deliveryCount is the number of runs that have received the signal.
	// +optional
	// +kubebuilder:validation:Minimum=0
	DeliveryCount *int32 `json:"deliveryCount,omitempty"`

	// deliveries are the runs that have received the signal, the first 100 of them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Deliveries []SignalDelivery `json:"deliveries,omitempty"`

	// expiresAt is when a signal that is kept expires.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// finishedAt is when the signal was delivered, or when it became certain that it is not. Nothing
	// is done for the signal after that.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`

	// conditions are Ready and Delivered, and Reconciling and Stalled while true. A signal that is
	// kept is Ready, and not yet Delivered.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// SignalDelivery is the delivery of a signal to a step.
type SignalDelivery struct {
	// runID is the id of the run that has received the signal.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunID string `json:"runID,omitempty"`

	// runName is the name of the run's WorkflowRun, if it has one in this namespace.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RunName string `json:"runName,omitempty"`

	// step is the durable name of the step that waited, cut at 128 characters.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Step string `json:"step,omitempty"`

	// time is when the signal was delivered.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:Pattern=`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// +kubebuilder:validation:MaxLength=64
	Time *metav1.Time `json:"time,omitempty"`
}

// Creator is who has created an object, in its AnnotationCreatedBy.
type Creator struct {
	// username is the name by which the API server knew the user.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=262144
	Username string `json:"username,omitempty"`

	// groups are the user's groups, none if the user is in more than 100.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=0
	// +kubebuilder:validation:items:MaxLength=262144
	Groups []string `json:"groups,omitempty"`
}

// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=wfsig,categories={openworkflow}
// +kubebuilder:printcolumn:name="Signal",type=string,JSONPath=`.spec.signal`
// +kubebuilder:printcolumn:name="Decision",type=string,JSONPath=`.spec.approval.decision`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Delivered",type=string,JSONPath=`.status.conditions[?(@.type=="Delivered")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Delivered")].reason`
// +kubebuilder:printcolumn:name="Runs",type=integer,JSONPath=`.status.deliveryCount`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Delivery",type=string,JSONPath=`.spec.delivery`,priority=1
// +kubebuilder:printcolumn:name="Expires",type=string,JSONPath=`.status.expiresAt`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1

// WorkflowSignal is a signal to runs that wait for it.
type WorkflowSignal struct {
	metav1.TypeMeta `json:",inline"`

	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says what to send, and to whom.
	// +required
	Spec WorkflowSignalSpec `json:"spec,omitzero"`

	// status is what became of the signal. It is never empty, so that tools do not take a signal for
	// delivered that the manager has not seen.
	// +optional
	// +default={"conditions": [{"type": "Ready", "status": "Unknown", "reason": "NotObserved", "message": "not seen by the manager yet", "lastTransitionTime": "1970-01-01T00:00:00Z"}]}
	Status WorkflowSignalStatus `json:"status,omitzero"`

	// Unreadable names what of the object could not be decoded, nil if all was. It is no part of
	// the API.
	Unreadable *Unreadable `json:"-"`
}

// +kubebuilder:object:root=true

// WorkflowSignalList is a list of WorkflowSignals.
type WorkflowSignalList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []WorkflowSignal `json:"items"`
}
