package runner

import "github.com/openworkflow-operator/operator/internal/openworkflow"

// Reporter gets the progress of runs: when a pass starts, at growing intervals while it
// lasts, and when it ends. Report must not block, and must not modify or retain the run. It
// is called from many goroutines, in order for each run.
type Reporter interface {
	Report(run *openworkflow.Run, steps openworkflow.StepSummary)
}
