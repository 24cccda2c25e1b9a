//go:build interop

package interop

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// TestFork_P1_EachLanguageGoesOnFromTheResultsOfEach has runs that a worker of one language has
// executed, and forks of them that a worker of the same or the other language executes. What was
// before the fork point is not executed again, what follows is, and only there.
func TestFork_P1_EachLanguageGoesOnFromTheResultsOfEach(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	from := func(step string) store.ForkPoint { return store.ForkPoint{Step: &step} }
	cases := map[string]struct {
		workflow string
		input    object
		// prepare makes the source end.
		prepare func(l *lab, source string)
		fork    store.ForkRequest
		// output has 1 and 2 for the languages of the source and of the fork.
		output string
		// kept and executed are steps of the fork.
		kept, executed []string
	}{
		"from the third step": {
			workflow: "steps", input: object{},
			fork:   store.ForkRequest{From: from("held")},
			output: `{"one": "1", "two": "1", "held": "2", "last": "2"}`,
			kept:   []string{"one", "two"}, executed: []string{"held", "last"},
		},
		"from the failure": {
			workflow: "flaky", input: object{"failures": 9, "attempts": 2, "milliseconds": 1},
			fork: store.ForkRequest{
				From: store.ForkPoint{LastFailed: true},
				Run:  store.NewRun{Input: json.RawMessage(`{"failures": 1, "attempts": 2, "milliseconds": 1}`)},
			},
			output: `{"one": "1", "flaky": "2", "last": "2"}`,
			kept:   []string{"one"}, executed: []string{"flaky", "flaky", "last"},
		},
		"with a corrected output": {
			workflow: "steps", input: object{},
			fork:   store.ForkRequest{From: from("last"), Outputs: map[string]json.RawMessage{"two": json.RawMessage(`"by hand"`)}},
			output: `{"one": "1", "two": "by hand", "held": "1", "last": "2"}`,
			kept:   []string{"one", "two", "held"}, executed: []string{"last"},
		},
		"after a sleep": {
			workflow: "nap", input: object{"milliseconds": 1},
			fork:   store.ForkRequest{From: from("last")},
			output: `{"one": "1", "last": "2"}`,
			kept:   []string{"one"}, executed: []string{"last"},
		},
		"after a child": {
			workflow: "parent", input: object{"child": "echo", "input": "hello"},
			fork:   store.ForkRequest{From: from("last")},
			output: `{"one": "1", "child": "hello", "last": "2"}`,
			kept:   []string{"one"}, executed: []string{"last"},
		},
		"after a child that failed": {
			workflow: "catching", input: object{"child": "failing", "input": object{"message": "no"}},
			fork:   store.ForkRequest{From: store.ForkPoint{LastFailed: true}},
			output: `{"failure": "no", "last": "1"}`,
			prepare: func(l *lab, source string) { // as if it had failed after its last step
				l.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed', output = NULL, error = '{"message": "a bug"}' WHERE id = $1`, source)
			},
			kept: []string{"last"},
		},
		"after a signal": {
			workflow: "waiter", input: object{"signal": "wake"},
			fork:   store.ForkRequest{From: from("last")},
			output: `{"one": "1", "received": true, "data": {"n": 1}, "last": "2"}`,
			kept:   []string{"one"}, executed: []string{"last"},
		},
		"after a signal that it sent": {
			workflow: "sender", input: object{"signal": "nobody waits", "data": 1},
			fork:   store.ForkRequest{From: from("last")},
			output: `{"one": "1", "recipients": 0, "last": "2"}`,
			kept:   []string{"one"}, executed: []string{"last"},
		},
	}
	workflows := []string{"steps", "flaky", "nap", "parent", "echo", "catching", "failing", "waiter", "sender"}
	for _, first := range []string{golang, typescript} {
		for _, second := range []string{golang, typescript} {
			t.Run("of "+first+" in "+second, func(t *testing.T) {
				t.Parallel()
				l := newLab(t)
				client := l.goClient()
				worker := l.worker(first, workflows...)
				sources := map[string]string{}
				for name, c := range cases {
					sources[name] = client.start(newRun{workflow: c.workflow, input: c.input})
				}
				l.parked(sources["after a signal"], "wait")
				client.signal("wake", map[string]int{"n": 1}, "")
				for _, source := range sources {
					client.result(source)
				}
				worker.kill()

				forks := map[string]string{}
				for name, c := range cases {
					if c.prepare != nil {
						c.prepare(l, sources[name])
					}
					c.fork.Source = sources[name]
					fork, err := l.store.Fork(t.Context(), c.fork)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					forks[name] = fork.RunID
				}
				before := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs`)
				l.worker(second, workflows...)
				for name, c := range cases {
					l.checkFork(name, forks[name], second, c.kept, c.executed)
					if got, want := l.run(forks[name]).Output, fill(c.output, "1", first, "2", second); !sameJSON(t, got, []byte(want)) {
						t.Errorf("%s: output is %s, want %s", name, got, want)
					}
				}
				if after := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs`); after != before {
					t.Errorf("the forks have started %d children anew", after-before)
				}
			})
		}
	}
}

// checkFork waits for the end of a fork, and compares the ledger.
func (l *lab) checkFork(name, fork, language string, kept, executed []string) {
	l.Helper()
	l.until(name+" to end", `SELECT status NOT IN ('pending', 'running') FROM openworkflow.workflow_runs WHERE id = $1`, fork)
	if run := l.run(fork); run.Status != openworkflow.RunCompleted {
		l.Errorf("%s: the fork is %s: %s", name, run.Status, run.Error)
	}
	for _, step := range kept {
		if n := l.executions(fork, step); len(n) > 0 {
			l.Errorf("%s: %s was executed again: %v", name, step, n)
		}
	}
	want := map[string]int{}
	for _, step := range executed {
		want[step]++
	}
	for step, n := range want {
		if got := l.executions(fork, step); got[language] != n || len(got) != 1 {
			l.Errorf("%s: executions of %s are %v, want %s", name, step, got, fmt.Sprint(n, " in ", language))
		}
	}
}
