//go:build bench

package bench

import (
	"testing"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
	"github.com/openworkflow-operator/operator/workflow"
)

// sequence is W2: one run of many steps, one after the other.
func (s *session) sequence(t *testing.T, d *disk) {
	s.measure(t, d, s.rounds, measurement{name: w2, clients: 1, run: func(b *base) report.Sample {
		return oneByOne(b, workflows.Long, s.long, 1, "step")
	}})
}

// fanOut is W7: one run of many parallel steps, and one of many children.
func (s *session) fanOut(t *testing.T, d *disk) {
	const times = 5
	s.measure(t, d, s.rounds,
		measurement{name: "W7 parallel steps", run: func(b *base) report.Sample {
			sample := oneByOne(b, workflows.FanOut, s.steps, times, "step")
			sample["steps/s"] = 1e3 / sample["ms/step"]
			delete(sample, "ms/step") // not comparable with that of sequential steps
			return sample
		}},
		measurement{name: "W7 children", run: func(b *base) report.Sample {
			sample := oneByOne(b, workflows.Parent, s.children, times, "child")
			sample["children/s"] = 1e3 / sample["ms/child"]
			var claims float64
			b.scan(`SELECT sum(attempts) FROM openworkflow.workflow_runs WHERE namespace_id = 'default' AND workflow_name = $1`,
				[]any{workflows.Parent.Name()}, &claims)
			sample["claims of the parent/child"] = claims / float64(s.children*times+1)
			return sample
		}},
	)
}

// oneByOne executes runs of so many parts (steps or children), one after the other. Times
// come from the rows: from the start of a run to its end.
func oneByOne(b *base, w *workflow.Workflow[int, int], parts, times int, part string) report.Sample {
	b.t.Helper()
	workers := b.startWorkers(1)
	awaitRun(b, w, 1) // statements are prepared now
	b.exec(`CHECKPOINT`)
	since, began := b.now(), b.usage()
	for range times {
		awaitRun(b, w, parts)
	}
	worked := b.usage()
	stop(workers)
	used := b.usage().less(began)
	var seconds float64
	b.scan(`
SELECT extract(epoch FROM sum(finished_at - started_at))
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND workflow_name = $1 AND status = 'completed' AND created_at >= $2`,
		[]any{w.Name(), since}, &seconds)
	n := float64(parts * times)
	return report.Sample{
		"ms/" + part:          seconds * 1e3 / n,
		"commits/" + part:     used.commits / n,
		"flushes/" + part:     used.flushes / n,
		"Postgres µs/" + part: (worked.cpu - began.cpu).Seconds() * 1e6 / n,
		"WAL bytes/" + part:   (worked.wal - began.wal) / n,
	}
}

// awaitRun starts a run and waits for its end.
func awaitRun[In, Out any](b *base, w *workflow.Workflow[In, Out], in In) {
	b.t.Helper()
	handle, err := client.Start(b.t.Context(), b.client, w, in)
	if err == nil {
		_, err = handle.Result(b.t.Context())
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// signals is W8: parked runs, each woken by a signal.
func (s *session) signals(t *testing.T, d *disk) {
	s.measure(t, d, s.slowRounds, measurement{name: "W8 woken by signals", run: func(b *base) report.Sample {
		return wake(b, s.parked)
	}})
}

func wake(b *base, n int) report.Sample {
	b.t.Helper()
	names := signalNames(n)
	workers := b.startWorkers(1)
	since := b.now()
	startAll(b, workflows.Waiting, names)
	b.await("parked runs", patience, func() bool {
		var parked int
		b.scan(`
SELECT count(*)
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND status = 'running' AND worker_id IS NULL`, nil, &parked)
		return parked == n
	})
	b.exec(`CHECKPOINT`)
	began, at := b.usage(), b.now()
	const batch = 500
	for from := 0; from < n; from += batch {
		var signals []client.Signal
		for _, name := range names[from:min(from+batch, n)] {
			signals = append(signals, client.Signal{Name: name, Data: 1})
		}
		if _, err := b.client.SignalBatch(b.t.Context(), signals); err != nil {
			b.t.Fatal(err)
		}
	}
	sent := b.now()
	b.await("end of the runs", patience, func() bool { return b.completed(workflows.Waiting.Name(), since) == n })
	used := b.usage().less(began)
	stop(workers)
	var seconds float64
	b.scan(`
SELECT extract(epoch FROM max(finished_at) - $1::timestamptz)
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND status = 'completed' AND created_at >= $2`, []any{at, since}, &seconds)
	return report.Sample{
		"runs/s":          float64(n) / seconds,
		"signals sent/s":  float64(n) / sent.Sub(at).Seconds(),
		"Postgres µs/run": used.cpu.Seconds() * 1e6 / float64(n),
		"WAL bytes/run":   used.wal / float64(n),
	}
}
