package store

import "github.com/openworkflow-operator/operator/internal/openworkflow"

// ViewRuns returns the statement of View.Runs and its arguments.
func (s *Store) ViewRuns(f ViewFilter, after *openworkflow.Cursor, limit int) (sql string, args []any) {
	q := viewQuery{args: []any{s.namespace, limit}}
	sql = q.runs(f, after)
	return s.sql(sql), q.args
}

// WhySQL returns the statements of View.Why by name, each with its arguments.
func (s *Store) WhySQL(id string) map[string][]any {
	return map[string][]any{
		"run":    {s.sql(viewWhyRunSQL), s.namespace, id},
		"waits":  {s.sql(viewWaitsSQL), s.namespace, id, whyAttempts, MaxWaits},
		"newest": {s.sql(viewNewestSQL), s.namespace, id, whyNewest},
	}
}

// QueuedBeforeSQL returns the statements of View.QueuedBefore.
func (s *Store) QueuedBeforeSQL() (fresh, again string) {
	return s.sql(queuedNewSQL), s.sql(queuedAgainSQL)
}
