package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// history creates runs run-1 to run-n, in pairs that were created in the same millisecond, one
// millisecond apart. It returns their ids, newest first.
func (f *fixture) history(n int) []string {
	f.t.Helper()
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
SELECT 'default', 'run-' || i, 'wf', 'pending', '{}', 0, timestamptz '2026-01-01' + i / 2 * interval '1 ms', now()
FROM generate_series(1, $1::int) i`, n)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprint("run-", i+1)
	}
	slices.SortFunc(ids, func(a, b string) int {
		at := func(id string) int { n, _ := strconv.Atoi(id[len("run-"):]); return n / 2 }
		if at(a) != at(b) {
			return at(b) - at(a)
		}
		return -cmpText(a, b)
	})
	return ids
}

// cmpText compares as the database does, which is in the C collation for digits.
func cmpText(a, b string) int { return slices.Compare([]byte(a), []byte(b)) }

func runIDs(page store.RunPage) []string {
	ids := []string{}
	for _, r := range page.Runs {
		ids = append(ids, r.ID)
	}
	return ids
}

func (f *fixture) list(filter store.RunFilter, page store.Page) store.RunPage {
	f.t.Helper()
	got, err := f.ListRuns(f.t.Context(), filter, page)
	if err != nil {
		f.t.Fatalf("ListRuns(%+v, %+v): %v", filter, page, err)
	}
	return got
}

func TestListRuns_R131_PagesMeetAndEndAsOpenWorkflowsDo(t *testing.T) {
	t.Parallel()
	f := setup(t)
	want := f.history(9)
	for name, filter := range map[string]store.RunFilter{
		"all": {}, "of a workflow": {WorkflowName: "wf"}, "of a status": {Status: openworkflow.RunPending}, "brief": {Brief: true},
		"of both": {Status: openworkflow.RunPending, WorkflowName: "wf"},
	} {
		for limit := 1; limit <= 10; limit++ {
			t.Run(fmt.Sprintf("%s by %d", name, limit), func(t *testing.T) {
				f := f.in(t)
				// Forward.
				var forward []string
				var last store.RunPage
				page := store.Page{Limit: limit}
				for i := 0; ; i++ {
					last = f.list(filter, page)
					forward = append(forward, runIDs(last)...)
					if (last.Prev != "") != (i > 0) {
						t.Errorf("page %d has prev %q", i, last.Prev)
					}
					if last.Next == "" {
						break
					}
					page.After = last.Next
				}
				if diff := cmp.Diff(want, forward); diff != "" {
					t.Fatalf("forward (-want +got):\n%s", diff)
				}
				// Backward. There is always a next page then.
				backward := runIDs(last)
				for prev := last.Prev; prev != ""; {
					page := f.list(filter, store.Page{Before: prev, Limit: limit})
					if page.Next == "" {
						t.Error("no next on the way back")
					}
					backward = append(runIDs(page), backward...)
					prev = page.Prev
				}
				if diff := cmp.Diff(want, backward); diff != "" {
					t.Fatalf("backward (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestListRuns_R131_AnEmptyPageHasNoNeighbours(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.history(2)
	oldest := openworkflow.Cursor{CreatedAt: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), ID: "x"}.String()
	newest := openworkflow.Cursor{CreatedAt: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), ID: "x"}.String()
	for _, page := range []store.Page{{After: oldest}, {Before: newest}} {
		if diff := cmp.Diff(store.RunPage{}, f.list(store.RunFilter{}, page)); diff != "" {
			t.Errorf("%+v: (-want +got):\n%s", page, diff)
		}
	}
}

func TestListRuns_R130_HundredToAPage(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.history(101)
	for limit, want := range map[int]int{0: 100, -1: 100, 101: 101, 5000: 101} {
		if got := len(f.list(store.RunFilter{}, store.Page{Limit: limit}).Runs); got != want {
			t.Errorf("limit %d: %d runs, want %d", limit, got, want)
		}
	}
}

func TestListRuns_Filters(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, status := range []string{"pending", "running", "sleeping", "completed", "succeeded", "failed", "canceled"} {
		for _, name := range []string{"a", "b"} {
			f.exec(`
INSERT INTO openworkflow.workflow_runs (
	namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at, input, output
)
SELECT n, $2 || '-' || $1, $2, $1, '{}', 0, now(), now(), '1', '2' FROM unnest(ARRAY['default', 'other']) n`, status, name)
		}
	}
	for _, c := range []struct {
		filter store.RunFilter
		want   []string
	}{
		{store.RunFilter{Status: "failed"}, []string{"a-failed", "b-failed"}},
		{store.RunFilter{Status: "running", WorkflowName: "a"}, []string{"a-running", "a-sleeping"}},
		{store.RunFilter{Status: "completed", WorkflowName: "b"}, []string{"b-completed", "b-succeeded"}},
		{store.RunFilter{Status: "unknown"}, []string{}},
		{store.RunFilter{WorkflowName: "c"}, []string{}},
		{store.RunFilter{WorkflowName: "a"}, []string{
			"a-canceled", "a-completed", "a-failed", "a-pending", "a-running", "a-sleeping", "a-succeeded",
		}},
	} {
		t.Run(fmt.Sprintf("%+v", c.filter), func(t *testing.T) {
			f := f.in(t)
			got := runIDs(f.list(c.filter, store.Page{}))
			slices.Sort(got)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("runs (-want +got):\n%s", diff)
			}
		})
	}
	full, brief := f.list(store.RunFilter{}, store.Page{}), f.list(store.RunFilter{Brief: true}, store.Page{})
	if len(full.Runs) != 14 || len(brief.Runs) != 14 {
		t.Fatalf("%d and %d runs, want the 14 of the namespace", len(full.Runs), len(brief.Runs))
	}
	for i := range full.Runs {
		full.Runs[i].Input, full.Runs[i].Output = nil, nil
	}
	if diff := cmp.Diff(full, brief); diff != "" {
		t.Errorf("a brief list is not a list without inputs and outputs (-want +got):\n%s", diff)
	}
}

func TestList_P7_RefusesCursorsThatAreNone(t *testing.T) {
	t.Parallel()
	f := setup(t)
	cursor := openworkflow.Cursor{ID: "x"}.String()
	for _, c := range []struct {
		page store.Page
		want error
	}{
		{store.Page{After: "?"}, openworkflow.ErrInvalidCursor},
		{store.Page{Before: "?"}, openworkflow.ErrInvalidCursor},
		{store.Page{After: cursor, Before: cursor}, store.ErrTwoCursors},
	} {
		t.Run(fmt.Sprintf("%+v", c.page), func(t *testing.T) {
			f := f.in(t)
			if _, err := f.ListRuns(t.Context(), store.RunFilter{}, c.page); !errors.Is(err, c.want) {
				t.Errorf("ListRuns: %v, want %v", err, c.want)
			}
			if _, err := f.ListSteps(t.Context(), "run", c.page); !errors.Is(err, c.want) {
				t.Errorf("ListSteps: %v, want %v", err, c.want)
			}
		})
	}
	if got := store.ErrTwoCursors.Error(); got != "Cannot specify both 'after' and 'before' cursors" { // R131
		t.Errorf("the text is %q", got)
	}
}

func TestListSteps_OldestFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l, other := f.start(), f.start()
	var want []string
	for i := range 5 {
		w := step(l, fmt.Sprint(i), openworkflow.StepCompleted, `{"i":1}`)
		f.must([]store.StepWrite{w, step(other, "other", openworkflow.StepCompleted, `1`)}, nil)
		want = append(want, w.Attempt.ID)
	}
	f.exec(`UPDATE openworkflow.step_attempts SET created_at = '2026-01-01'`) // ids decide
	ids := func(page store.StepPage) (ids []string) {
		for _, a := range page.Steps {
			ids = append(ids, a.ID)
		}
		return ids
	}
	list := func(page store.Page) store.StepPage {
		t.Helper()
		got, err := f.ListSteps(t.Context(), l.RunID, page)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := list(store.Page{Limit: 2})
	second := list(store.Page{Limit: 2, After: first.Next})
	third := list(store.Page{Limit: 2, After: second.Next})
	if diff := cmp.Diff(want, slices.Concat(ids(first), ids(second), ids(third))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if first.Prev != "" || third.Next != "" {
		t.Errorf("the list does not end: %q, %q", first.Prev, third.Next)
	}
	if diff := cmp.Diff(ids(second), ids(list(store.Page{Limit: 2, Before: third.Prev}))); diff != "" {
		t.Errorf("back: (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(json.RawMessage(`{"i": 1}`), first.Steps[0].Output); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
	if page, err := f.ListSteps(t.Context(), "missing", store.Page{}); err != nil || len(page.Steps) != 0 {
		t.Errorf("of a run that does not exist: %+v, %v", page, err)
	}
}

func TestCountRuns_R133(t *testing.T) {
	t.Parallel()
	f := setup(t)
	expect := func(want map[openworkflow.RunStatus]int64) {
		t.Helper()
		got, err := f.CountRuns(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	expect(map[openworkflow.RunStatus]int64{"pending": 0, "running": 0, "completed": 0, "failed": 0, "canceled": 0})
	for i, status := range []string{"pending", "running", "sleeping", "completed", "succeeded", "failed", "canceled", "unknown"} {
		f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
SELECT n, $1 || i, 'wf', $1, '{}', 0, now(), now() FROM generate_series(1, $2::int) i, unnest('{default,other}'::text[]) n`, status, i+1)
	}
	expect(map[openworkflow.RunStatus]int64{"pending": 1, "running": 2 + 3, "completed": 4 + 5, "failed": 6, "canceled": 7})
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	f := setup(t)
	done, failed, running := f.start(), f.start(), f.start()
	pending := f.create(2)
	f.must(nil, []store.RunWrite{ending(done, store.RunComplete), ending(failed, store.RunFail)})
	if _, err := f.CancelRuns(t.Context(), pending[:1]); err != nil {
		t.Fatal(err)
	}
	got, err := f.Outcomes(t.Context(), []string{done.RunID, failed.RunID, running.RunID, pending[0], pending[1], "missing"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]store.Outcome{
		done.RunID:   {Status: "completed", WorkflowName: "wf", Output: json.RawMessage(`{"done": true}`)},
		failed.RunID: {Status: "failed", WorkflowName: "wf", Error: json.RawMessage(`{"message": "no"}`)},
		pending[0]:   {Status: "canceled", WorkflowName: "wf"},
		"missing":    {},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

var scanned = regexp.MustCompile(`Scan .*actual rows=(\d+) loops=(\d+)`)

// TestLists_ReadAPage holds once the tables are analyzed. Before that, the planner assumes
// that a namespace has hardly any rows, and sorts them.
func TestLists_ReadAPage(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.populate()
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = timestamptz '2026-01-01' + (hashtext(id) % 1000000) * interval '1 ms'`)
	f.exec(`UPDATE openworkflow.workflow_runs SET workflow_name = 'rare' WHERE id IN ('done-1', 'pending-1')`)
	f.exec(`VACUUM ANALYZE openworkflow.workflow_runs, openworkflow.step_attempts`)
	const limit = 50
	middle := &openworkflow.Cursor{CreatedAt: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), ID: "x"}
	expect := func(name, sql string, args []any) {
		t.Helper()
		plan := f.explain(sql, args...)
		for _, m := range scanned.FindAllStringSubmatch(plan, -1) {
			if rows, _ := strconv.Atoi(m[1]); rows > 2*limit {
				t.Errorf("%s reads %d rows:\n%s", name, rows, plan)
			}
		}
		for _, m := range removed.FindAllStringSubmatch(plan, -1) {
			if n, _ := strconv.Atoi(m[1]); n > limit {
				t.Errorf("%s reads %d rows for nothing:\n%s", name, n, plan)
			}
		}
	}
	for _, after := range []*openworkflow.Cursor{nil, middle} {
		for _, filter := range []store.RunFilter{
			{}, {WorkflowName: "wf"}, {WorkflowName: "rare"}, {Status: "pending"}, {Status: "completed", WorkflowName: "wf"},
		} {
			sql, args := f.RunList(filter, after, limit)
			expect(fmt.Sprintf("%+v after %v", filter, after), sql, args)
		}
		sql, args := f.StepList("done-1", after, limit)
		expect(fmt.Sprint("steps after ", after), sql, args)
	}
}
