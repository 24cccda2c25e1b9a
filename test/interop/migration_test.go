//go:build interop

package interop

import (
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
	t.Run("OpenWorkflow's tables", func(t *testing.T) {
		t.Parallel()
		l := newEmptyLab(t)
		node := l.node("echo") // creates OpenWorkflow's tables
		clients := []starter{typescriptClient{node}, typescriptClient{l.node()}}
		l.migrateWhileWriting("the first migration", clients)
		l.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 3`)
		l.migrateWhileWriting("an upgrade", clients)
		clients = append(clients, l.client(golang))
		l.migrateWhileWriting("no change", clients)
		l.checkStored(3 * callers * each)
	})
	t.Run("tables of a release that had columns", func(t *testing.T) {
		t.Parallel()
		l := newEmptyLab(t)
		if err := l.store.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.exec(`ALTER TABLE openworkflow.workflow_runs
			ADD COLUMN suspended_at timestamptz, ADD COLUMN resume_at timestamptz, ADD COLUMN failures integer DEFAULT 0`)
		l.worker(golang, "echo")
		node := l.node("echo")
		clients := []starter{typescriptClient{node}, l.client(golang), typescriptClient{l.node()}}
		l.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 11`)
		l.migrateWhileWriting("an upgrade", clients)
		l.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 2`)
		l.migrateWhileWriting("a further one", clients)
		l.checkStored(2 * callers * each)
	})
}

const callers, each = 8, 10

// migrateWhileWriting has these clients start runs and migrates once half of them are started. All
// must end with their input as the output.
func (l *lab) migrateWhileWriting(what string, clients []starter) {
	l.Helper()
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
					l.Errorf("%s: run %s: %s", what, id, failure)
				}
				l.checkOutput(output, encode(l.T, input))
			}
		})
	}
	<-half
	if err := l.store.Migrate(l.Context()); err != nil {
		l.Errorf("%s: %v", what, err)
	}
	callersDone.Wait()
}

// checkStored checks that there are as many runs as were started, and that no JSON was encoded twice.
func (l *lab) checkStored(want int) {
	l.Helper()
	if bad := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs
		WHERE jsonb_typeof(input) <> 'object' OR jsonb_typeof(output) <> 'object' OR status <> 'completed'`); bad > 0 {
		l.Errorf("%d runs are stored wrongly:\n%s", bad, read[string](l, `
			SELECT string_agg(concat_ws(' ', id, status, input, output), E'\n') FROM openworkflow.workflow_runs
			WHERE jsonb_typeof(input) <> 'object' OR jsonb_typeof(output) <> 'object' OR status <> 'completed'`))
	}
	if n := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs`); n != want {
		l.Errorf("there are %d runs, want %d", n, want)
	}
	l.checkLedger()
}
