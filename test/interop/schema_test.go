//go:build interop

package interop

import (
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Each migrates an empty database and one that the other has created. The tables are
// the same afterwards, and both execute runs on them.
func TestP8EachMigratesWhatTheOtherHasCreated(t *testing.T) {
	t.Parallel()
	catalogs := map[string]string{}
	for _, pair := range languages {
		first, second := pair[0], pair[1]
		l := newEmptyLab(t)
		migrate := map[string]func(){
			golang: func() {
				if err := l.store.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
			},
			typescript: func() { l.node().kill() }, // it migrates when it connects
		}
		for _, language := range []string{first, second, first} {
			migrate[language]()
		}
		catalogs[first] = l.catalog()
		for _, language := range pair {
			worker := l.worker(language, "steps")
			run := l.client(other(language)).start(newRun{workflow: "steps", input: map[string]any{}})
			if _, failure := l.goClient().result(run); failure != "" {
				t.Errorf("created by %s, executed by %s: %s", first, language, failure)
			}
			if row := l.run(run); row.Status != openworkflow.RunCompleted {
				t.Errorf("created by %s, executed by %s: the run is %s", first, language, row.Status)
			}
			worker.kill()
		}
	}
	if a, b := catalogs[golang], catalogs[typescript]; a != b {
		t.Errorf("created by Go:\n%s\ncreated by TypeScript:\n%s", a, b)
	}
	if n := strings.Count(catalogs[golang], "\n"); n < 50 {
		t.Errorf("the catalog has only %d lines", n)
	}
}

// catalog describes the columns, constraints and indexes of OpenWorkflow's schema, and
// which migrations were made.
func (l *lab) catalog() string {
	l.Helper()
	return read[string](l, `
		SELECT string_agg(line, E'\n' ORDER BY line) FROM (
			SELECT concat_ws(' ', 'column', table_name, column_name, data_type, is_nullable, column_default) AS line
			FROM information_schema.columns WHERE table_schema = 'openworkflow'
			UNION ALL
			SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(c.oid))
			FROM pg_constraint c JOIN pg_namespace n ON n.oid = connamespace WHERE nspname = 'openworkflow'
			UNION ALL
			SELECT concat_ws(' ', 'index', indexdef) FROM pg_indexes WHERE schemaname = 'openworkflow'
			UNION ALL
			SELECT concat_ws(' ', 'migration', version) FROM openworkflow.openworkflow_migrations
		) AS lines`)
}
