//go:build bench

// Package bench measures how fast runs are executed. Docs: docs/performance.md.
//
//	make bench        everything at full size; takes more than an hour
//	make bench-short  small sizes; ratios are compared with ranges.yaml
//
// A baseline, pgbench with one-row inserts on the same server, runs before and after each
// measurement, which is also given as a ratio to it. Measurements are repeated in rounds;
// the report has their medians.
package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/test/bench/report"
)

var (
	out    = flag.String("out", filepath.Join(repository, "dist", "bench"), "directory of the report")
	rounds = flag.Int("rounds", 0, "number of rounds, instead of the usual ones")
	many   = flag.Int("objects", 0, "number of objects in W6, instead of the usual one")
)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "openworkflow-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs.dir = dir
	testpg.Main(m, func() { _ = os.RemoveAll(dir) })
}

// sizes are the sizes of the measurements.
type sizes struct {
	// rounds of measurements that are compared, and of those that take long.
	rounds, slowRounds int
	baseline           time.Duration
	workers            []int
	runs               int
	long               int
	latencies          int
	idle               time.Duration
	lease              time.Duration
	history, backlog   int
	steps, children    int
	parked             int
	large              int
	objects            int
	peerRuns           int
	// locked is how long a row is locked, poisonRounds how often W11 is measured, and good its
	// number of good runs.
	locked       time.Duration
	poisonRounds int
	good         int
	// policed is the number of bare objects that are created with policies, and without.
	policed int
}

var full = sizes{
	rounds: 5, slowRounds: 5, baseline: 3 * time.Second, workers: []int{1, 2, 4}, runs: 16_000, long: 1000,
	latencies: 200, idle: 20 * time.Second, lease: 10 * time.Second,
	history: 1_000_000, backlog: 200_000, steps: 1000, children: 500, parked: 10_000, large: 400,
	objects: 20_000, peerRuns: 4000,
	locked: time.Minute, poisonRounds: 2, good: 1000, policed: 4000,
}

var short = sizes{
	rounds: 3, slowRounds: 1, baseline: time.Second, workers: []int{1, 2}, runs: 3000, long: 300,
	latencies: 100, idle: 5 * time.Second, lease: 2 * time.Second,
	history: 20_000, backlog: 10_000, steps: 500, children: 200, parked: 1000, large: 50,
	objects: 1000, peerRuns: 500,
	locked: 3 * time.Second, good: 50, policed: 500,
}

// session is one run of the suite.
type session struct {
	sizes
	report report.Report
}

// The servers that are measured.
const (
	asIs = "as it is"
	slow = "2 ms flush"
)

func newSession() *session {
	s := &session{sizes: full}
	if testing.Short() {
		s.sizes = short
	}
	if *rounds > 0 {
		s.rounds, s.slowRounds, s.poisonRounds = *rounds, *rounds, *rounds
	}
	if *many > 0 {
		s.sizes.objects = *many
	}
	s.report = report.Report{
		Began: time.Now().UTC(), Revision: revision(), Short: testing.Short(), Machine: machine(),
		Settings: map[string][]string{asIs: durable, slow: append(slices.Clip(durable), slowFlush...)},
	}
	return s
}

func TestBench(t *testing.T) {
	s := newSession()
	t.Run("disk=as-is", func(t *testing.T) {
		d := startDisk(t, asIs)
		t.Run("W1", func(t *testing.T) { s.throughput(t, d) })
		t.Run("W2", func(t *testing.T) { s.sequence(t, d) })
		t.Run("W3", func(t *testing.T) { s.latency(t, d) })
		t.Run("W3-starts", func(t *testing.T) { s.concurrentStarts(t, d) })
		t.Run("W4", func(t *testing.T) { s.crash(t, d) })
		t.Run("W5", func(t *testing.T) { s.history(t, d) })
		t.Run("W7", func(t *testing.T) { s.fanOut(t, d) })
		t.Run("W8", func(t *testing.T) { s.signals(t, d) })
		t.Run("W9", func(t *testing.T) { s.payloads(t, d) })
		t.Run("W10", func(t *testing.T) { s.lockedRow(t, d) })
		t.Run("W11", func(t *testing.T) { s.poison(t, d) })
	})
	t.Run("disk=2ms", func(t *testing.T) {
		d := startDisk(t, slow, slowFlush...)
		t.Run("W1", func(t *testing.T) { s.throughput(t, d) })
		t.Run("W2", func(t *testing.T) { s.sequence(t, d) })
		if !testing.Short() {
			t.Run("W3", func(t *testing.T) { s.latency(t, d) })
			t.Run("W3-starts", func(t *testing.T) { s.concurrentStarts(t, d) })
			t.Run("W7", func(t *testing.T) { s.fanOut(t, d) })
			t.Run("W8", func(t *testing.T) { s.signals(t, d) })
		}
	})
	t.Run("W3-idle", s.idlePool)
	t.Run("W6", s.objects)
	s.finish(t, "report")
}

// panels are what the plot shows.
var panels = []report.Panel{
	{Title: "Steps per second ÷ one-row commits per second (pgbench, 32 clients)", Metric: "steps ÷ baseline", Mark: 1},
	{Title: "Milliseconds per step of one long run", Metric: "ms/step"},
	{Title: "Postgres CPU, µs per step", Metric: "Postgres µs/step"},
	{Title: "Start to result on an idle worker, ms: median", Metric: "p50 ms"},
	{Title: "Start to result on an idle worker, ms: 99th percentile", Metric: "p99 ms"},
	{Title: "Our steps per second ÷ theirs", Metric: "ours ÷ theirs", Mark: 1},
	{Title: "Throughput relative to W1 with one worker", Metric: "÷ W1", Mark: 1},
}

// finish writes the report, and compares it with the goals or the ranges.
func (s *session) finish(t *testing.T, name string) {
	s.compare()
	s.report.Took = time.Since(s.report.Began).Round(time.Second).String()
	file := "goals.yaml"
	if testing.Short() {
		file = "ranges.yaml"
	}
	ranges, err := report.ReadRanges(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.report.WriteTable(os.Stdout, ranges); err != nil {
		t.Fatal(err)
	}
	if err := s.write(name, ranges); err != nil {
		t.Fatal(err)
	}
	if testing.Short() && name == "report" && !strings.Contains(filter(), "/") {
		for _, fault := range s.report.Check(ranges) {
			t.Error(fault)
		}
	}
}

// filter is the value of go test's flag -run.
func filter() string { return flag.Lookup("test.run").Value.String() }

func (s *session) write(name string, ranges []report.Range) error {
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	for suffix, write := range map[string]func(*os.File) error{
		".txt":  func(f *os.File) error { return s.report.WriteTable(f, ranges) },
		".json": func(f *os.File) error { return s.report.WriteJSON(f) },
		".svg":  func(f *os.File) error { return s.report.WriteSVG(f, panels) },
	} {
		f, err := os.Create(filepath.Join(*out, name+suffix))
		if err != nil {
			return err
		}
		if err := write(f); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// The measurements that others are compared with.
const (
	w1 = "W1 1 worker"
	w2 = "W2 one long run"
	w5 = "W5 empty tables"
)

// compare adds to samples the ratio of their rate to that of W1, and in W5 to that with
// empty tables: steps, or runs if there are no steps. Both rates are ratios to the baselines
// beside them.
func (s *session) compare() {
	for _, result := range s.report.Results {
		for _, sample := range result.Samples {
			for _, metric := range []string{"runs ÷ baseline", "steps ÷ baseline"} { // steps count where there are both
				v, ok := sample[metric]
				if reference, measured := s.report.Median(result.Server, w1, metric); ok && measured {
					sample["÷ W1"] = v / reference
				}
				if reference, measured := s.report.Median(result.Server, w5, metric); ok && measured && strings.HasPrefix(result.Name, "W5") {
					sample["÷ W5"] = v / reference
				}
			}
		}
	}
}

// measurement is one thing that is measured.
type measurement struct {
	name string
	// clients of the baseline beside it. Default: baselineClients.
	clients int
	// base is the database to measure in. Default: a new one for each sample, with our
	// tables unless it is foreign.
	base    *base
	foreign bool
	run     func(b *base) report.Sample
}

// measure takes samples, round by round, with a baseline before and after each.
func (s *session) measure(t *testing.T, d *disk, rounds int, measurements ...measurement) {
	t.Helper()
	for round := range rounds {
		before := map[int]rate{}
		for _, m := range measurements {
			if m.clients == 0 {
				m.clients = baselineClients
			}
			if _, ok := before[m.clients]; !ok {
				before[m.clients] = s.baselineRate(t, d, m.clients)
			}
			b := m.base
			switch {
			case b != nil:
			case m.foreign:
				b = d.emptyBase(t)
			default:
				b = d.newBase(t)
			}
			sample := m.run(b)
			if m.base == nil {
				b.drop()
			}
			after := s.baselineRate(t, d, m.clients)
			relate(sample, before[m.clients], after)
			before[m.clients] = after
			s.report.Add(d.name, m.name, sample)
			t.Logf("%s, %s, round %d: %v", m.name, d.name, round+1, sample)
		}
	}
}

func (s *session) baselineRate(t *testing.T, d *disk, clients int) rate {
	t.Helper()
	r := d.pgbench(t, clients, s.baseline)
	s.report.Add(d.name, fmt.Sprintf("pgbench %d clients", clients), report.Sample{
		"inserts/s": r.perSecond, "ms/insert": r.latency.Seconds() * 1e3, "Postgres µs/insert": r.cpu.Seconds() * 1e6,
	})
	return r
}

// relate adds to a sample its ratios to the mean of the baselines before and after it.
func relate(sample report.Sample, before, after rate) {
	perSecond := (before.perSecond + after.perSecond) / 2
	latency := (before.latency + after.latency).Seconds() / 2 * 1e3
	cpu := (before.cpu + after.cpu).Seconds() / 2 * 1e6
	for metric, ratio := range map[string]struct {
		name string
		unit float64
	}{
		"steps/s":          {"steps ÷ baseline", perSecond},
		"runs/s":           {"runs ÷ baseline", perSecond},
		"children/s":       {"children ÷ baseline", perSecond},
		"starts/s":         {"starts ÷ baseline", perSecond},
		"ms/step":          {"ms/step ÷ baseline", latency},
		"p50 ms":           {"p50 ÷ baseline", latency},
		"p99 ms":           {"p99 ÷ baseline", latency},
		"Postgres µs/step": {"Postgres CPU/step ÷ baseline", cpu},
	} {
		if v, ok := sample[metric]; ok && ratio.unit > 0 {
			sample[ratio.name] = v / ratio.unit
		}
	}
}

// revision is the commit that is measured, with a mark when files differ from it.
func revision() string {
	git := func(arguments ...string) string {
		out, err := exec.Command("git", arguments...).Output() //nolint:noctx // short
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	revision := git("rev-parse", "--short=12", "HEAD")
	if git("status", "--porcelain") != "" {
		revision += "+"
	}
	return revision
}

func machine() report.Machine {
	field := func(file, name string) string {
		content, _ := os.ReadFile(file)
		for line := range strings.Lines(string(content)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	first := func(file string) string {
		content, _ := os.ReadFile(file)
		word, _, _ := strings.Cut(strings.TrimSpace(string(content)), " ")
		return word
	}
	postgres, _ := exec.Command("pgbench", "--version").Output() //nolint:noctx // short; it comes with the server
	kilobytes, _ := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"))
	return report.Machine{
		CPU:      field("/proc/cpuinfo", "model name"),
		CPUs:     runtime.NumCPU(),
		MemoryMB: kilobytes / 1024,
		Kernel:   first("/proc/sys/kernel/osrelease"),
		Go:       runtime.Version(),
		Postgres: strings.TrimPrefix(strings.TrimSpace(string(postgres)), "pgbench (PostgreSQL) "),
		Load:     first("/proc/loadavg"),
	}
}
