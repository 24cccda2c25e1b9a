//go:build bench

package bench

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// The peers.
const (
	peerOpenWorkflow = "OpenWorkflow 0.10.1 (TypeScript)"
	peerDBOS         = "DBOS Transact for Go 1.8.0"
)

// peerSteps is the length of the long run of peers: half of what OpenWorkflow allows.
const peerSteps = 500

// peer is another engine, with tables of its own.
type peer interface {
	// start starts a worker that executes runs of so many steps.
	start(b *base, s settings, steps int) *process
	// enqueue adds runs, all of which the workers find when they start to claim.
	enqueue(b *base, workers []*process, runs, steps int)
	// ended returns how many runs were started since an instant and have completed, and
	// the seconds from the start of the first one to the end of the last.
	ended(b *base, since time.Time) (completed int, seconds float64)
}

// settings are what a peer lets its users choose.
type settings struct {
	processes, concurrency, connections int
	// polling is the interval at which a worker queries for runs, if it can be set.
	polling time.Duration
}

func (s settings) String() string {
	text := fmt.Sprintf("processes=%d,concurrency=%d,connections=%d", s.processes, s.concurrency, s.connections)
	if s.polling > 0 {
		text += ",polling=" + s.polling.String()
	}
	return text
}

// The settings with which each peer is fastest. For many runs they come from
// TestPeerSettings; docs/performance.md has its results. For one long run, one slot is best:
// in both peers, a free slot costs queries for the next run.
var (
	openWorkflowMany = settings{processes: 1, concurrency: 300, connections: 30}
	openWorkflowLong = settings{processes: 1, concurrency: 1, connections: 10}
	dbosMany         = settings{processes: 1, concurrency: 300, connections: 20, polling: 10 * time.Millisecond}
	dbosLong         = settings{processes: 1, concurrency: 1, connections: 20, polling: time.Second}
)

// TestPeers measures W1 and W2 of peers beside ours.
func TestPeers(t *testing.T) {
	s := newSession()
	openWorkflow, dbos := buildOpenWorkflow(t), buildDBOS(t)
	measurements := []measurement{
		{name: w1, run: func(b *base) report.Sample { return throughput(b, load{workers: 1, runs: s.runs}) }},
		{name: "W1 " + peerOpenWorkflow, foreign: true, run: peerThroughput(openWorkflow, openWorkflowMany, s.peerRuns)},
		{name: "W1 " + peerDBOS, foreign: true, run: peerThroughput(dbos, dbosMany, s.peerRuns)},
		{name: w2, clients: 1, run: func(b *base) report.Sample { return oneByOne(b, workflows.Long, peerSteps, 1, "step") }},
		{name: "W2 " + peerOpenWorkflow, clients: 1, foreign: true, run: peerSequence(openWorkflow, openWorkflowLong)},
		{name: "W2 " + peerDBOS, clients: 1, foreign: true, run: peerSequence(dbos, dbosLong)},
	}
	for _, server := range []struct {
		name     string
		settings []string
	}{{asIs, nil}, {slow, slowFlush}} {
		t.Run("disk="+strings.ReplaceAll(server.name, " ", "-"), func(t *testing.T) {
			s.measure(t, startDisk(t, server.name, server.settings...), s.rounds, measurements...)
		})
	}
	for _, name := range []string{peerOpenWorkflow, peerDBOS} {
		s.compareWithPeer(w1, "W1 "+name, func(sample report.Sample) float64 { return sample["steps ÷ baseline"] })
		s.compareWithPeer(w2, "W2 "+name, func(sample report.Sample) float64 { return 1 / sample["ms/step ÷ baseline"] })
	}
	s.finish(t, "peers")
}

// TestPeerSettings measures W1 of peers with several settings, each beside the baseline, on
// the disk as it is. The best one of each peer is what TestPeers uses.
func TestPeerSettings(t *testing.T) {
	s := newSession()
	var measurements []measurement
	add := func(name string, p peer, all ...settings) {
		for _, these := range all {
			measurements = append(measurements, measurement{
				name: name + " " + these.String(), foreign: true, run: peerThroughput(p, these, s.peerRuns),
			})
		}
	}
	add(peerOpenWorkflow, buildOpenWorkflow(t),
		settings{processes: 1, concurrency: 100, connections: 10},
		settings{processes: 1, concurrency: 300, connections: 10},
		settings{processes: 1, concurrency: 100, connections: 30},
		settings{processes: 1, concurrency: 300, connections: 30},
		settings{processes: 2, concurrency: 50, connections: 10},
		settings{processes: 2, concurrency: 100, connections: 30},
	)
	add(peerDBOS, buildDBOS(t),
		settings{processes: 1, concurrency: 100, connections: 20, polling: 100 * time.Millisecond},
		settings{processes: 1, concurrency: 100, connections: 20, polling: 10 * time.Millisecond},
		settings{processes: 1, concurrency: 300, connections: 20, polling: 10 * time.Millisecond},
		settings{processes: 1, concurrency: 1000, connections: 20, polling: 10 * time.Millisecond},
		settings{processes: 1, concurrency: 1000, connections: 50, polling: 10 * time.Millisecond},
		settings{processes: 1, concurrency: 1000, connections: 20, polling: 100 * time.Millisecond},
		settings{processes: 2, concurrency: 500, connections: 20, polling: 10 * time.Millisecond},
	)
	s.measure(t, startDisk(t, asIs), s.rounds, measurements...)
	s.finish(t, "peer-settings")
}

// compareWithPeer gives each sample of a peer the ratio of our speed to its speed in the
// same round. Both speeds are ratios to the baselines beside them.
func (s *session) compareWithPeer(our, peers string, speed func(report.Sample) float64) {
	for _, theirs := range s.report.Results {
		for _, ours := range s.report.Results {
			if theirs.Name != peers || ours.Name != our || ours.Server != theirs.Server {
				continue
			}
			for i := range min(len(ours.Samples), len(theirs.Samples)) {
				theirs.Samples[i]["ours ÷ theirs"] = speed(ours.Samples[i]) / speed(theirs.Samples[i])
			}
		}
	}
}

// peerThroughput is W1 of a peer: its workers find all runs enqueued, as ours do.
func peerThroughput(p peer, s settings, runs int) func(*base) report.Sample {
	return func(b *base) report.Sample {
		workers := startPeers(b, p, s, workflows.Steps)
		return measurePeer(b, p, workers, runs, workflows.Steps)
	}
}

// peerSequence is W2 of a peer. Like ours, its worker executes a short run first, so that its
// statements are prepared.
func peerSequence(p peer, s settings) func(*base) report.Sample {
	return func(b *base) report.Sample {
		workers := startPeers(b, p, s, peerSteps)
		since := b.now()
		p.enqueue(b, workers, 1, workflows.Steps)
		b.await("end of the short run", patience, func() bool { n, _ := p.ended(b, since); return n == 1 })
		sample := measurePeer(b, p, workers, 1, peerSteps)
		sample["ms/step"] = 1e3 / sample["steps/s"]
		for _, rate := range []string{"runs/s", "steps/s"} { // not comparable with those of many runs
			delete(sample, rate)
		}
		return sample
	}
}

func startPeers(b *base, p peer, s settings, steps int) (workers []*process) {
	b.t.Helper()
	for range s.processes {
		worker := p.start(b, s, steps)
		worker.awaitReady()
		workers = append(workers, worker)
	}
	return workers
}

// measurePeer measures how a peer's workers execute runs of so many steps, and stops them. As
// with ours, the time is from the start of the first run to the end of the last, by the rows.
func measurePeer(b *base, p peer, workers []*process, runs, steps int) report.Sample {
	b.t.Helper()
	b.exec(`CHECKPOINT`)
	since := b.now()
	p.enqueue(b, workers, runs, steps)
	began := b.usage()
	var seconds float64
	b.await("end of the runs", patience, func() bool {
		var completed int
		completed, seconds = p.ended(b, since)
		return completed == runs
	})
	worked := b.usage()
	cpu := stop(workers)
	used := b.usage().less(began)
	n, all := float64(runs), float64(runs*steps)
	return report.Sample{
		"runs/s":            n / seconds,
		"steps/s":           all / seconds,
		"commits/step":      used.commits / all,
		"flushes/step":      used.flushes / all,
		"WAL bytes/run":     (worked.wal - began.wal) / n,
		"Postgres µs/step":  (worked.cpu - began.cpu).Seconds() * 1e6 / all,
		"worker CPU µs/run": cpu.Seconds() * 1e6 / n,
	}
}

// openWorkflowPeer is OpenWorkflow's own package.
type openWorkflowPeer struct{ dir string }

func buildOpenWorkflow(t *testing.T) peer {
	dir := filepath.Join("peers", "openworkflow")
	install := exec.CommandContext(t.Context(), filepath.Join(repository, "hack", "npm.sh"), dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("Install OpenWorkflow: %v\n%s", err, out)
	}
	return openWorkflowPeer{dir}
}

func (o openWorkflowPeer) start(b *base, s settings, steps int) *process {
	port := freePort(b.t)
	return start(b.t, port, []string{
		"OPENWORKFLOW_POSTGRES_URL=" + b.url, "PORT=" + strconv.Itoa(port), "STEPS=" + strconv.Itoa(steps),
		"CONCURRENCY=" + strconv.Itoa(s.concurrency), "CONNECTIONS=" + strconv.Itoa(s.connections),
	}, "node", filepath.Join(o.dir, "peer.mjs"))
}

func (openWorkflowPeer) enqueue(b *base, _ []*process, runs, steps int) {
	b.t.Helper()
	name := workflows.Five.Name()
	if steps != workflows.Steps {
		name = workflows.Long.Name()
	}
	b.addBacklog(name, runs) // one statement, as a batch of our client is
}

func (openWorkflowPeer) ended(b *base, since time.Time) (completed int, seconds float64) {
	b.t.Helper()
	b.scan(`
SELECT count(*), coalesce(extract(epoch FROM max(finished_at) - min(started_at)), 0)
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND status = 'completed' AND created_at >= $1`, []any{since}, &completed, &seconds)
	return completed, seconds
}

// dbosPeer is DBOS Transact for Go.
type dbosPeer struct{ program string }

func buildDBOS(t *testing.T) peer {
	program := filepath.Join(programs.dir, "dbos")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("peers", "dbos")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("Build the program of DBOS: %v\n%s", err, out)
	}
	return dbosPeer{program}
}

func (d dbosPeer) start(b *base, s settings, _ int) *process {
	b.t.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	query := u.Query()
	query.Set("pool_max_conns", strconv.Itoa(s.connections))
	u.RawQuery = query.Encode()
	port := freePort(b.t)
	return start(b.t, port, []string{
		"DATABASE_URL=" + u.String(), "PORT=" + strconv.Itoa(port),
		"CONCURRENCY=" + strconv.Itoa(s.concurrency), "POLLING=" + s.polling.String(),
	}, d.program)
}

// enqueue lets the workers listen after all runs are enqueued: DBOS enqueues them one by one.
func (d dbosPeer) enqueue(b *base, workers []*process, runs, steps int) {
	b.t.Helper()
	enqueue := exec.CommandContext(b.t.Context(), d.program, "enqueue", strconv.Itoa(runs), strconv.Itoa(steps))
	enqueue.Env = append(os.Environ(), "DATABASE_URL="+b.url)
	if out, err := enqueue.CombinedOutput(); err != nil {
		b.t.Fatalf("Enqueue runs of DBOS: %v\n%s", err, out)
	}
	for _, worker := range workers {
		answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/listen", worker.port)) //nolint:noctx // its process ends with the test
		if err != nil {
			b.t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
}

func (dbosPeer) ended(b *base, since time.Time) (completed int, seconds float64) {
	b.t.Helper()
	b.scan(`
SELECT count(*), coalesce(max(completed_at) - min(started_at_epoch_ms), 0) / 1e3::float8
FROM dbos.workflow_status
WHERE status = 'SUCCESS' AND created_at >= $1`, []any{since.UnixMilli()}, &completed, &seconds)
	return completed, seconds
}
