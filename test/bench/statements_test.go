//go:build bench

package bench

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"text/tabwriter"

	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// TestStatements shows how Postgres' time is spread over statements. Counting them slows
// everything down a little, so its rates are not measurements.
func TestStatements(t *testing.T) {
	s := newSession()
	for name, work := range map[string]func(b *base) report.Sample{
		"W1": func(b *base) report.Sample { return throughput(b, load{workers: 1, runs: s.runs}) },
		"W5-backlog": func(b *base) report.Sample {
			b.addBacklog("served by nobody", s.backlog)
			return throughput(b, load{workers: 1, runs: s.runs})
		},
		"W2":          func(b *base) report.Sample { return oneByOne(b, workflows.Long, s.long, 1, "step") },
		"W3":          func(b *base) report.Sample { return latency(b, s.latencies) },
		"W7-steps":    func(b *base) report.Sample { return oneByOne(b, workflows.FanOut, s.steps, 1, "step") },
		"W7-children": func(b *base) report.Sample { return oneByOne(b, workflows.Parent, s.children, 1, "child") },
		"W8":          func(b *base) report.Sample { return wake(b, s.parked) },
	} {
		t.Run(name, func(t *testing.T) {
			d := startDisk(t, asIs, append(slices.Clip(observed), "pg_stat_statements.track_planning=on")...)
			b := d.newBase(t)
			b.exec(`CREATE EXTENSION pg_stat_statements`)
			work(b)
			b.printStatements()
			b.drop()
		})
	}
}

// printStatements prints those on which most time was spent.
func (b *base) printStatements() {
	b.t.Helper()
	rows, err := b.conn.Query(b.t.Context(), `
SELECT calls, rows, total_exec_time / calls, total_plan_time / calls, total_exec_time + total_plan_time,
	shared_blks_hit / calls, wal_bytes::float8 / calls, left(regexp_replace(query, '\s+', ' ', 'g'), 90)
FROM pg_stat_statements
WHERE calls > 0 AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 5 DESC
LIMIT 10`)
	if err != nil {
		b.t.Fatal(err)
	}
	defer rows.Close()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(table, "\n%s: calls\trows\tms\tms to plan\tms in all\tpages\tWAL bytes\tstatement\n", b.t.Name())
	for rows.Next() {
		var calls, count, pages int64
		var execution, planning, all, wal float64
		var query string
		if err := rows.Scan(&calls, &count, &execution, &planning, &all, &pages, &wal, &query); err != nil {
			b.t.Fatal(err)
		}
		_, _ = fmt.Fprintf(table, "%d\t%d\t%.3f\t%.3f\t%.0f\t%d\t%.0f\t%s\n", calls, count, execution, planning, all, pages, wal, query)
	}
	if err := rows.Err(); err != nil {
		b.t.Fatal(err)
	}
	_ = table.Flush()
}
