//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// P1, P3: a deploy under load interrupts no step and loses no run: pods that go end
// their steps in flight and hand the rest to those that come.
func TestP3RollingUpdateHandsRunsOver(t *testing.T) {
	c := newCluster(t)
	c.pool(2, time.Second)
	c.orders("deploy", load)
	c.awaitCompleted(load / 6)
	c.kubectl("-n", c.namespace, "patch", "workerpool", "checkout", "--type=merge", "-p",
		`{"spec": {"template": {"metadata": {"annotations": {"release": "2"}}}}}`)
	c.allComplete(2 * time.Minute)
	c.checkLedger(load)

	// No email was sent twice either: no step was cut off, so none had to be repeated.
	var emails, attempts, takenOver int
	if err := c.database.QueryRow(t.Context(), `
		SELECT (SELECT count(*) FROM checkout_mailbox), (SELECT count(*) FROM openworkflow.step_attempts),
		       (SELECT count(*) FROM openworkflow.workflow_runs WHERE attempts > 1)`).Scan(&emails, &attempts, &takenOver); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d runs were handed over by the deploy", takenOver, load)
	if emails != load || attempts != 2*load {
		t.Errorf("%d emails and %d step attempts for %d orders, want %d and %d", emails, attempts, load, load, 2*load)
	}
}

// A canceled run's step learns of it, and a deleted object's run ends with it.
func TestCancelAndDeletionReachARunningStep(t *testing.T) {
	c := newCluster(t)
	c.pool(1, 30*time.Second)
	c.orders("stop", 2)
	for _, name := range []string{"stop-0", "stop-1"} {
		c.awaitCharged(c.kubectl("-n", c.namespace, "get", "workflowrun", name, "-o", "jsonpath={.metadata.uid}"))
	}
	c.kubectl("-n", c.namespace, "patch", "workflowrun", "stop-0", "--type=merge", "-p", `{"spec": {"cancel": true}}`)
	c.kubectl("-n", c.namespace, "wait", "--for=jsonpath={.status.state}=Canceled", "workflowrun/stop-0", "--timeout=20s")
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "workflowrun/stop-0", "--timeout=5s")
	c.kubectl("-n", c.namespace, "delete", "workflowrun", "stop-1")
	c.eventually(20*time.Second, "both rows to be canceled", func() bool {
		var canceled int
		err := c.database.QueryRow(t.Context(), `SELECT count(*) FROM openworkflow.workflow_runs WHERE status = 'canceled'`).Scan(&canceled)
		return err == nil && canceled == 2
	})
	var emails int
	if err := c.database.QueryRow(t.Context(), `SELECT count(*) FROM checkout_mailbox`).Scan(&emails); err != nil || emails != 0 {
		t.Errorf("%d emails were sent by canceled runs (%v)", emails, err)
	}
}
