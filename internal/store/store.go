package store

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Defaults of Options.
const (
	DefaultSchema      = "openworkflow"
	DefaultNamespaceID = "default"
)

// connectTimeout bounds one attempt to connect when the URL sets no
// connect_timeout of its own.
const connectTimeout = 10 * time.Second

// Options say which database a Store uses.
type Options struct {
	// URL is a Postgres connection URL, or keywords and values. Required.
	URL string
	// Schema holds the tables. Empty means DefaultSchema.
	Schema string
	// NamespaceID scopes every statement (R150). Empty means DefaultNamespaceID.
	NamespaceID string
	// ApplicationName shows in pg_stat_activity. Empty keeps what the URL says.
	ApplicationName string
	// MaxConns bounds the pool. 0 keeps what the URL says, or pgx's default. The
	// connections of Listen and ListenEnds are not counted.
	MaxConns int32
}

// Store is one namespace of one schema of a database. Its methods may be called
// concurrently. They return errors that errors.Is can tell apart by this
// package's sentinels.
type Store struct {
	pool      *pgxpool.Pool
	schema    string
	namespace string

	// statements caches templates with the schema's name filled in.
	statements sync.Map
	// claimCount alternates which branch of a claim gets the odd slot.
	claimCount atomic.Uint64
	cursors    claimCursors
}

var schemaName = regexp.MustCompile(`^[a-zA-Z_]\w*$`)

// Open connects to the database and pings it. It does not look at the schema;
// see CheckSchema and Migrate. The caller closes the Store.
//
// It returns ErrInvalidURL, ErrUnreachable, ErrAuthentication,
// ErrDatabaseMissing or ErrPrivilege; no error text contains the password.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{schema: o.Schema, namespace: o.NamespaceID}
	if s.schema == "" {
		s.schema = DefaultSchema
	}
	if s.namespace == "" {
		s.namespace = DefaultNamespaceID
	}
	if len(s.schema) > 63 || !schemaName.MatchString(s.schema) { // R1
		return nil, fmt.Errorf("%w: schema name %q: want letters, digits and underscores, not beginning with a digit, at most 63",
			ErrInvalidURL, s.schema)
	}

	config, err := parse(o)
	if err != nil {
		return nil, err
	}
	s.pool, err = pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, Classify(err)
	}
	if err := s.Ping(ctx); err != nil {
		s.pool.Close()
		return nil, err
	}
	return s, nil
}

// parse reads the options into a pool's configuration. pgx's own errors quote
// the URL, so none of their text is passed on.
func parse(o Options) (*pgxpool.Config, error) {
	if strings.TrimSpace(o.URL) == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrInvalidURL)
	}
	if scheme, _, ok := strings.Cut(o.URL, "://"); ok && scheme != "postgres" && scheme != "postgresql" {
		return nil, fmt.Errorf("%w: want it to begin with postgres:// or postgresql://", ErrInvalidURL)
	}
	config, err := pgxpool.ParseConfig(strings.TrimSpace(o.URL))
	if err != nil {
		return nil, fmt.Errorf("%w: want postgres://user:password@host:port/database?sslmode=…, "+
			"with special characters in the password percent-encoded", ErrInvalidURL)
	}
	if o.MaxConns > 0 {
		config.MaxConns = o.MaxConns
		config.MinConns = min(config.MinConns, o.MaxConns)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	config.AfterConnect = planOnce
	if o.ApplicationName != "" {
		config.ConnConfig.RuntimeParams["application_name"] = o.ApplicationName
	}
	return config, nil
}

// planOnceSQL makes each connection plan a statement once, without its arguments, and
// in a way that is right whatever the tables hold: by index, row by row. Left to itself,
// the server would plan a batch anew each time, foreign keys included, which takes longer
// than to execute it; or keep the plan of the first minute, when the tables were nearly
// empty, and read all of a namespace for each row from then on. Compiling would take
// longer than what it speeds up.
const planOnceSQL = `
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off`

func planOnce(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, planOnceSQL)
	return err
}

// Close closes all connections, after waiting for statements under way.
func (s *Store) Close() { s.pool.Close() }

// Ping returns nil when the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return Classify(s.pool.Ping(ctx))
}

// ServerVersion returns the server's version as it prints it, such as "15.18".
func (s *Store) ServerVersion(ctx context.Context) (string, error) {
	var version string
	err := s.pool.QueryRow(ctx, `SELECT current_setting('server_version')`).Scan(&version)
	return version, Classify(err)
}

// sql fills the schema's quoted name into a statement: {schema} stands for it.
func (s *Store) sql(template string) string {
	if text, ok := s.statements.Load(template); ok {
		return text.(string)
	}
	text := strings.ReplaceAll(template, "{schema}", pgx.Identifier{s.schema}.Sanitize())
	s.statements.Store(template, text)
	return text
}

// jsonArg returns a JSON column's value as a statement's argument: nil for SQL NULL.
func jsonArg(value json.RawMessage) *string {
	value = openworkflow.Column(value)
	if value == nil {
		return nil
	}
	s := string(value)
	return &s
}

// milliseconds cuts an instant off to the precision that instants given by
// clients have in the database (R7).
func milliseconds(t *time.Time) *time.Time {
	if t == nil || t.IsZero() {
		return nil
	}
	cut := t.Truncate(time.Millisecond)
	return &cut
}

// sqlBatch is a batch's result in pieces. A pgx batch is one round trip and one
// transaction: its statements are pipelined before a single Sync.
type sqlBatch struct{ pgx.Batch }

// send runs the batch and closes it.
func (s *Store) send(ctx context.Context, b *sqlBatch) error {
	return s.pool.SendBatch(ctx, &b.Batch).Close()
}

// sendAndNotify is send, and gives the hints after that, in the same round trip. The
// batch is a transaction of its own before that, as a notification takes a lock across
// the commit. A batch that fails costs its connection, which is left inside of it. What
// fails after the commit has lost hints only, and is no error.
func (s *Store) sendAndNotify(ctx context.Context, b *sqlBatch, hints Hints) error {
	if hints == (Hints{}) {
		return s.send(ctx, b)
	}
	var all sqlBatch
	all.Queue(`BEGIN`)
	all.QueuedQueries = append(all.QueuedQueries, b.QueuedQueries...)
	committed := false
	all.Queue(`COMMIT`).Exec(func(pgconn.CommandTag) error {
		committed = true
		return nil
	})
	s.queueHints(&all, hints)
	if err := s.send(ctx, &all); !committed {
		return err
	}
	return nil
}

// collect queues a query whose rows are scanned by next, one call for each.
func (b *sqlBatch) collect(next func(pgx.CollectableRow) error, sql string, args ...any) {
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		defer rows.Close()
		for rows.Next() {
			if err := next(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
}

// eachRow runs a query outside a transaction and scans its rows by next.
func (s *Store) eachRow(ctx context.Context, next func(pgx.CollectableRow) error, sql string, args ...any) error {
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := next(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
