package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// bulkWorld is a database with runs that have failed.
type bulkWorld struct {
	*store.Store
	t   *testing.T
	url string
	db  *pgx.Conn
}

// newBulkWorld creates failed runs run-001 to run-n of workflow "wf", each with a step that has
// completed and one that has failed.
func newBulkWorld(t *testing.T, n int) *bulkWorld {
	t.Helper()
	w := &bulkWorld{t: t, url: testpg.New(t)}
	var err error
	if w.Store, err = store.Open(t.Context(), store.Options{URL: w.url}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	if err := w.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w.db, err = pgx.Connect(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close(context.WithoutCancel(t.Context())) })
	for _, namespace := range []string{"default", "another"} {
		w.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, input, error, attempts, created_at, updated_at)
			SELECT $1, 'run-' || lpad(i::text, 3, '0'), 'wf', 'failed', '{}', '1', '{"name": "Error", "message": "no"}', 1, at, at
			FROM generate_series(1, $2::int) i, LATERAL (SELECT now() - interval '1 h' + i * interval '1 s' AS at) t`, namespace, n)
		w.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, output, error, started_at, finished_at, created_at, updated_at)
			SELECT r.namespace_id, s.name || r.id, r.id, s.name, 'function', s.status, '{}', s.output, s.error, at, at, at, at
			FROM openworkflow.workflow_runs r,
				(VALUES ('first', 'completed', jsonb '1', NULL, 1), ('second', 'failed', NULL, jsonb '{"name": "Error", "message": "no"}', 2)) s (name, status, output, error, n),
				LATERAL (SELECT r.created_at - interval '1 min' + s.n * interval '1 s' AS at) t WHERE r.namespace_id = $1`, namespace)
	}
	return w
}

func (w *bulkWorld) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

func (w *bulkWorld) request(name string, change func(*store.BulkSpec)) {
	w.t.Helper()
	spec := store.BulkSpec{Failed: true, LastFailed: true, PerMinute: store.MaxBulkRate}
	if change != nil {
		change(&spec)
	}
	if err := w.CreateBulkRetry(w.t.Context(), store.BulkRetry{Name: name, Spec: spec, State: store.BulkRunning}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *bulkWorld) bulkRetry(name string) store.BulkRetry {
	w.t.Helper()
	all, err := w.View(time.Minute).BulkRetries(w.t.Context(), name)
	if err != nil || len(all) != 1 {
		w.t.Fatalf("bulk retry %q: %+v, %v", name, all, err)
	}
	return all[0]
}

// sweepOf returns a sweep of a manager that has just started, on this database.
func sweepOf(s backend.Store) *bulkRetrySweep {
	return &bulkRetrySweep{conn: backend.NewConnection(types.NamespacedName{Namespace: "n", Name: "b"}, s, store.Options{}, "")}
}

// due ends all pauses between batches, and the claims of managers that have died.
func (w *bulkWorld) due() {
	w.t.Helper()
	w.exec(`UPDATE openworkflow.operator_bulk_retries SET next_at = now()`)
}

// expectForks checks that the runs have one fork each, which keeps the first step, and that
// nothing else was written.
func (w *bulkWorld) expectForks(n int) {
	w.t.Helper()
	var sources, forks, copies, other int
	if err := w.db.QueryRow(w.t.Context(), `SELECT
		(SELECT count(DISTINCT config ->> 'openworkflow.dev/forkedFrom') FROM openworkflow.workflow_runs WHERE namespace_id = 'default'),
		(SELECT count(*) FROM openworkflow.workflow_runs WHERE namespace_id = 'default' AND id NOT LIKE 'run-%' AND status = 'pending' AND input = '1'),
		(SELECT count(*) FROM openworkflow.step_attempts WHERE namespace_id = 'default' AND workflow_run_id NOT LIKE 'run-%' AND step_name = 'first'),
		(SELECT count(*) FROM openworkflow.workflow_runs WHERE namespace_id = 'another' AND (id NOT LIKE 'run-%' OR config <> '{}'))`).
		Scan(&sources, &forks, &copies, &other); err != nil {
		w.t.Fatal(err)
	}
	if sources != n || forks != n || copies != n || other != 0 {
		w.t.Errorf("%d runs have %d forks, which keep %d steps, and another tenant's rows changed %d times; want %d of each, and 0",
			sources, forks, copies, other, n)
	}
}

// crashingStore is a database whose manager dies: a call of its choice fails, before or after it
// has reached the database, and the manager's context ends.
type crashingStore struct {
	backend.Store
	die   context.CancelFunc
	calls atomic.Int64
	at    int64
	after bool
}

var errCrash = errors.New("the manager died")

// call makes a call, unless the manager is dead.
func (s *crashingStore) call(f func() error) error {
	switch n := s.calls.Add(1); {
	case n < s.at:
		return f()
	case n > s.at:
		return errCrash
	case s.after:
		_ = f()
	}
	s.die()
	return errCrash
}

func (s *crashingStore) Fork(ctx context.Context, r store.ForkRequest) (result store.ForkResult, err error) {
	err = s.call(func() (err error) { result, err = s.Store.Fork(ctx, r); return err })
	return result, err
}

func (s *crashingStore) ClaimBulkRetry(ctx context.Context) (work *store.BulkWork, err error) {
	err = s.call(func() (err error) { work, err = s.Store.ClaimBulkRetry(ctx); return err })
	return work, err
}

func (s *crashingStore) BulkSources(ctx context.Context, work *store.BulkWork) (page store.BulkSources, err error) {
	err = s.call(func() (err error) { page, err = s.Store.BulkSources(ctx, work); return err })
	return page, err
}

func (s *crashingStore) AdvanceBulkRetry(ctx context.Context, work *store.BulkWork, p store.BulkProgress) error {
	return s.call(func() error { return s.Store.AdvanceBulkRetry(ctx, work, p) })
}

// TestBulkRetrySweep_P6_EachRunIsForkedOnceWhereverTheManagerDies kills managers at random calls,
// one after the other, until the request is completed.
func TestBulkRetrySweep_P6_EachRunIsForkedOnceWhereverTheManagerDies(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			const runs = 60
			w := newBulkWorld(t, runs)
			w.request("all", func(spec *store.BulkSpec) { spec.PerMinute = 450 }) // batches of 15
			random := rand.New(rand.NewPCG(seed, 0))
			managers := 0
			for ; w.bulkRetry("all").State == store.BulkRunning; managers++ {
				if managers > 1000 {
					t.Fatalf("no end: %+v", w.bulkRetry("all"))
				}
				ctx, die := context.WithCancel(t.Context())
				sweep := sweepOf(&crashingStore{Store: w.Store, die: die, at: 1 + random.Int64N(25), after: random.IntN(2) == 0})
				for ctx.Err() == nil && w.bulkRetry("all").State == store.BulkRunning {
					w.due()
					_ = sweep.run(ctx)
				}
				die()
			}
			t.Logf("%d managers", managers)
			w.expectForks(runs)
			if b := w.bulkRetry("all"); b.Started != runs || b.Skipped != 0 || b.Failed != 0 {
				t.Errorf("progress is %+v, want %d started", b, runs)
			}
		})
	}
}

// TestBulkRetrySweep_P5_TwoManagersForkARunOnce: claims are lost all the time, and two requests
// select the same runs.
func TestBulkRetrySweep_P5_TwoManagersForkARunOnce(t *testing.T) {
	t.Parallel()
	const runs = 60
	w := newBulkWorld(t, runs)
	w.request("one", nil)
	w.request("two", nil)
	var managers sync.WaitGroup
	var ended atomic.Bool
	for range 3 {
		managers.Go(func() {
			for sweep := sweepOf(w.Store); !ended.Load(); {
				if err := sweep.run(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for w.bulkRetry("one").State == store.BulkRunning || w.bulkRetry("two").State == store.BulkRunning {
		w.due()
	}
	ended.Store(true)
	managers.Wait()
	w.expectForks(runs)
}

func TestBulkRetrySweep_P9_HoldsItsRate(t *testing.T) {
	t.Parallel()
	w := newBulkWorld(t, 30)
	w.request("slow", func(spec *store.BulkSpec) { spec.PerMinute = 1 })
	sweep := sweepOf(w.Store)
	for range 3 { // the second fork is due after a minute
		if err := sweep.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b := w.bulkRetry("slow"); b.Started != 1 {
		t.Errorf("%d forks were made, at one a minute", b.Started)
	}
	w.request("fast", func(spec *store.BulkSpec) { spec.PerMinute = 600 })
	work, err := w.ClaimBulkRetry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := sweep.batch(t.Context(), work, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var pause string
	if err := w.db.QueryRow(t.Context(), `SELECT (next_at - claimed_at)::text FROM openworkflow.operator_bulk_retries WHERE name = 'fast'`).Scan(&pause); err != nil {
		t.Fatal(err)
	}
	if b := w.bulkRetry("fast"); b.Started != 20 || b.Skipped != 1 || pause != "00:00:02" {
		t.Errorf("%d forks were made, %d skipped, and a pause of %s, at ten a second", b.Started, b.Skipped, pause)
	}
}

// TestBulkRetrySweep_CountsWhatItPasses: runs that somebody has forked, that cannot be forked, and
// the bound of a request.
func TestBulkRetrySweep_CountsWhatItPasses(t *testing.T) {
	t.Parallel()
	w := newBulkWorld(t, 8)
	if _, err := w.Fork(t.Context(), store.ForkRequest{Source: "run-002", Run: store.NewRun{ID: "own"}}); err != nil {
		t.Fatal(err)
	}
	w.exec(`UPDATE openworkflow.step_attempts SET step_name = 'other' WHERE step_name = 'second' AND workflow_run_id IN ('run-003', 'run-004')`)
	w.request("some", func(spec *store.BulkSpec) { spec.LastFailed, spec.Step, spec.MaxRuns = false, new("second"), 4 })
	sweep := sweepOf(w.Store)
	for w.bulkRetry("some").State == store.BulkRunning {
		if err := sweep.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.due()
	}
	b := w.bulkRetry("some")
	message := func(id string) store.BulkFailure {
		return store.BulkFailure{RunID: id, Message: `invalid fork: run ` + id + ` has no step "second"; the nearest of its 2 steps: "first", "other"`}
	}
	if diff := cmp.Diff([]store.BulkFailure{message("run-003"), message("run-004")}, b.Failures); diff != "" {
		t.Errorf("failures (-want +got):\n%s", diff)
	}
	if b.Started != 4 || b.Skipped != 1 || b.Failed != 2 || b.State != store.BulkCompleted {
		t.Errorf("progress is %+v, want 4 started of 7 runs", b)
	}
	var forked []string
	rows, err := w.db.Query(t.Context(), `SELECT config ->> 'openworkflow.dev/forkedFrom' FROM openworkflow.workflow_runs WHERE config ->> 'openworkflow.dev/forkStep' = 'second' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	if forked, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || !slices.Equal(forked, []string{"run-001", "run-005", "run-006", "run-007"}) {
		t.Errorf("forked from the step: %q, %v", forked, err)
	}
}

// poisoned is a database in which one run makes its fork fail for no reason that it names.
type poisoned struct {
	backend.Store
	runID string
}

func (s *poisoned) Fork(ctx context.Context, r store.ForkRequest) (store.ForkResult, error) {
	if r.Source == s.runID {
		return store.ForkResult{}, errors.New("password=secret")
	}
	return s.Store.Fork(ctx, r)
}

func TestBulkRetrySweep_P9_OneRunDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	w := newBulkWorld(t, 9)
	w.request("all", nil)
	sweep := sweepOf(&poisoned{w.Store, "run-006"})
	failures := 0
	for ; w.bulkRetry("all").State == store.BulkRunning; failures++ {
		_ = sweep.run(t.Context())
		w.due()
	}
	b := w.bulkRetry("all")
	if b.Started != 8 || b.Failed != 1 || failures != bulkTries {
		t.Errorf("progress is %+v after %d turns", b, failures)
	}
	if text := b.Failures[0].Message; strings.Contains(text, "secret") || text != "the database did not answer; the manager's log has more" {
		t.Errorf("the message is %q", text)
	}
}

// TestBulkRetrySweep_StopsWhenToldTo suspends a request in the middle, resumes and cancels it.
func TestBulkRetrySweep_StopsWhenToldTo(t *testing.T) {
	t.Parallel()
	w := newBulkWorld(t, 9)
	w.request("all", func(spec *store.BulkSpec) { spec.PerMinute = 60 }) // batches of 2
	sweep := sweepOf(w.Store)
	step := func(state store.BulkState, started int) {
		t.Helper()
		b := w.bulkRetry("all")
		if _, err := w.ChangeBulkRetry(t.Context(), "all", b.UID, state); err != nil {
			t.Fatal(err)
		}
		w.due()
		if err := sweep.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b := w.bulkRetry("all"); b.Started != started || b.State != state {
			t.Errorf("%s: progress is %+v, want %d started", state, b, started)
		}
	}
	step(store.BulkRunning, 2)
	step(store.BulkSuspended, 2)
	step(store.BulkRunning, 4)
	step(store.BulkCanceled, 4)
}

// TestBulkRetry_P9_TheManagersLoginSuffices: the manager and the data API have the rights of
// docs/security.md, and workers cannot make requests.
func TestBulkRetry_P9_TheManagersLoginSuffices(t *testing.T) {
	t.Parallel()
	owner := newBulkWorld(t, 3)
	page := repository + "/docs/security.md"
	managerLogin, managerURL := testpg.Login(t, owner.url, "manager")
	workerLogin, workerURL := testpg.Login(t, owner.url, "worker")
	owner.exec(testpg.Grants(t, page, "manager", managerLogin))
	owner.exec(testpg.Grants(t, page, "worker", workerLogin))
	s, err := store.Open(t.Context(), store.Options{URL: managerURL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	w := &bulkWorld{Store: s, t: t, url: managerURL, db: owner.db}
	w.request("all", nil)
	if err := sweepOf(s).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.expectForks(3)
	b := w.bulkRetry("all")
	if err := s.DeleteBulkRetry(t.Context(), "all", b.UID); err != nil {
		t.Fatal(err)
	}
	worker, err := pgx.Connect(t.Context(), workerURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = worker.Close(context.Background()) }()
	for _, statement := range []string{
		`INSERT INTO openworkflow.operator_bulk_retries DEFAULT VALUES`, `UPDATE openworkflow.operator_bulk_retries SET state = ''`,
		`DELETE FROM openworkflow.operator_bulk_retries`,
	} {
		if _, err := worker.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("%s: %v, want insufficient privilege", statement, err)
		}
	}
}

// TestBulkRetrySweep_P4_ARetryThatFailsAgainIsNotRetried: the selection ends with the request.
func TestBulkRetrySweep_P4_ARetryThatFailsAgainIsNotRetried(t *testing.T) {
	t.Parallel()
	w := newBulkWorld(t, 3)
	w.request("all", func(spec *store.BulkSpec) { spec.PerMinute = 30 }) // one at a time
	sweep := sweepOf(w.Store)
	for w.bulkRetry("all").State == store.BulkRunning {
		if err := sweep.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		claimed, err := w.Claim(t.Context(), store.ClaimRequest{
			Served: []openworkflow.Definition{{Name: "wf"}}, Max: 10, WorkerIDPrefix: "p." + openworkflow.NewID() + ".", First: 1, Lease: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		for i := range claimed {
			if _, err := w.ApplyAndClaim(t.Context(), store.Batch{Runs: []store.RunWrite{{
				Lease: openworkflow.Lease{RunID: claimed[i].ID, WorkerID: *claimed[i].WorkerID}, Op: store.RunFail,
				Error: json.RawMessage(`{"message": "again"}`), FinishedAt: time.Now(),
			}}}); err != nil {
				t.Fatal(err)
			}
		}
		w.due()
	}
	if b := w.bulkRetry("all"); b.Started != 3 {
		t.Errorf("progress is %+v, want 3 started", b)
	}
}
