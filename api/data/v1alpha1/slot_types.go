package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The fields by which slots are selected, besides spec.backend.
const (
	// FieldSchedule selects the slots of the WorkflowSchedules of a name.
	FieldSchedule = "spec.schedule"
	// FieldScheduleUID selects the slots of one WorkflowSchedule.
	FieldScheduleUID = "spec.scheduleUID"
	// FieldSlotFrom and FieldSlotBefore bound slots by their time, in RFC 3339: of several that follow
	// each other, by that of the last one. From is included, before is not.
	FieldSlotFrom   = "slotFrom"
	FieldSlotBefore = "slotBefore"
)

// ScheduleSlotSpec says which slot it is.
type ScheduleSlotSpec struct {
	// backend is the Backend that holds the outcome: that of the schedule's runs.
	Backend string `json:"backend"`

	// schedule is the name of the WorkflowSchedule, which may be deleted.
	Schedule string `json:"schedule"`

	// scheduleUID is its uid.
	ScheduleUID string `json:"scheduleUID"`

	// time is the slot, or the first of several that follow each other.
	Time metav1.Time `json:"time"`

	// until is the last of several slots.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`

	// count is the number of several slots. It is counted up to 10000.
	// +optional
	Count int32 `json:"count,omitempty"`
}

// ScheduleSlotStatus is what has happened to it.
type ScheduleSlotStatus struct {
	// reason is what happened: Started, Buffered, SkippedOverlap, SkippedSuspended, SkippedGap, Missed
	// or Coalesced. All but Buffered are final.
	Reason string `json:"reason"`

	// run is the WorkflowRun that was started or, with runs InDatabase, the id of the run. Of a missed
	// slot it is the name that another object has.
	// +optional
	Run string `json:"run,omitempty"`

	// message says why a slot was missed, if not because of its time.
	// +optional
	Message string `json:"message,omitempty"`

	// recordedAt is when the outcome was stored or last changed, by the database's clock.
	RecordedAt metav1.Time `json:"recordedAt"`
}

// +kubebuilder:object:root=true

// ScheduleSlot is the outcome of a slot of a WorkflowSchedule, or of several that follow each other and
// have the same. Its name is the uid of the schedule and the time of the slot.
type ScheduleSlot struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ScheduleSlotSpec `json:"spec"`

	Status ScheduleSlotStatus `json:"status"`
}

// +kubebuilder:object:root=true

// ScheduleSlotList is a list of ScheduleSlots, newest first.
type ScheduleSlotList struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []ScheduleSlot `json:"items"`
}
