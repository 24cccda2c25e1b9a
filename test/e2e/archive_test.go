//go:build e2e

package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// A run that the retention has moved into an archive is still described, exported and forked.
func TestArchive_P6_DescribedExportedAndForked(t *testing.T) {
	if testing.Short() {
		// Reason: 61 s, as the manager removes runs once a minute. internal/store and internal/dataapi hold
		// the same on each change.
		t.Skip("takes 61 s, and the short form has tests below 30 s: make test-e2e runs it")
	}
	c := newCluster(t)
	c.pool(1, 0)
	p := newPlugin(c)
	order := `{"orderID": "order-1", "amountCents": 4999, "currency": "EUR", "email": "ada@example.com"}`
	started := p.prints(0, "completed", "start", "checkout", "--without-object", "--input", order, "--wait", "--timeout", "1m")
	id := strings.TrimPrefix(strings.Fields(started)[0], "run.data.openworkflow.dev/")
	if _, err := c.database.Exec(t.Context(), `UPDATE openworkflow.workflow_runs 
		SET created_at = created_at - interval '2 days', updated_at = updated_at - interval '2 days' WHERE id = $1`, id); err != nil {
		t.Fatal(err)
	}
	before := p.prints(0, "RunHistory", "export", id)
	c.kubectl("-n", c.namespace, "patch", "backend", "default", "--type=merge", "-p", `{"spec": {"retention": {"ttlSecondsAfterFinished": 86400, "archive": "Enabled"}}}`)
	c.eventually(3*time.Minute, "the run to be archived", func() bool {
		var rows, archived int
		err := c.database.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM openworkflow.workflow_runs WHERE id = $1),
			(SELECT count(*) FROM openworkflow.operator_archived_runs WHERE run_id = $1)`, id).Scan(&rows, &archived)
		if err != nil {
			t.Fatal(err)
		}
		if rows+archived != 1 {
			t.Fatalf("the run is in %d tables of runs and in %d archives", rows, archived)
		}
		return archived == 1
	})

	p.prints(0, "No runs found", "list")
	p.prints(0, "Archived:", "describe", id)
	p.prints(0, "charge-card", "describe", id)
	p.prints(0, "completed at", "why", id)
	p.prints(1, "the run has ended already: it is Completed, and archived", "cancel", id)
	after := p.prints(0, "archivedAt", "export", id)
	if unmarked := regexp.MustCompile(`,\n *"archivedAt": "[^"]*"`).ReplaceAllString(after, ""); unmarked != before {
		t.Errorf("exported before:\n%s\nand from the archive:\n%s", before, after)
	}

	p.prints(0, "created", "fork", id, "--step", "send-email")
	c.eventually(time.Minute, "the fork to complete", func() bool {
		output, _ := p.exec("list", "--state", "Completed", "-o", "name")
		return strings.Contains(output, "run.data.openworkflow.dev/")
	})
	var charges, emails int
	if err := c.database.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM checkout_ledger), (SELECT count(*) FROM checkout_mailbox)`).Scan(&charges, &emails); err != nil {
		t.Fatal(err)
	}
	if charges != 1 || emails != 2 {
		t.Errorf("a run and its fork from the second step: %d charges and %d emails", charges, emails)
	}
	p.prints(0, "Superseded by:", "describe", id)
}
