//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// P3, P1: one of 21 runs kills its worker whenever it sends its email. It fails at its bound
// with a reason that names the step, the event names the run, and all others end. The test is
// what kills: it sends SIGKILL to the container that executes the step, as the kernel does when
// memory is short.
func TestARunThatKillsItsWorkerIsSetAside(t *testing.T) {
	c := newCluster(t)
	const mail, bound = 2 * time.Second, 3
	c.pool(2, mail)
	c.kubectl("-n", c.namespace, "patch", "workerpool", "checkout", "--type=merge", "-p", `{"spec":{"maxWorkerDeaths":3}}`)
	c.kubectl("-n", c.namespace, "rollout", "status", "deployment", "-l", v1alpha1.LabelWorkerPool, "--timeout=120s")
	c.orders("good", 20)
	c.orders("bad", 1)

	id := c.kubectl("-n", c.namespace, "get", "workflowrun", "bad-0", "-o", "jsonpath={.metadata.uid}")
	kills := 0
	for {
		worker, ended := c.awaitStepOrEnd(id, "send-email")
		if ended {
			break
		}
		kills++
		c.script("hack/devcluster/kill.sh", c.container(worker), "SIGKILL")
		c.eventually(time.Minute, "the dead worker to lose the run", func() bool { return c.holder(id) != worker })
	}
	if kills != bound {
		t.Errorf("the run has killed %d workers, want %d", kills, bound)
	}
	c.kubectl("-n", c.namespace, "wait", "--for=condition=Failed", "workflowrun/bad-0", "--timeout=60s")
	message := c.kubectl("-n", c.namespace, "get", "workflowrun", "bad-0", "-o", "jsonpath={.status.conditions[?(@.type==\"Failed\")].reason}: {.status.message}")
	if want := `WorkerDeathsExceeded: the worker process has died 3 times in a row in step "send-email" of the run`; !strings.HasPrefix(message, want) {
		t.Errorf("the failed run says %q, want %q", message, want)
	}
	c.eventually(2*time.Minute, "the good runs to complete", func() bool {
		completed := 0
		for _, run := range c.runs() {
			if strings.HasPrefix(run.Name, "good-") && run.Status.State == v1alpha1.RunCompleted {
				completed++
			}
		}
		return completed == 20
	})
	notes := c.kubectl("-n", c.namespace, "get", "events", "-o", "jsonpath={range .items[?(@.reason==\"Quarantined\")]}{.involvedObject.kind} {.involvedObject.name}: {.message}{\"\\n\"}{end}")
	for _, want := range []string{"WorkflowRun bad-0: the worker process has died 2 times", "WorkerPool checkout: the worker of pod "} {
		if !strings.Contains(notes, want) {
			t.Errorf("no event says %q; there are:\n%s", want, notes)
		}
	}
	var twice int
	if err := c.database.QueryRow(t.Context(), `
		SELECT count(*) FROM (
			SELECT 1 FROM openworkflow.step_attempts WHERE status = 'completed' GROUP BY workflow_run_id, step_name HAVING count(*) > 1
		) again`).Scan(&twice); err != nil || twice > 0 {
		t.Errorf("%d steps were completed twice (%v)", twice, err)
	}
}

// awaitStepOrEnd waits until the step of a run is executing, and returns the worker id, or until
// the run has failed.
func (c *cluster) awaitStepOrEnd(id, stepName string) (worker string, ended bool) {
	c.Helper()
	c.eventually(2*time.Minute, "run "+id+" to be in step "+stepName+", or to end", func() bool {
		var failure json.RawMessage
		err := c.database.QueryRow(c.Context(), `
			SELECT coalesce(r.worker_id, ''), r.error
			FROM openworkflow.workflow_runs r
			WHERE r.id = $1 AND (r.status = 'failed' OR r.worker_id IS NOT NULL AND EXISTS (
				SELECT FROM openworkflow.step_attempts a
				WHERE a.workflow_run_id = r.id AND a.step_name = $2 AND a.status = 'running' AND a.created_at > coalesce(
					to_timestamp((r.config ->> 'openworkflow.dev/diedAt')::float8), r.created_at)
			))`, id, stepName).Scan(&worker, &failure)
		if errors.Is(err, pgx.ErrNoRows) {
			return false
		}
		if err != nil {
			c.Fatal(err)
		}
		ended = worker == ""
		if ended && openworkflow.DecodeError(failure).Name != openworkflow.WorkerDeathsName {
			c.Fatalf("the run has failed with %s", failure)
		}
		return true
	})
	return worker, ended
}

// holder returns the worker id that holds a run, empty if none does.
func (c *cluster) holder(id string) (worker string) {
	c.Helper()
	if err := c.database.QueryRow(c.Context(), `SELECT coalesce(worker_id, '') FROM openworkflow.workflow_runs WHERE id = $1`, id).Scan(&worker); err != nil {
		c.Fatal(err)
	}
	return worker
}
