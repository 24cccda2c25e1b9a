//go:build bench

package dataapi

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
)

// The sizes of TestBenchRows: ended runs over 100 days, and open ones over one. ROWS_ENDED sets
// another number of ended runs.
const (
	endedRows = 10_000_000
	openRows  = 100_000
)

// The goals for the 95th percentile of a list and of a point read.
const (
	listGoal  = 100 * time.Millisecond
	pointGoal = 20 * time.Millisecond
)

// fillEnded inserts ended runs 1 to n, the last of which was created a day ago. Of a thousand, 600 are
// of the workflow big, 350 of ten middle ones, 50 of a hundred small ones; 900 are completed, 80 failed
// and 20 canceled. The workflow rare has every 200,000th.
const fillEnded = `
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, version, status, config, context, input, output, error, attempts,
	worker_id, started_at, finished_at, created_at, updated_at)
SELECT $1, '01900000-0000-7000-8000-' || lpad(i::text, 12, '0'),
	CASE WHEN i % 200000 = 7 THEN 'rare' WHEN h < 600 THEN 'big' WHEN h < 950 THEN 'mid-' || h % 10 ELSE 'small-' || i % 100 END,
	CASE WHEN i % 3 = 0 THEN 'v' || i % 5 END,
	CASE WHEN s < 900 THEN 'completed' WHEN s < 980 THEN 'failed' ELSE 'canceled' END, '{}',
	jsonb_build_object('kubernetes', jsonb_build_object('cluster', 'c', 'namespace', $1::text, 'name', 'order-' || i, 'uid', i::text)),
	jsonb_build_object('order', i, 'customer', md5(i::text)), '{"paid": true}',
	CASE WHEN s BETWEEN 900 AND 979 THEN '{"name": "CardError", "message": "the card was declined"}'::jsonb END,
	1, 'pod-' || i % 50 || '.p.' || i, at, at + interval '2 s', at, at + interval '2 s'
FROM generate_series($2::bigint, $3::bigint) i,
	LATERAL (SELECT (hashint8(i)::bigint & 2147483647) % 1000 AS h, (hashint8(i + 1)::bigint & 2147483647) % 1000 AS s,
		date_trunc('milliseconds', now() - interval '1 day' - ($4::bigint - i) * interval '99 days' / $4::bigint) AS at) x`

// fillOpen inserts open runs: of ten, four are due, one is pending for later, four wait until later and
// one was given back; 1,000 are held by workers.
const fillOpen = `
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, input, attempts, worker_id, available_at, created_at, updated_at)
SELECT $1, '01900000-0000-7000-9000-' || lpad(i::text, 12, '0'),
	CASE WHEN i % 2000 = 7 THEN 'rare' WHEN i % 1000 < 600 THEN 'big' WHEN i % 1000 < 950 THEN 'mid-' || i % 10 ELSE 'small-' || i % 100 END,
	CASE WHEN held OR i % 10 >= 5 THEN 'running' ELSE 'pending' END, '{}', jsonb_build_object('order', i), CASE WHEN i % 10 >= 5 THEN 1 ELSE 0 END,
	CASE WHEN held THEN 'pod-' || i % 50 || '.p.' || i END,
	CASE WHEN held THEN now() + interval '30 s' WHEN i % 10 < 4 THEN at WHEN i % 10 = 9 THEN at ELSE now() + interval '9 days' END,
	at, at
FROM generate_series(1, $2::int) i,
	LATERAL (SELECT i % 100 = 50 AS held, date_trunc('milliseconds', now() - ($2::int - i) * interval '1 day' / $2::int) AS at) x`

// fillSteps inserts three attempts for each open run and each of the last 100,000 ended ones, and
// makes 2,000 of these the children of the last.
const fillSteps = `
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, output, started_at, finished_at, created_at, updated_at,
	child_workflow_run_namespace_id, child_workflow_run_id)
SELECT r.namespace_id, r.id || '-' || k, r.id, 'step-' || k, CASE WHEN k > 3 THEN 'workflow' ELSE 'function' END, 'completed', '{}', '{"ok": true}',
	r.created_at, r.created_at, r.created_at, r.created_at,
	CASE WHEN k > 3 THEN $1 END, CASE WHEN k > 3 THEN '01900000-0000-7000-8000-' || lpad(($2::bigint - k)::text, 12, '0') END
FROM openworkflow.workflow_runs r, generate_series(1, CASE WHEN r.id = '01900000-0000-7000-8000-' || lpad(($2::bigint)::text, 12, '0') THEN 2003 ELSE 3 END) k
WHERE r.namespace_id = $1 AND r.id > '01900000-0000-7000-8000-' || lpad(($2::bigint - 100000)::text, 12, '0')`

// fill makes the rows. The indexes are built after them, which is much faster.
func (w *world) fill(ended int64) {
	w.t.Helper()
	ctx := w.t.Context()
	db, err := pgx.Connect(ctx, w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = db.Close(ctx) }()
	exec := func(sql string, args ...any) {
		w.t.Helper()
		start := time.Now()
		if _, err := db.Exec(ctx, sql, args...); err != nil {
			w.t.Fatalf("%s: %v", sql, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			w.t.Logf("%s: %.60s", took.Round(time.Second), strings.TrimSpace(sql))
		}
	}
	rows, err := db.Query(ctx, `SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'openworkflow' AND tablename = 'workflow_runs' AND indexname NOT LIKE '%pkey'`)
	if err != nil {
		w.t.Fatal(err)
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Name, SQL string }])
	if err != nil {
		w.t.Fatal(err)
	}
	exec(`SET session_replication_role = replica; SET maintenance_work_mem = '1GB'; SET synchronous_commit = off`)
	for _, index := range indexes {
		exec(`DROP INDEX openworkflow.` + index.Name)
	}
	const part = 1_000_000
	for from := int64(1); from <= ended; from += part {
		exec(fillEnded, w.namespace, from, min(from+part-1, ended), ended)
	}
	exec(fillOpen, w.namespace, openRows)
	exec(fillSteps, w.namespace, ended)
	for _, index := range indexes {
		exec(index.SQL)
	}
	exec(`VACUUM ANALYZE openworkflow.workflow_runs`)
	exec(`VACUUM ANALYZE openworkflow.step_attempts`)
	exec(`CHECKPOINT`)
}

// benchLists are the filters that are measured; a continue at a random place is added to each.
var benchLists = []string{
	"", "spec.backend=default",
	"spec.workflowName=big", "spec.workflowName=mid-3", "spec.workflowName=small-7", "spec.workflowName=rare", "spec.workflowName=none",
	"status.state=Pending", "status.state=Running", "status.state=Waiting", "status.state=Completed", "status.state=Failed", "status.state=Canceled",
	"status.state!=Completed", "status.state!=Pending", "status.state!=Waiting", "status.state!=Completed,status.state!=Failed,status.state!=Canceled",
	"spec.workflowName=big,status.state=Pending", "spec.workflowName=rare,status.state=Pending", "spec.workflowName=none,status.state=Pending",
	"spec.workflowName=big,status.state=Running", "spec.workflowName=rare,status.state=Running", "spec.workflowName=none,status.state=Running",
	"spec.workflowName=big,status.state=Waiting", "spec.workflowName=rare,status.state=Waiting", "spec.workflowName=none,status.state=Waiting",
	"spec.workflowName=big,status.state=Completed", "spec.workflowName=rare,status.state=Completed", "spec.workflowName=none,status.state=Completed",
	"spec.workflowName=big,status.state=Failed", "spec.workflowName=rare,status.state=Failed", "spec.workflowName=none,status.state=Failed",
	"spec.workflowName=rare,status.state=Canceled", "spec.workflowName=rare,status.state!=Completed", "spec.workflowName=big,status.state!=Completed",
	"createdFrom=FROM,createdBefore=BEFORE", "createdFrom=2099-01-01T00:00:00Z", "createdBefore=2001-01-01T00:00:00Z",
	"createdFrom=FROM", "createdBefore=BEFORE",
	"createdFrom=FROM,createdBefore=BEFORE,status.state=Failed", "createdFrom=FROM,createdBefore=BEFORE,status.state=Waiting",
	"createdFrom=FROM,createdBefore=BEFORE,status.state=Pending", "createdFrom=FROM,createdBefore=BEFORE,status.state=Running",
	"createdFrom=FROM,createdBefore=BEFORE,spec.workflowName=big", "createdFrom=FROM,createdBefore=BEFORE,spec.workflowName=rare",
	"createdFrom=FROM,createdBefore=BEFORE,spec.workflowName=big,status.state=Failed",
	"createdFrom=FROM,createdBefore=BEFORE,spec.workflowName=rare,status.state=Waiting",
	"createdBefore=2001-01-01T00:00:00Z,status.state=Pending", "createdBefore=2001-01-01T00:00:00Z,status.state=Waiting",
	"status.parent=PARENT", "status.parent=PARENT,status.state=Failed", "status.parent=PARENT,spec.workflowName=rare", "status.parent=none",
	"metadata.name=ONE", "metadata.name=none",
}

// TestBenchRows measures lists and point reads of the data API beside a long history, from the
// request to the whole answer. It needs about 12 GB of disk below TMPDIR, and takes a quarter of an hour.
func TestBenchRows(t *testing.T) {
	w := setup(t)
	ended := int64(endedRows)
	if text := os.Getenv("ROWS_ENDED"); text != "" {
		if _, err := fmt.Sscan(text, &ended); err != nil {
			t.Fatal(err)
		}
	}
	w.fill(ended)
	c := w.user()
	id := func(i int64) string { return fmt.Sprintf("01900000-0000-7000-8000-%012d", i) }
	at := func() time.Time { return time.Now().Add(-time.Duration(rand.Int64N(int64(98 * 24 * time.Hour)))) }
	b := &benchmark{t: t}
	for _, selector := range benchLists {
		for _, page := range []string{"first", "later"} {
			b.measure("list "+page+" "+selector, listGoal, func() *rest.Request {
				from := at()
				fields := strings.NewReplacer("FROM", from.UTC().Format(time.RFC3339), "BEFORE", from.Add(6*time.Hour).UTC().Format(time.RFC3339),
					"PARENT", id(ended), "ONE", id(1+rand.Int64N(ended))).Replace(selector)
				request := c.Get().Namespace(w.namespace).Resource("runs").Param("fieldSelector", fields)
				if page == "later" {
					request.Param("continue", position{at(), "x"}.String())
				}
				return request
			})
		}
	}
	for name, sub := range map[string]string{"run": "", "steps": "steps", "payload": "payload", "history": "history"} {
		b.measure("point read of "+name, pointGoal, func() *rest.Request {
			request := c.Get().Namespace(w.namespace).Resource("runs").Name(id(ended - rand.Int64N(90_000)))
			if sub != "" {
				request.SubResource(sub)
			}
			return request
		})
	}
	b.measure("point read of an old run", pointGoal, func() *rest.Request {
		return c.Get().Namespace(w.namespace).Resource("runs").Name(id(1 + rand.Int64N(ended)))
	})
	b.measure("point read of no run", pointGoal, func() *rest.Request {
		return c.Get().Namespace(w.namespace).Resource("runs").Name("none")
	})
	b.report()
}

// benchmark collects times.
type benchmark struct {
	t     *testing.T
	lines []benchLine
}

type benchLine struct {
	name          string
	goal          time.Duration
	p50, p95, max time.Duration
}

// measure makes a kind of request a number of times, or for a few seconds.
func (b *benchmark) measure(name string, goal time.Duration, request func() *rest.Request) {
	b.t.Helper()
	const times, longest = 40, 4 * time.Second
	var took []time.Duration
	for began := time.Now(); len(took) < times && time.Since(began) < longest; {
		r := request()
		start := time.Now()
		_, err := r.DoRaw(b.t.Context())
		took = append(took, time.Since(start))
		if err != nil && !apierrors.IsNotFound(err) {
			b.t.Errorf("%s: %v", name, err)
		}
	}
	slices.Sort(took)
	n := len(took)
	b.lines = append(b.lines, benchLine{name, goal, took[n/2], took[n*95/100], took[n-1]})
}

// report logs all figures, the slowest first.
func (b *benchmark) report() {
	slices.SortStableFunc(b.lines, func(x, y benchLine) int { return int(y.p95 - x.p95) })
	for _, l := range b.lines {
		b.t.Logf("p50 %8.1f ms  p95 %8.1f ms  max %8.1f ms  %s", ms(l.p50), ms(l.p95), ms(l.max), l.name)
		if l.p95 > l.goal {
			b.t.Errorf("%s: p95 is %.1f ms, the goal is %.0f ms", l.name, ms(l.p95), ms(l.goal))
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
