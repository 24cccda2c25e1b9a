package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openworkflow-operator/operator/internal/backoff"
)

// migrationLock is the advisory lock that Migrate holds: the bytes of "owmigrat". OpenWorkflow
// takes none (R172).
const migrationLock = 0x6f776d6967726174

// collisionAttempts is how often Migrate tries while an OpenWorkflow client, which takes no
// lock, migrates the same database.
const collisionAttempts = 10

// migrateBackoff spaces out the attempts of Migrate, and its looks at the advisory lock.
var migrateBackoff = backoff.Policy{First: 50 * time.Millisecond, Max: 2 * time.Second}

// migrationSettings precede a text in its transaction. While a statement waits for a lock, all
// others that need the table wait behind it, so it gives up soon and is repeated.
const migrationSettings = `SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = 0; `

// Migrate brings the schema to this release's version, and creates it if it is missing. Any
// number of processes may call it at once, and a second call changes nothing.
//
// Readers and writers of the tables wait for a second at most, whatever locks others hold
// meanwhile. Each text of a migration is a transaction, and a statement that does not get its
// lock is repeated until ctx ends. Where tables have rows, indexes are built concurrently; that
// takes as long as the oldest open transaction. A Migrate that was interrupted is continued by
// the next call.
//
// It returns ErrSchemaTooNew, and changes nothing, when a newer release has migrated the
// schema. It returns ErrPrivilege when the role may not create what is missing.
func (s *Store) Migrate(ctx context.Context) error {
	for attempt, collisions := 1, 0; ; attempt++ {
		err := s.migrate(ctx)
		if collides(err) {
			collisions++
		}
		if err == nil || !collides(err) && !lockTimeout(err) || collisions == collisionAttempts {
			return s.explainOwner(ctx, Classify(err))
		}
		if ended := migrateBackoff.Wait(ctx, attempt); ended != nil {
			return fmt.Errorf("%w: %w", ended, err)
		}
	}
}

// collides reports whether another process created what Migrate was creating.
func collides(err error) bool {
	// unique violation; duplicate schema, table, column, object
	return hasCode(err, "23505", "42P06", "42P07", "42701", "42710")
}

// lockTimeout reports whether a statement waited for a lock too long, or in a deadlock.
func lockTimeout(err error) bool { return hasCode(err, "55P03", "40P01") }

func hasCode(err error, codes ...string) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && slices.Contains(codes, pg.Code)
}

func (s *Store) migrate(ctx context.Context) error {
	// Usually there is nothing to do. A role without the right to create then suffices.
	if err := s.CheckSchema(ctx); !errors.Is(err, ErrSchemaMissing) {
		return err
	}
	unlock, err := s.lockMigrations(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.CheckSchema(ctx); !errors.Is(err, ErrSchemaMissing) {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	m := &migrator{Store: s, conn: conn}
	if err := m.prepare(ctx); err != nil {
		return err
	}
	for _, l := range ledgers {
		if err := m.applyLedger(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// lockMigrations takes the advisory lock, in a transaction of a connection of its own, and
// returns what releases it. It looks for the lock and does not wait for it in the server: the
// holder, when it builds an index, waits for the snapshots of all statements in progress.
// Between its statements this transaction has no snapshot, because of the simple protocol: in the
// extended one, the last query would keep its own.
func (s *Store) lockMigrations(ctx context.Context) (unlock func(), err error) {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		var locked bool
		if _, err = conn.Exec(ctx, `BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = 0`); err == nil {
			err = conn.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, pgx.QueryExecModeSimpleProtocol, int64(migrationLock)).Scan(&locked)
		}
		if err == nil && locked {
			return func() { closeConn(ctx, conn) }, nil
		}
		if err == nil {
			_, err = conn.Exec(ctx, `ROLLBACK`)
		}
		if err == nil {
			err = migrateBackoff.Wait(ctx, attempt)
		}
		if err != nil {
			closeConn(ctx, conn)
			return nil, err
		}
	}
}

// migrator applies migrations while it holds the advisory lock.
type migrator struct {
	*Store
	conn *pgx.Conn
	// inUse is true when the tables have rows, so that others may be using them.
	inUse bool
}

// prepare creates the schema, finds out whether it is in use, and drops the indexes that an
// interrupted Migrate has left behind.
func (m *migrator) prepare(ctx context.Context) error {
	if !m.pooled {
		if _, err := m.conn.Exec(ctx, `SET statement_timeout = 0; SET lock_timeout = 0`); err != nil {
			return err
		}
	}
	if err := m.createSchema(ctx); err != nil {
		return err
	}
	for _, table := range []string{"workflow_runs", "step_attempts", "workflow_signals"} {
		var exists bool
		name := m.sql(`{schema}.` + table)
		if err := m.conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name).Scan(&exists); err != nil || !exists {
			if err != nil {
				return err
			}
			continue
		}
		var rows bool
		if err := m.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+name+`)`).Scan(&rows); err != nil {
			return err
		}
		m.inUse = m.inUse || rows
	}
	return m.dropInvalidIndexes(ctx)
}

// createSchema first checks whether the schema exists, because CREATE SCHEMA IF NOT EXISTS
// requires the right to create schemas even if it does.
func (m *migrator) createSchema(ctx context.Context) error {
	var exists bool
	err := m.conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, m.schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = m.conn.Exec(ctx, m.sql(`CREATE SCHEMA {schema}`))
	return err
}

// invalidIndexesSQL lists the indexes of our migrations whose concurrent build did not end.
const invalidIndexesSQL = `
SELECT c.relname
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND NOT i.indisvalid AND c.relname = ANY($2::text[])`

func (m *migrator) dropInvalidIndexes(ctx context.Context) error {
	var ours []string
	for _, l := range ledgers {
		for _, text := range slices.Concat(l.migrations...) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(text), "CREATE INDEX IF NOT EXISTS "); ok {
				ours = append(ours, strings.Fields(name)[0])
			}
		}
	}
	rows, err := m.conn.Query(ctx, invalidIndexesSQL, m.schema, ours)
	if err != nil {
		return err
	}
	invalid, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range invalid {
		if err := m.execute(ctx, m.sql(`DROP INDEX IF EXISTS {schema}.`+name)); err != nil {
			return err
		}
	}
	return nil
}

// applyLedger applies the migrations that the ledger does not have. In a schema that is not in
// use, each is one transaction.
func (m *migrator) applyLedger(ctx context.Context, l ledger) error {
	at, err := m.ledgerVersion(ctx, m.conn, l)
	if err != nil {
		return err
	}
	if at == noLedger {
		if err := m.execute(ctx, m.sql(l.create)); err != nil {
			return err
		}
	}
	for version := at + 1; version <= l.newest(); version++ {
		record := fmt.Sprintf(`INSERT INTO {schema}.%s (version) VALUES (%d) ON CONFLICT DO NOTHING`, l.table, version)
		texts := append(slices.Clone(l.migrations[version]), record)
		if !m.inUse {
			texts = []string{strings.Join(texts, ";")}
		}
		for _, text := range texts {
			if err := m.execute(ctx, m.sql(text)); err != nil {
				return fmt.Errorf("%s %d: %w", l.table, version, err)
			}
		}
	}
	return nil
}

// execute executes a text in a transaction of its own. Statements on indexes of tables in use
// do not block others, and so may wait: CREATE INDEX CONCURRENTLY for the transactions in
// progress, DROP INDEX CONCURRENTLY for those that read or write the table.
func (m *migrator) execute(ctx context.Context, text string) error {
	text = strings.TrimSpace(text)
	if m.inUse && (strings.HasPrefix(text, "CREATE INDEX") || strings.HasPrefix(text, "DROP INDEX")) {
		text = strings.Replace(text, "INDEX", "INDEX CONCURRENTLY", 1)
	} else {
		text = migrationSettings + text
	}
	// Several statements without arguments are one transaction.
	_, err := m.conn.Exec(ctx, text)
	return err
}
