package store

import "github.com/openworkflow-operator/operator/internal/openworkflow"

// RunList and StepList return the statement and the arguments of the page after a cursor, or
// of the first page.
func (s *Store) RunList(f RunFilter, after *openworkflow.Cursor, limit int) (sql string, args []any) {
	sql, args = f.list().statement(s.namespace, after, false, limit)
	return s.sql(sql), args
}

func (s *Store) StepList(runID string, after *openworkflow.Cursor, limit int) (sql string, args []any) {
	sql, args = stepList(runID).statement(s.namespace, after, false, limit)
	return s.sql(sql), args
}
