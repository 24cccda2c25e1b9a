package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ledger is a table of applied migrations, by number, with the migrations that it counts.
// Migration i has the number i.
type ledger struct {
	table, create string
	migrations    []migration
}

// migration is a list of texts, which are executed in order. Each may be executed again: a
// migration that was interrupted starts over. A text that begins with CREATE INDEX or DROP INDEX
// is one statement.
type migration []string

// ledgers are applied in order: OpenWorkflow's, then ours.
var ledgers = []ledger{
	{
		table: "openworkflow_migrations",
		create: `
CREATE TABLE IF NOT EXISTS {schema}.openworkflow_migrations (
	version bigint PRIMARY KEY
)`,
		migrations: upstreamMigrations,
	},
	{
		table: "operator_migrations",
		create: `
CREATE TABLE IF NOT EXISTS {schema}.operator_migrations (
	version    bigint PRIMARY KEY,
	applied_at timestamptz NOT NULL DEFAULT now()
)`,
		migrations: operatorMigrations,
	},
}

func (l ledger) newest() int { return len(l.migrations) - 1 }

// noLedger is the version of a schema without the ledger's table (R3).
const noLedger = -1

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// ledgerVersion returns the newest migration applied, noLedger if there is none. It returns
// ErrSchemaTooNew if this release does not know that migration.
func (s *Store) ledgerVersion(ctx context.Context, q querier, l ledger) (int, error) {
	var exists bool
	err := q.QueryRow(ctx, `
SELECT EXISTS (
	SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'
)`, s.schema, l.table).Scan(&exists)
	if err != nil || !exists {
		return noLedger, err
	}
	var version int
	err = q.QueryRow(ctx, s.sql(`SELECT coalesce(max(version), -1) FROM {schema}.`+l.table)).Scan(&version)
	if err != nil {
		return noLedger, err
	}
	if version > l.newest() {
		return version, fmt.Errorf("%w: %s is at version %d, this release knows %d", ErrSchemaTooNew, l.table, version, l.newest())
	}
	return version, nil
}

// CheckSchema returns nil if the schema is at this release's version, ErrSchemaMissing if it
// does not exist or is older, and ErrSchemaTooNew if it is newer.
func (s *Store) CheckSchema(ctx context.Context) error { return s.checkSchema(ctx, s.pool) }

func (s *Store) checkSchema(ctx context.Context, q querier) error {
	var missing error
	for _, l := range ledgers {
		version, err := s.ledgerVersion(ctx, q, l)
		switch {
		case err != nil:
			return Classify(err)
		case version == noLedger && missing == nil:
			missing = fmt.Errorf("%w: schema %q has no %s", ErrSchemaMissing, s.schema, l.table)
		case version < l.newest() && missing == nil:
			missing = fmt.Errorf("%w: %s is at version %d, this release needs %d", ErrSchemaMissing, l.table, version, l.newest())
		}
	}
	return missing
}
