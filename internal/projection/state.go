package projection

import (
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// State returns the state of a run and the reason of its Ready condition, as Status does.
func State(run *openworkflow.Run) (state v1alpha1.RunState, reason string) {
	state = stateOf(run)
	reason, _ = explain(run, openworkflow.StepSummary{}, state)
	return state, reason
}
