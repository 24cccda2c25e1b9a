package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func TestMain(m *testing.M) { testpg.Main(m) }

const lease = time.Minute

// fixture is a migrated store in a database of its own, and a connection to read and change
// the rows directly.
type fixture struct {
	*store.Store
	t   testing.TB
	url string
	db  *pgx.Conn
}

func setup(t testing.TB) *fixture {
	t.Helper()
	f := setupEmpty(t)
	if err := f.Migrate(t.Context()); err != nil {
		t.Fatalf("Migrate: %v", err)
	}
	return f
}

// in returns the fixture for a subtest: failures are the subtest's.
func (f *fixture) in(t testing.TB) *fixture {
	sub := *f
	sub.t = t
	return &sub
}

// setupEmpty is setup without Migrate.
func setupEmpty(t testing.TB) *fixture {
	t.Helper()
	url := testpg.New(t)
	return &fixture{Store: open(t, store.Options{URL: url}), t: t, url: url, db: connect(t, url)}
}

func open(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// exec runs a statement on the tables, which are in the search path.
func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// value returns one value as text; NULL is "NULL".
func (f *fixture) value(sql string, args ...any) string {
	f.t.Helper()
	var v *string
	if err := f.db.QueryRow(f.t.Context(), `SELECT (`+sql+`)::text`, args...).Scan(&v); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return "NULL"
	}
	return *v
}

// expect compares one value of the run's row.
func (f *fixture) expect(runID, expression, want string) {
	f.t.Helper()
	if got := f.value(`SELECT `+expression+` FROM openworkflow.workflow_runs WHERE id = $1`, runID); got != want {
		f.t.Errorf("run %s: %s is %s, want %s", runID, expression, got, want)
	}
}

// expectStep compares one value of the attempt's row.
func (f *fixture) expectStep(id, expression, want string) {
	f.t.Helper()
	if got := f.value(`SELECT `+expression+` FROM openworkflow.step_attempts WHERE id = $1`, id); got != want {
		f.t.Errorf("attempt %s: %s is %s, want %s", id, expression, got, want)
	}
}

// create creates runs of workflow "wf" and returns their ids.
func (f *fixture) create(n int, change ...func(*store.NewRun)) []string {
	f.t.Helper()
	runs := make([]store.NewRun, n)
	for i := range runs {
		runs[i] = store.NewRun{ID: openworkflow.NewID(), WorkflowName: "wf"}
		for _, c := range change {
			c(&runs[i])
		}
	}
	created, err := f.CreateRuns(f.t.Context(), runs)
	if err != nil {
		f.t.Fatalf("CreateRuns: %v", err)
	}
	ids := make([]string, n)
	for i, c := range created {
		if c.Err != nil || !c.Inserted {
			f.t.Fatalf("CreateRuns: %+v", c)
		}
		ids[i] = c.RunID
	}
	return ids
}

// request asks for up to n runs, of workflow "wf" unless others are served.
func request(n int, served ...openworkflow.Definition) store.ClaimRequest {
	if len(served) == 0 {
		served = []openworkflow.Definition{{Name: "wf"}}
	}
	return store.ClaimRequest{Served: served, Max: n, WorkerIDPrefix: "pod.proc." + openworkflow.NewID() + ".", First: 1, Lease: lease}
}

// claim claims up to n runs of workflow "wf".
func (f *fixture) claim(n int, served ...openworkflow.Definition) []openworkflow.Run {
	f.t.Helper()
	runs, err := f.Claim(f.t.Context(), request(n, served...))
	if err != nil {
		f.t.Fatalf("Claim: %v", err)
	}
	return runs
}

// start creates a run and claims it.
func (f *fixture) start(change ...func(*store.NewRun)) openworkflow.Lease {
	f.t.Helper()
	id := f.create(1, change...)[0]
	for _, run := range f.claim(100) {
		if run.ID == id {
			return leaseOf(run)
		}
	}
	f.t.Fatalf("run %s was not claimed", id)
	return openworkflow.Lease{}
}

func leaseOf(run openworkflow.Run) openworkflow.Lease {
	return openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}
}

// steal hands the run to another worker and returns its lease.
func (f *fixture) steal(runID string) openworkflow.Lease {
	f.t.Helper()
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() - interval '1 second' WHERE id = $1`, runID)
	for _, run := range f.claim(100) {
		if run.ID == runID {
			return leaseOf(run)
		}
	}
	f.t.Fatalf("run %s was not claimed", runID)
	return openworkflow.Lease{}
}

// apply applies writes, and fails the test on an error of the database.
func (f *fixture) apply(steps []store.StepWrite, runs []store.RunWrite) (stepErrs, runErrs []error) {
	f.t.Helper()
	stepErrs, runErrs, err := f.Apply(f.t.Context(), steps, runs)
	if err != nil {
		f.t.Fatalf("Apply: %v", err)
	}
	return stepErrs, runErrs
}

// must applies writes that have to succeed.
func (f *fixture) must(steps []store.StepWrite, runs []store.RunWrite) {
	f.t.Helper()
	stepErrs, runErrs := f.apply(steps, runs)
	for _, err := range slices.Concat(stepErrs, runErrs) {
		if err != nil {
			f.t.Fatalf("write failed: %v", err)
		}
	}
}

func step(l openworkflow.Lease, name string, status openworkflow.StepStatus, value string) store.StepWrite {
	w := store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: name, Kind: openworkflow.KindFunction, Status: status,
	}}
	if status == openworkflow.StepFailed {
		w.Attempt.Error = json.RawMessage(value)
	} else {
		w.Attempt.Output = json.RawMessage(value)
	}
	return w
}

func ending(l openworkflow.Lease, op store.RunOp) store.RunWrite {
	return store.RunWrite{
		Lease: l, Op: op, At: time.Now().Add(time.Hour), FinishedAt: time.Now(), HasParent: true,
		Output: json.RawMessage(`{"done":true}`), Error: json.RawMessage(`{"message":"no"}`),
	}
}

var ops = map[string]store.RunOp{
	"park": store.RunPark, "complete": store.RunComplete, "fail": store.RunFail, "retry": store.RunRetry, "release": store.RunRelease,
}

// snapshot is everything that the database holds about a run, as text.
func (f *fixture) snapshot(runID string) string {
	f.t.Helper()
	return fmt.Sprintf("%s\n%s",
		f.value(`SELECT row_to_json(r) FROM openworkflow.workflow_runs r WHERE id = $1`, runID),
		f.value(`SELECT json_agg(a ORDER BY id) FROM openworkflow.step_attempts a WHERE workflow_run_id = $1`, runID))
}
