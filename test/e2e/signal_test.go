//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestSignalsAreKeptAndNameTheirCreator: signals as objects, without a run that waits. Their delivery
// to real workers is tested with an API server alone.
func TestSignalsAreKeptAndNameTheirCreator(t *testing.T) {
	c := newCluster(t)
	c.backend()
	c.applyText(`
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowSignal
metadata: {name: kept}
spec: {signal: "approval:1001", data: {approved: true}}
---
apiVersion: openworkflow.dev/v1alpha1
kind: WorkflowSignal
metadata: {name: now}
spec: {signal: "approval:1001", delivery: Now, ttlSecondsAfterFinished: 3600}
`)
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Ready", "workflowsignal/kept", "--timeout=60s")
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Stalled", "wfsig/now", "--timeout=60s")
	if got := c.condition("workflowsignal/now", "reason"); got != "NoReceiver" {
		t.Errorf("a signal for which nobody waits has the reason %s", got)
	}
	said := c.refused("annotate", "workflowsignal/kept", `openworkflow.dev/created-by={"username":"ann","groups":[]}`, "--overwrite")
	if !strings.Contains(said, "openworkflow.dev/created-by is immutable") {
		t.Errorf("an annotation that is changed: %s", said)
	}
	c.kubectl("-n", c.namespace, "delete", "workflowsignal/kept")
	c.eventually(time.Minute, "the signal to be withdrawn", func() bool {
		var kept int
		err := c.database.QueryRow(t.Context(), `SELECT count(*) FROM openworkflow.operator_signals WHERE state = 'waiting'`).Scan(&kept)
		return err == nil && kept == 0
	})
}
