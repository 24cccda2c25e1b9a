package store

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// runStatesSQL reads the primary key, and never a TOASTed input.
var runStatesSQL = strings.Replace(getRunsSQL, "r.input", "NULL::jsonb", 1)

// RunStates is GetRuns without the inputs, for who looks at many runs again and
// again: an input may be a megabyte.
func (s *Store) RunStates(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	runs := make(map[string]*openworkflow.Run, len(ids))
	if len(ids) == 0 {
		return runs, nil
	}
	err := s.each(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRun(row)
		runs[run.ID] = &run
		return err
	}, s.sql(runStatesSQL), s.namespace, ids)
	if err != nil {
		return nil, Classify(err)
	}
	return runs, nil
}
