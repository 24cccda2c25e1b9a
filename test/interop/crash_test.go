//go:build interop

package interop

import (
	"maps"
	"testing"
)

// P1: a worker is killed during a run, and a worker of the other language finishes the run
// without executing a stored step again.
func TestP1ARunOfAKilledWorkerIsFinishedByTheOtherLanguage(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	tests := []struct {
		name     string
		workflow string
		input    func(first, second string) any
		// stop waits until the run is at the point where its worker is killed.
		stop func(l *lab, run, first string)
		// resume does what else the run needs to continue, after the second worker is ready.
		resume func(l *lab, run, first, second string)
		// output has 1 and 2 for the languages. Empty: the run fails.
		output, failure string
		executions      map[string][2]int // by step: in the first and in the second language
	}{
		{
			name: "in a function", workflow: "steps",
			input: func(_, _ string) any { return object{"hold": true} },
			stop:  func(l *lab, run, first string) { l.entered(run, "held", first) },
			resume: func(l *lab, run, _, second string) {
				l.endLease(run)
				l.open(run, second)
			},
			output: `{"one": "1", "two": "1", "held": "2", "last": "2"}`,
			// The function that was cut off is the only one that is executed twice.
			executions: map[string][2]int{"one": {1, 0}, "two": {1, 0}, "held": {1, 1}, "last": {0, 1}},
		},
		{
			name: "in a sleep", workflow: "nap",
			input:      func(_, _ string) any { return object{"milliseconds": 2000} },
			stop:       func(l *lab, run, _ string) { l.parked(run, "rest") },
			output:     `{"one": "1", "last": "2"}`,
			executions: map[string][2]int{"one": {1, 0}, "last": {0, 1}},
		},
		{
			name: "between retries", workflow: "flaky",
			input:      func(_, _ string) any { return object{"failures": 2, "attempts": 3, "milliseconds": 2000} },
			stop:       backingOff,
			output:     `{"one": "1", "flaky": "2", "last": "2"}`,
			executions: map[string][2]int{"one": {1, 0}, "flaky": {1, 2}, "last": {0, 1}},
		},
		{
			// Attempts of both languages count together.
			name: "between retries that are used up", workflow: "flaky",
			input:      func(_, _ string) any { return object{"failures": 9, "attempts": 3, "milliseconds": 2000} },
			stop:       backingOff,
			failure:    "execution 3 failed",
			executions: map[string][2]int{"one": {1, 0}, "flaky": {1, 2}},
		},
		{
			name: "waiting for a child", workflow: "parent",
			input: func(_, _ string) any {
				return object{"child": "steps", "input": object{"hold": true}}
			},
			stop: func(l *lab, run, first string) {
				l.parked(run, "child")
				l.entered(l.childOf(run), "held", first)
			},
			resume: func(l *lab, run, _, second string) {
				l.endLease(l.childOf(run))
				l.open(l.childOf(run), second)
			},
			output:     `{"one": "1", "child": {"one": "1", "two": "1", "held": "2", "last": "2"}, "last": "2"}`,
			executions: map[string][2]int{"one": {1, 0}, "last": {0, 1}},
		},
		{
			name: "waiting for a signal", workflow: "waiter",
			input:      func(_, _ string) any { return object{"signal": "approval"} },
			stop:       func(l *lab, run, _ string) { l.parked(run, "wait") },
			resume:     func(l *lab, _, first, _ string) { l.client(first).signal("approval", object{"approved": true}, "") },
			output:     `{"one": "1", "received": true, "data": {"approved": true}, "last": "2"}`,
			executions: map[string][2]int{"one": {1, 0}, "last": {0, 1}},
		},
	}
	for _, pair := range languages {
		first, second := pair[0], pair[1]
		for _, test := range tests {
			t.Run(first+" killed "+test.name, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				served := []string{"steps", "nap", "flaky", "parent", "waiter"}
				victim := l.worker(first, served...)
				client := l.goClient()
				run := client.start(newRun{workflow: test.workflow, input: test.input(first, second)})
				test.stop(l, run, first)
				victim.kill()
				l.worker(second, served...)
				if test.resume != nil {
					test.resume(l, run, first, second)
				}

				output, failure := client.result(run)
				switch {
				case test.failure != "":
					l.checkFailure(failure, test.failure)
				case failure != "":
					t.Errorf("the run failed: %s", failure)
				default:
					l.checkOutput(output, fill(test.output, "1", first, "2", second))
				}
				for step, n := range test.executions {
					want := map[string]int{first: n[0], second: n[1]}
					maps.DeleteFunc(want, func(_ string, n int) bool { return n == 0 })
					if got := l.executions(run, step); !maps.Equal(got, want) {
						t.Errorf("step %s was executed %v times, want %v", step, got, want)
					}
				}
				l.checkLedger()
			})
		}
	}
}

// backingOff waits until the run's step has failed once and is to be retried.
func backingOff(l *lab, run, _ string) {
	l.Helper()
	l.until("the run to wait for its first retry", `
		SELECT status = 'pending' AND worker_id IS NULL AND available_at > now()
			AND EXISTS (SELECT FROM openworkflow.step_attempts WHERE workflow_run_id = $1 AND step_name = 'flaky' AND status = 'failed')
		FROM openworkflow.workflow_runs WHERE id = $1`, run)
}

// endLease lets the lease of a killed worker end. TypeScript's lasts for half a
// minute, which the short form does not wait for.
func (l *lab) endLease(run string) {
	l.Helper()
	if testing.Short() {
		l.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() WHERE id = $1 AND status = 'running'`, run)
	}
}

// childOf returns the run that a run's step named child has started.
func (l *lab) childOf(run string) string {
	l.Helper()
	return read[string](l, `
		SELECT child_workflow_run_id FROM openworkflow.step_attempts
		WHERE workflow_run_id = $1 AND step_name = 'child' AND kind = 'workflow'`, run)
}
