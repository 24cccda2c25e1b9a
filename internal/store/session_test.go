package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// TestCreate_P5_OneRunForAKeyWhateverTheRoleSets: two starts for one key at once. The second waits
// for the lock of the first, and must see what the first has committed.
func TestCreate_P5_OneRunForAKeyWhateverTheRoleSets(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string][]string{
		"repeatable read": {"default_transaction_isolation = 'repeatable read'"},
		"serializable":    {"default_transaction_isolation = 'serializable'"},
		"odd values": {
			"jit = on", "jit_above_cost = 0", "enable_indexscan = off", "enable_nestloop = off", "datestyle = 'SQL, DMY'",
			"timezone = 'Asia/Kathmandu'", "client_encoding = 'latin1'", "intervalstyle = 'sql_standard'",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			role := f.role()
			f.exec(`GRANT USAGE ON SCHEMA openworkflow TO ` + role)
			f.exec(`GRANT ALL ON ALL TABLES IN SCHEMA openworkflow TO ` + role)
			for _, setting := range settings {
				f.exec(`ALTER ROLE ` + role + ` SET ` + setting)
			}
			s := open(t, store.Options{URL: f.as(role, role)})
			for i := range 20 {
				key := fmt.Sprint("käse-", i)
				f.startTwice(s, key)
				if n := f.value(`SELECT count(*) FROM openworkflow.workflow_runs WHERE idempotency_key = $1`, key); n != "1" {
					t.Fatalf("%s runs have the key %s", n, key)
				}
			}
			if runs, err := s.Claim(t.Context(), request(100)); err != nil || len(runs) != 20 {
				t.Errorf("claimed %d runs, %v", len(runs), err)
			}
		})
	}
}

// startTwice starts two runs for one key at once.
func (f *fixture) startTwice(s *store.Store, key string) {
	f.t.Helper()
	var starts sync.WaitGroup
	for range 2 {
		starts.Go(func() {
			created, err := s.CreateRuns(f.t.Context(), []store.NewRun{{WorkflowName: "wf", IdempotencyKey: &key}})
			if err != nil || created[0].Err != nil {
				f.t.Errorf("CreateRuns: %+v, %v", created, err)
			}
		})
	}
	starts.Wait()
}

// TestStore_P6_GoesOnAfterReadOnly: the connections that were opened while writes were refused would
// refuse them for ever.
func TestStore_P6_GoesOnAfterReadOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	database := f.value(`SELECT current_database()`)
	f.exec(`ALTER DATABASE ` + database + ` SET default_transaction_read_only = on`)
	f.afterwards(`SET default_transaction_read_only = off; ALTER DATABASE ` + database + ` RESET default_transaction_read_only`)
	s := open(t, store.Options{URL: f.url, MaxConns: 3})
	if err := s.CheckWritable(t.Context()); !errors.Is(err, store.ErrReadOnly) || !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("CheckWritable: %v, want %v", err, store.ErrReadOnly)
	}
	start := func() error {
		_, err := s.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}})
		return err
	}
	var starts sync.WaitGroup
	for range 10 {
		starts.Go(func() {
			if err := start(); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("CreateRuns: %v, want %v", err, store.ErrReadOnly)
			}
		})
	}
	starts.Wait()
	f.exec(`ALTER DATABASE ` + database + ` RESET default_transaction_read_only`)
	if err := start(); err != nil {
		t.Errorf("CreateRuns after the end: %v", err)
	}
	if err := s.CheckWritable(t.Context()); err != nil {
		t.Errorf("CheckWritable after the end: %v", err)
	}
}

// TestStore_P6_GoesOnOnAPromotedStandby: until it is promoted it is read-only.
func TestStore_P6_GoesOnOnAPromotedStandby(t *testing.T) {
	t.Parallel()
	primary := testpg.Start(t)
	p := open(t, store.Options{URL: primary.URL()})
	if err := p.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	standby := primary.StartStandby(t)
	s := open(t, store.Options{URL: standby.URL()})
	if err := s.CheckWritable(t.Context()); !errors.Is(err, store.ErrReadOnly) || !strings.Contains(err.Error(), "standby") {
		t.Errorf("CheckWritable: %v, want %v", err, store.ErrReadOnly)
	}
	if _, err := s.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("CreateRuns: %v, want %v", err, store.ErrReadOnly)
	}
	primary.Crash()
	standby.Promote(t)
	if err := s.CheckWritable(t.Context()); err != nil {
		t.Errorf("CheckWritable after the promotion: %v", err)
	}
	if _, err := s.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}}); err != nil {
		t.Errorf("CreateRuns after the promotion: %v", err)
	}
}

// TestStore_P8_ThroughPgBouncer: a hundred runs from start to end. No error reaches a caller, and
// the sessions that other clients use too are left as they were.
func TestStore_P8_ThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for _, mode := range []testpg.PoolMode{testpg.TransactionMode, testpg.SessionMode} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			f := setupEmpty(t)
			pooled := testpg.StartPooler(t, f.url, mode, 20)
			var clients []*store.Store
			for range 3 {
				clients = append(clients, open(t, store.Options{URL: pooled, MaxConns: 4}))
			}
			if err := clients[0].Migrate(t.Context()); err != nil {
				t.Fatalf("Migrate: %v", err)
			}
			if got, want := clients[0].TransactionPooled(), mode == testpg.TransactionMode; got != want {
				t.Errorf("TransactionPooled is %v, want %v", got, want)
			}
			var starts sync.WaitGroup
			for i := range 100 {
				starts.Go(func() {
					key := fmt.Sprint("key-", i/2) // two runs have the same
					if _, err := clients[i%3].CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf", IdempotencyKey: &key}}); err != nil {
						t.Errorf("CreateRuns: %v", err)
					}
				})
			}
			starts.Wait()
			if n := f.value(`SELECT count(*) FROM openworkflow.workflow_runs`); n != "50" {
				t.Errorf("%s runs for 50 keys", n)
			}
			var workers sync.WaitGroup
			for _, s := range clients {
				workers.Go(func() { completeAll(t, s) })
			}
			workers.Wait()
			if n := f.value(`SELECT count(*) FROM openworkflow.workflow_runs WHERE status = 'completed'`); n != "50" {
				t.Errorf("%s of 50 runs completed", n)
			}
			if mode == testpg.TransactionMode {
				expectCleanSessions(t, pooled)
			}
		})
	}
}

// completeAll claims and completes runs until none is due.
func completeAll(t *testing.T, s *store.Store) {
	for {
		runs, err := s.Claim(t.Context(), request(5))
		if err != nil {
			t.Errorf("Claim: %v", err)
			return
		}
		if len(runs) == 0 {
			return
		}
		for _, run := range runs {
			l := leaseOf(run)
			result, err := s.ApplyAndClaim(t.Context(), store.Batch{
				Steps: []store.StepWrite{step(l, "a", completed, `1`)}, Runs: []store.RunWrite{ending(l, store.RunComplete)},
			})
			if err != nil || result.Steps[0] != nil || result.Runs[0] != nil {
				t.Errorf("ApplyAndClaim: %+v, %v", result, err)
			}
		}
	}
}

// expectCleanSessions looks at all sessions of a pooler.
func expectCleanSessions(t *testing.T, pooled string) {
	t.Helper()
	for range 15 {
		conn := connect(t, simpleProtocol(t, pooled))
		if _, err := conn.Exec(t.Context(), `BEGIN`); err != nil {
			t.Fatal(err)
		}
		for sql, want := range map[string]string{
			`SHOW enable_seqscan`: "on", `SHOW statement_timeout`: "0", `SHOW plan_cache_mode`: "auto",
			`SELECT count(*)::text FROM pg_prepared_statements`:  "0",
			`SELECT count(*)::text FROM pg_listening_channels()`: "0",
		} {
			var got string
			if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil || got != want {
				t.Errorf("%s is %q in a session of the pooler, want %q (%v)", sql, got, want, err)
			}
		}
	}
}

func simpleProtocol(t *testing.T, raw string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("default_query_exec_mode", "simple_protocol")
	u.RawQuery = q.Encode()
	return u.String()
}

// TestListen_ThroughATransactionPooler: it calls wake once and does not make a shared session
// listen.
func TestListen_ThroughATransactionPooler(t *testing.T) {
	t.Parallel()
	f := setup(t)
	s := open(t, store.Options{URL: testpg.StartPooler(t, f.url, testpg.TransactionMode, 2)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wakes := 0
	if err := s.Listen(ctx, func() {
		if wakes++; wakes == 1 {
			time.AfterFunc(500*time.Millisecond, cancel) // in which no other comes
		}
	}); !errors.Is(err, context.Canceled) || wakes != 1 {
		t.Errorf("Listen: %d wakes, %v", wakes, err)
	}
}

func TestMigrate_P7_SaysWhoOwnsTheTables(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	f.exec(upstreamSchema(t))
	role := f.role()
	f.exec(`GRANT ALL ON SCHEMA openworkflow TO ` + role)
	f.exec(`GRANT ALL ON ALL TABLES IN SCHEMA openworkflow TO ` + role)
	weak := open(t, store.Options{URL: f.as(role, role)})
	err := weak.Migrate(t.Context())
	var owner *store.OwnerError
	if !errors.As(err, &owner) || !errors.Is(err, store.ErrPrivilege) {
		t.Fatalf("Migrate: %v, want who owns the tables", err)
	}
	advice := `ALTER TABLE "openworkflow"."workflow_runs" OWNER TO "` + role + `"`
	if !strings.Contains(err.Error(), `role "postgres"`) || !strings.Contains(err.Error(), advice) {
		t.Fatalf("the message is %q", err)
	}
	f.exec(`DO $$ DECLARE t regclass; BEGIN
		FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'openworkflow'::regnamespace AND relkind = 'r' LOOP
			EXECUTE format('ALTER TABLE %s OWNER TO ` + role + `', t);
		END LOOP;
	END $$`)
	if err := weak.Migrate(t.Context()); err != nil {
		t.Errorf("Migrate after following the advice: %v", err)
	}
}

// TestRows_P7_AnInstantOutOfRangeFailsNoBatch: whoever may write rows may write these.
func TestRows_P7_AnInstantOutOfRangeFailsNoBatch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(4)
	for i, at := range []string{"infinity", "-infinity", "4713-01-01 BC", "290000-01-01"} {
		f.exec(`UPDATE openworkflow.workflow_runs SET available_at = $2::text::timestamptz, deadline_at = 'infinity',
			started_at = $2::text::timestamptz, created_at = $2::text::timestamptz WHERE id = $1`, ids[i], at)
	}
	runs, err := f.GetRuns(t.Context(), ids)
	if err != nil || len(runs) != 4 {
		t.Fatalf("GetRuns: %d, %v", len(runs), err)
	}
	for i, year := range []int{9999, 1, 1, 9999} {
		if run := runs[ids[i]]; run.AvailableAt.UTC().Year() != year || run.CreatedAt.UTC().Year() != year {
			t.Errorf("run %d is due at %v, created at %v, want the year %d", i, run.AvailableAt, run.CreatedAt, year)
		}
	}
	if runs := f.claim(10); len(runs) != 2 {
		t.Errorf("claimed %d runs, want the two that are due", len(runs))
	}
}

// TestCollationChange_P7_IsNoticed: after an upgrade of the operating system, texts may have another
// order than that of the indexes.
func TestCollationChange_P7_IsNoticed(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	name := f.value(`SELECT current_database()`) + "_icu"
	f.exec(`CREATE DATABASE ` + name + ` TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'`)
	f.afterwards(`DROP DATABASE ` + name + ` WITH (FORCE)`)
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	s := open(t, store.Options{URL: u.String()})
	if built, actual, err := s.CollationChange(t.Context()); err != nil || built != "" || actual != "" {
		t.Errorf("a new database: %q, %q, %v", built, actual, err)
	}
	f.exec(`SET allow_system_table_mods = on`)
	f.exec(`UPDATE pg_database SET datcollversion = '1.0' WHERE datname = $1`, name)
	if built, actual, err := s.CollationChange(t.Context()); err != nil || built != "1.0" || actual == "" {
		t.Errorf("after a change: %q, %q, %v", built, actual, err)
	}
}
