package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// Config says which database a Client uses.
type Config struct {
	// PostgresURL is the database, for example postgres://user:password@host/db. Required.
	PostgresURL string
	// Schema is the Postgres schema of OpenWorkflow's tables. Default: openworkflow.
	Schema string
	// NamespaceID is OpenWorkflow's namespace in the tables: a client sees and starts
	// the runs of one. Default: default.
	NamespaceID string
	// Migrate lets Open create the tables, or bring them up to date. Without it Open
	// fails when they are not. It does no harm beside other programs that migrate.
	Migrate bool
	// MaxConns is the largest number of connections, not counting the one that waits
	// for results. Default: what the URL says with pool_max_conns, or else the number of
	// CPUs, at least 4.
	MaxConns int32
}

// ConfigFromEnv reads the configuration from the environment, as workers do:
//
//	OPENWORKFLOW_POSTGRES_URL   PostgresURL (required)
//	OPENWORKFLOW_SCHEMA         Schema
//	OPENWORKFLOW_NAMESPACE_ID   NamespaceID
func ConfigFromEnv() (Config, error) {
	config := Config{
		PostgresURL: os.Getenv("OPENWORKFLOW_POSTGRES_URL"),
		Schema:      os.Getenv("OPENWORKFLOW_SCHEMA"),
		NamespaceID: os.Getenv("OPENWORKFLOW_NAMESPACE_ID"),
	}
	if config.PostgresURL == "" {
		return config, errors.New("OPENWORKFLOW_POSTGRES_URL is not set: it is the URL of the database, postgres://user:password@host/database")
	}
	return config, nil
}

// Client starts, signals, cancels and awaits runs. Its methods may be called
// concurrently; a program needs one Client for each namespace. Make one with Open.
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

// Open connects to the database. It returns an error when there is none, or when its
// tables are missing or not of this release; see Config.Migrate. The caller closes the
// Client. The context is for the opening only.
//
// When the program has given OpenTelemetry a tracer provider before, starts, signals and
// cancels have spans, and the trace goes on where the run is executed.
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

// spawn runs task on a goroutine that Close waits for, unless the client is closed.
func (c *Client) spawn(task func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.tasks.Go(task)
	}
}

// Close closes the connections, after calls under way. Those that wait for results end
// with ErrClosed.
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

// Wake tells the workers that there is something to do. Everything but StartTx does so
// by itself. It is a hint: workers also look for themselves, every second.
func (c *Client) Wake(ctx context.Context) { c.due.notify(ctx) }
