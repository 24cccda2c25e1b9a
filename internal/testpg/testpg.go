// Package testpg gives tests a real Postgres: databases of their own on a server that the test
// process shares, or a server of their own that they may stop.
//
// The server is the machine's Postgres (Debian's, or the one on the PATH). It ends with the
// test process, however that ends. TEST_POSTGRES_BIN names a directory with the programs of
// another version. TEST_POSTGRES_URL names a server to use instead; its role must be allowed to
// create databases and roles.
package testpg

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// shared is the server of the test process, started by the first call of New.
var shared struct {
	sync.Mutex
	url    string
	server *Server
	// free are databases that tests have finished with, emptied again, which is much faster
	// than creating one.
	free []string
}

// database numbers the databases of the process.
var database atomic.Int64

// Main runs a package's tests and stops the shared server. Call it from TestMain. A package
// that does not call it leaves a data directory behind, which the next run removes, but no
// server. Stops are called after the tests.
func Main(m *testing.M, stops ...func()) {
	code := m.Run()
	for _, stop := range stops {
		stop()
	}
	shared.Lock()
	if shared.server != nil {
		shared.server.remove()
	}
	shared.Unlock()
	os.Exit(code)
}

// New returns the URL of an empty database that no other test uses until this one ends. Tests
// may call it in parallel. Without Postgres the test fails; it is never skipped.
func New(t testing.TB) string {
	t.Helper()
	admin := sharedURL(t)
	name := popFree()
	if name == "" {
		name = fmt.Sprintf("test_%d_%d", os.Getpid(), database.Add(1))
		run(t, admin, `CREATE DATABASE `+name)
	}
	url := withDatabase(t, admin, name)
	t.Cleanup(func() {
		if own := recycle(name, func() { run(t, url, emptySQL) }); !own {
			run(t, admin, `DROP DATABASE `+name+` WITH (FORCE)`)
		}
	})
	return url
}

// NewICU is New for a database whose texts have the order of a language, such as en-US, in which a
// stands before B. That of others is the order of bytes.
func NewICU(t testing.TB, locale string) string {
	t.Helper()
	admin := sharedURL(t)
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), database.Add(1))
	run(t, admin, `CREATE DATABASE `+name+` TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE '`+locale+`'`)
	t.Cleanup(func() { run(t, admin, `DROP DATABASE `+name+` WITH (FORCE)`) })
	return withDatabase(t, admin, name)
}

// emptySQL ends the other connections of a database and drops all schemas.
const emptySQL = `
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT nspname FROM pg_namespace WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\_%' LOOP
		EXECUTE format('DROP SCHEMA %I CASCADE', name);
	END LOOP;
	CREATE SCHEMA public;
	GRANT USAGE ON SCHEMA public TO PUBLIC; -- as in a new database
END
$$`

func popFree() string {
	shared.Lock()
	defer shared.Unlock()
	last := len(shared.free) - 1
	if last < 0 {
		return ""
	}
	name := shared.free[last]
	shared.free = shared.free[:last]
	return name
}

// recycle empties the database for another test, if the server is ours. It reports false
// otherwise.
func recycle(name string, makeEmpty func()) bool {
	shared.Lock()
	own := shared.server != nil
	shared.Unlock()
	if !own {
		return false
	}
	makeEmpty()
	shared.Lock()
	shared.free = append(shared.free, name)
	shared.Unlock()
	return true
}

// ForExamples returns the URL of an empty database for the examples of a package, which
// have no testing.TB. TestMain calls it, and passes drop to Main.
func ForExamples() (url string, drop func(), err error) {
	admin, err := startShared()
	if err != nil {
		return "", nil, err
	}
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), database.Add(1))
	if err := execute(admin, `CREATE DATABASE `+name); err != nil {
		return "", nil, err
	}
	url, err = databaseURL(admin, name)
	return url, func() { _ = execute(admin, `DROP DATABASE `+name+` WITH (FORCE)`) }, err
}

func sharedURL(t testing.TB) string {
	t.Helper()
	url, err := startShared()
	if err != nil {
		t.Fatalf("Start Postgres for tests: %v", err)
	}
	return url
}

// startShared starts the shared server once.
func startShared() (string, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.url == "" {
		shared.url = os.Getenv("TEST_POSTGRES_URL")
	}
	if shared.url == "" {
		server, err := newServer()
		if err != nil {
			return "", err
		}
		shared.server, shared.url = server, server.URL()
	}
	return shared.url, nil
}

func run(t testing.TB, url, sql string) {
	t.Helper()
	if err := execute(url, sql); err != nil {
		t.Fatal(err)
	}
}

// execute runs a statement on a connection of its own. It has its own context, because it also
// runs after the test's context has ended.
func execute(url, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("connect to the test server: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func withDatabase(t testing.TB, server, name string) string {
	t.Helper()
	url, err := databaseURL(server, name)
	if err != nil {
		t.Fatal(err)
	}
	return url
}

func databaseURL(server, name string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("parse the test server's URL: %w", err)
	}
	u.Path = "/" + name
	return u.String(), nil
}
