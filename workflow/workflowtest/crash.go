package workflowtest

import (
	"fmt"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/faults"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/workflow"
)

// CrashEverywhere executes the scenario again and again, each time in an environment of
// its own that serves the workflows: once undisturbed, and then twice for each write of
// its runs, with the worker dying before and after that write. The runs that the
// scenario starts must each time end as they did undisturbed, and no step may be
// executed again once its completion is stored; CrashEverywhere fails the test
// otherwise. So it does when the scenario itself finds a fault.
//
// A run that fails in such a test has code between its steps whose outcome is not the
// same each time, or a step that cannot be executed twice.
func CrashEverywhere(t TB, scenario func(env *Env), workflows ...workflow.Definition) {
	t.Helper()
	undisturbed, _ := strikeAt(t, faults.None, 0, scenario, workflows)
	for _, strike := range []faults.Strike{faults.Before, faults.After} {
		for n := 1; ; n++ {
			outcomes, write := strikeAt(t, strike, n, scenario, workflows)
			if write == "" {
				break
			}
			if len(outcomes) != len(undisturbed) {
				t.Fatalf("workflowtest: %d runs were started undisturbed, and %d with a crash %s write %d (%s)",
					len(undisturbed), len(outcomes), strike, n, write)
			}
			for i, outcome := range outcomes {
				if outcome != undisturbed[i] {
					t.Errorf("workflowtest: with a crash %s write %d (%s), %s\nundisturbed, %s", strike, n, write, outcome, undisturbed[i])
				}
			}
		}
	}
}

// strikeAt executes the scenario with a crash at one write. It returns how the runs
// that were started have ended, and which write it was, "" when there was none.
func strikeAt(t TB, strike faults.Strike, at int, scenario func(env *Env), workflows []workflow.Definition) (outcomes []string, write string) {
	t.Helper()
	var mu sync.Mutex
	seen := 0
	disturbed := &disturbance{TB: t}
	env, stop := newEnv(disturbed, func(w faults.Write) faults.Strike {
		if w.Claim && strike != faults.After {
			return faults.None
		}
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen != at {
			return faults.None
		}
		write = w.String()
		disturbed.set(fmt.Sprintf("with a crash %s write %d (%s): ", strike, at, write))
		return strike
	}, workflows)
	defer stop()
	scenario(env)
	for _, id := range env.started {
		env.wait(id)
		run := env.run(id)
		outcome := fmt.Sprintf("run of %s is %s", run.WorkflowName, run.Status)
		switch run.Status {
		case openworkflow.RunCompleted:
			outcome += ": " + string(run.Output)
		case openworkflow.RunFailed:
			failure := openworkflow.DecodeError(run.Error)
			outcome += ": " + failure.Message
		default:
		}
		outcomes = append(outcomes, outcome)
	}
	mu.Lock()
	defer mu.Unlock()
	return outcomes, write
}

// disturbance is a test that says in its messages which crash there was.
type disturbance struct {
	TB
	mu    sync.Mutex
	where string
}

func (d *disturbance) set(where string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.where = where
}

// Deadline implements the method of testing.T that says how long a test may last.
func (d *disturbance) Deadline() (time.Time, bool) {
	if t, ok := d.TB.(interface{ Deadline() (time.Time, bool) }); ok {
		return t.Deadline()
	}
	return time.Time{}, false
}

func (d *disturbance) prefix() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.where
}

// Logf keeps the worker's log of so many executions out of the test's.
func (d *disturbance) Logf(string, ...any) {}

func (d *disturbance) Errorf(format string, args ...any) {
	d.Helper()
	d.TB.Errorf("%s%s", d.prefix(), fmt.Sprintf(format, args...))
}

func (d *disturbance) Fatalf(format string, args ...any) {
	d.Helper()
	d.TB.Fatalf("%s%s", d.prefix(), fmt.Sprintf(format, args...))
}
