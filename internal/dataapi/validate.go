package dataapi

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// The bounds of a run that is created. Those of a WorkflowRun are the same.
const (
	maxName    = 253
	maxKey     = 512
	maxTimeout = 3153600000 // seconds
	maxYear    = 9999
)

// validateRun returns what is wrong with a run to create.
func validateRun(run *datav1alpha1.Run) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	bounded := func(path *field.Path, value string, limit int) {
		if len(value) > limit {
			errs = append(errs, field.TooLong(path, value, limit))
		}
	}
	if run.Spec.WorkflowName == "" {
		errs = append(errs, field.Required(spec.Child("workflowName"), "name the workflow to run"))
	}
	bounded(spec.Child("workflowName"), run.Spec.WorkflowName, maxName)
	bounded(spec.Child("version"), run.Spec.Version, maxName)
	bounded(spec.Child("idempotencyKey"), run.Spec.IdempotencyKey, maxKey)
	bounded(field.NewPath("metadata", "name"), run.Name, maxName)
	if run.GenerateName != "" {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "generateName"), "leave the name empty: the run gets an id"))
	}
	return append(errs, validateTimes(spec, run.Spec.AvailableAt, run.Spec.DeadlineAt, run.Spec.TimeoutSeconds)...)
}

// validateTimes returns what is wrong with the times of a run to start, which are fields of a parent.
func validateTimes(parent *field.Path, availableAt, deadlineAt *metav1.Time, timeoutSeconds *int64) (errs field.ErrorList) {
	if s := timeoutSeconds; s != nil && (*s < 1 || *s > maxTimeout) {
		errs = append(errs, field.Invalid(parent.Child("timeoutSeconds"), *s, fmt.Sprintf("must be between 1 and %d", int64(maxTimeout))))
	}
	if deadlineAt != nil && timeoutSeconds != nil {
		errs = append(errs, field.Forbidden(parent.Child("timeoutSeconds"), "give deadlineAt or timeoutSeconds, not both"))
	}
	dated := func(name string, t *metav1.Time) {
		if t != nil && (t.Year() > maxYear || t.Year() < 1) {
			errs = append(errs, field.Invalid(parent.Child(name), t.String(), "must be between the years 1 and 9999"))
		}
	}
	dated("availableAt", availableAt)
	dated("deadlineAt", deadlineAt)
	return errs
}
