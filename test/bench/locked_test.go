//go:build bench

package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/test/bench/report"
	"github.com/openworkflow-operator/operator/test/bench/workflows"
)

// lockedRow is W10: W1 by two workers while another session has locked the row of one run that a
// worker executes, longer than a lease. Loads follow each other until the lock has lasted as
// long as it should. With and without the lock take turns, on the same database and the same
// workers, and which comes first alternates: the machine's speed drifts.
func (s *session) lockedRow(t *testing.T, d *disk) {
	b := d.newBase(t)
	defer b.drop()
	ledger := filepath.Join(t.TempDir(), "ledger")
	lease := fmt.Sprintf("OPENWORKFLOW_LEASE_SECONDS=%d", int(s.lease.Seconds()))
	workers := b.startWorkers(2, lease, workflows.Ledger+"="+ledger)
	b.recordedRate(s.runs, 0) // statements are prepared now
	var long []string
	for round := range s.slowRounds + 1 {
		rates := map[bool]float64{}
		for _, locked := range []bool{round%2 == 1, round%2 == 0} {
			var id string
			rates[locked], id = s.beside(b, locked)
			long = append(long, id)
		}
		others, theLocked := mostExecutions(t, ledger, long)
		sample := report.Sample{
			"runs/s":                      rates[true],
			"runs/s without":              rates[false],
			"÷ without":                   rates[true] / rates[false],
			"executions/step":             others,
			"executions/step, locked run": theLocked,
		}
		if others > 1 { // a range would excuse it in one of the rounds
			t.Errorf("a step was executed %v times", others)
		}
		s.report.Add(d.name, "W10 one row locked", sample)
		t.Logf("W10 one row locked, round %d: %v", round+1, sample)
	}
	stop(workers)
}

// beside returns the runs per second of loads beside one run of many steps, whose row is locked
// or not, and the id of that run. It returns after that run, too, has completed.
func (s *session) beside(b *base, locked bool) (rate float64, id string) {
	b.t.Helper()
	work := workflows.Work{Steps: int(s.locked / workflows.Tick / 4), Millis: int(workflows.Tick.Milliseconds())}
	run, err := client.Start(b.t.Context(), b.client, workflows.Recorded, work)
	if err != nil {
		b.t.Fatal(err)
	}
	b.await("steps of the long run", time.Minute, func() (begun bool) {
		b.scan(`SELECT EXISTS (SELECT FROM openworkflow.step_attempts WHERE namespace_id = 'default' AND workflow_run_id = $1)`,
			[]any{run.ID()}, &begun)
		return begun
	})
	unlock := func() {}
	if locked {
		unlock = b.lock(run.ID())
	}
	rate = b.recordedRate(s.runs, s.locked)
	unlock()
	if _, err := run.Result(b.t.Context()); err != nil {
		b.t.Fatalf("The long run: %v", err)
	}
	return rate, run.ID()
}

// lock locks a run's row in a session of its own until unlock is called.
func (b *base) lock(id string) (unlock func()) {
	b.t.Helper()
	tx, err := connect(b.t, b.url).Begin(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := tx.Exec(b.t.Context(), `SELECT FROM openworkflow.workflow_runs WHERE namespace_id = 'default' AND id = $1 FOR UPDATE`, id); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		if err := tx.Rollback(context.WithoutCancel(b.t.Context())); err != nil {
			b.t.Error(err)
		}
	}
}

// recordedRate executes loads of W1, one after the other, for at least this long. It returns the
// runs per second, by the rows: from the start of the first run of a load to the end of its
// last one.
func (b *base) recordedRate(runs int, atLeast time.Duration) float64 {
	b.t.Helper()
	inputs := make([]workflows.Work, runs)
	for i := range inputs {
		inputs[i].Steps = workflows.Steps
	}
	var total, seconds float64
	for began := time.Now(); total == 0 || time.Since(began) < atLeast; {
		since := b.now()
		startAll(b, workflows.Recorded, inputs)
		b.await("end of the runs", patience, func() bool { return b.completed(workflows.Recorded.Name(), since) >= runs })
		var took float64
		b.scan(`
SELECT extract(epoch FROM max(finished_at) - min(started_at))
FROM openworkflow.workflow_runs
WHERE namespace_id = 'default' AND workflow_name = $1 AND status = 'completed' AND created_at >= $2`,
			[]any{workflows.Recorded.Name(), since}, &took)
		total, seconds = total+float64(runs), seconds+took
	}
	return total / seconds
}

// mostExecutions returns how often the step was executed that was executed most often, according
// to the ledger: among all runs but these, and among these.
func mostExecutions(t testing.TB, ledger string, these []string) (others, among float64) {
	t.Helper()
	file, err := os.Open(ledger)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	executions := map[string]float64{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		executions[lines.Text()]++
		run, _, _ := strings.Cut(lines.Text(), " ")
		if n := executions[lines.Text()]; slices.Contains(these, run) {
			among = max(among, n)
		} else {
			others = max(others, n)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return others, among
}
