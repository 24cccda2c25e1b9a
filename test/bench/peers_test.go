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

// The names of the peers' measurements.
const (
	peerOpenWorkflow = "W1 OpenWorkflow 0.10.1 (TypeScript)"
	peerDBOS         = "W1 DBOS Transact for Go 1.8.0"
)

// TestPeers measures W1 of others beside ours, each on tables of its own.
func TestPeers(t *testing.T) {
	s := newSession()
	openWorkflow, dbos := buildOpenWorkflow(t), buildDBOS(t)
	measurements := []measurement{
		{name: w1, run: func(b *base) report.Sample { return throughput(b, load{workers: 1, runs: s.runs}) }},
		{name: peerOpenWorkflow, foreign: true, run: func(b *base) report.Sample { return openWorkflow(b, s.peerRuns) }},
		{name: peerDBOS, foreign: true, run: func(b *base) report.Sample { return dbos(b, s.peerRuns) }},
	}
	for _, server := range []struct {
		name     string
		settings []string
	}{{asIs, nil}, {slow, slowFlush}} {
		t.Run("disk="+strings.ReplaceAll(server.name, " ", "-"), func(t *testing.T) {
			s.measure(t, startDisk(t, server.name, server.settings...), s.rounds, measurements...)
		})
	}
	for _, peer := range []string{peerOpenWorkflow, peerDBOS} {
		s.compareWithPeer(peer)
	}
	s.finish(t, "peers")
}

// compareWithPeer gives each sample of a peer our rate of the same round in relation to
// its own, both in relation to the baselines beside them.
func (s *session) compareWithPeer(peer string) {
	const metric = "steps ÷ baseline"
	for _, theirs := range s.report.Results {
		for _, ours := range s.report.Results {
			if theirs.Name != peer || ours.Name != w1 || ours.Server != theirs.Server {
				continue
			}
			for i := range min(len(ours.Samples), len(theirs.Samples)) {
				theirs.Samples[i]["ours ÷ theirs"] = ours.Samples[i][metric] / theirs.Samples[i][metric]
			}
		}
	}
}

// buildOpenWorkflow returns how OpenWorkflow's own worker executes runs.
func buildOpenWorkflow(t *testing.T) func(b *base, runs int) report.Sample {
	dir := filepath.Join("peers", "openworkflow")
	install := exec.CommandContext(t.Context(), filepath.Join(repository, "hack", "npm.sh"), dir)
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("Install OpenWorkflow: %v\n%s", err, out)
	}
	return func(b *base, runs int) report.Sample {
		port := freePort(b.t)
		peer := start(b.t, port, []string{"OPENWORKFLOW_POSTGRES_URL=" + b.url, "PORT=" + strconv.Itoa(port)},
			"node", filepath.Join(dir, "peer.mjs"))
		peer.awaitReady()
		since := b.now()
		began := b.usage()
		b.addBacklog(workflows.Five.Name(), runs)
		return b.theirs(peer, began, runs, func() (seconds float64) {
			b.await("end of the runs", patience, func() bool { return b.completed(workflows.Five.Name(), since) == runs })
			b.scan(`SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM openworkflow.workflow_runs`, nil, &seconds)
			return seconds
		})
	}
}

// buildDBOS returns how DBOS executes runs.
func buildDBOS(t *testing.T) func(b *base, runs int) report.Sample {
	program := filepath.Join(programs.dir, "dbos")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("peers", "dbos")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("Build the program of DBOS: %v\n%s", err, out)
	}
	return func(b *base, runs int) report.Sample {
		port := freePort(b.t)
		peer := start(b.t, port, []string{"DATABASE_URL=" + b.url, "PORT=" + strconv.Itoa(port)}, program)
		peer.awaitReady()
		return b.theirs(peer, b.usage(), runs, func() float64 {
			answer, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/run?runs=%d", port, runs)) //nolint:noctx // its process ends with the test
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

// theirs measures a peer that executes runs.
func (b *base) theirs(peer *process, began usage, runs int, execute func() (seconds float64)) report.Sample {
	b.t.Helper()
	seconds := execute()
	worked := b.usage()
	cpu := stop([]*process{peer})
	used := b.usage().less(began)
	n := float64(runs)
	return report.Sample{
		"runs/s":            n / seconds,
		"steps/s":           n * workflows.Steps / seconds,
		"commits/step":      used.commits / n / workflows.Steps,
		"WAL bytes/run":     (worked.wal - began.wal) / n,
		"Postgres µs/step":  (worked.cpu - began.cpu).Seconds() * 1e6 / n / workflows.Steps,
		"worker CPU µs/run": cpu.Seconds() * 1e6 / n,
	}
}
