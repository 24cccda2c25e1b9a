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

// connectTimeout bounds one attempt to connect if the URL sets no connect_timeout.
const connectTimeout = 10 * time.Second

// pingTimeout bounds the ping of a connection that was idle for a second, before its next use.
// One that does not answer is replaced.
const pingTimeout = 2 * time.Second

// Options say which database a Store uses.
type Options struct {
	// URL is a Postgres connection URL, or keywords and values. Required.
	URL string
	// Schema holds the tables. Empty means DefaultSchema.
	Schema string
	// NamespaceID scopes every statement (R150). Empty means DefaultNamespaceID.
	NamespaceID string
	// ApplicationName is shown in pg_stat_activity. Empty keeps that of the URL.
	ApplicationName string
	// MaxConns bounds the pool. 0 keeps the bound of the URL, or pgx's default. The
	// connections of Listen, ListenEnds, ListenWaits and Migrate are not counted.
	MaxConns int32
	// KeyPatience is how long CreateRuns waits for the lock of the idempotency key of its only run.
	// 0 means until its ctx is about to end.
	KeyPatience time.Duration
	// Dial opens network connections. Nil means the default.
	Dial pgconn.DialFunc
	// Untrusted says that others than the owner of this process choose the URL and run the
	// server. The URL must have the form of a URL and may hold only what says where the
	// database is; what the server sends is limited. Who listens connects anew after 1,000
	// notifications.
	Untrusted bool
	// Encryption is for an Untrusted URL. Others name a file with the CA.
	Encryption Encryption
}

// Store is one namespace of one schema of a database. Its methods may be called concurrently.
// errors.Is finds this package's sentinels in the errors that they return.
type Store struct {
	pool      *pgxpool.Pool
	schema    string
	namespace string
	// pooled is true behind a transaction pooler, see TransactionPooled.
	pooled bool
	// serverAhead is by how many nanoseconds the server's clock is ahead of ours.
	serverAhead atomic.Int64
	// encrypted is true if the last connection that was opened is encrypted.
	encrypted atomic.Bool

	// statements caches statements with the schema's name filled in, by template.
	statements sync.Map
	// claimCount alternates which branch of a claim gets the odd slot.
	claimCount atomic.Uint64
	cursors    claimCursors
	violation  violation
	// keyPatience is that of the options.
	keyPatience time.Duration
	forkLimits  forkLimits
}

var schemaName = regexp.MustCompile(`^[a-zA-Z_]\w*$`)

// Open connects to the database and pings it. It does not check the schema; see CheckSchema
// and Migrate. The caller closes the Store.
//
// It returns ErrInvalidURL, ErrUnreachable, ErrAuthentication, ErrDatabaseMissing or
// ErrPrivilege. No error text contains the password.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{
		schema: o.Schema, namespace: o.NamespaceID, keyPatience: o.KeyPatience,
		forkLimits: forkLimits{attempts: maxForkAttempts, texts: maxForkTexts},
	}
	if s.schema == "" {
		s.schema = DefaultSchema
	}
	if s.namespace == "" {
		s.namespace = DefaultNamespaceID
	}
	if len(s.schema) > 63 || !schemaName.MatchString(s.schema) { // R1
		return nil, fmt.Errorf("%w: schema name %q: want at most 63 letters, digits and underscores, the first not a digit",
			ErrInvalidURL, s.schema)
	}

	config, err := parse(o, &s.violation)
	if err != nil {
		return nil, err
	}
	if err := s.configure(ctx, config); err != nil {
		return nil, s.classify(err)
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

// parse turns the options into a pool's configuration. pgx's own errors quote the URL, so it
// returns none of their text.
func parse(o Options, seen *violation) (*pgxpool.Config, error) {
	if strings.TrimSpace(o.URL) == "" {
		return nil, fmt.Errorf("%w: it is empty", ErrInvalidURL)
	}
	if scheme, _, ok := strings.Cut(o.URL, "://"); ok && scheme != "postgres" && scheme != "postgresql" {
		return nil, fmt.Errorf("%w: it must start with postgres:// or postgresql://", ErrInvalidURL)
	}
	config, err := parseURL(o, seen)
	if err != nil {
		return nil, err
	}
	if o.MaxConns > 0 {
		config.MaxConns = o.MaxConns
		config.MinConns = min(config.MinConns, o.MaxConns)
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	config.PingTimeout = pingTimeout
	if o.Dial != nil && !o.Untrusted {
		config.ConnConfig.DialFunc = o.Dial
	}
	if o.ApplicationName != "" {
		config.ConnConfig.RuntimeParams["application_name"] = o.ApplicationName
	}
	return config, nil
}

func parseURL(o Options, seen *violation) (*pgxpool.Config, error) {
	if o.Untrusted {
		return parseUntrusted(o, seen)
	}
	config, err := pgxpool.ParseConfig(strings.TrimSpace(o.URL))
	if err != nil {
		return nil, errMalformedURL()
	}
	if config.HealthCheckPeriod <= 0 { // the pool would panic
		return nil, fmt.Errorf("%w: pool_health_check_period must be positive", ErrInvalidURL)
	}
	return config, nil
}

// Close waits for statements in flight and closes all connections.
func (s *Store) Close() { s.pool.Close() }

// Ping returns nil when the database answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.classify(s.pool.Ping(ctx))
}

// classify is Classify for an error of a connection, which may hide an answer that has passed
// a limit.
func (s *Store) classify(err error) error {
	if seen := s.violation.Swap(nil); err != nil && seen != nil {
		return Classify(*seen)
	}
	return Classify(err)
}

// ServerVersion returns the server's version as the server prints it, such as "15.18".
func (s *Store) ServerVersion(ctx context.Context) (string, error) {
	var version string
	err := s.pool.QueryRow(ctx, `SELECT current_setting('server_version')`).Scan(&version)
	return version, Classify(err)
}

// sql replaces {schema} in a statement by the schema's quoted name.
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

// milliseconds truncates an instant to the precision of instants that clients pass (R7).
func milliseconds(t *time.Time) *time.Time {
	if t == nil || t.IsZero() {
		return nil
	}
	cut := t.Truncate(time.Millisecond)
	return &cut
}

// sqlBatch is a pgx batch, one round trip and one transaction, whose queries scan their own
// rows. Its statements are pipelined before a single Sync.
type sqlBatch struct{ pgx.Batch }

// send runs the batch and closes it.
func (s *Store) send(ctx context.Context, b *sqlBatch) error {
	return s.pool.SendBatch(ctx, &b.Batch).Close()
}

// sendAndNotify is send, and sends the hints after the commit, in the same round trip. The
// batch is a transaction of its own, because a notification would hold a lock across its
// commit. A batch that fails loses its connection, which is left inside the transaction. An
// error after the commit loses only hints, and is not returned. BEGIN names the isolation level
// because a transaction pooler's sessions have the role's default.
func (s *Store) sendAndNotify(ctx context.Context, b *sqlBatch, hints Hints) error {
	if hints == (Hints{}) && !s.pooled {
		return s.send(ctx, b)
	}
	var all sqlBatch
	all.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED`)
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

// collect queues a query and calls next for each row.
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

// eachRow runs a query outside a transaction and calls next for each row.
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
