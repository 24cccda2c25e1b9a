//go:build bench

package bench

import (
	"fmt"
	"testing"

	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// history is W5: W1 in tables with runs that finished long ago, and with runs that wait for
// a worker.
func (s *session) history(t *testing.T, d *disk) {
	five := func(b *base) report.Sample { return throughput(b, load{workers: 1, runs: s.runs}) }
	behind := func(workflow string) func(b *base) report.Sample {
		return func(b *base) report.Sample {
			b.addBacklog(workflow, s.backlog)
			return five(b)
		}
	}
	old := d.newBase(t)
	old.addFinished(s.sizes.history)
	s.measure(t, d, s.rounds,
		measurement{name: "W5 empty tables", run: five},
		measurement{name: "W5 with finished runs", base: old, run: five},
		measurement{name: "W5 with a backlog nobody serves", run: behind("served by nobody")},
		measurement{name: "W5 with a backlog of the same workflow", run: func(b *base) report.Sample {
			sample := throughput(b, load{
				workers: 1, runs: s.runs, steps: workflows.Steps, workflow: workflows.Five.Name(),
				start: func(b *base, runs int) { b.addBacklog(workflows.Five.Name(), s.backlog+runs) },
			})
			delete(sample, "WAL bytes/start") // it was started in another way
			return sample
		}},
	)
	old.drop()
}

// id7 is the SQL of a UUIDv7 of a moment before now, the n-th of a statement.
func id7(age string) string {
	return fmt.Sprintf(`(
		SELECT substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7' || substr(seq, 1, 3) || '-8' || substr(seq, 4, 3) || '-' || substr(md5(n::text), 1, 12)
		FROM (SELECT lpad(to_hex((extract(epoch FROM now() - %s) * 1000)::bigint), 12, '0') AS ms, lpad(to_hex(n), 6, '0') AS seq) id
	)`, age)
}

// addBacklog adds runs that wait for a worker, one a millisecond.
func (b *base) addBacklog(workflow string, runs int) {
	b.t.Helper()
	b.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, input, attempts, available_at, created_at, updated_at)
SELECT 'default', `+id7(`interval '0'`)+`, $1, 'pending', '{}', '{}', 0, now() - ($2 - n) * interval '1 ms', date_trunc('milliseconds', now()), now()
FROM generate_series(1, $2::int) n`, workflow, runs)
	if b.client != nil {
		b.client.Wake(b.t.Context())
	}
}

// addFinished adds runs of five steps that have completed during the last month.
func (b *base) addFinished(runs int) {
	b.t.Helper()
	b.exec(`SET session_replication_role = replica`) // what is added is right: do not check foreign keys
	const chunk = 100_000
	for from := 0; from < runs; from += chunk {
		age := fmt.Sprintf(`interval '30 days' * (1 - n / %d.0)`, runs)
		b.exec(`
WITH run AS MATERIALIZED (
	SELECT n, `+id7(age)+` AS id, date_trunc('milliseconds', now() - `+age+`) AS at
	FROM generate_series($1::int, $2::int) n
), inserted AS (
	INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, input, output, attempts, worker_id,
		started_at, finished_at, created_at, updated_at)
	SELECT 'default', id, $3, 'completed', '{}', '{}', '10', 1, 'worker.' || n, at, at, at, at
	FROM run
)
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, output,
	started_at, finished_at, created_at, updated_at)
SELECT 'default', substr(id, 1, 35) || step, id, 'step:' || step, 'function', 'completed', '{}', to_jsonb(step), at, at, at, at
FROM run CROSS JOIN generate_series(0, $4::int - 1) step
ORDER BY id, step`, from+1, min(from+chunk, runs), workflows.Five.Name(), workflows.Steps)
	}
	b.exec(`SET session_replication_role = origin`)
	b.exec(`VACUUM (ANALYZE) openworkflow.workflow_runs, openworkflow.step_attempts`)
	b.exec(`CHECKPOINT`)
}

// signalNames are names of signals.
func signalNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("approval:%d", i)
	}
	return names
}
