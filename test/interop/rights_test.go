//go:build interop

package interop

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// P9: the rights that docs/security.md gives a worker suffice for the workers and clients of both
// languages, for each kind of step, and are no more than that. (All tests that begin with newLab run
// with these rights.)
func TestP9RestrictedLoginsSuffice(t *testing.T) {
	t.Parallel()
	type object = map[string]any
	for _, language := range []string{golang, typescript} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.worker(language, "steps", "nap", "flaky", "parallel", "failing", "parent", "catching", "waiter", "sender")
			client := l.client(language)
			waiter := client.start(newRun{workflow: "waiter", input: object{"signal": "s"}})
			l.parked(waiter, "wait")
			canceled := client.start(newRun{workflow: "steps", input: object{"hold": true}})
			client.cancel(canceled)
			for workflow, input := range map[string]object{
				"steps": {}, "nap": {"milliseconds": 50}, "flaky": {"failures": 2, "attempts": 3, "milliseconds": 10}, "parallel": nil,
				"parent":   {"child": "nap", "input": object{"milliseconds": 50}},
				"catching": {"child": "failing", "input": object{"message": "no luck"}},
				"sender":   {"signal": "s", "data": 1},
			} {
				if output, failure := client.result(client.start(newRun{workflow: workflow, key: "key-" + workflow, input: input})); failure != "" {
					t.Errorf("%s: output %s, failure %s", workflow, output, failure)
				}
			}
			if _, failure := client.result(waiter); failure != "" {
				t.Errorf("waiter: %s", failure)
			}
			if _, failure := client.result(client.start(newRun{workflow: "failing", input: object{"message": "no luck"}})); !strings.Contains(failure, "no luck") {
				t.Errorf("failing: %q", failure)
			}
			if status := l.run(canceled).Status; status != "canceled" {
				t.Errorf("the canceled run is %s", status)
			}
			l.checkLedger()

			conn, err := pgx.Connect(t.Context(), l.peers)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close(t.Context()) }()
			for _, statement := range []string{
				`DELETE FROM openworkflow.workflow_runs`, `UPDATE openworkflow.workflow_runs SET input = '1'`,
				`UPDATE openworkflow.workflow_runs SET workflow_name = 'other'`, `ALTER TABLE openworkflow.workflow_runs ADD COLUMN x text`,
			} {
				if _, err := conn.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "42501") {
					t.Errorf("%s: %v, want insufficient privilege", statement, err)
				}
			}
		})
	}
}
