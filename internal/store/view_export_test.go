package store

import "github.com/openworkflow-operator/operator/internal/openworkflow"

// ViewRuns returns the statement of View.Runs and its arguments.
func (s *Store) ViewRuns(f ViewFilter, after *openworkflow.Cursor, limit int) (sql string, args []any) {
	q := viewQuery{args: []any{s.namespace, limit}}
	sql = q.runs(f, after)
	return s.sql(sql), q.args
}
