//go:build bench

package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// baselineScript commits one row: the least that a durable step needs without group commit.
const baselineScript = "INSERT INTO baseline (payload) VALUES ('1');\n"

// baselineClients is the number of connections of the baseline.
const baselineClients = 32

// baseline prepares the baseline's table.
func (d *disk) baseline(t testing.TB) {
	t.Helper()
	d.exec(t, `CREATE TABLE baseline (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(), payload text)`)
}

// rate is what pgbench measured.
type rate struct {
	perSecond float64
	latency   time.Duration
	inserts   int
	// cpu is Postgres' CPU time for each insert, without that for connecting.
	cpu time.Duration
}

var (
	pgbenchRate    = regexp.MustCompile(`tps = ([0-9.]+)`)
	pgbenchCount   = regexp.MustCompile(`actually processed: (\d+)`)
	pgbenchLatency = regexp.MustCompile(`latency average = ([0-9.]+) ms`)
)

// pgbench measures one-row inserts by so many clients.
func (d *disk) pgbench(t testing.TB, clients int, duration time.Duration) rate {
	t.Helper()
	d.exec(t, `TRUNCATE baseline`)
	d.exec(t, `CHECKPOINT`)
	script := filepath.Join(t.TempDir(), "baseline.sql")
	if err := os.WriteFile(script, []byte(baselineScript), 0o600); err != nil {
		t.Fatal(err)
	}
	once, ok := d.connecting[clients]
	if !ok {
		once, _ = d.pgbenchFor(t, script, clients, "--transactions=1")
		d.connecting[clients] = once
	}
	seconds := max(1, int(duration.Seconds()))
	for {
		r, out := d.pgbenchFor(t, script, clients, "--time="+strconv.Itoa(seconds))
		if r.inserts > 0 {
			r.cpu = max(0, r.cpu-once.cpu) / time.Duration(r.inserts)
			return r
		}
		// Its time includes that for connecting, which can be all of it on a busy machine.
		if seconds *= 2; seconds > 60 {
			t.Fatalf("pgbench measured nothing:\n%s", out)
		}
	}
}

// pgbenchFor runs pgbench once; the CPU time is that of all inserts.
func (d *disk) pgbenchFor(t testing.TB, script string, clients int, length string) (r rate, out []byte) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pgbench", "--no-vacuum", "--protocol=prepared", "--file", script,
		"--client", strconv.Itoa(clients), "--jobs", strconv.Itoa(min(clients, 2)), length, d.server.URL())
	before := processorTime(t, d.server.PID())
	out, err := cmd.CombinedOutput()
	used := processorTime(t, d.server.PID()) - before
	if err != nil {
		t.Fatalf("pgbench: %v\n%s", err, out)
	}
	number := func(r *regexp.Regexp) float64 {
		match := r.FindSubmatch(out)
		if match == nil {
			return 0
		}
		n, _ := strconv.ParseFloat(string(match[1]), 64)
		return n
	}
	if count := number(pgbenchCount); count > 0 {
		r.perSecond = number(pgbenchRate)
		r.latency = time.Duration(number(pgbenchLatency) * float64(time.Millisecond))
		r.inserts, r.cpu = int(count), used
	}
	return r, out
}
