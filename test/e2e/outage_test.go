//go:build e2e

package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const load = 60

// P6: Postgres crashes under load and comes back.
func TestP6PostgresRestartsUnderLoad(t *testing.T) {
	c := newCluster(t)
	c.pool(2, 500*time.Millisecond)
	since := time.Now()
	c.orders("load", load)
	c.awaitCompleted(load / 4)
	c.script("hack/postgres.sh", "restart", "immediate")
	c.allComplete(2 * time.Minute)
	c.checkCrashOfTheDatabase(load)
	c.checkLogs(since)
}

// P6: the API server is killed under load and comes back.
func TestP6APIServerRestartsUnderLoad(t *testing.T) {
	c := newCluster(t)
	c.pool(2, 500*time.Millisecond)
	since := time.Now()
	c.orders("load", load)
	c.awaitCompleted(load / 4)
	c.script("hack/devcluster/restart.sh", "apiserver")
	c.allComplete(2 * time.Minute)
	c.checkLedger(load)
	c.checkLogs(since)
}

// awaitCompleted waits until n runs have completed, in the database.
func (c *cluster) awaitCompleted(n int) {
	c.Helper()
	c.eventually(time.Minute, "some runs to complete", func() bool {
		var completed int
		err := c.database.QueryRow(c.Context(), `SELECT count(*) FROM openworkflow.workflow_runs WHERE status = 'completed'`).Scan(&completed)
		return err == nil && completed >= n
	})
}

// checkCrashOfTheDatabase is checkLedger for a crash of the ledger's own database: a
// charge whose acknowledgement the crash swallowed is made again, by the ordinary
// rules of a step, so only runs whose charge was acknowledged count.
func (c *cluster) checkCrashOfTheDatabase(n int) {
	c.Helper()
	var again, uncharged, unmailed int
	err := c.database.QueryRow(c.Context(), `
		SELECT (SELECT count(*) FROM (SELECT workflow_run_id FROM openworkflow.step_attempts
		                              WHERE step_name = 'charge-card' AND status = 'completed'
		                              GROUP BY 1 HAVING count(*) > 1) AS twice),
		       $1 - (SELECT count(DISTINCT run_id) FROM checkout_ledger),
		       $1 - (SELECT count(DISTINCT run_id) FROM checkout_mailbox)`, n).Scan(&again, &uncharged, &unmailed)
	if err != nil {
		c.Fatal(err)
	}
	if again != 0 || uncharged != 0 || unmailed != 0 {
		c.Errorf("%d steps were executed again after they were stored, %d orders not charged, %d without an email", again, uncharged, unmailed)
	}
}

// checkLogs looks for hot loops: more lines than an outage of seconds can explain.
func (c *cluster) checkLogs(since time.Time) {
	c.Helper()
	stamp := since.UTC().Format(time.RFC3339)
	for _, args := range [][]string{
		{"-n", "openworkflow-system", "logs", "deployment/openworkflow-manager", "--since-time=" + stamp},
		{"-n", c.namespace, "logs", "-l", v1alpha1.LabelWorkerPool, "--since-time=" + stamp, "--tail=-1"},
	} {
		output, err := exec.CommandContext(c.Context(), kubectlPath(), args...).CombinedOutput()
		if err != nil {
			c.Errorf("kubectl %s: %v", strings.Join(args, " "), err)
		}
		errors := 0
		for line := range strings.Lines(string(output)) {
			if strings.Contains(line, `"level":"error"`) || strings.Contains(line, `"level":"WARN"`) || strings.Contains(line, `"level":"ERROR"`) {
				errors++
			}
		}
		c.Logf("kubectl %s: %d lines, %d of them warnings or errors", strings.Join(args, " "), strings.Count(string(output), "\n"), errors)
		if errors > 200 {
			c.Errorf("the outage left %d warnings and errors:\n%s", errors, output[:min(len(output), 4000)])
		}
	}
}
