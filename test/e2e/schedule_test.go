//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// A schedule backfills a day of the past with real pods while the manager is killed, and a user steers
// it by the plugin. Each order is charged once.
func TestSchedule_P1_ABackfillAndATriggerChargeOnce(t *testing.T) {
	c := newCluster(t)
	c.pool(1, 0)
	p := newPlugin(c)
	c.kubectl("-n", c.namespace, "apply", "-f", filepath.Join(root, "config/samples/backfill.yaml"))
	if !testing.Short() {
		c.kubectl("-n", "openworkflow-system", "delete", "pod", "-l", "app.kubernetes.io/name=openworkflow,app.kubernetes.io/component=manager", "--grace-period=0", "--force")
	}
	p.prints(0, "created", "schedule", "trigger", "past-orders")

	schedule := func() *v1alpha1.WorkflowSchedule {
		var s v1alpha1.WorkflowSchedule
		c.get(&s, "workflowschedule", "past-orders")
		return &s
	}
	c.eventually(2*time.Minute, "the backfill", func() bool {
		s := schedule()
		return len(s.Status.Backfills) == 1 && s.Status.Backfills[0].State == v1alpha1.BackfillCompleted
	})
	if b := schedule().Status.Backfills[0]; b.Slots != 6 || b.Started != 6 || b.Completed != 6 {
		t.Errorf("the backfill is %+v", b)
	}
	names := c.kubectl("-n", c.namespace, "get", "workflowruns", "-l", "openworkflow.dev/backfill=new-year", "-o", "name")
	if runs := strings.Fields(names); len(runs) == 0 || len(runs) > 6 { // the history limits remove some
		t.Errorf("the runs of the backfill are %s", runs)
	}
	c.eventually(time.Minute, "the triggered run", func() bool {
		out := c.kubectl("-n", c.namespace, "get", "workflowruns", "-l", "openworkflow.dev/schedule=past-orders,!openworkflow.dev/backfill", "-o", "jsonpath={.items[*].status.state}")
		return out == "Completed"
	})
	c.checkLedger(7)

	p.prints(0, "new-year Completed, 6 slots: 6 started, 0 skipped; runs: 0 open, 6 completed, 0 failed, 0 canceled", "why", "schedule/past-orders")
	p.prints(0, "paused", "schedule", "pause", "past-orders")
	c.eventually(time.Minute, "the pause", func() bool {
		output, code := p.exec("why", "schedule/past-orders")
		return code == 0 && strings.Contains(output, v1alpha1.ReasonSuspended)
	})
	p.prints(0, "resumed", "schedule", "resume", "past-orders")
	p.prints(0, "Slots:", "schedule", "backfill", "past-orders", "--from", "2025-01-01T00:00:00Z", "--to", "2025-01-01T12:00:00Z", "--dry-run")
	p.prints(1, "which is carried out once", "schedule", "backfill", "past-orders", "--from", "24h", "--name", "new-year")
	c.checkLedger(7)
}
