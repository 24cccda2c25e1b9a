//go:build interop

// Package interop holds the tests that run OpenWorkflow's own npm package and this
// module's workers, as real processes, on one database at the same time: each continues
// what the other has started, executed, left behind or created (P8).
//
// The workflows exist twice, in goworker and in typescript, with the same names
// and steps. Each execution of a step adds a row to a ledger, a table beside
// OpenWorkflow's: two rows mean two executions.
//
// "make interop" installs what is needed and runs them; with -short, without the long
// waits and with less load.
package interop

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// The two languages.
const (
	golang     = "go"
	typescript = "typescript"
)

// languages are the pairs of one language and the other.
var languages = [][2]string{{golang, typescript}, {typescript, golang}}

const (
	// patience is how long a test waits for anything. A TypeScript worker's lease
	// alone lasts 30 s, and one that gave a run back leaves it alone for 5 s, then 10 s.
	patience    = 2 * time.Minute
	namespaceID = "interop"
	// goLease is the lease of the Go workers.
	goLease = 3 * time.Second
)

func TestMain(m *testing.M) {
	if _, err := os.Stat("node_modules/openworkflow"); err != nil {
		fmt.Fprintln(os.Stderr, "the npm packages are missing: run make interop, or npm ci in test/interop")
		os.Exit(1)
	}
	directory, err := os.MkdirTemp("", "openworkflow-interop-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goworker = filepath.Join(directory, "goworker")
	if output, err := exec.Command("go", "build", "-o", goworker, "./goworker").CombinedOutput(); err != nil { //nolint:noctx // there is no test yet
		fmt.Fprintf(os.Stderr, "build the Go worker: %v\n%s", err, output)
		os.Exit(1)
	}
	testpg.Main(m, func() { _ = os.RemoveAll(directory) })
}

// goworker is the compiled Go worker.
var goworker string

// lab is a database with processes that share it.
type lab struct {
	*testing.T
	url  string
	pool *pgxpool.Pool
	// peers is the URL with which workers and clients connect. Restricted says that their login has
	// only the rights of docs/security.md, which do not suffice to migrate.
	peers      string
	restricted bool
	// env are further variables of workers and clients in TypeScript, and of workers in Go.
	env []string
	// store is a client in Go, and reads rows.
	store *store.Store
	// loaded is how many runs load has started.
	loaded int
}

// newLab returns a database that this module has migrated. Workers and clients of both languages
// have the rights that docs/security.md gives a worker, and no others.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := newEmptyLab(t)
	if err := l.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var login string
	login, l.peers = testpg.Login(t, l.url, "worker")
	l.restricted = true
	l.exec(testpg.Grants(t, "../../docs/security.md", "worker", login))
	l.exec(`GRANT SELECT, INSERT ON ledger, gates TO ` + login)
	return l
}

// newEmptyLab returns a database without OpenWorkflow's tables. Workers and clients own it.
func newEmptyLab(t *testing.T) *lab {
	t.Helper()
	return newEmptyLabAt(t, testpg.New(t))
}

// newEmptyLabAt is newEmptyLab for a database at this URL.
func newEmptyLabAt(t *testing.T, url string) *lab {
	t.Helper()
	l := &lab{T: t, url: url, peers: url}
	var err error
	if l.pool, err = pgxpool.New(t.Context(), l.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.pool.Close)
	l.store, err = store.Open(t.Context(), store.Options{URL: l.url, NamespaceID: namespaceID})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.store.Close)
	l.exec(`
		CREATE TABLE ledger (
			run_id text NOT NULL, step text NOT NULL, language text NOT NULL,
			begun_at timestamptz NOT NULL DEFAULT clock_timestamp()
		);
		CREATE INDEX ON ledger (run_id, step);
		CREATE TABLE gates (run_id text NOT NULL, language text NOT NULL)`)
	return l
}

func (l *lab) exec(sql string, args ...any) {
	l.Helper()
	if _, err := l.pool.Exec(l.Context(), sql, args...); err != nil {
		l.Fatalf("%s: %v", sql, err)
	}
}

// read returns the single value of a query.
func read[T any](l *lab, sql string, args ...any) T {
	l.Helper()
	var value T
	if err := l.pool.QueryRow(l.Context(), sql, args...).Scan(&value); err != nil {
		l.Fatalf("%s: %v", sql, err)
	}
	return value
}

// until waits until a query returns true.
func (l *lab) until(what, sql string, args ...any) {
	l.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); !read[bool](l, sql, args...); <-ticker.C {
		if time.Now().After(end) {
			l.Fatalf("gave up waiting for %s\n%s", what, l.describe())
		}
	}
}

// describe returns the contents of the tables, to explain why a test failed.
func (l *lab) describe() string {
	return read[string](l, `
		SELECT coalesce(string_agg(line, E'\n' ORDER BY created_at), 'no open runs') FROM (
			SELECT created_at, concat_ws(' ', id, workflow_name, version, status, 'claims', attempts, 'worker', worker_id,
				'due in', available_at - now(), 'error', error, 'steps', (
					SELECT string_agg(step_name || ' ' || a.status, ', ' ORDER BY a.created_at)
					FROM openworkflow.step_attempts a WHERE a.workflow_run_id = r.id)) AS line
			FROM openworkflow.workflow_runs r WHERE status IN ('pending', 'running') LIMIT 20) AS lines`)
}

// entered waits until a step is being executed.
func (l *lab) entered(run, step, language string) {
	l.Helper()
	l.until(step+" to be executed in "+language,
		`SELECT EXISTS (SELECT FROM ledger WHERE run_id = $1 AND step = $2 AND language = $3)`, run, step, language)
}

// parked waits until a run holds no worker and waits at a step.
func (l *lab) parked(run, step string) {
	l.Helper()
	l.until("the run to be parked at "+step, `
		SELECT EXISTS (
			SELECT FROM openworkflow.workflow_runs r JOIN openworkflow.step_attempts a ON a.workflow_run_id = r.id
			WHERE r.id = $1 AND r.status = 'running' AND r.worker_id IS NULL AND a.step_name = $2 AND a.status = 'running')`, run, step)
}

// open opens a run's gate for a language.
func (l *lab) open(run, language string) {
	l.Helper()
	l.exec(`INSERT INTO gates (run_id, language) VALUES ($1, $2)`, run, language)
}

// run returns a run's row.
func (l *lab) run(id string) *openworkflow.Run {
	l.Helper()
	runs, err := l.store.GetRuns(l.Context(), []string{id})
	if err != nil || runs[id] == nil {
		l.Fatalf("read run %s: found %v: %v", id, runs[id] != nil, err)
	}
	return runs[id]
}

// checkLedger is the oracle: no step was executed again whose result had been
// stored (P1), and each has one result.
func (l *lab) checkLedger() {
	l.Helper()
	rows, err := l.pool.Query(l.Context(), `
		SELECT format('%s of run %s (%s) has %s results and was executed %s times, %s of them after the first was stored',
			a.step_name, a.workflow_run_id, r.workflow_name, a.results, executions, late)
		FROM (
			SELECT workflow_run_id, step_name, count(*) AS results, min(finished_at) AS stored_at
			FROM openworkflow.step_attempts
			WHERE kind = 'function' AND status = 'completed'
			GROUP BY workflow_run_id, step_name
		) AS a
		JOIN openworkflow.workflow_runs r ON r.id = a.workflow_run_id
		CROSS JOIN LATERAL (
			SELECT count(*) AS executions, count(*) FILTER (WHERE begun_at > a.stored_at) AS late
			FROM ledger WHERE run_id = a.workflow_run_id AND step = a.step_name
		) AS l
		WHERE a.results <> 1 OR executions = 0 OR late > 0`)
	if err != nil {
		l.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var problem string
		if err := rows.Scan(&problem); err != nil {
			l.Fatal(err)
		}
		l.Error(problem)
	}
	if err := rows.Err(); err != nil {
		l.Fatal(err)
	}
}

// executions returns how often a step was executed in each language.
func (l *lab) executions(run, step string) map[string]int {
	l.Helper()
	counts := map[string]int{}
	for _, language := range []string{golang, typescript} {
		if n := read[int](l, `SELECT count(*) FROM ledger WHERE run_id = $1 AND step = $2 AND language = $3`, run, step, language); n > 0 {
			counts[language] = n
		}
	}
	return counts
}

// sameJSON reports whether two JSON texts mean the same.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var decoded [2]any
	for i, text := range [][]byte{a, b} {
		if len(text) == 0 {
			text = []byte("null")
		}
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&decoded[i]); err != nil {
			t.Fatalf("decode %q: %v", text, err)
		}
	}
	x, _ := json.Marshal(decoded[0])
	y, _ := json.Marshal(decoded[1])
	return bytes.Equal(x, y)
}

// checkOutput compares JSON texts.
func (l *lab) checkOutput(got []byte, want string) {
	l.Helper()
	if !sameJSON(l.T, got, []byte(want)) {
		l.Errorf("output is %s, want %s", got, want)
	}
}

// fill replaces JSON texts, given in pairs of old and new.
func fill(template string, pairs ...string) string {
	for i, text := range pairs {
		pairs[i] = `"` + text + `"`
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

func other(language string) string {
	if language == golang {
		return typescript
	}
	return golang
}

func encode(t *testing.T, value any) string {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

// checkFailure compares the text of a failure.
func (l *lab) checkFailure(got string, want ...string) {
	l.Helper()
	for _, part := range want {
		if !strings.Contains(got, part) {
			l.Errorf("failure is %q, want it to contain %q", got, part)
		}
	}
}
