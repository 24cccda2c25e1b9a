package schedulespec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/schedule"
)

// maxInput is the limit of a run's input.
const maxInput = 1 << 20

// Timing returns when the slots of a schedule are.
func Timing(spec *v1alpha1.WorkflowScheduleSpec) schedule.Options {
	o := schedule.Options{Expressions: spec.Schedules, Zone: spec.TimeZone}
	if spec.DaylightSaving != nil {
		o.Gap, o.Fold = schedule.Gap(spec.DaylightSaving.Gap), schedule.Fold(spec.DaylightSaving.Fold)
	}
	if spec.StartAt != nil {
		o.StartAt = spec.StartAt.Time
	}
	if spec.EndAt != nil {
		o.EndAt = spec.EndAt.Time
	}
	return o
}

// Run returns the run of a slot, or why the template cannot become one. The schedule owns it. See
// NameOf for its name, and RunName for the suffix.
func Run(s *v1alpha1.WorkflowSchedule, slot time.Time, suffix string) (*v1alpha1.WorkflowRun, error) {
	template := &s.Spec.RunTemplate
	input, err := scheduledInput(template, slot)
	if err != nil {
		return nil, err
	}
	owner := metav1.NewControllerRef(s, v1alpha1.GroupVersion.WithKind("WorkflowSchedule"))
	owner.BlockOwnerDeletion = nil // that needs the right to set finalizers of the schedule
	return &v1alpha1.WorkflowRun{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: NameOf(s, slot, suffix), OwnerReferences: []metav1.OwnerReference{*owner},
			Labels:      map[string]string{v1alpha1.LabelSchedule: LabelValue(s.Name)},
			Annotations: map[string]string{v1alpha1.AnnotationScheduledAt: slot.UTC().Format(time.RFC3339)},
		},
		Spec: v1alpha1.WorkflowRunSpec{
			BackendRef: template.BackendRef, WorkflowName: template.WorkflowName, Version: template.Version,
			Input: input, TimeoutSeconds: template.TimeoutSeconds,
		},
	}, nil
}

// scheduledInput returns the input of a slot's run.
func scheduledInput(template *v1alpha1.RunTemplate, slot time.Time) (*apiextensionsv1.JSON, error) {
	input := template.Input
	if name := template.ScheduledTimeField; name != "" {
		members := map[string]json.RawMessage{}
		if input != nil && !bytes.Equal(bytes.TrimSpace(input.Raw), []byte("null")) {
			if err := json.Unmarshal(input.Raw, &members); err != nil {
				return nil, fmt.Errorf("spec.runTemplate.scheduledTimeField adds %q to the input, which is no JSON object: make spec.runTemplate.input an object, or remove scheduledTimeField", name)
			}
		}
		members[name] = json.RawMessage(`"` + slot.UTC().Format(time.RFC3339) + `"`)
		raw, err := json.Marshal(members)
		if err != nil {
			return nil, fmt.Errorf("spec.runTemplate.input: %w", err)
		}
		input = &apiextensionsv1.JSON{Raw: raw}
	}
	if input != nil && len(input.Raw) > maxInput {
		return nil, fmt.Errorf("the input of a run has %d bytes, the limit is %d: keep the data elsewhere and pass a reference to it", len(input.Raw), maxInput)
	}
	return input, nil
}
