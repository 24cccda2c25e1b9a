package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

var archived = store.Retention{After: 24 * time.Hour, KeyedAfter: 24 * time.Hour, Archive: true}

// archive archives and removes the runs, which ended long ago.
func (f *fixture) archive(ids ...string) {
	f.t.Helper()
	if removed := f.remove(archived, ids...); removed.Runs != len(ids) || removed.Archived != len(ids) {
		f.t.Fatalf("removed %+v of %d runs", removed, len(ids))
	}
}

// find returns a run of the archives.
func (f *fixture) find(id string) *store.Archived {
	f.t.Helper()
	found, err := f.View(time.Minute).Archived(f.t.Context(), id)
	if err != nil || found == nil {
		f.t.Fatalf("Archived %s: %v, %v", id, found, err)
	}
	return found
}

// noise is text that does not compress: beyond the window of gzip, nor do parts of it together.
var noise = sync.OnceValue(func() string {
	text := make([]byte, 2*mostNoise)
	for i := range text {
		text[i] = "0123456789abcdefghijklmnopqrstuv"[rand.IntN(32)]
	}
	return string(text)
})

// mostNoise is how many characters of a long output do not compress. The others do, because a
// test that compresses tens of MiB takes minutes under the race detector.
const mostNoise = 1 << 20

// sizedSteps inserts completed attempts with outputs of so many characters, the first of them noise.
func (f *fixture) sizedSteps(run string, n, length int) {
	f.t.Helper()
	for i := range n {
		random := min(length, mostNoise)
		from := rand.IntN(len(noise()) - random)
		text := noise()[from:from+random] + strings.Repeat("x", length-random)
		f.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, output,
	started_at, finished_at, created_at, updated_at)
SELECT 'default', gen_random_uuid()::text, $1, 'step-' || $2::int, 'function', 'completed', '{}', to_jsonb($3::text), at, at, at, at
FROM (SELECT date_trunc('milliseconds', now() - interval '1 hour') AS at) at`, run, i, text)
	}
}

// What is read from an archive is what was read from the tables.
func TestRemoveRuns_ArchivesWhatItRemoves(t *testing.T) {
	t.Parallel()
	f := setup(t)
	source := f.failed(upTo("c", "a", "b"))
	f.fork(store.ForkRequest{Source: source, Run: store.NewRun{ID: "fork"}, From: lastFailed})
	f.end("fork")
	parent := f.start(func(r *store.NewRun) {
		r.IdempotencyKey, r.Input = new("k"), json.RawMessage(`{"b": 1e400, "a": "\n\"ü€"}`)
		r.Context, r.DeadlineAt = json.RawMessage(`{"traceContext": {}}`), new(time.Date(2090, 1, 2, 3, 4, 5, 0, time.UTC))
	})
	f.must([]store.StepWrite{step(parent, "null", completed, `null`), step(parent, "big", completed, `12345678901234567890.123`)}, nil)
	f.must(nil, []store.RunWrite{ending(parent, store.RunComplete)})
	f.exec(`UPDATE openworkflow.workflow_runs SET version = '2' WHERE id = $1`, parent.RunID)
	odd := f.create(1)[0]
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed', available_at = NULL, config = '[1]', error = '"text"', started_at = 'infinity',
		deadline_at = '12345-01-01', finished_at = '0044-03-15 BC' WHERE id = $1`, odd)
	ids := []string{source, "fork", parent.RunID, odd}
	f.age("2 days")

	type all struct {
		View, Full *store.RunView
		Steps      []openworkflow.StepAttempt
		Shown      []openworkflow.StepAttempt
	}
	want := map[string]all{}
	view := f.View(time.Minute)
	for _, id := range ids {
		var a all
		var full *openworkflow.Run
		var errs [4]error
		a.View, errs[0] = view.Run(t.Context(), id)
		full, errs[1] = view.BoundedRun(t.Context(), id)
		a.Full = &store.RunView{Run: *full}
		a.Steps, _, errs[2] = view.BoundedSteps(t.Context(), id, nil, 100)
		a.Shown, errs[3] = view.Steps(t.Context(), id, false, nil, 100)
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		want[id] = a
	}
	f.archive(ids...)
	if got, err := view.Archived(t.Context(), "nope"); err != nil || got != nil {
		t.Errorf("a run that was never there: %v, %v", got, err)
	}
	for _, id := range ids {
		var got all
		var errs [4]error
		found := f.find(id)
		got.View, errs[0] = found.Run(t.Context(), false)
		got.Full, errs[1] = found.Run(t.Context(), true)
		got.Steps, _, errs[2] = found.BoundedSteps(t.Context(), nil, 100)
		got.Shown, errs[3] = found.Steps(t.Context(), nil, 100)
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		if got.View.ArchivedAt == nil || time.Since(*got.View.ArchivedAt).Abs() > time.Hour {
			t.Errorf("archived at %v", got.View.ArchivedAt)
		}
		rows := cmp.Transformer("rows", func(raw json.RawMessage) string { return strings.ReplaceAll(string(raw), " ", "") })
		if diff := cmp.Diff(want[id], got, rows, cmpopts.IgnoreFields(store.RunView{}, "ArchivedAt")); diff != "" {
			t.Errorf("run %s (-table +archive):\n%s", id, diff)
		}
	}
}

// An archive holds as many runs as the bounds allow, and each run is found at its place.
func TestRemoveRuns_ArchivesInBatches(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(1100)
	f.exec(`UPDATE openworkflow.workflow_runs SET input = to_jsonb(id)`)
	heavy := ids[700:710]
	for _, id := range heavy {
		f.sizedSteps(id, 3, 300_000)
	}
	f.end(ids...)
	f.age("2 days")
	f.archive(ids...)
	if got := f.value(`SELECT count(*) || ' ' || sum(cardinality(run_ids)) FROM openworkflow.operator_archives`); got != "6 1100" {
		t.Errorf("archives and runs: %s, want 6 1100: two heavy runs fit into one", got)
	}
	for _, id := range slices.Concat(ids[:1], heavy[3:6], ids[1099:]) {
		run, err := f.find(id).Run(t.Context(), true)
		if err != nil || string(run.Input) != `"`+id+`"` {
			t.Errorf("run %s: %v, %v", id, run, err)
		}
	}
	steps, more, err := f.find(heavy[4]).BoundedSteps(t.Context(), nil, 2)
	if err != nil || !more || len(steps) != 2 || len(steps[1].Output) != 300_002 {
		t.Fatalf("%d steps, %v", len(steps), err)
	}
	rest, more, err := f.find(heavy[4]).BoundedSteps(t.Context(), &openworkflow.Cursor{CreatedAt: steps[1].CreatedAt, ID: steps[1].ID}, 2)
	if err != nil || more || len(rest) != 1 || rest[0].StepName != "step-2" {
		t.Errorf("the second page has %d steps, %v", len(rest), err)
	}
}

// A large run passes through a connection that limits the server's answers, in a few MiB of memory.
// One that is too large stays.
func TestRemoveRuns_P9_ArchivesLargeRunsInLittleMemory(t *testing.T) {
	f := setup(t)
	ids := f.create(3)
	large, long, small := ids[0], ids[1], ids[2]
	f.sizedSteps(large, 10, 3<<20)
	f.exec(`UPDATE openworkflow.workflow_runs SET input = to_jsonb(repeat('x', 17 * 1024 * 1024)) WHERE id = $1`, long)
	f.end(ids...)
	f.age("2 days")
	limited := open(t, store.Options{URL: f.url, Untrusted: true})
	total := store.Removed{}
	growth := heapGrowth(func() {
		for rest := ids; len(rest) > 0; {
			removed, next, err := limited.RemoveRuns(t.Context(), archived, rest)
			if err != nil {
				t.Fatal(err)
			}
			total.Runs, total.TooLarge, rest = total.Runs+removed.Runs, total.TooLarge+removed.TooLarge, next
		}
	})
	if total != (store.Removed{Runs: 2, TooLarge: 1}) {
		t.Errorf("removed %+v", total)
	}
	f.expectRemaining(ids, long)
	const most = 24 << 20
	if growth > most {
		t.Errorf("the heap grew by %d MiB", growth>>20)
	}
	t.Logf("30 MiB were archived with %d MiB", growth>>20)
	found, err := limited.View(time.Minute).Archived(t.Context(), large)
	if err != nil {
		t.Fatal(err)
	}
	steps, more, err := found.BoundedSteps(t.Context(), nil, 3)
	if err != nil || !more || len(steps) != 2 || len(steps[1].Output) != 3<<20+2 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
	if _, err := f.find(small).Run(t.Context(), true); err != nil {
		t.Error(err)
	}
}

// A removal measures the runs that it archives, and few of the others: what it reads of their values
// does not grow with their number.
func TestRemoveRuns_P9_MeasuresFewRunsMoreThanItArchives(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(30)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off, toast.autovacuum_enabled = off)`)
	blocks := func() int {
		f.t.Helper()
		n, err := strconv.Atoi(f.value(`SELECT toast_blks_read + toast_blks_hit FROM pg_statio_user_tables WHERE relname = 'workflow_runs'`))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	// A session reports what it has read before it ends.
	ended := func() {
		f.waitFor(`SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'`)
	}
	writer := connect(t, f.url)
	if _, err := writer.Exec(t.Context(), `UPDATE openworkflow.workflow_runs SET status = 'completed', available_at = NULL,
	created_at = now() - interval '2 days', updated_at = now() - interval '2 days',
	output = (SELECT to_jsonb(string_agg(md5(i::text), '')) FROM generate_series(1, 128 * 1024) i)`); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close(t.Context())
	f.Close()
	ended()
	remove := func(ids []string) int {
		t.Helper()
		before := blocks()
		s, err := store.Open(t.Context(), store.Options{URL: f.url, Untrusted: true})
		if err != nil {
			t.Fatal(err)
		}
		removed, rest, err := s.RemoveRuns(t.Context(), archived, ids)
		if err != nil || removed.Runs != 1 || len(rest) != len(ids)-1 {
			t.Fatalf("removed %+v, %d left, %v", removed, len(rest), err)
		}
		s.Close()
		ended()
		return blocks() - before
	}
	one, first := remove(ids[:1]), remove(ids[1:])
	t.Logf("blocks of values: %d to remove the only run, %d to remove the first of 29", one, first)
	if one < 1000 || first > 5*one {
		t.Errorf("it has read %d blocks of values, and %d for the only run", first, one)
	}
}

// A run with a row that Postgres cannot put together stays, and those after it are removed.
func TestRemoveRuns_P9_ARowBeyondTheLimitsOfPostgresStays(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(3)
	f.fill("workflow_runs", ids[0], map[string]int{"input": 140 << 20, "output": 140 << 20})
	f.end(ids...)
	f.age("2 days")
	if got := f.remove(archived, ids...); got != (store.Removed{Runs: 2, Archived: 2, TooLarge: 1}) {
		t.Errorf("removed %+v", got)
	}
	f.expectRemaining(ids, ids[0])
}

// Whatever is in the tables of the archives, it is an error that says so, in bounded time.
func TestArchived_P9_DamagedArchives(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, c := range map[string]struct{ change, want string }{
		"a changed byte":     {`UPDATE operator_archive_parts SET data = set_byte(data, 30, get_byte(data, 30) # 1)`, "archive "},
		"another checksum":   {`UPDATE operator_archives SET sha256 = ''`, "another checksum than when it was made"},
		"a later version":    {`UPDATE operator_archives SET version = 2`, "has version 2 of the format, this release knows 1"},
		"no parts":           {`DELETE FROM operator_archive_parts`, "EOF"},
		"no gzip":            {`UPDATE operator_archive_parts SET data = 'hello, this is text'`, "gzip: invalid header"},
		"cut":                {`UPDATE operator_archive_parts SET data = substring(data FROM 1 FOR length(data) - 20)`, "unexpected EOF"},
		"more after the end": {`INSERT INTO operator_archive_parts SELECT namespace_id, id, 1, 'x' FROM operator_archives`, "archive "},
		"another place":      {`UPDATE operator_archived_runs SET position = 7`, "has no run 7"},
		"before the runs":    {`UPDATE operator_archived_runs SET position = -1`, "archive "},
		"another run":        {`UPDATE operator_archived_runs SET position = 1 - position`, "does not have run"},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			f.exec(`SET search_path = openworkflow`)
			f.exec(`TRUNCATE operator_archives, operator_archive_parts, operator_archived_runs`)
			ids := f.create(2)
			f.end(ids...)
			f.age("2 days")
			f.archive(ids...)
			f.exec(c.change)
			_, err := f.find(ids[0]).Run(t.Context(), false)
			if !errors.Is(err, store.ErrArchive) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			_, err = f.Fork(t.Context(), store.ForkRequest{Source: ids[0]})
			if !errors.Is(err, store.ErrArchive) {
				t.Errorf("a fork: %v", err)
			}
		})
	}
}

// A fork of an archived run is the fork that it would have been before.
func TestFork_FromTheArchive(t *testing.T) {
	t.Parallel()
	f := setup(t)
	corrected := map[string]json.RawMessage{"b": json.RawMessage(`{"corrected": true}`)}
	source := f.failed(upTo("d", "a", "b", "c"))
	f.sizedSteps(source, 3, 700_000) // they are copied in several statements
	f.age("2 days")
	want := f.fork(store.ForkRequest{Source: source, Run: store.NewRun{ID: "before"}, From: lastFailed, Outputs: corrected})
	f.archive(source)

	got := f.fork(store.ForkRequest{Source: source, Run: store.NewRun{ID: "after"}, From: lastFailed, Outputs: corrected})
	if *got.Step != *want.Step || got.Kept != want.Kept || want.Kept != 6 {
		t.Errorf("forked %+v, before %+v", got, want)
	}
	const rows = `
SELECT md5(json_agg(json_build_array(step_name, kind, status, context, output, error, started_at, finished_at, created_at) ORDER BY created_at, id)::text)
FROM openworkflow.step_attempts WHERE workflow_run_id = $1`
	if f.value(rows, "before") != f.value(rows, "after") {
		t.Error("the copies differ")
	}
	f.expect("after", "config ->> 'openworkflow.dev/forkedFrom'", source)
	if run, err := f.find(source).Run(t.Context(), false); err != nil || run.SupersededBy == nil || *run.SupersededBy != "after" {
		t.Errorf("the source is superseded by %v, %v", run, err)
	}
	if _, err := f.Fork(t.Context(), store.ForkRequest{Source: source, Once: true, From: lastFailed}); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("a fork that wants to be the only one: %v", err)
	}
	if again, err := f.Fork(t.Context(), store.ForkRequest{Source: source, Run: store.NewRun{ID: "after"}, From: lastFailed}); err != nil || again.Inserted {
		t.Errorf("a repeated fork: %+v, %v", again, err)
	}
	if _, err := f.Fork(t.Context(), store.ForkRequest{Source: source, From: store.ForkPoint{Step: new("nope")}}); !errors.Is(err, store.ErrInvalidFork) {
		t.Errorf("from a step that it does not have: %v", err)
	}
	if _, err := f.Fork(t.Context(), store.ForkRequest{Source: "nope"}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of a run that was never there: %v", err)
	}
}

// The steps of an archived parent name its children, which are removed before it.
func TestArchived_StepsNameChildren(t *testing.T) {
	t.Parallel()
	f := setup(t)
	parent := f.start()
	wait := step(parent, "child", openworkflow.StepRunning, ``)
	wait.Attempt.Kind, wait.Child = openworkflow.KindWorkflow, &store.NewRun{WorkflowName: "wf"}
	f.must([]store.StepWrite{wait}, nil)
	child := f.value(`SELECT child_workflow_run_id FROM openworkflow.step_attempts WHERE workflow_run_id = $1`, parent.RunID)
	f.end(child)
	f.end(parent.RunID)
	f.age("2 days")
	f.archive(child)
	f.archive(parent.RunID)

	run, err := f.find(child).Run(t.Context(), false)
	if err != nil || run.ParentRunID != parent.RunID {
		t.Errorf("the child's parent is %v, %v", run, err)
	}
	steps, err := f.find(parent.RunID).Steps(t.Context(), nil, 10)
	if err != nil || len(steps) != 1 || steps[0].ChildWorkflowRunID == nil || *steps[0].ChildWorkflowRunID != child {
		t.Errorf("the parent's steps are %+v, %v", steps, err)
	}
}

// Archives end after their time, and with them what the index knows. A run of an id that was
// archived again is found in its newest archive.
func TestRemoveArchives(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for i := range 3 {
		f.create(1, func(r *store.NewRun) { r.ID, r.Input = "order-1", json.RawMessage(fmt.Sprint(i)) })
		other := f.create(1)[0]
		f.end("order-1", other)
		f.age("2 days")
		f.archive("order-1", other)
	}
	f.exec(`UPDATE openworkflow.operator_archives SET archived_at = archived_at - interval '2 days' WHERE id <> (SELECT max(id) FROM openworkflow.operator_archives)`)
	for _, want := range []int{1, 1, 0} {
		if n, err := f.RemoveArchives(t.Context(), 24*time.Hour, 1); err != nil || n != want {
			t.Errorf("removed %d, %v, want %d", n, err, want)
		}
	}
	if run, err := f.find("order-1").Run(t.Context(), true); err != nil || string(run.Input) != "2" {
		t.Errorf("%v, %v", run, err)
	}
	if got := f.value(`SELECT (SELECT count(*) FROM openworkflow.operator_archived_runs) || ' ' || (SELECT count(*) FROM openworkflow.operator_archive_parts)`); got != "2 1" {
		t.Errorf("index entries and parts: %s, want 2 1", got)
	}
}

// P6: nothing is archived if the removal fails, and nothing removed if the archive fails.
func TestRemoveRuns_P6_ArchivesAndRemovesInOneTransaction(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(3)
	f.end(ids...)
	f.age("2 days")
	for _, trigger := range []string{`BEFORE DELETE ON openworkflow.workflow_runs`, `BEFORE INSERT ON openworkflow.operator_archived_runs`} {
		f.exec(`CREATE FUNCTION openworkflow.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'`)
		f.exec(`CREATE TRIGGER refuse ` + trigger + ` FOR EACH ROW EXECUTE FUNCTION openworkflow.refuse()`)
		if _, _, err := f.RemoveRuns(t.Context(), archived, ids); err == nil {
			t.Error("it did not fail")
		}
		f.exec(`DROP FUNCTION openworkflow.refuse CASCADE`)
		f.expectRemaining(ids, ids...)
		if n := f.value(`SELECT count(*) FROM openworkflow.operator_archives`); n != "0" {
			t.Errorf("there are %s archives", n)
		}
	}
}

// BenchmarkRemoveRuns removes 1,000 runs with two steps each and values of about 1 KiB, with and
// without an archive.
func BenchmarkRemoveRuns(b *testing.B) {
	for name, r := range map[string]store.Retention{"removed": {After: time.Hour, KeyedAfter: time.Hour}, "archived": archived} {
		b.Run(name, func(b *testing.B) {
			f := setup(b)
			for b.Loop() {
				b.StopTimer()
				f.exec(`TRUNCATE openworkflow.workflow_runs CASCADE`)
				f.populateHistory(1000)
				f.exec(`UPDATE openworkflow.workflow_runs SET parent_step_attempt_namespace_id = NULL, parent_step_attempt_id = NULL,
	input = (SELECT jsonb_object_agg(md5(id || i), i) FROM generate_series(1, 20) i), updated_at = now() - interval '9 days'`)
				var ids []string
				for i := range 1000 {
					ids = append(ids, historyID(i+1))
				}
				b.StartTimer()
				if removed := f.remove(r, ids...); removed.Runs != len(ids) {
					b.Fatalf("removed %+v", removed)
				}
			}
			if r.Archive {
				b.Logf("%s bytes of %s for each run", f.value(`SELECT avg(length(data)) / 500 FROM openworkflow.operator_archive_parts`),
					f.value(`SELECT avg(length) / 500 FROM openworkflow.operator_archives`))
			}
		})
	}
}
