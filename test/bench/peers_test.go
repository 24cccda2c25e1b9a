//go:build bench

package bench

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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

// peer executes runs of so many steps on tables of its own.
type peer func(b *base, runs, steps int) report.Sample

// TestPeers measures W1 and W2 of others beside ours.
func TestPeers(t *testing.T) {
	s := newSession()
	openWorkflow, dbos := buildOpenWorkflow(t), buildDBOS(t)
	many := func(p peer) func(*base) report.Sample {
		return func(b *base) report.Sample { return p(b, s.peerRuns, workflows.Steps) }
	}
	long := func(p peer) func(*base) report.Sample {
		return func(b *base) report.Sample {
			p(b, 1, peerSteps) // as ours, on a second try: statements are prepared then
			sample := p(b, 1, peerSteps)
			sample["ms/step"] = 1e3 / sample["steps/s"]
			for _, rate := range []string{"runs/s", "steps/s"} { // those of many runs at once are another matter
				delete(sample, rate)
			}
			return sample
		}
	}
	measurements := []measurement{
		{name: w1, run: func(b *base) report.Sample { return throughput(b, load{workers: 1, runs: s.runs}) }},
		{name: "W1 " + peerOpenWorkflow, foreign: true, run: many(openWorkflow)},
		{name: "W1 " + peerDBOS, foreign: true, run: many(dbos)},
		{name: w2, clients: 1, run: func(b *base) report.Sample { return oneByOne(b, workflows.Long, peerSteps, 1, "step") }},
		{name: "W2 " + peerOpenWorkflow, clients: 1, foreign: true, run: long(openWorkflow)},
		{name: "W2 " + peerDBOS, clients: 1, foreign: true, run: long(dbos)},
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

// compareWithPeer gives each sample of a peer our speed of the same round in relation to
// its own, both in relation to the baselines beside them.
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

// buildOpenWorkflow returns how OpenWorkflow's own worker executes runs.
func buildOpenWorkflow(t *testing.T) peer {
	dir := filepath.Join("peers", "openworkflow")
	install := exec.CommandContext(t.Context(), filepath.Join(repository, "hack", "npm.sh"), dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("Install OpenWorkflow: %v\n%s", err, out)
	}
	return func(b *base, runs, steps int) report.Sample {
		name := workflows.Five.Name()
		if steps != workflows.Steps {
			name = workflows.Long.Name()
		}
		port := freePort(b.t)
		process := start(b.t, port, []string{
			"OPENWORKFLOW_POSTGRES_URL=" + b.url, "PORT=" + strconv.Itoa(port), "STEPS=" + strconv.Itoa(steps),
		}, "node", filepath.Join(dir, "peer.mjs"))
		process.awaitReady()
		since := b.now()
		began := b.usage()
		b.addBacklog(name, runs)
		return b.theirs(process, began, runs, steps, func() (seconds float64) {
			b.await("end of the runs", patience, func() bool { return b.completed(name, since) == runs })
			b.scan(`
SELECT extract(epoch FROM max(finished_at) - min(started_at))
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND created_at >= $1`, []any{since}, &seconds)
			return seconds
		})
	}
}

// buildDBOS returns how DBOS executes runs.
func buildDBOS(t *testing.T) peer {
	program := filepath.Join(programs.dir, "dbos")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("peers", "dbos")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("Build the program of DBOS: %v\n%s", err, out)
	}
	return func(b *base, runs, steps int) report.Sample {
		port := freePort(b.t)
		process := start(b.t, port, []string{"DATABASE_URL=" + b.url, "PORT=" + strconv.Itoa(port)}, program)
		process.awaitReady()
		return b.theirs(process, b.usage(), runs, steps, func() float64 {
			answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/run?runs=%d&steps=%d", port, runs, steps)) //nolint:noctx // its process ends with the test
			if err != nil {
				b.t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil {
				b.t.Fatal(err)
			}
			seconds, err := strconv.ParseFloat(strings.TrimSpace(string(body)), 64)
			if err != nil {
				b.t.Fatalf("DBOS answered %s: %s", answer.Status, body)
			}
			return seconds
		})
	}
}

// theirs measures a peer that executes runs of so many steps.
func (b *base) theirs(peer *process, began usage, runs, steps int, execute func() (seconds float64)) report.Sample {
	b.t.Helper()
	seconds := execute()
	worked := b.usage()
	cpu := stop([]*process{peer})
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
