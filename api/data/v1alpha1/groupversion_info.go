package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	// GroupVersion is the API group and version of every kind in this package.
	GroupVersion = schema.GroupVersion{Group: "data.openworkflow.dev", Version: "v1alpha1"}

	// SchemeBuilder collects the functions that add this package's kinds to a scheme.
	SchemeBuilder = runtime.NewSchemeBuilder(addKnownTypes)

	// AddToScheme adds every kind of this package to a scheme.
	AddToScheme = SchemeBuilder.AddToScheme
)

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&Run{}, &RunList{}, &RunSteps{}, &RunPayload{}, &RunHistory{}, &RunState{},
		&RunSignal{}, &RunCancel{}, &RunSuspend{}, &RunFork{}, &ReadOptions{}, &RunWhy{},
		&Workflow{}, &WorkflowList{}, &Diagnosis{}, &DiagnosisList{},
		&BulkRetry{}, &BulkRetryList{}, &Approval{}, &ApprovalList{},
		&ScheduleSlot{}, &ScheduleSlotList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
