package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openworkflow-operator/operator/internal/backoff"
)

// migrationLock is the advisory lock that Migrate holds: the bytes of "owmigrat". OpenWorkflow
// takes none (R172).
const migrationLock = 0x6f776d6967726174

// migrateAttempts is how often Migrate tries while an OpenWorkflow client, which takes no
// lock, migrates the same database.
const migrateAttempts = 10

var migrateBackoff = backoff.Policy{First: 50 * time.Millisecond, Max: 500 * time.Millisecond}

// ledger is a table of applied migrations, by number, with the migrations that it counts.
// Migration i has the number i; each text does one thing.
type ledger struct {
	table, create string
	migrations    []string
}

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

// Migrate brings the schema to this release's version, and creates it if it is missing. All of
// it is one transaction under an advisory lock. Any number of processes may call it at once,
// and a second call changes nothing.
//
// It returns ErrSchemaTooNew, and changes nothing, when a newer release has migrated the
// schema. It returns ErrPrivilege when the role may not create what is missing.
func (s *Store) Migrate(ctx context.Context) error {
	for attempt := 1; ; attempt++ {
		err := s.migrate(ctx)
		if !collides(err) || attempt == migrateAttempts {
			return Classify(err)
		}
		if err := migrateBackoff.Wait(ctx, attempt); err != nil {
			return err
		}
	}
}

// collides reports whether another process created what Migrate was creating.
func collides(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pg.Code {
	case "23505", "42P06", "42P07", "42701", "42710": // unique violation; duplicate schema, table, column, object
		return true
	default:
		return false
	}
}

func (s *Store) migrate(ctx context.Context) error {
	// Usually there is nothing to do. A role without the right to create then suffices.
	if err := s.CheckSchema(ctx); !errors.Is(err, ErrSchemaMissing) {
		return err
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL lock_timeout = 0`); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		if err := s.createSchema(ctx, tx); err != nil {
			return err
		}
		for _, l := range ledgers {
			if err := s.applyLedger(ctx, tx, l); err != nil {
				return err
			}
		}
		return nil
	})
}

// createSchema first checks whether the schema exists, because CREATE SCHEMA IF NOT EXISTS
// requires the right to create schemas even if it does.
func (s *Store) createSchema(ctx context.Context, tx pgx.Tx) error {
	var exists bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, s.schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = tx.Exec(ctx, s.sql(`CREATE SCHEMA {schema}`))
	return err
}

func (s *Store) applyLedger(ctx context.Context, tx pgx.Tx, l ledger) error {
	at, err := s.ledgerVersion(ctx, tx, l)
	if err != nil {
		return err
	}
	if at == noLedger {
		if _, err := tx.Exec(ctx, s.sql(l.create)); err != nil {
			return err
		}
	}
	for version := at + 1; version <= l.newest(); version++ {
		// No arguments: the text may hold several statements.
		if _, err := tx.Exec(ctx, s.sql(l.migrations[version])); err != nil {
			return fmt.Errorf("%s %d: %w", l.table, version, err)
		}
		record := s.sql(`INSERT INTO {schema}.` + l.table + ` (version) VALUES ($1) ON CONFLICT DO NOTHING`)
		if _, err := tx.Exec(ctx, record, version); err != nil {
			return fmt.Errorf("record %s %d: %w", l.table, version, err)
		}
	}
	return nil
}

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
func (s *Store) CheckSchema(ctx context.Context) error {
	var missing error
	for _, l := range ledgers {
		version, err := s.ledgerVersion(ctx, s.pool, l)
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
