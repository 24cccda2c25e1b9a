package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// WorkflowSpec identifies a workflow.
type WorkflowSpec struct {
	// backend is the name of the Backend that holds its runs.
	Backend string `json:"backend"`

	// workflowName is the name of the workflow.
	WorkflowName string `json:"workflowName"`

	// version is its version. Empty means the unversioned workflow.
	// +optional
	Version string `json:"version,omitempty"`
}

// WorkflowStatus is what the runs of a workflow do. Counts of open runs end at 1,000, which then
// means at least as many.
type WorkflowStatus struct {
	// served is whether a live worker serves the workflow.
	Served bool `json:"served"`

	// runnable counts the runs that a worker could claim now if one serves them.
	Runnable int32 `json:"runnable"`

	// oldestRunnableAt is since when the first of them is due.
	// +optional
	OldestRunnableAt *metav1.Time `json:"oldestRunnableAt,omitempty"`

	// running counts the runs that workers execute.
	Running int32 `json:"running"`

	// waiting counts the runs that are due later.
	Waiting int32 `json:"waiting"`

	// suspended counts the runs that are suspended, or never due.
	Suspended int32 `json:"suspended"`

	// completed, failed and canceled count the runs that have ended within the last seconds.
	Completed int32 `json:"completed"`
	Failed    int32 `json:"failed"`
	Canceled  int32 `json:"canceled"`

	// seconds is the time that completed, failed and canceled are counted over. It is 300, or less
	// for a workflow of which so many runs end that only the newest were counted.
	Seconds int32 `json:"seconds"`
}

// +kubebuilder:object:root=true

// Workflow is what the runs of one workflow and version do now. Its name is the workflow's, with
// @ and the version where there is one.
type Workflow struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   WorkflowSpec   `json:"spec"`
	Status WorkflowStatus `json:"status"`
}

// +kubebuilder:object:root=true

// WorkflowList is a list of Workflows, by Backend and name, at most 100 for each Backend.
type WorkflowList struct {
	metav1.TypeMeta `json:",inline"`

	// +optional
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Workflow `json:"items"`

	// truncated is true when there are more.
	// +optional
	Truncated bool `json:"truncated,omitempty"`
}

// MaxCounted is where counts of open runs end.
const MaxCounted = 1000

// AtLeast prints a count of open runs: one that has ended at MaxCounted has a plus.
func AtLeast(n int32) string {
	if n >= MaxCounted {
		return fmt.Sprintf("%d+", n)
	}
	return fmt.Sprint(n)
}

// Rates prints how many runs have completed or failed in a minute, and which part of them has
// failed. Both are empty when none has.
func (s *WorkflowStatus) Rates() (perMinute, failed string) {
	ended := float64(s.Completed) + float64(s.Failed)
	if ended == 0 {
		return "", ""
	}
	return fmt.Sprintf("%.1f", ended*60/float64(max(s.Seconds, 1))), fmt.Sprintf("%.1f%%", 100*float64(s.Failed)/ended)
}
