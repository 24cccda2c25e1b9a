//go:build bench

package bench

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// latency is W3: from the start of a run to its result at the caller, with an idle worker.
func (s *session) latency(t *testing.T, d *disk) {
	s.measure(t, d, s.rounds, measurement{name: "W3 start to result", clients: 1, run: func(b *base) report.Sample {
		return latency(b, s.latencies)
	}})
}

func latency(b *base, starts int) report.Sample {
	workers := b.startWorkers(1)
	awaitRun(b, workflows.Echo, 0) // statements are prepared now
	times := make([]float64, starts)
	for i := range times {
		idleFor(b, rand.N(25*time.Millisecond)) // whatever coalesces or polls is at any point of its cycle
		began := time.Now()
		awaitRun(b, workflows.Echo, i)
		times[i] = time.Since(began).Seconds() * 1e3
	}
	stop(workers)
	return report.Sample{
		"p50 ms": report.Quantile(times, 0.5),
		"p99 ms": report.Quantile(times, 0.99),
		"max ms": report.Quantile(times, 1),
	}
}

// starters is how many callers start runs at once.
const starters = 64

// concurrentStarts is a part of W3: many callers of one client start one run in each call.
func (s *session) concurrentStarts(t *testing.T, d *disk) {
	s.measure(t, d, s.rounds, measurement{name: "W3 concurrent starts", run: func(b *base) report.Sample {
		b.exec(`CHECKPOINT`)
		before, began := b.usage(), time.Now()
		var callers sync.WaitGroup
		for range starters {
			callers.Go(func() {
				for i := range s.runs / starters {
					if _, err := client.Start(b.t.Context(), b.client, workflows.Echo, i); err != nil {
						b.t.Error(err)
						return
					}
				}
			})
		}
		callers.Wait()
		seconds := time.Since(began).Seconds()
		starts := float64(s.runs / starters * starters)
		used := b.usage().less(before)
		var transactions float64
		b.scan(`SELECT count(DISTINCT xmin::text) FROM openworkflow.workflow_runs`, nil, &transactions)
		return report.Sample{
			"starts/s":           starts / seconds,
			"transactions/start": transactions / starts,
			"Postgres µs/start":  used.cpu.Seconds() * 1e6 / starts,
		}
	}})
}

// idleFor waits while the workers have nothing to do.
func idleFor(b *base, d time.Duration) {
	select {
	case <-time.After(d):
	case <-b.t.Context().Done():
	}
}

// idlePool counts the statements of ten workers of a hundred slots while there is nothing to
// do.
func (s *session) idlePool(t *testing.T) {
	const workers = 10
	d := startDisk(t, asIs, observed...)
	b := d.newBase(t)
	b.exec(`CREATE EXTENSION pg_stat_statements`)
	statements := func() (n float64) {
		b.scan(`
SELECT coalesce(sum(calls), 0)
FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query NOT LIKE '%pg_%stat%'`, nil, &n)
		return n
	}
	pool := b.startWorkers(workers, "OPENWORKFLOW_CONCURRENCY=100")
	idleFor(b, 20*time.Second) // until each of them knows of the others
	for range s.slowRounds {
		before, cpu, began := statements(), processorTime(t, d.server.PID()), time.Now()
		idleFor(b, s.idle)
		seconds := time.Since(began).Seconds()
		s.report.Add(asIs, "W3 idle pool, 10 × 100 slots", report.Sample{
			"statements/s":      (statements() - before) / seconds,
			"Postgres CPU ms/s": (processorTime(t, d.server.PID()) - cpu).Seconds() * 1e3 / seconds,
		})
	}
	stop(pool)
	b.drop()
}

// crash is W4: from the SIGKILL of a worker to the first step that another worker completes.
// There is no manager, which would release the lease when the pod ends.
func (s *session) crash(t *testing.T, d *disk) {
	s.measure(t, d, s.slowRounds, measurement{name: "W4 crash recovery", run: func(b *base) report.Sample {
		lease := fmt.Sprintf("OPENWORKFLOW_LEASE_SECONDS=%d", int(s.lease.Seconds()))
		first := b.startWorkers(1, lease)[0]
		const steps = 10_000 // more than there is time for
		if _, err := client.Start(t.Context(), b.client, workflows.Ticking, steps); err != nil {
			t.Fatal(err)
		}
		stepsBy := func(p *process) (n int, firstAt *time.Time) {
			b.scan(`
SELECT count(*), min(finished_at)
FROM openworkflow.step_attempts
WHERE namespace_id = 'default' AND status = 'completed' AND output::text = $1`,
				[]any{strconv.Itoa(p.cmd.Process.Pid)}, &n, &firstAt)
			return n, firstAt
		}
		b.await("steps of the first worker", time.Minute, func() bool { n, _ := stepsBy(first); return n > 10 })
		second := b.startWorkers(1, lease)[0]
		killed := b.now()
		first.kill()
		var resumed *time.Time
		b.await("steps of the second worker", time.Minute, func() bool { _, resumed = stepsBy(second); return resumed != nil })
		second.kill()
		seconds := resumed.Sub(killed).Seconds() - workflows.Tick.Seconds()
		return report.Sample{"s to next write": seconds, "s beyond the lease": seconds - s.lease.Seconds()}
	}})
}
