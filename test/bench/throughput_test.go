//go:build bench

package bench

import (
	"fmt"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
	"github.com/openworkflow-operator/operator/workflow"
)

// load is a number of runs for workers that are ready.
type load struct {
	workers, runs int
	// steps of each run; the measurement is in steps if there are any.
	steps int
	// start starts the runs; by default all of Five in one statement, so that the
	// workers see all of them at once.
	start func(b *base, runs int)
	// workflow is the name of the workflow that start starts.
	workflow    string
	environment []string
}

// throughput executes a load. Rates come from the rows: from the start of the first run to
// the end of the last one, by the server's clock.
func throughput(b *base, l load) report.Sample {
	b.t.Helper()
	if l.start == nil {
		l.start, l.workflow, l.steps = startFive, workflows.Five.Name(), workflows.Steps
	}
	workers := b.startWorkers(l.workers, l.environment...)
	b.exec(`CHECKPOINT`)
	since := b.now()
	before := b.usage()
	l.start(b, l.runs)
	began := b.usage()
	b.await("end of the runs", patience, func() bool { return b.completed(l.workflow, since) >= l.runs })
	worked := b.usage()
	processes := stop(workers)
	used := b.usage().less(began)
	used.cpu, used.wal = worked.cpu-began.cpu, worked.wal-began.wal

	var completed int
	var seconds float64
	b.scan(`
SELECT count(*), extract(epoch FROM max(finished_at) - min(started_at))
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND workflow_name = $1 AND status = 'completed' AND created_at >= $2`,
		[]any{l.workflow, since}, &completed, &seconds)
	runs := float64(completed)
	sample := report.Sample{
		"runs/s":            runs / seconds,
		"WAL bytes/run":     used.wal / runs,
		"WAL bytes/start":   (began.wal - before.wal) / float64(l.runs),
		"commits/run":       used.commits / runs,
		"flushes/run":       used.flushes / runs,
		"Postgres µs/run":   used.cpu.Seconds() * 1e6 / runs,
		"worker CPU µs/run": processes.Seconds() * 1e6 / runs,
	}
	if l.steps > 0 {
		steps := runs * float64(l.steps)
		sample["steps/s"] = steps / seconds
		sample["commits/step"] = used.commits / steps
		sample["Postgres µs/step"] = used.cpu.Seconds() * 1e6 / steps
	}
	return sample
}

// now is the server's clock, as precise as the instants at which runs are created.
func (b *base) now() (now time.Time) {
	b.t.Helper()
	b.scan(`SELECT date_trunc('milliseconds', clock_timestamp())`, nil, &now)
	return now
}

// completed counts the runs of a workflow that were created since and have completed.
func (b *base) completed(name string, since time.Time) (n int) {
	b.t.Helper()
	b.scan(`
SELECT count(*)
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND workflow_name = $1 AND status = 'completed' AND created_at >= $2`,
		[]any{name, since}, &n)
	return n
}

func startFive(b *base, runs int) { startAll(b, workflows.Five, make([]struct{}, runs)) }

// startAll starts a run for each input, in one statement.
func startAll[In, Out any](b *base, w *workflow.Workflow[In, Out], inputs []In) []*client.Handle[Out] {
	b.t.Helper()
	items := make([]client.Item[In], len(inputs))
	for i, in := range inputs {
		items[i].Input = in
	}
	started, err := client.StartBatch(b.t.Context(), b.client, w, items)
	if err != nil {
		b.t.Fatal(err)
	}
	handles := make([]*client.Handle[Out], len(started))
	for i, s := range started {
		if s.Err != nil {
			b.t.Fatal(s.Err)
		}
		handles[i] = s.Handle
	}
	return handles
}

// throughput is W1: many runs of five steps, by one, two and four workers.
func (s *session) throughput(t *testing.T, d *disk) {
	var measurements []measurement
	for _, n := range s.workers {
		name := fmt.Sprintf("W1 %d workers", n)
		if n == 1 {
			name = w1
		}
		measurements = append(measurements, measurement{name: name, run: func(b *base) report.Sample {
			return throughput(b, load{workers: n, runs: s.runs})
		}})
	}
	s.measure(t, d, s.rounds, measurements...)
}

// payloads is W9: runs whose steps have large outputs.
func (s *session) payloads(t *testing.T, d *disk) {
	s.measure(t, d, s.slowRounds, measurement{name: "W9 100 KB outputs", run: func(b *base) report.Sample {
		sample := throughput(b, load{
			workers: 1, runs: s.large, steps: workflows.Steps, workflow: workflows.Large.Name(),
			start: func(b *base, runs int) { startAll(b, workflows.Large, make([]struct{}, runs)) },
		})
		bytes := float64(workflows.Steps * workflows.PayloadBytes)
		sample["MB/s"] = sample["runs/s"] * bytes / 1e6
		sample["WAL ÷ payload"] = sample["WAL bytes/run"] / bytes
		return sample
	}})
}
