package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// startupSettings are sent with the start of each connection, and override those of the role and
// the database. Poolers keep them apart for each client.
var startupSettings = map[string]string{
	"client_encoding": "UTF8",
	"datestyle":       "ISO, MDY",
	"timezone":        "UTC",
}

// sessionSQL sets what the statements of this package expect, whatever the role and the database
// set for themselves.
//
// The isolation level keeps one run for a key: a statement that follows a lock must see what the
// lock's former holder has committed. The timeouts end what a process that is gone has left in
// the server; each call has a shorter one of its own.
//
// No statement waits longer than lock_timeout for a lock, unless it says so: what waits holds
// locks itself, and Postgres looks for deadlocks after deadlock_timeout, a second.
//
// The rest makes each connection plan a statement once, without its arguments, and by index and
// row by row, which is right whatever the tables hold. By default, the server would plan each
// batch anew, foreign keys included, which takes longer than executing it. Or it would keep the
// plan of the first minute, when the tables were nearly empty, and read all of a namespace for
// each row ever after. JIT compilation takes longer than it saves.
const sessionSQL = `
SET default_transaction_isolation = 'read committed';
SET idle_in_transaction_session_timeout = '1min';
SET statement_timeout = '10min';
SET lock_timeout = '200ms';
SET plan_cache_mode = force_generic_plan;
SET enable_indexscan = on;
SET enable_indexonlyscan = on;
SET enable_nestloop = on;
SET enable_sort = on;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off`

// configure completes the pool's configuration, for which it connects once. A transaction pooler
// hands each transaction to another session of the server, which other clients use too. So behind
// one, no session is changed and no statement is prepared by name.
func (s *Store) configure(ctx context.Context, config *pgxpool.Config) error {
	maps.Copy(config.ConnConfig.RuntimeParams, startupSettings)
	config.ConnConfig.OnPgError = keepsConnection(config.ConnConfig.OnPgError)
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return err
	}
	defer closeConn(ctx, conn)
	s.observeEncryption(conn)
	if s.pooled, err = sharesSessions(ctx, conn); err != nil {
		return err
	}
	config.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		s.observeEncryption(conn)
		conn.TypeMap().RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &clampingCodec{}})
		if s.pooled {
			return nil
		}
		_, err := conn.Exec(ctx, sessionSQL)
		return err
	}
	if !s.pooled {
		return nil
	}
	switch config.ConnConfig.DefaultQueryExecMode {
	case pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec:
		config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	default:
	}
	return nil
}

// keepsConnection closes a connection that refuses writes or does not know a statement that was
// prepared on it. A new connection may lead to the new primary, or have another default.
func keepsConnection(next pgconn.PgErrorHandler) pgconn.PgErrorHandler {
	return func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		switch err.Code {
		case readOnlyCode, "26000", "42P05": // invalid, duplicate statement name
			return false
		default:
			return next == nil || next(conn, err)
		}
	}
}

// poolerProbes is how often sharesSessions looks at the sessions. A busy pooler may give a
// connection the same session by chance, but hardly every time.
const poolerProbes = 4

// sharesSessions reports whether conn is one to a pooler that may execute each transaction in
// another session. A pooler gives its clients process ids of its own, so a direct connection costs
// one query. Behind a pooler, two connections that live at the same time never have the same
// session unless transactions share it.
func sharesSessions(ctx context.Context, conn *pgx.Conn) (bool, error) {
	first, err := backendPID(ctx, conn)
	if err != nil || first == conn.PgConn().PID() {
		return false, err
	}
	for range poolerProbes {
		other, err := pgx.ConnectConfig(ctx, conn.Config())
		if err != nil {
			return false, err
		}
		second, err := backendPID(ctx, other)
		closeConn(ctx, other)
		if err != nil {
			return false, err
		}
		again, err := backendPID(ctx, conn)
		if err != nil || second == first || again != first {
			return true, err
		}
	}
	return false, nil
}

// backendPID returns the process id of the session that executes the query.
func backendPID(ctx context.Context, conn *pgx.Conn) (uint32, error) {
	var pid uint32
	err := conn.QueryRow(ctx, `SELECT pg_backend_pid()::oid`, pgx.QueryExecModeSimpleProtocol).Scan(&pid)
	return pid, err
}

// TransactionPooled reports whether a transaction pooler is between this process and the database.
// Then Listen hears nothing.
func (s *Store) TransactionPooled() bool { return s.pooled }

// CheckWritable returns ErrReadOnly when the database accepts no writes. Connections that were
// opened meanwhile are not used again, because they would keep a default of read-only. It also reads
// the server's clock, for ServerTime.
func (s *Store) CheckWritable(ctx context.Context) error {
	var readOnly, standby bool
	var server time.Time
	asked := time.Now()
	err := s.pool.QueryRow(ctx, `SELECT current_setting('transaction_read_only')::bool, pg_is_in_recovery(), clock_timestamp()`).
		Scan(&readOnly, &standby, &server)
	if err == nil {
		s.serverAhead.Store(int64(server.Sub(asked)))
	}
	if err != nil || !readOnly {
		return Classify(err)
	}
	s.pool.Reset()
	if standby {
		return fmt.Errorf("%w: the server is a standby", ErrReadOnly)
	}
	return fmt.Errorf("%w: default_transaction_read_only is on", ErrReadOnly)
}

// ServerTime returns what the server's clock shows when this process's clock shows t. It is as exact
// as the last CheckWritable was fast.
func (s *Store) ServerTime(t time.Time) time.Time {
	return t.Add(time.Duration(s.serverAhead.Load()))
}

// collationSQL returns the versions of the database's collation, if they differ: the one with which
// its indexes were built, and that of the operating system's library.
const collationSQL = `
SELECT datcollversion, pg_database_collation_actual_version(oid)
FROM pg_database
WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)`

// CollationChange returns the version of the collation with which the database's indexes were built,
// and the actual one, if they differ. Then the order of texts may have changed, and indexes on them
// may miss rows. Both are empty if all is well.
func (s *Store) CollationChange(ctx context.Context) (built, actual string, err error) {
	err = s.pool.QueryRow(ctx, collationSQL).Scan(&built, &actual)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", nil
	}
	return built, actual, Classify(err)
}
