package openworkflow

import (
	"fmt"
	"time"
)

const (
	// quarantineDeaths is how many deaths of its worker quarantine a run. One death may have
	// been caused by any of the runs that the worker executed.
	quarantineDeaths = 2
	// DefaultMaxWorkerDeaths is the number of deaths of its worker at which a run fails.
	DefaultMaxWorkerDeaths = 5
	// WorkerDeathsName is the error name of a run that has failed for that reason.
	WorkerDeathsName = "WorkerDeathsExceededError"
)

// deathDelays are the times from the first, second, … death until the run is due again. The
// last one is also that after all later deaths.
var deathDelays = [...]time.Duration{0, 0, 5 * time.Second, 15 * time.Second, 45 * time.Second}

// DeathDelays returns the times from the first, second, … death of a run's worker until the
// run is due again. The last one stands for all later deaths too. A run that has reached its
// bound is due at once, as a worker only has to fail it.
func DeathDelays() []time.Duration { return deathDelays[:] }

// DeathDelay returns how long after this death of its worker a run is due again, if it fails
// at bound deaths. A bound of 0 means none.
func DeathDelay(deaths, bound int) time.Duration {
	if deaths <= 0 || bound > 0 && deaths >= bound {
		return 0
	}
	return deathDelays[min(deaths, len(deathDelays))-1]
}

// Quarantined reports whether the run has killed so many workers that it must be executed
// apart from others of its kind. It holds until the run makes progress.
func (r *Run) Quarantined() bool { return r.Deaths >= quarantineDeaths }

// ProgressAt returns when the attempt has last brought its run forward: when it ended or, if
// it waits for a time, a child or a signal, when that wait began. A function that is executing
// is no progress. It is zero when there is none.
func (a *StepAttempt) ProgressAt() time.Time {
	switch {
	case a.FinishedAt != nil:
		return *a.FinishedAt
	case a.Kind == KindSleep, a.Kind == KindWorkflow, a.Kind == KindSignalWait:
		if a.UpdatedAt.After(a.CreatedAt) { // created_at has whole milliseconds
			return a.UpdatedAt
		}
		return a.CreatedAt
	default:
		return time.Time{}
	}
}

// MadeProgress reports whether one of the attempts has brought the run forward since its
// worker died last.
func (r *Run) MadeProgress(attempts []StepAttempt) bool {
	for i := range attempts {
		if r.DiedAt != nil && attempts[i].ProgressAt().After(*r.DiedAt) {
			return true
		}
	}
	return false
}

// SuspectedStep returns the name of the function step that was executing when the run's worker
// died last, as far as the newest attempts tell. It is empty when none is known: the worker
// may have died outside of a step.
func SuspectedStep(newest []StepAttempt) string {
	ended := map[string]bool{} // a dead worker leaves running attempts behind
	for i := len(newest) - 1; i >= 0; i-- {
		a := &newest[i]
		switch {
		case a.Status != StepRunning:
			ended[a.StepName] = true
		case a.Kind == KindFunction && !ended[a.StepName]:
			return a.StepName
		}
	}
	return ""
}

// DescribeDeaths says how often a run's worker has died, and in which step if that is known.
func DescribeDeaths(step string, deaths int) string {
	where := "while it executed the run"
	if step != "" {
		where = fmt.Sprintf("in step %q of the run", step)
	}
	return fmt.Sprintf("the worker process has died %d times in a row %s", deaths, where)
}

// WorkerDeathsError is the error of a run that is not executed any more, because its worker has
// died so often without progress.
func WorkerDeathsError(step string, deaths int) Error {
	return Error{Name: WorkerDeathsName, Message: DescribeDeaths(step, deaths) + ", without progress; the run is not executed again"}
}
