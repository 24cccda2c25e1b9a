package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxHolders and maxGrants bound the lists of a Diagnosis.
const maxHolders, maxGrants = 10, 50

// Diagnosis is what a database and its server say about their health.
type Diagnosis struct {
	// Version is the server's, such as 170002.
	Version int
	// Standby says that the server is one, and ReadOnly that transactions are read-only by default.
	Standby, ReadOnly bool
	// Connections is how many clients are connected of at most MaxConnections. RoleLimit is the
	// limit of the login, -1 for none, and RoleConnections how many it has.
	Connections, MaxConnections, RoleLimit, RoleConnections int
	// SynchronousCommit, Fsync and Autovacuum are settings of the session.
	SynchronousCommit, Fsync, Autovacuum string
	// FrozenAge is how many transactions ago the oldest row of the database was last frozen.
	FrozenAge int64
	// Ahead is by how much the server's clock is ahead of ours, exact to half of Roundtrip.
	Ahead, Roundtrip time.Duration
	// Holders keep vacuum from removing dead rows, the oldest first.
	Holders []Holder
	Tables  []TableHealth
	// Missing are the rights that the login lacks.
	Missing []MissingGrant
}

// Holder is a session, a replication slot or a prepared transaction.
type Holder struct {
	// Kind is session, slot or prepared. Name is the pid of a session, else its name.
	Kind, Name string
	// Application and Role are those of a session.
	Application, Role, State string
	// Age is how many transactions ago it began, and Since when, if the login may know.
	Age   int64
	Since *time.Time
}

// TableHealth is what the server's statistics say of a table.
type TableHealth struct {
	Name                    string
	Live, Dead              int64
	LastVacuum, LastAnalyze *time.Time
}

// MissingGrant is a right that the login lacks on a table.
type MissingGrant struct{ Table, Privilege string }

const diagnoseServerSQL = `
SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('default_transaction_read_only')::bool,
	(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), current_setting('max_connections')::int,
	coalesce((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
	(SELECT count(*) FROM pg_stat_activity WHERE usename = current_user AND backend_type = 'client backend'),
	current_setting('synchronous_commit'), current_setting('fsync'), current_setting('autovacuum'),
	(SELECT age(datfrozenxid)::bigint FROM pg_database WHERE datname = current_database()), clock_timestamp()`

// diagnoseHoldersSQL reads views of the server. Of the sessions of other roles everybody sees the
// age, but not since when. The names are of other people, so they are cut.
const diagnoseHoldersSQL = `
SELECT h.*
FROM (
	SELECT 'session' AS kind, a.pid::text AS name, left(coalesce(a.application_name, ''), 64) AS application, coalesce(a.usename, '') AS role,
		coalesce(a.state, '') AS state, greatest(age(a.backend_xmin), age(a.backend_xid))::bigint AS age, a.xact_start AS since
	FROM pg_stat_activity a
	WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_backend_pid()
		AND (a.datname = current_database() OR a.backend_type = 'walsender')
	UNION ALL
	SELECT 'slot', s.slot_name, '', '', CASE WHEN s.active THEN 'active' ELSE 'inactive' END, age(s.xmin), NULL
	FROM pg_replication_slots s
	WHERE s.xmin IS NOT NULL
	UNION ALL
	SELECT 'prepared', left(p.gid, 64), '', p.owner, '', age(p.transaction), p.prepared
	FROM pg_prepared_xacts p
	WHERE p.database = current_database()
) h
ORDER BY h.age DESC, h.kind, h.name
LIMIT $1`

const diagnoseTablesSQL = `
SELECT t.relname, t.n_live_tup, t.n_dead_tup, greatest(t.last_vacuum, t.last_autovacuum), greatest(t.last_analyze, t.last_autoanalyze)
FROM pg_stat_user_tables t
WHERE t.schemaname = $1 AND t.relname IN ('workflow_runs', 'step_attempts', 'workflow_signals', 'operator_workers')
ORDER BY t.relname`

const diagnoseGrantsSQL = `
SELECT c.relname, p.privilege
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p (privilege)
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, p.privilege)
	AND (c.relname LIKE 'operator\_%' OR c.relname IN ('workflow_runs', 'step_attempts', 'workflow_signals', 'openworkflow_migrations'))
	AND (p.privilege = 'SELECT' OR c.relname NOT LIKE '%\_migrations')
ORDER BY c.relname, p.privilege
LIMIT $2`

// Diagnose reads what the server says about its health and about what may keep it from removing
// dead rows. It reads views of the server and its catalogue, and no table.
func (v *View) Diagnose(ctx context.Context) (*Diagnosis, error) {
	d := &Diagnosis{}
	var server time.Time
	asked := time.Now()
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		return row.Scan(&d.Version, &d.Standby, &d.ReadOnly, &d.Connections, &d.MaxConnections, &d.RoleLimit, &d.RoleConnections,
			&d.SynchronousCommit, &d.Fsync, &d.Autovacuum, &d.FrozenAge, &server)
	}, diagnoseServerSQL)
	if err != nil {
		return nil, Classify(err)
	}
	d.Roundtrip = time.Since(asked)
	d.Ahead = server.Sub(asked) - d.Roundtrip/2
	err = v.readAll(ctx, func(b *sqlBatch) {
		b.collect(func(row pgx.CollectableRow) error {
			var h Holder
			err := row.Scan(&h.Kind, &h.Name, &h.Application, &h.Role, &h.State, &h.Age, &h.Since)
			d.Holders = append(d.Holders, h)
			return err
		}, diagnoseHoldersSQL, maxHolders)
		b.collect(func(row pgx.CollectableRow) error {
			var t TableHealth
			err := row.Scan(&t.Name, &t.Live, &t.Dead, &t.LastVacuum, &t.LastAnalyze)
			d.Tables = append(d.Tables, t)
			return err
		}, diagnoseTablesSQL, v.store.schema)
		b.collect(func(row pgx.CollectableRow) error {
			var m MissingGrant
			err := row.Scan(&m.Table, &m.Privilege)
			d.Missing = append(d.Missing, m)
			return err
		}, diagnoseGrantsSQL, v.store.schema, maxGrants)
	})
	return d, Classify(err)
}
