package runner

import "github.com/openworkflow-operator/operator/internal/openworkflow"

// Reporter is told how runs go: when a pass begins, at growing intervals while it
// lasts, and when it ends. Report must not block and must not change or keep the
// run; it is called from many goroutines, in order for each run.
type Reporter interface {
	Report(run *openworkflow.Run, steps openworkflow.StepSummary)
}
