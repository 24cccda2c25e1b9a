package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/store"
)

// setupUpstream returns a fixture whose schema is as OpenWorkflow left it, with runs in it.
func setupUpstream(t *testing.T, runs int) *fixture {
	t.Helper()
	f := setupEmpty(t)
	f.exec(upstreamSchema(t))
	f.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, available_at, created_at, updated_at)
SELECT 'default', 'run-' || i, 'wf', 'pending', '{}', 0, now(), now(), now() FROM generate_series(1, $1) i`, runs)
	return f
}

// migrating calls Migrate at once as often as asked. The channel gets each result.
func (f *fixture) migrating(times int) <-chan error {
	done := make(chan error, times)
	for range times {
		s := open(f.t, store.Options{URL: f.url})
		go func() { done <- s.Migrate(f.t.Context()) }()
	}
	return done
}

// waitFor blocks until a query of the catalogue is true.
func (f *fixture) waitFor(sql string) {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); f.value(sql) != "true"; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("still not true after a minute: %s", sql)
		}
	}
}

// waitingSQL is true while a statement of a migration waits for a lock.
const waitingSQL = `SELECT EXISTS (
	SELECT FROM pg_stat_activity
	WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ '(CREATE|DROP) INDEX|ALTER TABLE'
)`

// TestMigrate_P8_NobodyWaitsForIt: while another session's SELECT is open, several processes
// migrate the tables, and readers and writers of runs go on. The SELECT has a snapshot, for
// which an index build waits, and a lock on the table, for which a DROP INDEX waits.
func TestMigrate_P8_NobodyWaitsForIt(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]string{
		"a snapshot":    `BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM openworkflow.workflow_runs`,
		"a table lock":  `BEGIN; SELECT count(*) FROM openworkflow.workflow_runs`,
		"a row written": `BEGIN; UPDATE openworkflow.workflow_runs SET updated_at = now() WHERE id = 'run-1'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setupUpstream(t, 10_000)
			// An earlier release left an index that has to go.
			f.exec(`CREATE INDEX operator_runs_pending_idx ON openworkflow.workflow_runs (namespace_id) WHERE status = 'pending'`)
			holder := connect(t, f.url)
			if _, err := holder.Exec(t.Context(), begin); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			slowest := f.writeUntil(ctx)
			done := f.migrating(3)
			f.waitFor(waitingSQL)
			// A statement that blocks others would do so for longer than the lock timeout.
			select {
			case <-time.After(12 * time.Second):
			case err := <-done:
				t.Errorf("Migrate ended while the transaction was open: %v", err)
			}
			if _, err := holder.Exec(t.Context(), `COMMIT`); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				select {
				case err := <-done:
					if err != nil {
						t.Errorf("Migrate: %v", err)
					}
				case <-time.After(time.Minute):
					t.Fatal("Migrate did not end after the transaction had")
				}
			}
			cancel()
			if d := <-slowest; d > 8*time.Second {
				t.Errorf("a write took %v while Migrate waited", d)
			}
			if diff := cmp.Diff(catalogue(t, setup(t).db), catalogue(t, f.db)); diff != "" {
				t.Errorf("catalogue differs (-fresh +migrated):\n%s", diff)
			}
		})
	}
}

// writeUntil writes and reads runs, as OpenWorkflow does, until ctx ends. Then the channel gets
// the longest time that a statement took.
func (f *fixture) writeUntil(ctx context.Context) <-chan time.Duration {
	slowest := make(chan time.Duration, 1)
	conn := connect(f.t, f.url)
	go func() {
		var longest time.Duration
		for i := 0; ctx.Err() == nil; i++ {
			for _, sql := range []string{
				`UPDATE openworkflow.workflow_runs SET attempts = attempts + 1 WHERE namespace_id = 'default' AND id = 'run-' || $1::int`,
				`SELECT id FROM openworkflow.workflow_runs WHERE namespace_id = 'default' AND id = 'run-' || $1::int`,
			} {
				start := time.Now()
				if _, err := conn.Exec(context.WithoutCancel(ctx), sql, 2+i%9000); err != nil {
					f.t.Errorf("%s: %v", sql, err)
					slowest <- 0
					return
				}
				longest = max(longest, time.Since(start))
			}
		}
		slowest <- longest
	}()
	return slowest
}

// TestMigrate_P6_GoesOnAfterAnInterruption: an interrupted index build leaves an invalid index,
// which is no index to the planner but costs every write. The next Migrate builds it anew.
func TestMigrate_P6_GoesOnAfterAnInterruption(t *testing.T) {
	t.Parallel()
	f := setupUpstream(t, 1000)
	holder := connect(t, f.url)
	if _, err := holder.Exec(t.Context(), `BEGIN; UPDATE openworkflow.workflow_runs SET updated_at = now() WHERE id = 'run-1'`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var migration sync.WaitGroup
	migration.Go(func() {
		if err := f.Migrate(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Migrate: %v, want it canceled", err)
		}
	})
	f.waitFor(waitingSQL)
	cancel()
	migration.Wait()
	f.waitFor(`SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'CREATE INDEX%')`)
	f.waitFor(`SELECT EXISTS (SELECT FROM pg_index WHERE NOT indisvalid)`)
	if _, err := holder.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := f.Migrate(t.Context()); err != nil {
		t.Fatalf("Migrate: %v", err)
	}
	if invalid := f.value(`SELECT count(*) FROM pg_index WHERE NOT indisvalid`); invalid != "0" {
		t.Errorf("%s indexes are invalid", invalid)
	}
	if diff := cmp.Diff(catalogue(t, setup(t).db), catalogue(t, f.db)); diff != "" {
		t.Errorf("catalogue differs (-fresh +continued):\n%s", diff)
	}
}

// TestMigrate_P6_TimeoutsOfTheRoleDoNotEndIt: roles often have timeouts, which are meant for
// their queries.
func TestMigrate_P6_TimeoutsOfTheRoleDoNotEndIt(t *testing.T) {
	t.Parallel()
	f := setupUpstream(t, 1000)
	database := f.value(`SELECT current_database()`)
	holder := connect(t, f.url) // without these timeouts
	for _, setting := range []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"} {
		f.exec(`ALTER DATABASE ` + database + ` SET ` + setting + ` = '300ms'`)
		f.afterwards(`ALTER DATABASE ` + database + ` RESET ` + setting)
	}
	if _, err := holder.Exec(t.Context(), `BEGIN; UPDATE openworkflow.workflow_runs SET updated_at = now() WHERE id = 'run-1'`); err != nil {
		t.Fatal(err)
	}
	done := f.migrating(1)
	f.waitFor(waitingSQL)
	select {
	case <-time.After(time.Second):
	case err := <-done:
		t.Fatalf("Migrate ended by a timeout: %v", err)
	}
	if _, err := holder.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Migrate: %v", err)
	}
}

// afterwards executes statements when the test ends: one statement after the other.
func (f *fixture) afterwards(sql string) {
	f.t.Cleanup(func() {
		ctx := context.WithoutCancel(f.t.Context())
		conn, err := pgx.Connect(ctx, f.url)
		if err != nil {
			f.t.Errorf("connect: %v", err)
			return
		}
		defer func() { _ = conn.Close(ctx) }()
		for part := range strings.SplitSeq(`SET statement_timeout = 0; `+sql, ";") {
			if _, err := conn.Exec(ctx, part); err != nil {
				f.t.Errorf("%s: %v", part, err)
			}
		}
	})
}
