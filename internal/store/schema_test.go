package store_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// additions is everything that we add to OpenWorkflow's catalogue.
var additions = []string{
	"column operator_approvals.1 namespace_id text not null",
	"column operator_approvals.2 run_id text not null",
	"column operator_approvals.3 step_name text not null",
	"column operator_approvals.4 step_attempt_id text not null",
	"column operator_approvals.5 digest text not null",
	"column operator_approvals.6 request text not null",
	"column operator_approvals.7 on_expiry text not null",
	"column operator_approvals.8 expires_at timestamp with time zone not null",
	"column operator_approvals.9 state text not null",
	"column operator_approvals.10 decisions jsonb not null default '[]'::jsonb",
	"column operator_approvals.11 created_at timestamp with time zone not null",
	"column operator_approvals.12 decided_at timestamp with time zone",
	"column operator_archive_parts.1 namespace_id text not null",
	"column operator_archive_parts.2 archive_id text not null",
	"column operator_archive_parts.3 part integer not null",
	"column operator_archive_parts.4 data bytea not null",
	"column operator_archived_runs.1 namespace_id text not null",
	"column operator_archived_runs.2 run_id text not null",
	"column operator_archived_runs.3 archive_id text not null",
	"column operator_archived_runs.4 position integer not null",
	"column operator_archived_runs.5 parent_run_id text",
	"column operator_archived_runs.6 parent_step_attempt_id text",
	"column operator_archived_runs.7 superseded_by text",
	"column operator_archives.1 namespace_id text not null",
	"column operator_archives.2 id text not null",
	"column operator_archives.3 archived_at timestamp with time zone not null",
	"column operator_archives.4 version integer not null",
	"column operator_archives.5 run_ids text[] not null",
	"column operator_archives.6 length bigint not null",
	"column operator_archives.7 sha256 bytea not null",
	"column operator_bulk_retries.1 namespace_id text not null",
	"column operator_bulk_retries.2 name text not null",
	"column operator_bulk_retries.3 uid text not null",
	"column operator_bulk_retries.4 spec jsonb not null",
	"column operator_bulk_retries.5 state text not null",
	"column operator_bulk_retries.6 matched integer not null",
	"column operator_bulk_retries.7 more boolean not null",
	"column operator_bulk_retries.8 started integer not null default 0",
	"column operator_bulk_retries.9 skipped integer not null default 0",
	"column operator_bulk_retries.10 failed integer not null default 0",
	"column operator_bulk_retries.11 failures jsonb not null default '[]'::jsonb",
	"column operator_bulk_retries.12 ended_before timestamp with time zone not null",
	"column operator_bulk_retries.13 cursor_at timestamp with time zone not null",
	"column operator_bulk_retries.14 cursor_id text not null default ''::text",
	"column operator_bulk_retries.15 holder text",
	"column operator_bulk_retries.16 claimed_at timestamp with time zone",
	"column operator_bulk_retries.17 next_at timestamp with time zone not null",
	"column operator_bulk_retries.18 created_at timestamp with time zone not null",
	"column operator_bulk_retries.19 finished_at timestamp with time zone",
	"column operator_forks.1 namespace_id text not null",
	"column operator_forks.2 run_id text not null",
	"column operator_migrations.1 version bigint not null",
	"column operator_migrations.2 applied_at timestamp with time zone not null default now()",
	"column operator_run_states.1 namespace_id text not null",
	"column operator_run_states.2 run_id text not null",
	"column operator_run_states.3 sequence integer not null",
	"column operator_run_states.4 state text not null",
	"column operator_run_states.5 updated_at timestamp with time zone not null",
	"column operator_schedule_slots.1 namespace_id text not null",
	"column operator_schedule_slots.2 schedule_uid text not null",
	"column operator_schedule_slots.3 slot timestamp with time zone not null",
	"column operator_schedule_slots.4 last_slot timestamp with time zone not null",
	"column operator_schedule_slots.5 slots integer not null",
	"column operator_schedule_slots.6 cluster text not null",
	"column operator_schedule_slots.7 namespace text not null",
	"column operator_schedule_slots.8 schedule_name text not null",
	"column operator_schedule_slots.9 reason text not null",
	"column operator_schedule_slots.10 run text",
	"column operator_schedule_slots.11 message text",
	"column operator_schedule_slots.12 recorded_at timestamp with time zone not null",
	"column operator_signals.1 namespace_id text not null",
	"column operator_signals.2 id text not null",
	"column operator_signals.3 signal text not null",
	"column operator_signals.4 key text not null",
	"column operator_signals.5 data jsonb",
	"column operator_signals.6 run_id text",
	"column operator_signals.7 step text",
	"column operator_signals.8 expires_at timestamp with time zone",
	"column operator_signals.9 state text not null",
	"column operator_signals.10 runs integer not null default 0",
	"column operator_signals.11 deliveries jsonb not null default '[]'::jsonb",
	"column operator_signals.12 created_at timestamp with time zone not null",
	"column operator_signals.13 finished_at timestamp with time zone",
	"column operator_sweeps.1 namespace_id text not null",
	"column operator_sweeps.2 swept_at timestamp with time zone not null",
	"column operator_sweeps.3 after_id text not null",
	"column operator_workers.1 namespace_id text not null",
	"column operator_workers.2 pod_uid text not null",
	"column operator_workers.3 process text not null",
	"column operator_workers.4 pod_name text not null",
	"column operator_workers.5 pool text not null",
	"column operator_workers.6 workflows jsonb not null",
	"column operator_workers.7 seen_at timestamp with time zone not null",
	"column operator_workers.8 stuck_steps integer not null default 0",
	"column operator_workers.9 blocked boolean not null default false",
	"constraint operator_approvals.operator_approvals_pkey PRIMARY KEY (namespace_id, run_id, step_name) valid",
	"constraint operator_archive_parts.operator_archive_parts_archive_fk FOREIGN KEY (namespace_id, archive_id) " +
		"REFERENCES openworkflow.operator_archives(namespace_id, id) ON DELETE CASCADE valid",
	"constraint operator_archive_parts.operator_archive_parts_pkey PRIMARY KEY (namespace_id, archive_id, part) valid",
	"constraint operator_archived_runs.operator_archived_runs_pkey PRIMARY KEY (namespace_id, run_id) valid",
	"constraint operator_archives.operator_archives_pkey PRIMARY KEY (namespace_id, id) valid",
	"constraint operator_bulk_retries.operator_bulk_retries_pkey PRIMARY KEY (namespace_id, name) valid",
	"constraint operator_forks.operator_forks_pkey PRIMARY KEY (namespace_id, run_id) valid",
	"constraint operator_migrations.operator_migrations_pkey PRIMARY KEY (version) valid",
	"constraint operator_run_states.operator_run_states_pkey PRIMARY KEY (namespace_id, run_id) valid",
	"constraint operator_schedule_slots.operator_schedule_slots_pkey PRIMARY KEY (namespace_id, schedule_uid, slot) valid",
	"constraint operator_signals.operator_signals_pkey PRIMARY KEY (namespace_id, id) valid",
	"constraint operator_sweeps.operator_sweeps_pkey PRIMARY KEY (namespace_id) valid",
	"constraint operator_workers.operator_workers_pkey PRIMARY KEY (namespace_id, pod_uid, process) valid",
	"index CREATE INDEX operator_approvals_open_idx ON openworkflow.operator_approvals USING btree " +
		"(namespace_id, created_at, run_id, step_name) WHERE (state = 'Open'::text)",
	"index CREATE INDEX operator_archived_runs_parent_idx ON openworkflow.operator_archived_runs USING btree (namespace_id, parent_run_id) " +
		"WHERE (parent_run_id IS NOT NULL)",
	"index CREATE INDEX operator_attempts_waiting_idx ON openworkflow.step_attempts USING btree (namespace_id, id) " +
		"WHERE ((status = 'running'::text) AND (kind = ANY (ARRAY['workflow'::text, 'signal-wait'::text])))",
	"index CREATE INDEX operator_runs_again_idx ON openworkflow.workflow_runs USING btree " +
		"(((namespace_id || ''::text)), workflow_name, COALESCE(version, ''::text), available_at, created_at) " +
		"WHERE (status = ANY (ARRAY['running'::text, 'sleeping'::text]))",
	"index CREATE INDEX operator_runs_deadline_idx ON openworkflow.workflow_runs USING btree (namespace_id, deadline_at) " +
		"WHERE ((deadline_at IS NOT NULL) AND (status = ANY (ARRAY['pending'::text, 'running'::text, 'sleeping'::text])))",
	"index CREATE INDEX operator_runs_failed_idx ON openworkflow.workflow_runs USING btree (namespace_id, updated_at, id) " +
		"WHERE (status = ANY (ARRAY['failed'::text, 'canceled'::text]))",
	"index CREATE INDEX operator_runs_given_back_idx ON openworkflow.workflow_runs USING btree " +
		"(((namespace_id || ''::text)), workflow_name, COALESCE(version, ''::text), created_at) " +
		`WHERE ((status = 'pending'::text) AND ((error ->> 'message'::text) ~~ 'Workflow "%is not registered'::text))`,
	"index CREATE INDEX operator_runs_lease_idx ON openworkflow.workflow_runs USING btree (namespace_id, worker_id text_pattern_ops) " +
		"WHERE ((status = 'running'::text) AND (worker_id IS NOT NULL))",
	"index CREATE INDEX operator_runs_object_idx ON openworkflow.workflow_runs USING btree " +
		"(namespace_id, ((context #>> '{kubernetes,cluster}'::text[])), id) " +
		"WHERE (((context #>> '{kubernetes,cluster}'::text[]) IS NOT NULL) AND " +
		"(status = ANY (ARRAY['pending'::text, 'running'::text, 'sleeping'::text])))",
	"index CREATE INDEX operator_runs_new_idx ON openworkflow.workflow_runs USING btree " +
		"(((namespace_id || ''::text)), workflow_name, COALESCE(version, ''::text), available_at, created_at) " +
		"WHERE (status = 'pending'::text)",
	"index CREATE INDEX operator_signals_delivered_idx ON openworkflow.operator_signals USING btree (namespace_id, signal, key) " +
		"WHERE (state = 'delivered'::text)",
	"index CREATE INDEX operator_signals_waiting_idx ON openworkflow.operator_signals USING btree (namespace_id, created_at, id) " +
		"WHERE (state = 'waiting'::text)",
	"index CREATE UNIQUE INDEX operator_signals_pkey ON openworkflow.operator_signals USING btree (namespace_id, id)",
	"index CREATE UNIQUE INDEX operator_approvals_pkey ON openworkflow.operator_approvals USING btree (namespace_id, run_id, step_name)",
	"index CREATE UNIQUE INDEX operator_archive_parts_pkey ON openworkflow.operator_archive_parts USING btree (namespace_id, archive_id, part)",
	"index CREATE UNIQUE INDEX operator_archived_runs_pkey ON openworkflow.operator_archived_runs USING btree (namespace_id, run_id)",
	"index CREATE UNIQUE INDEX operator_archives_pkey ON openworkflow.operator_archives USING btree (namespace_id, id)",
	"index CREATE UNIQUE INDEX operator_bulk_retries_pkey ON openworkflow.operator_bulk_retries USING btree (namespace_id, name)",
	"index CREATE UNIQUE INDEX operator_forks_pkey ON openworkflow.operator_forks USING btree (namespace_id, run_id)",
	"relation operator_approvals r",
	"relation operator_archive_parts r",
	"relation operator_archived_runs r",
	"relation operator_archives r",
	"relation operator_bulk_retries r",
	"relation operator_forks r",
	"index CREATE UNIQUE INDEX operator_migrations_pkey ON openworkflow.operator_migrations USING btree (version)",
	"index CREATE UNIQUE INDEX operator_run_states_pkey ON openworkflow.operator_run_states USING btree (namespace_id, run_id)",
	"index CREATE INDEX operator_schedule_slots_last_idx ON openworkflow.operator_schedule_slots USING btree " +
		"(namespace_id, last_slot, schedule_uid, slot)",
	"index CREATE INDEX operator_schedule_slots_name_idx ON openworkflow.operator_schedule_slots USING btree " +
		"(namespace_id, schedule_name, last_slot, schedule_uid, slot)",
	"index CREATE UNIQUE INDEX operator_schedule_slots_pkey ON openworkflow.operator_schedule_slots USING btree " +
		"(namespace_id, schedule_uid, slot)",
	"relation operator_schedule_slots r",
	"relation operator_run_states r",
	"index CREATE UNIQUE INDEX operator_sweeps_pkey ON openworkflow.operator_sweeps USING btree (namespace_id)",
	"index CREATE UNIQUE INDEX operator_workers_pkey ON openworkflow.operator_workers USING btree (namespace_id, pod_uid, process)",
	"relation operator_migrations r",
	"relation operator_signals r",
	"relation operator_sweeps r",
	"relation operator_workers r",
}

// catalogueSQL lists what a schema holds, one line for each object.
const catalogueSQL = `
WITH relation AS (
	SELECT c.oid, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'openworkflow'
)
SELECT 'relation ' || relname || ' ' || relkind::text FROM relation WHERE relkind <> 'i'
UNION ALL
SELECT 'column ' || r.relname || '.' || a.attnum || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
	|| CASE WHEN a.attnotnull THEN ' not null' ELSE '' END || coalesce(' default ' || pg_get_expr(d.adbin, d.adrelid), '')
FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum WHERE r.relkind = 'r'
UNION ALL
SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM relation r JOIN pg_index i ON i.indrelid = r.oid
UNION ALL
SELECT 'constraint ' || r.relname || '.' || c.conname || ' ' || pg_get_constraintdef(c.oid) || CASE WHEN c.convalidated THEN ' valid' ELSE '' END
FROM relation r JOIN pg_constraint c ON c.conrelid = r.oid AND c.contype <> 'n' -- since Postgres 18; the columns say it
UNION ALL
SELECT 'trigger ' || t.tgname FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
UNION ALL
SELECT 'function ' || p.proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'openworkflow'
UNION ALL
SELECT 'version ' || version FROM openworkflow.openworkflow_migrations
ORDER BY 1`

func catalogue(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), catalogueSQL)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// upstreamSchema is OpenWorkflow's schema as OpenWorkflow left it.
func upstreamSchema(t *testing.T) string {
	t.Helper()
	sql, err := os.ReadFile("testdata/openworkflow-schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(sql)
}

func TestMigrate_R1_LeavesOpenWorkflowsCatalogueAndOurAdditions(t *testing.T) {
	t.Parallel()
	upstream := connect(t, testpg.New(t))
	if _, err := upstream.Exec(t.Context(), upstreamSchema(t)); err != nil {
		t.Fatal(err)
	}
	ours := map[string]bool{}
	for _, line := range additions {
		ours[line] = true
	}

	f := setup(t)
	var theirs []string
	for _, line := range catalogue(t, f.db) {
		if ours[line] {
			delete(ours, line)
		} else {
			theirs = append(theirs, line)
		}
	}

	if diff := cmp.Diff(catalogue(t, upstream), theirs); diff != "" {
		t.Errorf("catalogue differs from OpenWorkflow's (-theirs +ours):\n%s", diff)
	}
	for line := range ours {
		t.Errorf("not added: %s", line)
	}
}

func TestMigrate_R3_ContinuesWhatOpenWorkflowBegan(t *testing.T) {
	t.Parallel()
	want := catalogue(t, setup(t).db)
	for name, prepare := range map[string]string{
		"all of it": "",
		"only the bookkeeping": `DROP TABLE openworkflow.step_attempts, openworkflow.workflow_runs, openworkflow.workflow_signals CASCADE;
			DELETE FROM openworkflow.openworkflow_migrations WHERE version > 0`,
		"before signals": `DROP TABLE openworkflow.workflow_signals; DROP INDEX openworkflow.step_attempts_signal_wait_idx;
			DELETE FROM openworkflow.openworkflow_migrations WHERE version > 4`,
		"an empty schema": `DROP SCHEMA openworkflow CASCADE; CREATE SCHEMA openworkflow`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setupEmpty(t)
			f.exec(upstreamSchema(t))
			if prepare != "" {
				f.exec(prepare)
			}
			if err := f.CheckSchema(t.Context()); !errors.Is(err, store.ErrSchemaMissing) {
				t.Errorf("CheckSchema before: %v, want %v", err, store.ErrSchemaMissing)
			}
			for range 2 {
				if err := f.Migrate(t.Context()); err != nil {
					t.Fatalf("Migrate: %v", err)
				}
			}
			if err := f.CheckSchema(t.Context()); err != nil {
				t.Errorf("CheckSchema after: %v", err)
			}
			if diff := cmp.Diff(want, catalogue(t, f.db)); diff != "" {
				t.Errorf("catalogue differs (-fresh +continued):\n%s", diff)
			}
			f.start()
		})
	}
}

func TestMigrate_R172_Concurrently(t *testing.T) {
	t.Parallel()
	url := testpg.New(t)
	var wg sync.WaitGroup
	for range 8 {
		s := open(t, store.Options{URL: url})
		wg.Go(func() {
			if err := s.Migrate(t.Context()); err != nil {
				t.Errorf("Migrate: %v", err)
			}
		})
	}
	wg.Wait()
	if err := open(t, store.Options{URL: url}).CheckSchema(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestMigrate_AnotherSchemaAndNamespace(t *testing.T) {
	t.Parallel()
	url := testpg.New(t)
	a := open(t, store.Options{URL: url, Schema: "Other_1", NamespaceID: "team-a"})
	b := open(t, store.Options{URL: url, Schema: "Other_1", NamespaceID: "team-b"})
	for range 2 {
		if err := a.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	created, err := a.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}})
	if err != nil {
		t.Fatal(err)
	}
	// R150: a namespace sees only its own.
	if runs, err := b.GetRuns(t.Context(), []string{created[0].RunID}); err != nil || len(runs) != 0 {
		t.Errorf("the other namespace sees %v, %v", runs, err)
	}
	if runs, err := a.GetRuns(t.Context(), []string{created[0].RunID}); err != nil || len(runs) != 1 {
		t.Errorf("the namespace sees %v, %v", runs, err)
	}
}

func TestCheckSchema_TellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change string
		want   error
		text   string
	}{
		"no schema":               {`DROP SCHEMA openworkflow CASCADE`, store.ErrSchemaMissing, `schema "openworkflow" has no openworkflow_migrations`},
		"only OpenWorkflow's":     {`DROP TABLE openworkflow.operator_migrations`, store.ErrSchemaMissing, "has no operator_migrations"},
		"ours is older":           {`DELETE FROM openworkflow.operator_migrations WHERE version > 3`, store.ErrSchemaMissing, "version 3"},
		"OpenWorkflow's is newer": {`INSERT INTO openworkflow.openworkflow_migrations VALUES (6)`, store.ErrSchemaTooNew, "version 6, this release knows 5"},
		"ours is newer":           {`INSERT INTO openworkflow.operator_migrations VALUES (99)`, store.ErrSchemaTooNew, "version 99"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(c.change)
			err := f.CheckSchema(t.Context())
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("CheckSchema: %v, want %v with %q", err, c.want, c.text)
			}
			if errors.Is(c.want, store.ErrSchemaTooNew) {
				if err := f.Migrate(t.Context()); !errors.Is(err, store.ErrSchemaTooNew) {
					t.Errorf("Migrate: %v, want %v", err, store.ErrSchemaTooNew)
				}
			}
		})
	}
}

func TestStatementsWithoutASchema_AreErrSchemaMissing(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	if _, err := f.GetRuns(t.Context(), []string{"x"}); !errors.Is(err, store.ErrSchemaMissing) {
		t.Errorf("no schema: %v", err)
	}
	f.exec(upstreamSchema(t)) // without our tables
	if _, err := f.Workers(t.Context(), time.Minute); !errors.Is(err, store.ErrSchemaMissing) {
		t.Errorf("OpenWorkflow's schema: %v", err)
	}
}

func TestMigrate_LessRights(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	role := f.role()
	weak := open(t, store.Options{URL: f.as(role, role)})
	if err := weak.Migrate(t.Context()); !errors.Is(err, store.ErrPrivilege) {
		t.Errorf("Migrate of an empty database: %v, want %v", err, store.ErrPrivilege)
	}
	if err := f.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := weak.CheckSchema(t.Context()); !errors.Is(err, store.ErrPrivilege) {
		t.Errorf("CheckSchema: %v, want %v", err, store.ErrPrivilege)
	}
	f.exec(`GRANT USAGE ON SCHEMA openworkflow TO ` + role)
	f.exec(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA openworkflow TO ` + role)
	if err := weak.Migrate(t.Context()); err != nil { // nothing to do
		t.Errorf("Migrate of a migrated database: %v", err)
	}
	if _, err := weak.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}}); err != nil {
		t.Errorf("CreateRuns: %v", err)
	}
}

// role creates a role without rights, whose password is its name.
func (f *fixture) role() string {
	f.t.Helper()
	name := "role_" + f.value(`SELECT current_database()`)
	f.exec(`CREATE ROLE ` + name + ` LOGIN PASSWORD '` + name + `'`)
	f.t.Cleanup(func() {
		ctx := context.WithoutCancel(f.t.Context())
		conn, err := pgx.Connect(ctx, f.url)
		if err != nil {
			f.t.Errorf("connect: %v", err)
			return
		}
		defer func() { _ = conn.Close(ctx) }()
		for _, sql := range []string{`DROP OWNED BY ` + name, `DROP ROLE ` + name} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				f.t.Errorf("%s: %v", sql, err)
			}
		}
	})
	return name
}
