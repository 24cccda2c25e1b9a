package workflowtest

import (
	"fmt"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/faults"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/workflow"
)

// CrashEverywhere executes the scenario many times, each time in a new environment that serves
// the workflows: once without a crash, and then twice for each write of its runs, with a crash
// of the worker before and after that write. It fails the test when
//
//   - a run that the scenario started ends differently than it did without a crash,
//   - a step is executed again although its completion was stored, or
//   - the scenario itself fails.
//
// Causes are code between steps that is not deterministic, and a step whose second execution
// has another result. The scenario must start the same runs each time; CrashEverywhere waits
// for their ends.
func CrashEverywhere(t TB, scenario func(env *Env), workflows ...workflow.Definition) {
	t.Helper()
	baseline, _ := runScenario(t, faults.None, 0, scenario, workflows)
	for _, strike := range []faults.Strike{faults.Before, faults.After} {
		for n := 1; ; n++ {
			outcomes, write := runScenario(t, strike, n, scenario, workflows)
			if write == "" {
				break
			}
			if len(outcomes) != len(baseline) {
				t.Fatalf("workflowtest: %d runs were started undisturbed, and %d with a crash %s write %d (%s)",
					len(baseline), len(outcomes), strike, n, write)
			}
			for i, outcome := range outcomes {
				if outcome != baseline[i] {
					t.Errorf("workflowtest: with a crash %s write %d (%s), %s\nundisturbed, %s", strike, n, write, outcome, baseline[i])
				}
			}
		}
	}
}

// runScenario executes the scenario with a crash at write number at. It returns how the
// started runs ended, and a description of that write, "" when there were fewer writes.
func runScenario(t TB, strike faults.Strike, at int, scenario func(env *Env), workflows []workflow.Definition) (outcomes []string, write string) {
	t.Helper()
	var mu sync.Mutex
	seen := 0
	labeled := &labeledTB{TB: t}
	env, stop := newEnv(labeled, func(w faults.Write) faults.Strike {
		if w.Claim && strike != faults.After {
			return faults.None
		}
		mu.Lock()
		defer mu.Unlock()
		if seen++; seen != at {
			return faults.None
		}
		write = w.String()
		labeled.setLabel(fmt.Sprintf("with a crash %s write %d (%s): ", strike, at, write))
		return strike
	}, workflows)
	defer stop()
	scenario(env)
	for _, id := range env.started {
		env.awaitEnd(id)
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

// labeledTB is a TB that prefixes its messages with the crash that was simulated.
type labeledTB struct {
	TB
	mu    sync.Mutex
	label string
}

func (l *labeledTB) setLabel(label string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.label = label
}

// Deadline passes on the deadline of the test, if it has one.
func (l *labeledTB) Deadline() (time.Time, bool) {
	if t, ok := l.TB.(interface{ Deadline() (time.Time, bool) }); ok {
		return t.Deadline()
	}
	return time.Time{}, false
}

func (l *labeledTB) currentLabel() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.label
}

// Logf drops the worker's log: there are two executions for each write.
func (l *labeledTB) Logf(string, ...any) {}

func (l *labeledTB) Errorf(format string, args ...any) {
	l.Helper()
	l.TB.Errorf("%s%s", l.currentLabel(), fmt.Sprintf(format, args...))
}

func (l *labeledTB) Fatalf(format string, args ...any) {
	l.Helper()
	l.TB.Fatalf("%s%s", l.currentLabel(), fmt.Sprintf(format, args...))
}
