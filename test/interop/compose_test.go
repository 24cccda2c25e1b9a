//go:build interop

package interop

import (
	"fmt"
	"testing"
)

// A parent in one language has a child in the other, and gets its output.
func TestP8ParentAndChildAreOfDifferentLanguages(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	for _, pair := range languages {
		parents, children := pair[0], pair[1]
		t.Run(parents+" parent, "+children+" child", func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(parents, "parent", "catching")
			l.worker(children, "steps", "nap", "echo", "failing", "versioned@2")
			client := l.goClient()
			tests := []struct {
				name, workflow string
				input          any
				want           string // P and C are the languages
			}{
				{"function steps", "parent", object{"child": "steps", "input": object{}},
					`{"one": "P", "child": {"one": "C", "two": "C", "held": "C", "last": "C"}, "last": "P"}`},
				{"a child that sleeps", "parent", object{"child": "nap", "input": object{"milliseconds": 300}},
					`{"one": "P", "child": {"one": "C", "last": "C"}, "last": "P"}`},
				{"null", "parent", object{"child": "echo"}, `{"one": "P", "child": null, "last": "P"}`},
				{"a version", "parent", object{"child": "versioned", "version": "2"},
					`{"one": "P", "child": {"version": "2", "by": "C"}, "last": "P"}`},
				{"a failure", "catching", object{"child": "failing", "input": object{"message": "no luck"}},
					`{"failure": "no luck", "last": "P"}`},
			}
			runs := make([]string, len(tests))
			for i, test := range tests {
				runs[i] = client.start(newRun{workflow: test.workflow, input: test.input})
			}
			for i, test := range tests {
				t.Run(test.name, func(t *testing.T) {
					output, failure := client.result(runs[i])
					if failure != "" {
						t.Fatal(failure)
					}
					want := fill(test.want, "P", parents, "C", children)
					if !sameJSON(t, output, []byte(want)) {
						t.Errorf("output is %s, want %s", output, want)
					}
				})
			}
			l.checkLedger()
		})
	}
}

// What ends a child in one language wakes the parent in the other: a cancel, and the
// parent's timeout.
func TestParentsLearnHowAChildOfTheOtherLanguageEnded(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	for _, pair := range languages {
		parents, children := pair[0], pair[1]
		t.Run(parents+" parent, "+children+" child", func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(parents, "parent", "catching")
			l.worker(children, "steps")
			client := l.goClient()
			canceled := client.start(newRun{workflow: "catching", input: object{"child": "steps", "input": object{"hold": true}}})
			l.parked(canceled, "child")
			child := l.childOf(canceled)
			l.entered(child, "held", children)
			l.client(children).cancel(child)
			output, failure := client.result(canceled)
			if failure != "" {
				t.Fatal(failure)
			}
			l.checkOutput(output, fmt.Sprintf(
				`{"failure": "Workflow step \"child\" failed because child workflow run \"%s\" was canceled", "last": %q}`, child, parents))

			late := client.start(newRun{workflow: "parent", input: object{"child": "steps", "input": object{"hold": true}, "timeout": 1500}})
			_, failure = client.result(late)
			l.checkFailure(failure, "Timed out waiting for child workflow to complete")
			if row := l.run(l.childOf(late)); row.Status.Terminal() {
				t.Errorf("the child that was too late is %s", row.Status)
			}
			l.checkLedger()
		})
	}
}

// Signals reach waits of the other language, from clients and from steps, once for
// each key.
func TestSignalsReachTheOtherLanguage(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	for _, pair := range languages {
		senders, waiters := pair[0], pair[1]
		t.Run(senders+" to "+waiters, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(waiters, "waiter")
			l.worker(senders, "sender")
			client := l.client(senders)
			wait := func(input object) string {
				run := client.start(newRun{workflow: "waiter", input: input})
				l.parked(run, "wait")
				return run
			}
			result := func(run, want string) {
				t.Helper()
				output, failure := client.result(run)
				if failure != "" {
					t.Fatal(failure)
				}
				l.checkOutput(output, fill(want, "1", senders, "2", waiters))
			}

			byClient := wait(object{"signal": "by-client"})
			if got := client.signal("by-client", object{"n": 1}, "key"); len(got) != 1 || got[0] != byClient {
				t.Errorf("the signal reached %v, want %s", got, byClient)
			}
			result(byClient, `{"one": "2", "received": true, "data": {"n": 1}, "last": "2"}`)
			// The key is used, so the other client's signal is the same one.
			again := wait(object{"signal": "by-client"})
			if got := l.client(waiters).signal("by-client", object{"n": 2}, "key"); len(got) != 1 || got[0] != byClient {
				t.Errorf("the repeated signal reached %v, want %s as before", got, byClient)
			}
			if got := l.client(waiters).signal("by-client", nil, "another"); len(got) != 1 || got[0] != again {
				t.Errorf("the third signal reached %v, want %s", got, again)
			}
			result(again, `{"one": "2", "received": true, "data": null, "last": "2"}`)

			byStep := []string{wait(object{"signal": "by-step"}), wait(object{"signal": "by-step"})}
			result(client.start(newRun{workflow: "sender", input: object{"signal": "by-step", "data": "word"}}),
				`{"one": "1", "recipients": 2, "last": "1"}`)
			for _, run := range byStep {
				result(run, `{"one": "2", "received": true, "data": "word", "last": "2"}`)
			}

			// Nobody waits: nothing is kept.
			result(client.start(newRun{workflow: "sender", input: object{"signal": "nobody"}}), `{"one": "1", "recipients": 0, "last": "1"}`)
			result(client.start(newRun{workflow: "waiter", input: object{"signal": "nobody", "milliseconds": 200}}),
				`{"one": "2", "received": false, "data": null, "last": "2"}`)
			l.checkLedger()
		})
	}
}
