//go:build interop

package interop

import (
	"bytes"
	"testing"
)

// A run that one language starts is executed by the other, and its result arrives
// where it was started.
func TestP8RunsStartedInOneLanguageAreExecutedByTheOther(t *testing.T) {
	t.Parallel()
	for _, pair := range languages {
		starter, executor := pair[0], pair[1]
		t.Run(starter+" to "+executor, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(executor, "steps", "nap", "flaky", "parallel", "echo", "failing")
			client := l.client(starter)
			type object = map[string]any

			hostile := object{"text": "\u00e9\u2028<>&\"\\ \U0001F600", "number": 1.5, "large": 9007199254740991, "none": nil, "list": []any{1, "2", object{}, []any{}}}
			outputs := []struct {
				name, workflow string
				input          any
				want           string
			}{
				{"function steps", "steps", object{}, `{"one": "X", "two": "X", "held": "X", "last": "X"}`},
				{"a sleep", "nap", object{"milliseconds": 50}, `{"one": "X", "last": "X"}`},
				{"a retry", "flaky", object{"failures": 2, "attempts": 3, "milliseconds": 10}, `{"one": "X", "flaky": "X", "last": "X"}`},
				{"parallel steps", "parallel", nil, `{"a": "X", "b": "X", "c": "X", "last": "X"}`},
				{"hostile values", "echo", hostile, encode(t, hostile)},
				{"text", "echo", "text", `"text"`},
				{"false", "echo", false, `false`},
				{"null", "echo", nil, `null`},
			}
			runs := make([]string, len(outputs))
			for i, test := range outputs {
				runs[i] = client.start(newRun{workflow: test.workflow, input: test.input})
			}
			for i, test := range outputs {
				t.Run(test.name, func(t *testing.T) {
					output, failure := client.result(runs[i])
					if failure != "" {
						t.Fatal(failure)
					}
					if want := fill(test.want, "X", executor); !sameJSON(t, output, []byte(want)) {
						t.Errorf("output is %s, want %s", output, want)
					}
				})
			}

			run := client.start(newRun{workflow: "failing", input: object{"message": `no "luck"`}})
			_, failure := client.result(run)
			l.checkFailure(failure, "luck")
			row := l.run(run)
			if !bytes.Contains(row.Error, []byte(`"message": "no \"luck\""`)) {
				t.Errorf("stored as %s", row.Error)
			}
			_, failure = client.result(client.start(newRun{workflow: "flaky", input: object{"failures": 9, "attempts": 2, "milliseconds": 10}}))
			l.checkFailure(failure, `execution 2 failed`)
			l.checkLedger()
		})
	}
}
