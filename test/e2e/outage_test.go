//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const load = 60

// P6: Postgres crashes under load and comes back.
func TestP6PostgresRestartsUnderLoad(t *testing.T) {
	c := newCluster(t)
	c.strikeUnderLoad(func() { c.script("hack/postgres.sh", "restart", "immediate") })
	c.checkCrashOfTheDatabase(load)
}

// P6: the API server is killed under load and comes back.
func TestP6APIServerRestartsUnderLoad(t *testing.T) {
	c := newCluster(t)
	c.strikeUnderLoad(func() { c.script("hack/devcluster/restart.sh", "apiserver") })
	c.checkLedger(load)
}

// P5, P6: the manager is killed under load, in the middle of mirroring, and comes back.
func TestP6ManagerIsKilledUnderLoad(t *testing.T) {
	c := newCluster(t)
	c.strikeUnderLoad(func() {
		container := c.kubectl("-n", "openworkflow-system", "get", "pods", "-l", "app.kubernetes.io/name=openworkflow",
			"-o", "jsonpath={.items[0].status.containerStatuses[0].containerID}")
		c.script("hack/devcluster/kill.sh", strings.TrimPrefix(container, "containerd://"))
		c.kubectl("-n", "openworkflow-system", "rollout", "status", "deployment/openworkflow-manager", "--timeout=60s")
	})
	c.checkLedger(load)
}

// strikeUnderLoad applies orders, strikes when some of them have completed and the
// last have just been applied, and waits until all of them have completed.
func (c *cluster) strikeUnderLoad(strike func()) {
	c.Helper()
	c.pool(2, 500*time.Millisecond)
	since := time.Now()
	c.orders("before", load/2)
	c.awaitCompleted(load / 8)
	c.orders("after", load/2)
	strike()
	c.allComplete(2 * time.Minute)
	c.checkLogs(since)
}

// P5: with two managers, the one that leads is killed under load, and the other takes over.
func TestP5ManagerFailsOver(t *testing.T) {
	c := newCluster(t)
	c.scaleManager(2)
	defer c.scaleManager(1)
	leader := c.leader()
	c.strikeUnderLoad(func() {
		c.kubectl("-n", "openworkflow-system", "delete", "pod", leader, "--force", "--grace-period=0")
	})
	c.checkLedger(load)
	c.orders("later", 2) // the new leader does all of a manager's work
	c.allComplete(time.Minute)
	c.checkLedger(load + 2)
	if now := c.leader(); now == leader {
		t.Errorf("%s still leads", now)
	}
}

// leader returns the name of the manager's pod that leads.
func (c *cluster) leader() string {
	c.Helper()
	identity := c.kubectl("-n", "openworkflow-system", "get", "leases", "-o", "jsonpath={.items[0].spec.holderIdentity}")
	name, _, _ := strings.Cut(identity, "_")
	return name
}

func (c *cluster) scaleManager(replicas int) {
	c.Helper()
	c.kubectl("-n", "openworkflow-system", "scale", "deployment/openworkflow-manager", fmt.Sprintf("--replicas=%d", replicas))
	c.kubectl("-n", "openworkflow-system", "rollout", "status", "deployment/openworkflow-manager", "--timeout=60s")
}

// P5: a namespace that is deleted while the manager is down disappears at once, as there are
// no finalizers. When it is created again with the same database, the runs that it left
// behind are canceled before a worker can continue them.
func TestNamespaceDeletedWhileTheManagerIsDown(t *testing.T) {
	c := newCluster(t)
	c.pool(1, time.Hour)
	c.orders("left", 2)
	for _, run := range c.runs() {
		c.awaitCharged(string(run.UID))
	}
	restore := c.stopManager()
	defer restore()
	c.kubectl("delete", "namespace", c.namespace, "--timeout=90s")
	restore()
	c.kubectl("create", "namespace", c.namespace)
	c.secret()
	c.backend()
	c.pool(1, 0)
	var open int
	if err := c.database.QueryRow(t.Context(), `
		SELECT count(*) FROM openworkflow.workflow_runs WHERE status <> 'canceled'`).Scan(&open); err != nil || open != 0 {
		t.Errorf("%d runs of the deleted namespace are not canceled (%v)", open, err)
	}
	var emails int
	if err := c.database.QueryRow(t.Context(), `SELECT count(*) FROM checkout_mailbox`).Scan(&emails); err != nil || emails != 0 {
		t.Errorf("%d emails were sent for runs of the deleted namespace (%v)", emails, err)
	}
}

// stopManager scales the manager to zero, and returns a function that scales it back.
func (c *cluster) stopManager() (restore func()) {
	c.Helper()
	c.scaleManager(0)
	c.eventually(time.Minute, "the manager to be gone", func() bool {
		return c.kubectl("-n", "openworkflow-system", "get", "pods", "-o", "name") == ""
	})
	return sync.OnceFunc(func() { c.scaleManager(1) })
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
