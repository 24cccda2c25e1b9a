package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// limited is the store by a connection that limits what a server may send.
func (f *fixture) limited() *store.Store {
	f.t.Helper()
	return open(f.t, store.Options{URL: f.url, Untrusted: true})
}

// fill sets values of a row to texts of so many characters.
func (f *fixture) fill(table, id string, columns map[string]int) {
	f.t.Helper()
	for column, length := range columns {
		f.exec(fmt.Sprintf(`UPDATE openworkflow.%s SET %s = to_jsonb(repeat('x', %d)) WHERE id = $1`, table, column, length), id)
	}
}

// sameBytes compares JSON at once: byte by byte, megabytes take minutes.
var sameBytes = cmp.Comparer(func(a, b json.RawMessage) bool { return bytes.Equal(a, b) })

// bounded reads all pages of a run, and returns how many attempts each has.
func bounded(t *testing.T, limit int, page func(after *openworkflow.Cursor, limit int) ([]openworkflow.StepAttempt, bool, error)) (all []openworkflow.StepAttempt, pages []int) {
	t.Helper()
	var after *openworkflow.Cursor
	for more := true; more; {
		var steps []openworkflow.StepAttempt
		var err error
		if steps, more, err = page(after, limit); err != nil {
			t.Fatal(err)
		}
		all, pages = append(all, steps...), append(pages, len(steps))
		if more {
			last := steps[len(steps)-1]
			after = &openworkflow.Cursor{CreatedAt: last.CreatedAt, ID: last.ID}
		}
	}
	return all, pages
}

// A run is what FullRun returns of it, also where its values are longer than a message may be, and
// where a chunk ends within a character.
func TestBoundedRun_P9_ReadsLongValuesInChunks(t *testing.T) {
	t.Parallel()
	f := setup(t)
	view := f.limited().View(time.Minute)
	short := f.start(func(r *store.NewRun) {
		r.Input, r.Context = json.RawMessage(`{"b": 1e400, "a": "\n\"ü€"}`), json.RawMessage(`{"traceContext": {}}`)
	}).RunID
	none := f.create(1)[0]
	f.exec(`UPDATE openworkflow.workflow_runs SET input = 'null', output = NULL WHERE id = $1`, none)
	long := f.create(1)[0]
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'completed', available_at = NULL, input = to_jsonb('a' || repeat('€', 300000)),
		output = jsonb_build_object('result', repeat('x', 5 * 1024 * 1024)), error = '{"message": "no"}' WHERE id = $1`, long)
	for _, id := range []string{short, none, long, "nope", "\x00"} {
		want, err := f.View(time.Minute).FullRun(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		got, err := view.BoundedRun(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, sameBytes); diff != "" {
			t.Errorf("run %q (-whole +chunks):\n%.2000s", id, diff)
		}
	}
}

// Pages end by bytes and by their limit, and together they are the history, from the tables and from
// an archive.
func TestBoundedSteps_P9_PagesEndByBytes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	limited := f.limited()
	id := f.create(1)[0]
	f.sizedSteps(id, 10, 3<<20)
	f.exec(`UPDATE openworkflow.step_attempts SET context = '{"signal": "s"}', error = NULL WHERE step_name = 'step-3'`)
	f.exec(`UPDATE openworkflow.step_attempts SET output = NULL WHERE step_name IN ('step-0', 'step-9')`)
	f.fill("step_attempts", f.value(`SELECT id FROM openworkflow.step_attempts WHERE step_name = 'step-5'`), map[string]int{"output": 9 << 20, "context": 1 << 20})
	f.exec(`UPDATE openworkflow.step_attempts SET created_at = created_at + substr(step_name, 6)::int * interval '1 ms'`)
	f.end(id)
	f.age("2 days")
	want, err := f.View(time.Minute).Steps(t.Context(), id, true, nil, 100)
	if err != nil {
		t.Fatal(err)
	}
	view := limited.View(time.Minute)
	pages := map[int][]int{1: {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 2: {2, 2, 1, 1, 2, 2}, 20: {3, 2, 1, 2, 2}}
	for limit, sizes := range pages {
		got, n := bounded(t, limit, func(after *openworkflow.Cursor, limit int) ([]openworkflow.StepAttempt, bool, error) {
			return view.BoundedSteps(t.Context(), id, after, limit)
		})
		if diff := cmp.Diff(want, got, sameBytes); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%.2000s", limit, diff)
		}
		if diff := cmp.Diff(sizes, n); diff != "" {
			t.Errorf("the lengths of pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	for _, none := range []string{"nope", "\x00"} {
		if steps, more, err := view.BoundedSteps(t.Context(), none, nil, 20); steps != nil || more || err != nil {
			t.Errorf("of run %q: %v, %v, %v", none, steps, more, err)
		}
	}
	f.exec(`DELETE FROM openworkflow.step_attempts WHERE step_name NOT IN ('step-4', 'step-5', 'step-6')`)
	f.archive(id)
	found := f.find(id)
	got, n := bounded(t, 20, func(after *openworkflow.Cursor, limit int) ([]openworkflow.StepAttempt, bool, error) {
		return found.BoundedSteps(t.Context(), after, limit)
	})
	if diff := cmp.Diff([]int{1, 1, 1}, n); diff != "" || string(got[1].Output) != string(want[5].Output) {
		t.Errorf("the archive's lengths of pages (-want +got):\n%s", diff)
	}
}

// What has more than a row may have is an error that says so, and what comes before it is read. All of
// it takes a bounded part of the memory.
func TestBoundedRun_P9_RefusesWhatIsTooLong(t *testing.T) {
	f := setup(t)
	limited := f.limited()
	ids := f.create(2)
	f.sizedSteps(ids[0], 3, 10)
	f.exec(`UPDATE openworkflow.step_attempts SET id = step_name, created_at = created_at + substr(step_name, 6)::int * interval '1 ms'`)
	f.fill("step_attempts", "step-1", map[string]int{"output": 200 << 20})
	f.fill("workflow_runs", ids[1], map[string]int{"input": 9 << 20, "output": 9 << 20})
	view := limited.View(time.Minute)
	growth := heapGrowth(func() {
		_, err := view.BoundedRun(t.Context(), ids[1])
		if want := "the context, input, output and error of run " + ids[1] + " have more than 16 MiB: too large to be read"; !errors.Is(err, store.ErrPayloadTooLarge) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
		steps, more, err := view.BoundedSteps(t.Context(), ids[0], nil, 20)
		if err != nil || !more || len(steps) != 1 || steps[0].ID != "step-0" {
			t.Fatalf("the page before it has %d attempts, %v, %v", len(steps), more, err)
		}
		after := &openworkflow.Cursor{CreatedAt: steps[0].CreatedAt, ID: steps[0].ID}
		_, _, err = view.BoundedSteps(t.Context(), ids[0], after, 20)
		if want := "the context, output and error of step attempt step-1 have more than 16 MiB: too large to be read"; !errors.Is(err, store.ErrPayloadTooLarge) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	})
	if growth > 96<<20 {
		t.Errorf("the heap grew by %d MiB", growth>>20)
	}
	t.Logf("the heap grew by %d MiB", growth>>20)
	if runs, err := limited.RunStates(t.Context(), ids); err != nil || len(runs) != 2 {
		t.Errorf("the connection serves others no more: %v", err)
	}
}

// The plans of the cursors read the page, and no other attempts.
func TestBoundedSteps_PlanReadsOnlyThePage(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.exec(`ALTER TABLE openworkflow.step_attempts SET (autovacuum_enabled = off)`)
	f.populate()
	for range 2 {
		for name, plan := range map[string]string{
			"run":   f.explain(f.RunPayloadsSQL(), "default", 1000, "done-1"),
			"steps": f.explain(f.StepPayloadsSQL(), "default", 1000, 20, "done-1"),
		} {
			if strings.Contains(plan, "Seq Scan on") || strings.Contains(plan, "Rows Removed") {
				t.Errorf("%s reads other rows:\n%s", name, plan)
			}
		}
		f.exec(`ANALYZE`)
	}
}
