package store

// upstreamMigrations are OpenWorkflow's 0 to 5, in our words. After number 5 the catalogue
// equals OpenWorkflow's own. A schema on which OpenWorkflow has applied the first of them is
// continued correctly (R1, R3).
var upstreamMigrations = []migration{
	// 0: the schema and this bookkeeping, which exist when migrations are applied.
	nil,

	// 1: runs and step attempts.
	{`
CREATE TABLE IF NOT EXISTS {schema}.workflow_runs (
	namespace_id                     text        NOT NULL,
	id                               text        NOT NULL,
	workflow_name                    text        NOT NULL,
	version                          text,
	status                           text        NOT NULL,
	idempotency_key                  text,
	config                           jsonb       NOT NULL,
	context                          jsonb,
	input                            jsonb,
	output                           jsonb,
	error                            jsonb,
	attempts                         integer     NOT NULL,
	parent_step_attempt_namespace_id text,
	parent_step_attempt_id           text,
	worker_id                        text,
	available_at                     timestamptz,
	deadline_at                      timestamptz,
	started_at                       timestamptz,
	finished_at                      timestamptz,
	created_at                       timestamptz NOT NULL,
	updated_at                       timestamptz NOT NULL,
	PRIMARY KEY (namespace_id, id)
)`, `
CREATE TABLE IF NOT EXISTS {schema}.step_attempts (
	namespace_id                    text        NOT NULL,
	id                              text        NOT NULL,
	workflow_run_id                 text        NOT NULL,
	step_name                       text        NOT NULL,
	kind                            text        NOT NULL,
	status                          text        NOT NULL,
	config                          jsonb       NOT NULL,
	context                         jsonb,
	output                          jsonb,
	error                           jsonb,
	child_workflow_run_namespace_id text,
	child_workflow_run_id           text,
	started_at                      timestamptz,
	finished_at                     timestamptz,
	created_at                      timestamptz NOT NULL,
	updated_at                      timestamptz NOT NULL,
	PRIMARY KEY (namespace_id, id)
)`},

	// 2: foreign keys (R2), not yet checked against the rows that exist.
	{
		foreignKey("step_attempts", "step_attempts_workflow_run_fk",
			`(namespace_id, workflow_run_id) REFERENCES {schema}.workflow_runs (namespace_id, id) ON DELETE CASCADE`),
		foreignKey("workflow_runs", "workflow_runs_parent_step_attempt_fk",
			`(parent_step_attempt_namespace_id, parent_step_attempt_id) REFERENCES {schema}.step_attempts (namespace_id, id) ON DELETE SET NULL`),
		foreignKey("step_attempts", "step_attempts_child_workflow_run_fk",
			`(child_workflow_run_namespace_id, child_workflow_run_id) REFERENCES {schema}.workflow_runs (namespace_id, id) ON DELETE SET NULL`),
	},

	// 3: check them.
	{`
ALTER TABLE {schema}.step_attempts VALIDATE CONSTRAINT step_attempts_workflow_run_fk`, `
ALTER TABLE {schema}.workflow_runs VALIDATE CONSTRAINT workflow_runs_parent_step_attempt_fk`, `
ALTER TABLE {schema}.step_attempts VALIDATE CONSTRAINT step_attempts_child_workflow_run_fk`},

	// 4: indexes.
	{`
CREATE INDEX IF NOT EXISTS workflow_runs_status_available_at_created_at_idx
	ON {schema}.workflow_runs (namespace_id, status, available_at, created_at)`, `
CREATE INDEX IF NOT EXISTS workflow_runs_workflow_name_idempotency_key_created_at_idx
	ON {schema}.workflow_runs (namespace_id, workflow_name, idempotency_key, created_at)`, `
CREATE INDEX IF NOT EXISTS workflow_runs_parent_step_idx
	ON {schema}.workflow_runs (parent_step_attempt_namespace_id, parent_step_attempt_id)
	WHERE parent_step_attempt_namespace_id IS NOT NULL AND parent_step_attempt_id IS NOT NULL`, `
CREATE INDEX IF NOT EXISTS workflow_runs_created_at_desc_idx
	ON {schema}.workflow_runs (namespace_id, created_at DESC)`, `
CREATE INDEX IF NOT EXISTS workflow_runs_status_created_at_desc_idx
	ON {schema}.workflow_runs (namespace_id, status, created_at DESC)`, `
CREATE INDEX IF NOT EXISTS workflow_runs_workflow_name_status_created_at_desc_idx
	ON {schema}.workflow_runs (namespace_id, workflow_name, status, created_at DESC)`, `
CREATE INDEX IF NOT EXISTS step_attempts_workflow_run_created_at_idx
	ON {schema}.step_attempts (namespace_id, workflow_run_id, created_at)`, `
CREATE INDEX IF NOT EXISTS step_attempts_workflow_run_step_name_created_at_idx
	ON {schema}.step_attempts (namespace_id, workflow_run_id, step_name, created_at)`, `
CREATE INDEX IF NOT EXISTS step_attempts_child_workflow_run_idx
	ON {schema}.step_attempts (child_workflow_run_namespace_id, child_workflow_run_id)
	WHERE child_workflow_run_namespace_id IS NOT NULL AND child_workflow_run_id IS NOT NULL`},

	// 5: signals.
	{`
CREATE TABLE IF NOT EXISTS {schema}.workflow_signals (
	namespace_id           text        NOT NULL,
	id                     text        NOT NULL,
	signal                 text        NOT NULL,
	data                   jsonb,
	sender_idempotency_key text,
	workflow_run_id        text        NOT NULL,
	step_attempt_id        text        NOT NULL,
	created_at             timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (namespace_id, id)
)`, `
CREATE UNIQUE INDEX IF NOT EXISTS workflow_signals_step_attempt_idx
	ON {schema}.workflow_signals (namespace_id, step_attempt_id)`, `
CREATE INDEX IF NOT EXISTS workflow_signals_idempotency_idx
	ON {schema}.workflow_signals (namespace_id, signal, sender_idempotency_key)
	WHERE sender_idempotency_key IS NOT NULL`, `
CREATE INDEX IF NOT EXISTS step_attempts_signal_wait_idx
	ON {schema}.step_attempts (namespace_id, (context ->> 'signal'))
	WHERE kind = 'signal-wait' AND status = 'running'`},
}

// operatorMigrations are ours. None changes the columns of OpenWorkflow's tables. Each must be
// additive: OpenWorkflow's code and our previous release keep working on the result (R6).
var operatorMigrations = []migration{
	// 0: nothing. It added columns to workflow_runs, see number 12.
	nil,

	// 1: nothing. It created indexes that number 11 replaces.
	nil,

	// 2: the deadlines that FailExpired sweeps.
	{`
CREATE INDEX IF NOT EXISTS operator_runs_deadline_idx
	ON {schema}.workflow_runs (namespace_id, deadline_at)
	WHERE deadline_at IS NOT NULL AND status IN ('pending', 'running', 'sleeping')`},

	// 3: leases by holder, for ReleaseLeases.
	{`
CREATE INDEX IF NOT EXISTS operator_runs_lease_idx
	ON {schema}.workflow_runs (namespace_id, worker_id text_pattern_ops)
	WHERE status = 'running' AND worker_id IS NOT NULL`},

	// 4: open runs that mirror Kubernetes objects, for OpenObjectRuns.
	{`
CREATE INDEX IF NOT EXISTS operator_runs_object_idx
	ON {schema}.workflow_runs (namespace_id, (context #>> '{kubernetes,cluster}'), id)
	WHERE (context #>> '{kubernetes,cluster}') IS NOT NULL AND status IN ('pending', 'running', 'sleeping')`},

	// 5: the live worker processes and what they serve.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_workers (
	namespace_id text        NOT NULL,
	pod_uid      text        NOT NULL,
	process      text        NOT NULL,
	pod_name     text        NOT NULL,
	pool         text        NOT NULL,
	workflows    jsonb       NOT NULL,
	seen_at      timestamptz NOT NULL,
	PRIMARY KEY (namespace_id, pod_uid, process)
)`},

	// 6: nothing, as number 0.
	nil,

	// 7: the attempts that wait for a child or a signal, for Sweep. Its size grows with the
	// waiting attempts only.
	{`
CREATE INDEX IF NOT EXISTS operator_attempts_waiting_idx
	ON {schema}.step_attempts (namespace_id, id)
	WHERE status = 'running' AND kind IN ('workflow', 'signal-wait')`},

	// 8: when the last Sweep started, and its cursor.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_sweeps (
	namespace_id text        NOT NULL,
	swept_at     timestamptz NOT NULL,
	after_id     text        NOT NULL,
	PRIMARY KEY (namespace_id)
)`},

	// 9: statistics for tables that are new.
	{statistics},

	// 10: the runs that OpenWorkflow's workers have given back (R62), for Claim.
	{`
CREATE INDEX IF NOT EXISTS operator_runs_given_back_idx
	ON {schema}.workflow_runs ((namespace_id || ''), workflow_name, (coalesce(version, '')), created_at)
	WHERE status = 'pending' AND error ->> 'message' LIKE 'Workflow "%is not registered'`, statistics},

	// 11: the ordered ranges that Claim reads, one in each index for a workflow and version,
	// by an expression of the namespace that no other index has, see dueFrom. Their size
	// grows with the open runs only.
	{`
CREATE INDEX IF NOT EXISTS operator_runs_new_idx
	ON {schema}.workflow_runs ((namespace_id || ''), workflow_name, (coalesce(version, '')), available_at, created_at)
	WHERE status = 'pending'`, `
CREATE INDEX IF NOT EXISTS operator_runs_again_idx
	ON {schema}.workflow_runs ((namespace_id || ''), workflow_name, (coalesce(version, '')), available_at, created_at)
	WHERE status IN ('running', 'sleeping')`, `
DROP INDEX IF EXISTS {schema}.operator_runs_pending_idx`, `
DROP INDEX IF EXISTS {schema}.operator_runs_due_again_idx`, statistics},

	// 12: what numbers 0 and 6 of earlier releases had columns for is now in the run's
	// config. The columns stay: to drop one would break the statements that OpenWorkflow's
	// processes have prepared, as adding them did.
	{`
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{schema}.workflow_runs'::regclass AND attname = 'suspended_at') THEN
		UPDATE {schema}.workflow_runs r
		SET config = r.config || jsonb_strip_nulls(jsonb_build_object(
			` + configSuspendedAt + `, extract(epoch FROM least(r.suspended_at, '9999-12-31')),
			` + configResumeAt + `, extract(epoch FROM least(r.resume_at, '9999-12-31'))))
		WHERE r.suspended_at IS NOT NULL OR r.resume_at IS NOT NULL;
	END IF;
	IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = '{schema}.workflow_runs'::regclass AND attname = 'failures') THEN
		UPDATE {schema}.workflow_runs r
		SET config = r.config || jsonb_build_object(` + configFailures + `, r.failures)
		WHERE r.failures IS NOT NULL;
	END IF;
END
$$`},

	// 13: functions of a worker that do not return. The columns have defaults, so the statements of
	// the previous release, which name their columns, go on.
	{`
ALTER TABLE {schema}.operator_workers
	ADD COLUMN IF NOT EXISTS stuck_steps integer NOT NULL DEFAULT 0,
	ADD COLUMN IF NOT EXISTS blocked boolean NOT NULL DEFAULT false`},

	// 14: the forks whose lineage the objects of earlier runs may not show yet.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_forks (
	namespace_id text NOT NULL,
	run_id       text NOT NULL,
	PRIMARY KEY (namespace_id, run_id)
)`},

	// 15: archives of runs that retention has removed, their content in parts, and where each run is.
	// The content is compressed already. Nothing but retention writes these tables.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_archives (
	namespace_id text        NOT NULL,
	id           text        NOT NULL,
	archived_at  timestamptz NOT NULL,
	version      integer     NOT NULL,
	run_ids      text[]      NOT NULL,
	length       bigint      NOT NULL,
	sha256       bytea       NOT NULL,
	PRIMARY KEY (namespace_id, id)
)`, `
CREATE TABLE IF NOT EXISTS {schema}.operator_archive_parts (
	namespace_id text    NOT NULL,
	archive_id   text    NOT NULL,
	part         integer NOT NULL,
	data         bytea   NOT NULL,
	PRIMARY KEY (namespace_id, archive_id, part),
	CONSTRAINT operator_archive_parts_archive_fk FOREIGN KEY (namespace_id, archive_id)
		REFERENCES {schema}.operator_archives (namespace_id, id) ON DELETE CASCADE
);
ALTER TABLE {schema}.operator_archive_parts ALTER COLUMN data SET STORAGE EXTERNAL`, `
CREATE TABLE IF NOT EXISTS {schema}.operator_archived_runs (
	namespace_id           text    NOT NULL,
	run_id                 text    NOT NULL,
	archive_id             text    NOT NULL,
	position               integer NOT NULL,
	parent_run_id          text,
	parent_step_attempt_id text,
	superseded_by          text,
	PRIMARY KEY (namespace_id, run_id)
);
CREATE INDEX IF NOT EXISTS operator_archived_runs_parent_idx
	ON {schema}.operator_archived_runs (namespace_id, parent_run_id)
	WHERE parent_run_id IS NOT NULL`},

	// 16: requests to retry many runs, and the failed and canceled runs in the order in which they
	// ended, which those walk through. A run costs that index an entry when it fails or is canceled,
	// not when it completes.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_bulk_retries (
	namespace_id text        NOT NULL,
	name         text        NOT NULL,
	uid          text        NOT NULL,
	spec         jsonb       NOT NULL,
	state        text        NOT NULL,
	matched      integer     NOT NULL,
	more         boolean     NOT NULL,
	started      integer     NOT NULL DEFAULT 0,
	skipped      integer     NOT NULL DEFAULT 0,
	failed       integer     NOT NULL DEFAULT 0,
	failures     jsonb       NOT NULL DEFAULT '[]',
	ended_before timestamptz NOT NULL,
	cursor_at    timestamptz NOT NULL,
	cursor_id    text        NOT NULL DEFAULT '',
	holder       text,
	claimed_at   timestamptz,
	next_at      timestamptz NOT NULL,
	created_at   timestamptz NOT NULL,
	finished_at  timestamptz,
	PRIMARY KEY (namespace_id, name)
)`, `
CREATE INDEX IF NOT EXISTS operator_runs_failed_idx
	ON {schema}.workflow_runs (namespace_id, updated_at, id)
	WHERE status IN ('failed', 'canceled')`, statistics},

	// 17: signals that are kept until a run waits for them, and what has become of others lately.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_signals (
	namespace_id text        NOT NULL,
	id           text        NOT NULL,
	signal       text        NOT NULL,
	key          text        NOT NULL,
	data         jsonb,
	run_id       text,
	step         text,
	expires_at   timestamptz,
	state        text        NOT NULL,
	runs         integer     NOT NULL DEFAULT 0,
	deliveries   jsonb       NOT NULL DEFAULT '[]',
	created_at   timestamptz NOT NULL,
	finished_at  timestamptz,
	PRIMARY KEY (namespace_id, id)
)`, `
CREATE INDEX IF NOT EXISTS operator_signals_waiting_idx
	ON {schema}.operator_signals (namespace_id, created_at, id)
	WHERE state = 'waiting'`, `
CREATE INDEX IF NOT EXISTS operator_signals_delivered_idx
	ON {schema}.operator_signals (namespace_id, signal, key)
	WHERE state = 'delivered'`},

	// 18: what steps ask approvers, and what those have decided. The index of those that are open is
	// what people see. A run costs nothing here unless it asks.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_approvals (
	namespace_id    text        NOT NULL,
	run_id          text        NOT NULL,
	step_name       text        NOT NULL,
	step_attempt_id text        NOT NULL,
	digest          text        NOT NULL,
	request         text        NOT NULL,
	on_expiry       text        NOT NULL,
	expires_at      timestamptz NOT NULL,
	state           text        NOT NULL,
	decisions       jsonb       NOT NULL DEFAULT '[]',
	created_at      timestamptz NOT NULL,
	decided_at      timestamptz,
	PRIMARY KEY (namespace_id, run_id, step_name)
)`, `
CREATE INDEX IF NOT EXISTS operator_approvals_open_idx
	ON {schema}.operator_approvals (namespace_id, created_at, run_id, step_name)
	WHERE state = 'Open'`},

	// 19: what the workflows of runs publish. A run costs nothing here unless its workflow does. The
	// state is a text, so that no value of it makes a write fail.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_run_states (
	namespace_id text        NOT NULL,
	run_id       text        NOT NULL,
	sequence     integer     NOT NULL,
	state        text        NOT NULL,
	updated_at   timestamptz NOT NULL,
	PRIMARY KEY (namespace_id, run_id)
)`},

	// 20: what happened to the slots of schedules. A row stands for the slots from slot to last_slot, of
	// which slots are in the schedule. The indexes are the orders in which people read.
	{`
CREATE TABLE IF NOT EXISTS {schema}.operator_schedule_slots (
	namespace_id  text        NOT NULL,
	schedule_uid  text        NOT NULL,
	slot          timestamptz NOT NULL,
	last_slot     timestamptz NOT NULL,
	slots         integer     NOT NULL,
	cluster       text        NOT NULL,
	namespace     text        NOT NULL,
	schedule_name text        NOT NULL,
	reason        text        NOT NULL,
	run           text,
	message       text,
	recorded_at   timestamptz NOT NULL,
	PRIMARY KEY (namespace_id, schedule_uid, slot)
)`, `
CREATE INDEX IF NOT EXISTS operator_schedule_slots_last_idx
	ON {schema}.operator_schedule_slots (namespace_id, last_slot, schedule_uid, slot)`, `
CREATE INDEX IF NOT EXISTS operator_schedule_slots_name_idx
	ON {schema}.operator_schedule_slots (namespace_id, schedule_name, last_slot, schedule_uid, slot)`},
}

// foreignKey adds a foreign key, not yet checked against the rows that exist, unless there is
// one of that name. It blocks writers of both tables for the moment of its transaction.
func foreignKey(table, name, definition string) string {
	return `
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = '{schema}.` + table + `'::regclass AND conname = '` + name + `') THEN
		ALTER TABLE {schema}.` + table + ` ADD CONSTRAINT ` + name + ` FOREIGN KEY ` + definition + ` NOT VALID;
	END IF;
END
$$`
}

// statistics makes the planner choose the primary key for look-ups by id in new tables.
// Without statistics, an index that begins with the namespace looks as good to it, and each
// look-up reads all of the namespace until the tables are first analyzed. So ANALYZE is shown
// some rows, which are removed again, and n_distinct says that there is one namespace. CREATE
// INDEX counts the rows anew, so a migration that creates one ends with this. Its locks are
// those of a vacuum: reads and writes do not wait for them, nor they for reads and writes.
const statistics = `
ALTER TABLE {schema}.workflow_runs ALTER COLUMN namespace_id SET (n_distinct = 1);
ALTER TABLE {schema}.step_attempts ALTER COLUMN namespace_id SET (n_distinct = 1);
ALTER TABLE {schema}.workflow_signals ALTER COLUMN namespace_id SET (n_distinct = 1);
INSERT INTO {schema}.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, worker_id, created_at, updated_at)
SELECT '', 'statistics-' || i, i % 10, 'completed', '{}', 1, i, now() + i * interval '1 ms', now() FROM generate_series(1, 300) i;
INSERT INTO {schema}.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, created_at, updated_at)
SELECT '', 'statistics-' || i, 'statistics-' || i, i % 10, 'function', 'completed', '{}', now() + i * interval '1 ms', now() FROM generate_series(1, 300) i;
INSERT INTO {schema}.workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id)
SELECT '', 'statistics-' || i, i % 10, i, i FROM generate_series(1, 300) i;
ANALYZE {schema}.workflow_runs, {schema}.step_attempts, {schema}.workflow_signals;
DELETE FROM {schema}.workflow_signals WHERE namespace_id = '' AND id IN (SELECT 'statistics-' || i FROM generate_series(1, 300) i);
DELETE FROM {schema}.workflow_runs WHERE namespace_id = '' AND id IN (SELECT 'statistics-' || i FROM generate_series(1, 300) i)`
