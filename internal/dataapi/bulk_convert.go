package dataapi

import (
	"fmt"
	"slices"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	defaultBackend  = "default"
	defaultBulkRate = 600

	stateFailed   = string(v1alpha1.RunFailed)
	stateCanceled = string(v1alpha1.RunCanceled)
)

// validateBulkRetry returns what is wrong with a request to create.
func validateBulkRetry(b *datav1alpha1.BulkRetry) (errs field.ErrorList) {
	for _, problem := range apivalidation.NameIsDNSSubdomain(b.Name, false) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), b.Name, problem))
	}
	spec, at := &b.Spec, field.NewPath("spec")
	bounded := func(path *field.Path, value string, limit int) {
		if len(value) > limit {
			errs = append(errs, field.TooLong(path, "", limit))
		}
	}
	bounded(at.Child("step"), spec.Step, maxStepName)
	switch spec.From {
	case datav1alpha1.FromLastFailed, datav1alpha1.FromStart:
		if spec.Step != "" {
			errs = append(errs, field.Forbidden(at.Child("step"), "only with from: Step"))
		}
	case datav1alpha1.FromStep:
		if spec.Step == "" {
			errs = append(errs, field.Required(at.Child("step"), "name the step from which on runs are executed anew"))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("from"), spec.From,
			[]datav1alpha1.BulkRetryFrom{datav1alpha1.FromLastFailed, datav1alpha1.FromStep, datav1alpha1.FromStart}))
	}
	if c := spec.Children; c != datav1alpha1.ChildrenKeep && c != datav1alpha1.ChildrenRestart {
		errs = append(errs, field.NotSupported(at.Child("children"), c,
			[]datav1alpha1.BulkRetryChildren{datav1alpha1.ChildrenKeep, datav1alpha1.ChildrenRestart}))
	}
	if n := spec.RunsPerMinute; n < 1 || n > store.MaxBulkRate {
		errs = append(errs, field.Invalid(at.Child("runsPerMinute"), n, fmt.Sprintf("must be between 1 and %d", store.MaxBulkRate)))
	}
	if spec.MaxRuns < 0 {
		errs = append(errs, field.Invalid(at.Child("maxRuns"), spec.MaxRuns, "must not be negative"))
	}
	return append(errs, validateBulkSelector(&spec.Selector, at.Child("selector"))...)
}

func validateBulkSelector(s *datav1alpha1.BulkRetrySelector, at *field.Path) (errs field.ErrorList) {
	for name, value := range map[string]string{"workflowName": s.WorkflowName, "version": text(s.Version), "errorName": s.ErrorName} {
		if len(value) > maxName {
			errs = append(errs, field.TooLong(at.Child(name), "", maxName))
		}
	}
	if len(s.States) > 2 {
		errs = append(errs, field.TooMany(at.Child("states"), len(s.States), 2))
		return errs
	}
	for i, state := range s.States {
		if state != stateFailed && state != stateCanceled {
			errs = append(errs, field.NotSupported(at.Child("states").Index(i), state, []string{stateFailed, stateCanceled}))
		}
	}
	for name, t := range map[string]*metav1.Time{"finishedFrom": s.FinishedFrom, "finishedBefore": s.FinishedBefore} {
		if t != nil && (t.Year() < 1 || t.Year() > maxYear) {
			errs = append(errs, field.Invalid(at.Child(name), t.String(), "must be between the years 1 and 9999"))
		}
	}
	if from, before := s.FinishedFrom, s.FinishedBefore; from != nil && before != nil && !from.Before(before) {
		errs = append(errs, field.Invalid(at.Child("finishedBefore"), before.String(), "must be after finishedFrom"))
	}
	return errs
}

// validateBulkUpdate returns what may not change of a request.
func validateBulkUpdate(updated, current *datav1alpha1.BulkRetry) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if current.Spec.Cancel && !updated.Spec.Cancel {
		errs = append(errs, field.Forbidden(spec.Child("cancel"), "it cannot be taken back: create another bulk retry"))
	}
	fixed := updated.Spec
	fixed.Suspend, fixed.Cancel = current.Spec.Suspend, current.Spec.Cancel
	if !apiequality.Semantic.DeepEqual(fixed, current.Spec) {
		errs = append(errs, field.Forbidden(spec, "only suspend and cancel may change: create another bulk retry"))
	}
	return errs
}

// bulkState is the state that the spec asks for.
func bulkState(spec *datav1alpha1.BulkRetrySpec) store.BulkState {
	switch {
	case spec.Cancel:
		return store.BulkCanceled
	case spec.Suspend:
		return store.BulkSuspended
	default:
		return store.BulkRunning
	}
}

// bulkSpec returns what is stored of a spec.
func bulkSpec(spec *datav1alpha1.BulkRetrySpec) store.BulkSpec {
	s := &spec.Selector
	stored := store.BulkSpec{
		WorkflowName: s.WorkflowName, Version: s.Version, ErrorName: s.ErrorName,
		Failed: slices.Contains(s.States, stateFailed), Canceled: slices.Contains(s.States, stateCanceled),
		LastFailed:      spec.From == datav1alpha1.FromLastFailed,
		RestartChildren: spec.Children == datav1alpha1.ChildrenRestart,
		PerMinute:       int(spec.RunsPerMinute), MaxRuns: int(spec.MaxRuns),
	}
	if spec.From == datav1alpha1.FromStep {
		stored.Step = &spec.Step
	}
	if s.FinishedFrom != nil {
		stored.EndedFrom = s.FinishedFrom.UTC()
	}
	if s.FinishedBefore != nil {
		stored.EndedBefore = s.FinishedBefore.UTC()
	}
	return stored
}

// bulkStates are the names of states that people see.
var bulkStates = map[store.BulkState]string{
	store.BulkRunning: "Running", store.BulkSuspended: "Suspended", store.BulkCompleted: "Completed", store.BulkCanceled: "Canceled",
}

// bulkRetryOf returns the resource for a request.
func bulkRetryOf(b *store.BulkRetry, backendName, namespace string) *datav1alpha1.BulkRetry {
	stored := &b.Spec
	out := &datav1alpha1.BulkRetry{
		ObjectMeta: metav1.ObjectMeta{
			Name: b.Name, Namespace: namespace, UID: types.UID(b.UID), CreationTimestamp: metav1.NewTime(b.CreatedAt.UTC().Truncate(time.Second)),
		},
		Spec: datav1alpha1.BulkRetrySpec{
			Backend: backendName,
			Selector: datav1alpha1.BulkRetrySelector{
				WorkflowName: stored.WorkflowName, Version: stored.Version, ErrorName: stored.ErrorName,
			},
			From: datav1alpha1.FromStart, Step: text(stored.Step), Children: datav1alpha1.ChildrenKeep,
			RunsPerMinute: int32(stored.PerMinute), MaxRuns: int32(stored.MaxRuns),
			Suspend: b.State == store.BulkSuspended, Cancel: b.State == store.BulkCanceled,
		},
		Status: datav1alpha1.BulkRetryStatus{
			State: bulkStates[b.State], Matched: int32(b.Matched), MatchedMore: b.More,
			Started: int32(b.Started), Skipped: int32(b.Skipped), Failed: int32(b.Failed), FinishedAt: timeOf(b.FinishedAt),
		},
	}
	s := &out.Spec.Selector
	if stored.Failed {
		s.States = append(s.States, stateFailed)
	}
	if stored.Canceled {
		s.States = append(s.States, stateCanceled)
	}
	if !stored.EndedFrom.IsZero() {
		s.FinishedFrom = timeOf(&stored.EndedFrom)
	}
	if !stored.EndedBefore.IsZero() {
		s.FinishedBefore = timeOf(&stored.EndedBefore)
	}
	switch {
	case stored.LastFailed:
		out.Spec.From = datav1alpha1.FromLastFailed
	case stored.Step != nil:
		out.Spec.From = datav1alpha1.FromStep
	}
	if stored.RestartChildren {
		out.Spec.Children = datav1alpha1.ChildrenRestart
	}
	for _, f := range b.Failures {
		out.Status.Failures = append(out.Status.Failures, datav1alpha1.BulkRetryFailure{Run: f.RunID, Message: f.Message})
	}
	return out
}

var bulkColumns = []metav1.TableColumnDefinition{
	column("Name", "string", "The name of the request.", 0),
	column("Status", "string", "The state of the request.", 0),
	column("Matched", "string", "How many runs matched at its creation.", 0),
	column("Started", "integer", "How many runs were retried.", 0),
	column("Skipped", "integer", "How many had been retried by other means.", 0),
	column("Failed", "integer", "How many could not be retried.", 0),
	column("Age", "string", "The time since the request was created.", 0),
	column("Workflow", "string", "The workflow whose runs are selected.", 1),
	column("Rate", "string", "How many runs are retried in a minute at most.", 1),
	column("Backend", "string", "The Backend that holds the runs.", 1),
}

func bulkRow(b *datav1alpha1.BulkRetry, now time.Time) metav1.TableRow {
	matched := fmt.Sprint(b.Status.Matched)
	if b.Status.MatchedMore {
		matched += "+"
	}
	return metav1.TableRow{
		Cells: []any{
			b.Name, b.Status.State, matched, int64(b.Status.Started), int64(b.Status.Skipped), int64(b.Status.Failed),
			age(b.CreationTimestamp.Time, now), b.Spec.Selector.WorkflowName, fmt.Sprintf("%d/min", b.Spec.RunsPerMinute), b.Spec.Backend,
		},
		Object: runtime.RawExtension{Object: b},
	}
}
