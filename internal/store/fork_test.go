package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// failed creates a run, executes the writes, and fails it with the error of the fixtures.
func (f *fixture) failed(writes func(l openworkflow.Lease) []store.StepWrite) string {
	f.t.Helper()
	l := f.start()
	for _, w := range writes(l) {
		f.must([]store.StepWrite{w}, nil)
	}
	f.must(nil, []store.RunWrite{ending(l, store.RunFail)})
	return l.RunID
}

// upTo returns writes of completed steps, and of one that fails with the run's error.
func upTo(failing string, names ...string) func(l openworkflow.Lease) []store.StepWrite {
	return func(l openworkflow.Lease) []store.StepWrite {
		var writes []store.StepWrite
		for _, name := range names {
			writes = append(writes, step(l, name, completed, `1`))
		}
		return append(writes, step(l, failing, openworkflow.StepFailed, `{"message":"no"}`))
	}
}

func (f *fixture) fork(r store.ForkRequest) store.ForkResult {
	f.t.Helper()
	result, err := f.Fork(f.t.Context(), r)
	if err != nil || !result.Inserted {
		f.t.Fatalf("Fork: %+v, %v", result, err)
	}
	return result
}

var lastFailed = store.ForkPoint{LastFailed: true}

// TestFork_P4_WritesOneKeyOfTheSource compares the whole rows of the source.
func TestFork_P4_WritesOneKeyOfTheSource(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.failed(upTo("c", "a", "b"))
	f.exec(`UPDATE openworkflow.workflow_runs SET config = config || '{"other": 1}' WHERE id = $1`, source)
	f.exec(`UPDATE openworkflow.workflow_runs SET config = config || jsonb_build_object('openworkflow.dev/supersededBy', 'next') WHERE id = $1`, source)
	want := f.snapshot(source)
	f.exec(`UPDATE openworkflow.workflow_runs SET config = config - 'openworkflow.dev/supersededBy' WHERE id = $1`, source)
	f.fork(store.ForkRequest{Source: source, Run: store.NewRun{ID: "next"}, From: lastFailed})
	if diff := cmp.Diff(want, f.snapshot(source)); diff != "" {
		t.Errorf("rows of the source (-want +got):\n%s", diff)
	}
	f.expect("next", "config", fmt.Sprintf(
		`{"openworkflow.dev/forkStep": "c", "openworkflow.dev/forkedFrom": %q}`, source))
}

// TestFork_TenThousandSteps forks a run of 10,000 steps with outputs of 1 KiB. The limit is for a slow
// machine that does other work too; the log has the figure.
func TestFork_TenThousandSteps(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const n = 10_000
	source := f.create(1)[0]
	f.exec(`
INSERT INTO openworkflow.step_attempts (
	namespace_id, id, workflow_run_id, step_name, kind, status, config, output, started_at, finished_at, created_at, updated_at
)
SELECT 'default', gen_random_uuid()::text, $1, 'step:' || i, 'function', 'completed', '{}', to_jsonb(repeat(md5(i::text), 32)), at, at, date_trunc('milliseconds', at), at
FROM generate_series(1, $2::int) i, LATERAL (SELECT now() - interval '1 day' + i * interval '1 ms' AS at) t`, source, n)
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed', available_at = NULL WHERE id = $1`, source)
	start := time.Now()
	result := f.fork(store.ForkRequest{Source: source, From: store.ForkPoint{Step: new(fmt.Sprint("step:", n))}})
	took := time.Since(start)
	t.Logf("forked %d steps in %v", result.Kept, took)
	if result.Kept != n-1 {
		t.Errorf("kept %d steps, want %d", result.Kept, n-1)
	}
	if took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	same := f.value(`
SELECT count(*) FROM (
	SELECT step_name, output, created_at, finished_at FROM openworkflow.step_attempts WHERE workflow_run_id = $1
	INTERSECT
	SELECT step_name, output, created_at, finished_at FROM openworkflow.step_attempts WHERE workflow_run_id = $2
) kept`, source, result.RunID)
	if same != fmt.Sprint(n-1) {
		t.Errorf("%s copies are like their source", same)
	}
	// Copies of one millisecond keep their order (R71), as ids decide there.
	if got := f.value(`
SELECT count(*) FROM (
	SELECT substr(step_name, 6)::int - row_number() OVER (ORDER BY id) AS off FROM openworkflow.step_attempts WHERE workflow_run_id = $1
) o WHERE off <> 0`, result.RunID); got != "0" {
		t.Errorf("%s ids are not in the order of the steps", got)
	}
}

// TestFork_P7_TooLongAHistory: what a database says that a run has, must fit into memory. A fork of a
// part of the history would execute again what comes after it. The history is too long in the tables
// and in an archive.
func TestFork_P7_TooLongAHistory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		attempts, message int
		want              string
	}{
		"attempts": {3_001, 10, "invalid fork: run source has more than 3000 step attempts"},
		"errors":   {300, 4000, "invalid fork: the names and errors of the steps of run source have more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.LimitForks(3_000, 1<<20)
			f.create(1, func(r *store.NewRun) { r.ID = "source" })
			f.end("source")
			f.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed', error = '{"message": "no"}'`)
			f.exec(`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, error, created_at, updated_at)
SELECT 'default', i::text, 'source', 'a', 'function', 'failed', '{}', jsonb_build_object('message', repeat('x', $2::int)), now(), now()
FROM generate_series(1, $1::int) i`, c.attempts, c.message)
			f.age("2 days")
			forks := func(where string) {
				_, err := f.Fork(t.Context(), store.ForkRequest{Source: "source", From: lastFailed})
				if !errors.Is(err, store.ErrInvalidFork) || err.Error() != c.want {
					t.Errorf("%s: %v, want %s", where, err, c.want)
				}
			}
			forks("in the tables")
			f.archive("source")
			forks("in an archive")
		})
	}
}

// TestFork_P9_LongInput forks a run whose input is longer than what a server may send, from the
// tables and from an archive. A request with an input of its own has that.
func TestFork_P9_LongInput(t *testing.T) {
	t.Parallel()
	f := setup(t)
	limited := f.limited()
	source := f.failed(upTo("c", "a", "b"))
	f.fill("workflow_runs", source, map[string]int{"input": 5 << 20})
	f.age("2 days")
	for _, id := range []string{"tables", "own", "null", "archive"} {
		r := store.ForkRequest{Source: source, Run: store.NewRun{ID: id}, From: lastFailed}
		want := "5242882"
		switch id {
		case "own":
			r.Run.Input, want = json.RawMessage(`7`), "1"
		case "null":
			r.Run.Input, want = json.RawMessage(`null`), "NULL"
		case "archive":
			f.exec(`UPDATE openworkflow.workflow_runs SET updated_at = updated_at - interval '2 days' WHERE id = $1`, source)
			f.archive(source)
		}
		result, err := limited.Fork(t.Context(), r)
		if err != nil || !result.Inserted || result.Kept != 2 {
			t.Fatalf("%s: forked %+v, %v", id, result, err)
		}
		f.expect(id, "octet_length(input::text)", want)
	}
	f.expect("tables", "input = to_jsonb(repeat('x', 5 * 1024 * 1024))", "true")
	f.expect("archive", "input = to_jsonb(repeat('x', 5 * 1024 * 1024))", "true")
}

// TestFork_PlanReadsOnlyTheSource beside a history of many runs, before the tables are analyzed
// and after.
func TestFork_PlanReadsOnlyTheSource(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.exec(`ALTER TABLE openworkflow.step_attempts SET (autovacuum_enabled = off)`)
	f.populate()
	f.create(1, func(n *store.NewRun) { n.ID = "new" })
	for range 2 {
		for name, plan := range map[string]string{
			"history": f.explain(f.ForkHistorySQL(), "default", "done-1", 1000, time.Time{}, ""),
			"copies": f.explain(f.CopyStepsSQL(), "default", "new",
				[]string{"step-done-1"}, []string{"copy"}, []bool{false}, []*string{nil}),
			"link":  f.explain(f.LinkForkSQL(), "default", "new", "done-1", nil, true),
			"forks": f.explain(f.ForksSQL(), "default", "", 500),
		} {
			if strings.Contains(plan, "Seq Scan on") || strings.Contains(plan, "Rows Removed") {
				t.Errorf("%s reads other rows:\n%s", name, plan)
			}
		}
		f.exec(`ANALYZE`)
	}
}

// TestFork_P5_ConcurrentForksWithOneID makes one run, whole, from any number of calls.
func TestFork_P5_ConcurrentForksWithOneID(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.failed(upTo("c", "a", "b"))
	var mu sync.Mutex
	inserted := 0
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			result, err := f.Fork(t.Context(), store.ForkRequest{Source: source, Run: store.NewRun{ID: "mine"}, From: lastFailed})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || result.RunID != "mine" {
				t.Errorf("Fork: %+v, %v", result, err)
			}
			if result.Inserted {
				inserted++
			}
		})
	}
	calls.Wait()
	if got := f.value(`SELECT count(*) FROM openworkflow.step_attempts WHERE workflow_run_id = 'mine'`); got != "2" || inserted != 1 {
		t.Errorf("%d calls made the run, which has %s attempts", inserted, got)
	}
}

// TestFork_WaitsForNoLock forks while another session holds the source, and goes on once it is
// free.
func TestFork_WaitsForNoLock(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.failed(upTo("c", "a"))
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM openworkflow.workflow_runs WHERE id = $1 FOR UPDATE`, source); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		store.ForkResult
		err error
	}
	done := make(chan answer, 1)
	go func() {
		result, err := f.Fork(t.Context(), store.ForkRequest{Source: source, From: lastFailed})
		done <- answer{result, err}
	}()
	for watch := connect(t, f.url); ; { // until it has met the lock, which it does not wait for
		var waiting, refused int
		err := watch.QueryRow(t.Context(), `
SELECT (SELECT count(*) FROM pg_locks WHERE NOT granted), xact_rollback FROM pg_stat_database WHERE datname = current_database()`).
			Scan(&waiting, &refused)
		if err != nil || waiting > 0 {
			t.Fatalf("%d sessions wait for a lock, %v", waiting, err)
		}
		if refused > 1 {
			break
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || !got.Inserted {
		t.Errorf("Fork: %+v", got)
	}
}

// TestFork_P1_RunsOfOpenWorkflow forks what OpenWorkflow's own worker has executed, from each of
// its steps. What had ended before that step began is taken over as it is.
func TestFork_P1_RunsOfOpenWorkflow(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		t.Run(g.Scenario, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.Store = open(t, store.Options{URL: f.url, NamespaceID: g.NamespaceID})
			final := g.Stages[len(g.Stages)-1]
			f.insert("workflow_runs", final.Runs)
			f.insert("step_attempts", final.Steps)
			for _, run := range final.Runs {
				if openworkflow.RunStatus(run.text("status")).Terminal() {
					f.forkFromEachStep(run.text("id"))
				}
			}
		})
	}
}

func (f *fixture) forkFromEachStep(source string) {
	f.t.Helper()
	attempts := f.load(source)
	first := map[string]openworkflow.StepAttempt{}
	for _, a := range attempts {
		if _, again := first[a.StepName]; !again {
			first[a.StepName] = a
		}
	}
	for name, from := range first {
		fork := f.fork(store.ForkRequest{Source: source, From: store.ForkPoint{Step: &name}})
		got := map[string]openworkflow.StepAttempt{}
		for _, c := range f.load(fork.RunID) {
			if c.Status == completed {
				got[c.StepName] = c
			}
		}
		if _, itself := got[name]; itself || *fork.Step != name || fork.Kept != len(got) {
			f.t.Errorf("a fork from %q is %+v and has %v", name, fork, got)
		}
		for _, a := range attempts {
			ended := a.Status == completed || a.Status == openworkflow.StepSucceeded
			if !ended || a.StepName == name || from.StartedAt == nil || a.FinishedAt == nil || !a.FinishedAt.Before(*from.StartedAt) {
				continue
			}
			want := a
			want.ID, want.WorkflowRunID, want.Status, want.UpdatedAt = got[a.StepName].ID, fork.RunID, completed, got[a.StepName].UpdatedAt
			if diff := cmp.Diff(want, got[a.StepName]); diff != "" {
				f.t.Errorf("a fork from %q: %q (-want +got):\n%s", name, a.StepName, diff)
			}
		}
	}
}

// TestFork_P1_RetentionRemovesItsSource while the fork is open. The fork has its own copies of
// everything, the signal that the source received included.
func TestFork_P1_RetentionRemovesItsSource(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	wait := waitStep(l, "approval")
	f.must([]store.StepWrite{wait}, nil)
	if _, err := f.SendSignals(t.Context(), []store.Signal{{Name: "approval", Data: json.RawMessage(`"yes"`)}}); err != nil {
		t.Fatal(err)
	}
	wait.Attempt.Status, wait.Attempt.Output, wait.New = completed, json.RawMessage(`{"data": "yes"}`), false
	f.must([]store.StepWrite{wait, step(l, "c", openworkflow.StepFailed, `{"message":"no"}`)}, []store.RunWrite{ending(l, store.RunFail)})

	fork := f.fork(store.ForkRequest{Source: l.RunID, From: lastFailed})
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = created_at - interval '2 days', updated_at = updated_at - interval '2 days' WHERE id = $1`, l.RunID)
	if got := f.remove(day, l.RunID); got != (store.Removed{Runs: 1, Deliveries: 1}) {
		t.Errorf("removed %+v", got)
	}
	claimed := f.claim(1)
	steps, err := f.LoadSteps(t.Context(), []string{fork.RunID})
	if err != nil || len(claimed) != 1 || len(steps[fork.RunID]) != 1 || string(steps[fork.RunID][0].Output) != `{"data": "yes"}` {
		t.Fatalf("claimed %v; steps %v, %v", claimed, steps, err)
	}
	f.must(nil, []store.RunWrite{ending(leaseOf(claimed[0]), store.RunComplete)})
	f.expect(fork.RunID, "status", "completed")
}

// TestFork_ChildrenStayTheSourcesOwn has a child with two attempts that lead to it. It belongs to
// the first: a cascade from the fork leaves it and what is below it alone. Retention keeps it
// while the fork is open, and its end wakes nobody but its parent.
func TestFork_ChildrenStayTheSourcesOwn(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	child, attempt := f.beget(l)
	below, _ := f.beget(child)
	open, late := f.beget(l)
	f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})
	done := store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
		ID: attempt, StepName: "child", Kind: openworkflow.KindWorkflow, Status: completed, Output: json.RawMessage(`1`),
	}}
	// The wait for the second child has timed out; the child goes on (R98e).
	timeout := done
	timeout.Attempt.StepName, timeout.Attempt.ID, timeout.Attempt.Status, timeout.Attempt.Error = "late", late, openworkflow.StepFailed, json.RawMessage(`{"message":"timed out"}`)
	f.exec(`UPDATE openworkflow.step_attempts SET step_name = CASE id WHEN $1 THEN 'late' ELSE 'child' END WHERE id IN ($1, $2)`, late, attempt)
	f.must([]store.StepWrite{done, timeout}, nil)
	f.must([]store.StepWrite{step(l, "instead", completed, `1`)}, nil)
	f.must([]store.StepWrite{step(l, "c", openworkflow.StepFailed, `{"message":"no"}`)}, []store.RunWrite{ending(l, store.RunFail)})

	fork := f.fork(store.ForkRequest{Source: l.RunID, From: lastFailed})
	if got := f.value(`SELECT string_agg(step_name || ' ' || status || ' ' || coalesce(child_workflow_run_id = ANY($2), false), ', ' ORDER BY id)
FROM openworkflow.step_attempts WHERE workflow_run_id = $1`, fork.RunID, []string{child.RunID, open.RunID}); got !=
		"child completed true, late failed true, instead completed false" {
		t.Errorf("the fork has %s", got)
	}

	f.age("2 days")
	if got := f.remove(day, child.RunID, l.RunID); got.Runs != 0 {
		t.Errorf("removed %+v while the fork shows the child", got)
	}
	canceled, err := f.CancelTree(t.Context(), []string{fork.RunID})
	if diff := cmp.Diff(map[string]openworkflow.RunStatus{fork.RunID: "canceled"}, canceled); err != nil || diff != "" {
		t.Errorf("a cascade from the fork (-want +got), %v:\n%s", err, diff)
	}
	f.expect(below.RunID, "status", "running")
	f.expect(open.RunID, "status", "running")
	f.end(below.RunID, open.RunID)
	f.age("2 days")
	for range 3 { // leaves first
		f.remove(day, below.RunID, open.RunID, child.RunID, l.RunID)
	}
	f.expectRemaining([]string{below.RunID, open.RunID, child.RunID, l.RunID, fork.RunID}, fork.RunID)
}

// TestFork_ReadsNoLineageOfAnotherType has a config that somebody else wrote.
func TestFork_ReadsNoLineageOfAnotherType(t *testing.T) {
	t.Parallel()
	f := setup(t)
	id := f.create(1)[0]
	for _, config := range []string{`[]`, `"x"`, `{"openworkflow.dev/forkedFrom": 1, "openworkflow.dev/forkStep": {}, "openworkflow.dev/supersededBy": null}`} {
		f.exec(`UPDATE openworkflow.workflow_runs SET config = $2::jsonb WHERE id = $1`, id, config)
		runs, err := f.GetRuns(t.Context(), []string{id})
		if err != nil || runs[id] == nil || runs[id].ForkedFrom != nil || runs[id].ForkStep != nil || runs[id].SupersededBy != nil {
			t.Errorf("%s: %+v, %v", config, runs[id], err)
		}
		f.end(id)
		fork, err := f.Fork(t.Context(), store.ForkRequest{Source: id})
		if err != nil || !fork.Inserted {
			t.Errorf("%s: %+v, %v", config, fork, err)
		}
		f.expect(id, `config ->> 'openworkflow.dev/supersededBy'`, fork.RunID)
	}
	if _, err := f.Fork(t.Context(), store.ForkRequest{Source: "\x00"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a source with an id that no row can have: %v", err)
	}
}

// TestForks_AreNotedUntilTheyAreForgotten: a fork tells its source until somebody has handled it.
func TestForks_AreNotedUntilTheyAreForgotten(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.create(1)[0]
	f.end(source)
	forks := func() []store.NotedFork {
		t.Helper()
		noted, err := f.Forks(t.Context(), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		return noted
	}
	if got := forks(); got != nil {
		t.Fatalf("forks %v before the first", got)
	}
	fork := f.fork(store.ForkRequest{Source: source})
	again, err := f.Fork(t.Context(), store.ForkRequest{Source: source, Run: store.NewRun{ID: fork.RunID}})
	if err != nil || again.Inserted {
		t.Fatalf("a repeated call: %+v, %v", again, err)
	}
	want := store.NotedFork{RunID: fork.RunID, Source: source}
	for _, c := range []struct {
		do   func()
		want store.NotedFork
	}{
		{func() {}, want},
		{func() { f.end(fork.RunID) }, store.NotedFork{RunID: fork.RunID, Source: source, Ended: true}},
		{func() { f.age("2 days") }, store.NotedFork{RunID: fork.RunID, Source: source, Ended: true, Old: true}},
		{func() { f.exec(`DELETE FROM openworkflow.workflow_runs WHERE id = $1`, fork.RunID) }, store.NotedFork{RunID: fork.RunID, Ended: true, Old: true}},
	} {
		c.do()
		if diff := cmp.Diff([]store.NotedFork{c.want}, forks()); diff != "" {
			t.Errorf("forks (-want +got):\n%s", diff)
		}
	}
	if noted, err := f.Forks(t.Context(), fork.RunID, 10); err != nil || len(noted) != 0 {
		t.Errorf("after the last: %v, %v", noted, err)
	}
	if err := f.ForgetForks(t.Context(), []string{fork.RunID, "other"}); err != nil {
		t.Fatal(err)
	}
	if got := forks(); got != nil {
		t.Errorf("forks %v after they were forgotten", got)
	}
}

// TestFork_P9_LongErrorsOfAHistory: what a step carries must not fill the process that forks. The
// failed step is found by the beginning of its error.
func TestFork_P9_LongErrorsOfAHistory(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	long := strings.Repeat("x", 1<<20)
	failure := fmt.Sprintf(`{"name":"Error","message":%q,"stack":%q}`, "no "+long, long)
	f.must([]store.StepWrite{step(l, "a", completed, `1`)}, nil)
	f.must([]store.StepWrite{step(l, "b", openworkflow.StepFailed, failure)}, []store.RunWrite{ending(l, store.RunFail)})
	f.exec(`UPDATE openworkflow.workflow_runs SET error = $2::text::jsonb, output = $2::text::jsonb WHERE id = $1`, l.RunID,
		fmt.Sprintf(`{"name":"Error","message":%q}`, openworkflow.StepFailure("b", "no "+long)))
	f.exec(`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, error, created_at, updated_at)
SELECT 'default', 'retry-' || i, $1, 'a', 'function', 'failed', '{}', $2::text::jsonb, now(), now() FROM generate_series(1, 40) i`, l.RunID, failure)
	s, err := store.Open(t.Context(), store.Options{URL: f.url, Untrusted: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	fork, err := s.Fork(t.Context(), store.ForkRequest{Source: l.RunID, From: lastFailed})
	if err != nil || fork.Step == nil || *fork.Step != "b" || fork.Kept != 1 {
		t.Errorf("forked %+v, %v", fork, err)
	}
}
