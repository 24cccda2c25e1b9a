package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// A run that was forked has ended, and nothing compares its object with its row again. So each fork
// is noted in operator_forks until the objects of the runs that it supersedes show that, and how it
// ended. A fork costs one row more, and other runs nothing.

// noteForkSQL notes the fork for Forks. Primary key.
const noteForkSQL = `
INSERT INTO {schema}.operator_forks (namespace_id, run_id) VALUES ($1, $2)
ON CONFLICT DO NOTHING`

// NotedFork is a fork of which the objects of earlier runs may not show yet that it supersedes them.
type NotedFork struct {
	RunID string
	// Source is the run that was forked, empty if the fork was removed.
	Source string
	// Ended says that the fork has ended, and Old that this was more than a day ago.
	Ended, Old bool
}

// forksSQL reads a range of the primary key, and the primary key of runs.
var forksSQL = `
SELECT f.run_id, coalesce(` + configText("r", configForkedFrom) + `, ''), coalesce(r.status IN (` + endedStatuses + `), true),
	coalesce(r.status IN (` + endedStatuses + `) AND r.updated_at < now() - interval '1 day', true)
FROM (
	SELECT namespace_id, run_id
	FROM {schema}.operator_forks
	WHERE namespace_id = $1 AND run_id > $2
	ORDER BY run_id
	LIMIT $3
	OFFSET 0
) f
LEFT JOIN LATERAL (
	SELECT r.config, r.status, r.updated_at
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = f.namespace_id AND r.id = f.run_id
	OFFSET 0
) r ON true
ORDER BY f.run_id`

// Forks returns up to limit of the forks that were made and not forgotten yet, in the order of
// their ids, after an id.
func (s *Store) Forks(ctx context.Context, after string, limit int) (forks []NotedFork, err error) {
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var f NotedFork
		err := row.Scan(&f.RunID, &f.Source, &f.Ended, &f.Old)
		forks = append(forks, f)
		return err
	}, s.sql(forksSQL), s.namespace, after, limit)
	return forks, Classify(err)
}

// forgetForksSQL reads the primary key.
const forgetForksSQL = `
DELETE FROM {schema}.operator_forks f
USING ` + idTable + ` ids
WHERE f.namespace_id = ids.namespace_id AND f.run_id = ids.id`

// ForgetForks makes Forks return these no more: their lineage is shown, and they have ended.
func (s *Store) ForgetForks(ctx context.Context, ids []string) error {
	_, err := s.pool.Exec(ctx, s.sql(forgetForksSQL), s.namespace, ids)
	return Classify(err)
}
