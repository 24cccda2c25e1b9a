package store

import (
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

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

// WorkflowsSQL returns the statements of View.Workflows by name, each with its arguments.
func (s *Store) WorkflowsSQL(name string) map[string][]any {
	return map[string][]any{
		"new definitions":   {s.sql(newDefinitionsSQL), s.namespace, MaxWorkflows},
		"again definitions": {s.sql(againDefinitionsSQL), s.namespace, MaxWorkflows},
		"leases":            {s.sql(leasesByWorkflowSQL), s.namespace, maxLeases},
		"ended names":       {s.sql(endedNamesSQL), s.namespace, endedSample},
		"backlog":           {s.sql(backlogSQL), s.namespace, []string{name}, []*string{nil}, MaxBacklog},
		"ended":             {s.sql(endedSQL), s.namespace, []string{name}, endedSample, 5 * time.Minute},
	}
}

// SlotsSQL returns the statement of View.Slots and its arguments.
func (s *Store) SlotsSQL(f SlotFilter, after *SlotCursor, limit int) (sql string, args []any) {
	return s.slotsQuery(f, after, limit)
}
