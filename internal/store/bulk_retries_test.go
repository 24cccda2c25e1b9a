package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// ended inserts runs that ended a second apart, the first at 2026-01-01. Each text has the id, and
// then what differs from a failed run of workflow "wf": "status=canceled".
func (f *fixture) ended(runs ...string) {
	f.t.Helper()
	for i, text := range runs {
		id, changes, _ := strings.Cut(text, " ")
		f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, error, attempts, created_at, updated_at)
			SELECT 'default', $1, 'wf', 'failed', '{}', '{"name": "Error", "message": "no"}', 1, at, at FROM (SELECT timestamptz '2026-01-01 00:00:00Z' + $2::int * interval '1 s' AS at) t`, id, i)
		for change := range strings.FieldsSeq(changes) {
			column, value, _ := strings.Cut(change, "=")
			f.exec(`UPDATE openworkflow.workflow_runs SET `+column+` = `+value+` WHERE id = $1`, id)
		}
	}
}

// bulk creates a request and claims it.
func (f *fixture) bulk(spec store.BulkSpec) *store.BulkWork {
	f.t.Helper()
	if spec.PerMinute == 0 {
		spec.PerMinute = store.MaxBulkRate
	}
	if err := f.CreateBulkRetry(f.t.Context(), store.BulkRetry{Name: openworkflow.NewID(), Spec: spec, State: store.BulkRunning}); err != nil {
		f.t.Fatal(err)
	}
	return f.claimBulk()
}

func (f *fixture) claimBulk() *store.BulkWork {
	f.t.Helper()
	work, err := f.ClaimBulkRetry(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return work
}

func (f *fixture) bulkSources(work *store.BulkWork) (ids []string, page store.BulkSources) {
	f.t.Helper()
	page, err := f.BulkSources(f.t.Context(), work)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, source := range page.Matching {
		ids = append(ids, source.ID)
	}
	return ids, page
}

func (f *fixture) bulkRetry(name string) store.BulkRetry {
	f.t.Helper()
	all, err := f.View(time.Minute).BulkRetries(f.t.Context(), name)
	if err != nil || len(all) != 1 {
		f.t.Fatalf("bulk retries %q: %+v, %v", name, all, err)
	}
	return all[0]
}

func second(n int) time.Time { return time.Date(2026, 1, 1, 0, 0, n, 0, time.UTC) }

func TestBulkRetry_P9_SelectsAsItSays(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.ended("a", "b status='canceled'", "c workflow_name='other'", "d version='2'", `e error='{"name":"CardError"}'`, "f status='completed'",
		"g error=NULL", "h parent_step_attempt_id=NULL", `i error='"text"'`, "j namespace_id='another'", "k status='running'")
	f.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, created_at, updated_at)
		VALUES ('default', 'start', 'a', 's', 'workflow', 'failed', '{}', now(), now())`)
	f.exec(`UPDATE openworkflow.workflow_runs SET parent_step_attempt_namespace_id = 'default', parent_step_attempt_id = 'start' WHERE id = 'h'`)
	for name, test := range map[string]struct {
		spec store.BulkSpec
		want string
	}{
		"failed":      {store.BulkSpec{Failed: true}, "a c d e g i"},
		"canceled":    {store.BulkSpec{Canceled: true}, "b"},
		"both":        {store.BulkSpec{Failed: true, Canceled: true}, "a b c d e g i"},
		"none":        {store.BulkSpec{}, ""},
		"workflow":    {store.BulkSpec{Failed: true, WorkflowName: "other"}, "c"},
		"version":     {store.BulkSpec{Failed: true, Version: new("2")}, "d"},
		"unversioned": {store.BulkSpec{Failed: true, Version: new("")}, "a c e g i"},
		"error":       {store.BulkSpec{Failed: true, ErrorName: "CardError"}, "e"},
		"from":        {store.BulkSpec{Failed: true, EndedFrom: second(3)}, "d e g i"},
		"before":      {store.BulkSpec{Failed: true, EndedBefore: second(3)}, "a c"},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			work := f.bulk(test.spec)
			ids, page := f.bulkSources(work)
			if got := strings.Join(ids, " "); got != test.want || !page.Whole {
				t.Errorf("selected %q, whole %v, want %q", got, page.Whole, test.want)
			}
			preview, err := f.View(time.Minute).PreviewBulkRetry(t.Context(), &test.spec)
			if err != nil {
				t.Fatal(err)
			}
			want := store.BulkPreview{Matched: len(ids), Sample: append([]string{}, ids...)}
			if diff := cmp.Diff(want, preview); diff != "" {
				t.Errorf("preview (-want +got):\n%s", diff)
			}
			if err := f.DeleteBulkRetry(t.Context(), work.Name, work.UID); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestBulkRetry_SelectsNothingThatEndsLater(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.ended("a")
	work := f.bulk(store.BulkSpec{Failed: true})
	later := f.failed(upTo("s"))
	if ids, _ := f.bulkSources(work); !slices.Equal(ids, []string{"a"}) {
		t.Errorf("selected %q, and %s failed after the request", ids, later)
	}
}

func TestBulkRetry_P9_IsBounded(t *testing.T) {
	t.Parallel()
	f := setup(t)
	create := func(name string) error {
		return f.CreateBulkRetry(t.Context(), store.BulkRetry{Name: name, Spec: store.BulkSpec{PerMinute: 1}, State: store.BulkRunning})
	}
	f.exec(`INSERT INTO openworkflow.operator_bulk_retries (namespace_id, name, uid, spec, state, matched, more, ended_before, cursor_at, next_at, created_at)
		SELECT 'default', 'old-' || lpad(i::text, 3, '0'), i, '{}', 'completed', 0, false, now(), now(), now(), timestamptz '2026-01-01' + i * interval '1 s' FROM generate_series(1, 200) i`)
	for i := range store.MaxOpenBulkRetries {
		if err := create(fmt.Sprint("open-", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := create("open-3"); !errors.Is(err, store.ErrBulkRetryExists) || !strings.Contains(err.Error(), `bulk retry exists: "open-3"`) {
		t.Errorf("a second one of the name: %v", err)
	}
	if err := create("another"); !errors.Is(err, store.ErrTooManyBulkRetries) || !strings.Contains(err.Error(), "too many bulk retries are open: 10") {
		t.Errorf("one too many: %v", err)
	}
	if got := f.value(`SELECT count(*) || ' from ' || min(name) FROM openworkflow.operator_bulk_retries WHERE name LIKE 'old-%'`); got != "89 from old-112" {
		t.Errorf("of those that ended, there are %s", got)
	}
}

func TestBulkRetry_P2_AClaimIsExclusive(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.ended("a", "b")
	first := f.bulk(store.BulkSpec{Failed: true, PerMinute: 60})
	if second := f.claimBulk(); second != nil {
		t.Fatalf("two hold %q", second.Name)
	}
	f.exec(`UPDATE openworkflow.operator_bulk_retries SET next_at = now()`) // the lease ends
	second := f.claimBulk()
	cursor := openworkflow.Cursor{CreatedAt: second.CreatedAt, ID: "b"}
	for _, work := range []*store.BulkWork{first, second} {
		if err := f.AdvanceBulkRetry(t.Context(), work, store.BulkProgress{Cursor: cursor, Started: 2, Failed: []store.BulkFailure{{RunID: "x", Message: "m"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if b := f.bulkRetry(first.Name); b.Started != 2 || b.Failed != 1 || len(b.Failures) != 1 {
		t.Errorf("progress is %+v, want that of the second claim alone", b)
	}
	if again := f.claimBulk(); again != nil { // two forks at one a second
		t.Error("the next batch is due at once")
	}
	if got := f.value(`SELECT next_at - claimed_at FROM openworkflow.operator_bulk_retries`); got != "00:00:02" {
		t.Errorf("the next batch is due after %s", got)
	}
}

func TestBulkRetry_States(t *testing.T) {
	t.Parallel()
	f := setup(t)
	work := f.bulk(store.BulkSpec{Failed: true})
	done := store.BulkProgress{Done: true, Started: 1}
	change := func(state store.BulkState, want bool) {
		t.Helper()
		changed, err := f.ChangeBulkRetry(t.Context(), work.Name, work.UID, state)
		if err != nil || changed != want {
			t.Fatalf("to %s: %v, %v, want %v", state, changed, err, want)
		}
	}
	change(store.BulkSuspended, true)
	if err := f.AdvanceBulkRetry(t.Context(), work, done); err != nil { // the batch goes on
		t.Fatal(err)
	}
	if b := f.bulkRetry(work.Name); b.State != store.BulkSuspended || b.Started != 1 {
		t.Errorf("it is %+v", b)
	}
	f.exec(`UPDATE openworkflow.operator_bulk_retries SET next_at = now()`)
	if f.claimBulk() != nil {
		t.Error("a suspended request was claimed")
	}
	change(store.BulkRunning, true)
	work = f.claimBulk()
	if err := f.AdvanceBulkRetry(t.Context(), work, done); err != nil {
		t.Fatal(err)
	}
	if b := f.bulkRetry(work.Name); b.State != store.BulkCompleted || b.FinishedAt == nil {
		t.Errorf("it is %+v", b)
	}
	change(store.BulkCanceled, false)
	if f.claimBulk() != nil {
		t.Error("an ended request was claimed")
	}
}

// Whoever may write rows may write anything into ours.
func TestBulkRetry_P9_HostileRowsHarmNobody(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.ended("a")
	f.bulk(store.BulkSpec{Failed: true})
	for name, spec := range map[string]string{
		"another shape": `'[1]'`,
		"long":          `jsonb_build_object('workflowName', repeat('x', 1000000), 'failed', true)`,
		"bad time":      `'{"failed": true, "endedFrom": "yesterday"}'`,
		"fast":          `'{"perMinute": 1000000000, "maxRuns": -5}'`,
		"type":          `'{"failed": true, "perMinute": "x"}'`,
	} {
		f.exec(`UPDATE openworkflow.operator_bulk_retries SET next_at = now(), failures = '7', cursor_at = 'infinity', spec = ` + spec)
		work := f.claimBulk()
		if work.Spec.Failed || work.Batch < 1 || work.Batch > 200 {
			t.Errorf("%s: the request is %+v", name, work)
		}
		if ids, _ := f.bulkSources(work); len(ids) > 0 {
			t.Errorf("%s: it selects %q", name, ids)
		}
	}
	f.exec(`INSERT INTO openworkflow.operator_bulk_retries (namespace_id, name, uid, spec, state, matched, more, ended_before, cursor_at, next_at, created_at)
		SELECT 'default', 'n' || i, 'u', jsonb_build_object('x', repeat('y', 15000)), 'running', 0, false, now(), now(), now(), now() FROM generate_series(1, 3000) i`)
	all, err := f.View(time.Minute).BulkRetries(t.Context(), "")
	if err != nil || len(all) != store.MaxBulkRetries {
		t.Errorf("%d requests, %v", len(all), err)
	}
}

// A page reads as many rows as it may, whatever the history has.
func TestPlans_BulkRetriesReadAnIndexInItsOrder(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`ALTER TABLE openworkflow.workflow_runs SET (autovacuum_enabled = off)`)
	f.populate()
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed', updated_at = timestamptz '2026-01-01' + (hashtext(id) % 1000000) * interval '1 s' WHERE id LIKE 'done-%'`)
	f.exec(`VACUUM ANALYZE openworkflow.workflow_runs`)
	for name, after := range map[string]time.Time{"the beginning": {}, "the middle": time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)} {
		sql, args := f.BulkPageSQL(&store.BulkSpec{Failed: true, WorkflowName: "none"}, openworkflow.Cursor{CreatedAt: after}, 500)
		f.expectCost(name, f.explain(sql, args...), "operator_runs_failed_idx", 510)
	}
}
