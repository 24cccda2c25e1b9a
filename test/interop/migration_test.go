//go:build interop

package interop

import (
	"fmt"
	"sync"
	"testing"
)

// OpenWorkflow's processes have prepared statements that return all columns. When one is
// added to their tables, Postgres rejects these plans, and their client encodes the JSON of
// what it sends next twice. So no migration of ours does that: the first one, and one of a
// schema that an earlier release of ours has left, while a TypeScript worker executes runs
// and clients of both languages start them.
func TestMigrate_P8_WhileTypeScriptWrites(t *testing.T) {
	t.Parallel()
	l := newEmptyLab(t)
	node := l.node("echo") // creates OpenWorkflow's tables
	clients := []starter{typescriptClient{node}, typescriptClient{l.node()}}
	const callers, each = 8, 10

	// migrate migrates once half of the runs are started.
	migrate := func(what string) {
		var callersDone sync.WaitGroup
		half := make(chan struct{})
		var once sync.Once
		for caller := range callers {
			callersDone.Go(func() {
				for i := range each {
					if i == each/2 {
						once.Do(func() { close(half) })
					}
					input := map[string]any{"phase": what, "caller": caller, "run": i}
					c := clients[caller%len(clients)]
					id := c.start(newRun{workflow: "echo", input: input})
					output, failure := c.result(id)
					if failure != "" {
						t.Errorf("%s: run %s: %s", what, id, failure)
					}
					l.checkOutput(output, encode(t, input))
				}
			})
		}
		<-half
		if err := l.store.Migrate(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		callersDone.Wait()
	}
	migrate("the first migration")
	l.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 3`)
	migrate("an upgrade")
	clients = append(clients, l.client(golang))
	migrate("no change")

	if bad := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs
		WHERE jsonb_typeof(input) <> 'object' OR jsonb_typeof(output) <> 'object' OR status <> 'completed'`); bad > 0 {
		t.Errorf("%d runs are stored wrongly:\n%s", bad, read[string](l, `
			SELECT string_agg(concat_ws(' ', id, status, input, output), E'\n') FROM openworkflow.workflow_runs
			WHERE jsonb_typeof(input) <> 'object' OR jsonb_typeof(output) <> 'object' OR status <> 'completed'`))
	}
	if n := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs`); n != 3*callers*each {
		t.Errorf("there are %d runs, want %s", n, fmt.Sprint(3*callers*each))
	}
	l.checkLedger()
}
