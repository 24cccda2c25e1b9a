package dataapi

import (
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// selectableFields are the fields by which runs can be selected.
var selectableFields = []string{
	datav1alpha1.FieldBackend, datav1alpha1.FieldWorkflow, datav1alpha1.FieldState, datav1alpha1.FieldParent,
	datav1alpha1.FieldSuperseded, datav1alpha1.FieldObject,
	datav1alpha1.FieldCreatedFrom, datav1alpha1.FieldCreatedBefore, "metadata.name", "metadata.namespace",
}

// convertField accepts the fields of a selector. The API server calls it before it passes the
// selector on.
func convertField(label, value string) (string, string, error) {
	if !slices.Contains(selectableFields, label) {
		return "", "", fmt.Errorf("runs cannot be selected by %q: use one of %s", label, strings.Join(selectableFields, ", "))
	}
	return label, value, nil
}

// states are the states of runs, by the names that people see.
var states = map[v1alpha1.RunState]store.RunState{
	v1alpha1.RunPending:   store.StatePending,
	v1alpha1.RunRunning:   store.StateRunning,
	v1alpha1.RunWaiting:   store.StateWaiting,
	v1alpha1.RunCompleted: store.StateCompleted,
	v1alpha1.RunFailed:    store.StateFailed,
	v1alpha1.RunCanceled:  store.StateCanceled,
}

// selected is what a field selector asks for.
type selected struct {
	store.ViewFilter
	// backend and id, if not empty, are the only ones that are wanted.
	backend, id string
	// superseded selects by whether a run was forked from this one, nil for both.
	superseded *bool
	// withoutObject selects the runs that no WorkflowRun stands for.
	withoutObject bool
	// none says that no run can match.
	none bool
}

// parseSelector turns a field selector into a filter.
func parseSelector(selector fields.Selector, namespace string) (selected, error) {
	var s selected
	if selector == nil {
		selector = fields.Everything()
	}
	s.superseded = new(bool)
	excluded := map[store.RunState]bool{}
	for _, r := range selector.Requirements() {
		equal := r.Operator == selection.Equals || r.Operator == selection.DoubleEquals
		if !equal && r.Field != datav1alpha1.FieldState {
			return s, apierrors.NewBadRequest(fmt.Sprintf("%s%s%s: only %s may be compared with !=", r.Field, r.Operator, r.Value, datav1alpha1.FieldState))
		}
		if err := s.add(r.Field, r.Value, equal, namespace, excluded); err != nil {
			return s, err
		}
	}
	s.exclude(excluded)
	if _, asked := selector.RequiresExactMatch(datav1alpha1.FieldSuperseded); !asked && (s.id != "" || s.ParentRunID != "") {
		s.superseded = nil
	}
	return s, nil
}

// shows reports whether a run that was read is to be shown. Object is the name of its WorkflowRun.
func (s *selected) shows(run *store.RunView, object string) bool {
	return (s.superseded == nil || *s.superseded == (run.SupersededBy != nil)) && (!s.withoutObject || object == "")
}

func (s *selected) add(field, value string, equal bool, namespace string, excluded map[store.RunState]bool) error {
	switch field {
	case datav1alpha1.FieldBackend:
		s.backend = value
	case datav1alpha1.FieldWorkflow:
		s.WorkflowName = value
	case datav1alpha1.FieldParent:
		s.ParentRunID = value
	case datav1alpha1.FieldSuperseded:
		switch value {
		case "any":
			s.superseded = nil
		case "true", "false":
			s.superseded = new(value == "true")
		default:
			return apierrors.NewBadRequest(fmt.Sprintf("%s=%s: want true, false or any", field, value))
		}
	case datav1alpha1.FieldObject:
		if value != "" {
			return apierrors.NewBadRequest(fmt.Sprintf("%s=%s: only the empty value selects, the runs without a WorkflowRun; that of one is in its status.runID", field, value))
		}
		s.withoutObject = true
	case "metadata.name":
		s.id = value
	case "metadata.namespace":
		s.none = s.none || value != namespace
	case datav1alpha1.FieldState:
		state, ok := states[v1alpha1.RunState(value)]
		if !ok {
			return apierrors.NewBadRequest(fmt.Sprintf("%s=%s: a state is one of Pending, Running, Waiting, Completed, Failed, Canceled", field, value))
		}
		if !equal {
			excluded[state] = true
		} else {
			s.none = s.none || len(s.States) > 0 && s.States[0] != state
			s.States = []store.RunState{state}
		}
	case datav1alpha1.FieldCreatedFrom, datav1alpha1.FieldCreatedBefore:
		at, err := parseSelectedTime(field, value)
		if err != nil {
			return err
		}
		if field == datav1alpha1.FieldCreatedFrom {
			s.CreatedFrom = at
		} else {
			s.CreatedBefore = at
		}
	}
	return nil
}

// parseSelectedTime reads a time by which a selector bounds a list.
func parseSelectedTime(field, value string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return at, apierrors.NewBadRequest(fmt.Sprintf("%s=%s: want a time such as 2026-01-31T15:04:05Z", field, value))
	}
	return at, nil
}

// exclude leaves out states.
func (s *selected) exclude(excluded map[store.RunState]bool) {
	if len(excluded) == 0 {
		return
	}
	if len(s.States) == 0 {
		for _, state := range states {
			s.States = append(s.States, state)
		}
		slices.Sort(s.States)
	}
	s.States = slices.DeleteFunc(s.States, func(state store.RunState) bool { return excluded[state] })
	s.none = s.none || len(s.States) == 0
}

// matches reports whether a run that was found by its id has the other properties.
func (s *selected) matches(run *store.RunView) bool {
	state, _ := projection.State(&run.Run)
	return (s.WorkflowName == "" || run.WorkflowName == s.WorkflowName) &&
		(s.ParentRunID == "" || run.ParentRunID == s.ParentRunID) &&
		(len(s.States) == 0 || slices.Contains(s.States, states[state])) &&
		(s.CreatedFrom.IsZero() || !run.CreatedAt.Before(s.CreatedFrom)) &&
		(s.CreatedBefore.IsZero() || run.CreatedAt.Before(s.CreatedBefore))
}
