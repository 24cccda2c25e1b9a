package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
	"github.com/openworkflow-operator/operator/internal/workerenv"
)

// Config configures a Client.
type Config struct {
	// PostgresURL is the URL of the database, for example postgres://user:password@host/db.
	// Required.
	PostgresURL string
	// Schema is the Postgres schema of OpenWorkflow's tables. Default: openworkflow.
	Schema string
	// NamespaceID is OpenWorkflow's namespace within the tables. A client starts and sees the
	// runs of one. Default: default.
	NamespaceID string
	// Migrate makes Open create or upgrade the tables. Several programs may do so at once; a
	// lock makes them take turns. Without Migrate, Open fails when the tables are missing or
	// outdated.
	Migrate bool
	// MaxConns is the largest number of connections in the pool. The connection that listens
	// for results is not counted. Default: pool_max_conns in the URL, or the number of CPUs,
	// at least 4.
	MaxConns int32
}

// ConfigFromEnv reads the configuration from the environment. Workers use the same variables:
//
//	OPENWORKFLOW_POSTGRES_URL   PostgresURL (required)
//	OPENWORKFLOW_SCHEMA         Schema
//	OPENWORKFLOW_NAMESPACE_ID   NamespaceID
func ConfigFromEnv() (Config, error) {
	config := Config{
		PostgresURL: os.Getenv(workerenv.PostgresURL),
		Schema:      os.Getenv(workerenv.Schema),
		NamespaceID: os.Getenv(workerenv.NamespaceID),
	}
	if config.PostgresURL == "" {
		return config, errors.New(workerenv.PostgresURL + " is not set: it is the URL of the database, postgres://user:password@host/database")
	}
	return config, nil
}

// Client starts, signals, cancels, awaits and reads runs. It is safe for concurrent use; a
// program needs one for each namespace. Make one with [Open].
type Client struct {
	store     *store.Store
	namespace string
	tracer    *tracing.Tracer
	outcomes  *outcomePoller
	due, ends *notifier
	batcher   *startBatcher

	// stop ends the goroutines of the client; tasks waits for them.
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu     sync.Mutex
	closed bool // spawn starts no more goroutines
}

// Open connects to the database and checks its tables. It returns an error when the database
// does not answer, or when the tables are missing or of another release; see Config.Migrate.
// ctx bounds Open only. The caller closes the Client.
//
// If the program has set OpenTelemetry's global tracer provider before, starts, signals and
// cancels have spans, and the spans of the run's execution link to that of its start (R160).
func Open(ctx context.Context, config Config) (*Client, error) {
	database, err := store.Open(ctx, store.Options{
		URL:             config.PostgresURL,
		Schema:          config.Schema,
		NamespaceID:     config.NamespaceID,
		ApplicationName: "openworkflow-client",
		MaxConns:        config.MaxConns,
	})
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	check := database.CheckSchema
	if config.Migrate {
		check = database.Migrate
	}
	if err := check(ctx); err != nil {
		database.Close()
		return nil, fmt.Errorf("open the database: %w", err)
	}

	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Client{store: database, namespace: config.NamespaceID, tracer: tracing.Global(), stop: stop}
	if c.namespace == "" {
		c.namespace = store.DefaultNamespaceID
	}
	c.outcomes = newOutcomePoller(life, database, c.spawn)
	c.due = newNotifier(life, database.Notify, c.spawn)
	c.ends = newNotifier(life, database.NotifyEnds, c.spawn)
	c.batcher = newStartBatcher(database)
	c.spawn(func() { c.batcher.group.Run(context.WithoutCancel(ctx)) })
	return c, nil
}

// callTimeout bounds each call of the database, also one whose context has no deadline: a
// connection that hangs is given up.
const callTimeout = 30 * time.Second

// bounded calls the database. The error is ErrUnreachable when it has not answered within
// callTimeout.
func bounded[T any](ctx context.Context, call func(ctx context.Context) (T, error)) (T, error) {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	result, err := call(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no answer within %s: %w", ErrUnreachable, callTimeout, err)
	}
	return result, err
}

// spawn runs task on a goroutine that Close waits for, unless the client is closed.
func (c *Client) spawn(task func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.tasks.Go(task)
	}
}

// Close waits for calls in progress and closes the connections. Calls that wait for results
// return [ErrClosed]. Later calls of Close do nothing.
func (c *Client) Close() {
	c.mu.Lock()
	closed := c.closed
	c.closed = true
	c.mu.Unlock()
	if closed {
		return
	}
	c.stop()
	c.batcher.group.Stop()
	c.tasks.Wait()
	c.store.Close()
}

// Wake hints workers to look for due runs. Call it after the commit of a transaction with a
// [StartTx]; all other calls do it themselves. A lost hint costs up to a second, because
// workers also poll. Wake returns once the hint was sent, has failed, or ctx ended; it waits
// for at most a few seconds.
func (c *Client) Wake(ctx context.Context) { c.due.notify(ctx) }
