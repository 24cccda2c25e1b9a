package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// viewRunsByIDSQL uses the primary key.
var viewRunsByIDSQL = `
SELECT ` + viewColumns + `
FROM ` + idTable + ` ids
JOIN {schema}.workflow_runs r USING (namespace_id, id)`

// RunsByID returns those of the runs that exist, by id.
func (v *View) RunsByID(ctx context.Context, ids []string) (map[string]*RunView, error) {
	found := make(map[string]*RunView, len(ids))
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRunView(row)
		found[run.ID] = &run
		return err
	}, v.store.sql(viewRunsByIDSQL), v.store.namespace, storableIDs(ids))
	return found, Classify(err)
}
