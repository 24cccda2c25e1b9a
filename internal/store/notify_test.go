package store_test

import (
	"context"
	"encoding/json"
	"net/url"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// A commit succeeds even if its notifications fail.
func TestWrites_StandWithoutTheirNotification(t *testing.T) {
	f := setup(t)
	f.exec(`CREATE ROLE mute`)
	t.Cleanup(func() {
		if _, err := f.db.Exec(context.WithoutCancel(t.Context()), `DROP OWNED BY mute; DROP ROLE mute`); err != nil {
			t.Error(err)
		}
	})
	f.exec(`GRANT USAGE ON SCHEMA openworkflow TO mute`)
	f.exec(`GRANT ALL ON ALL TABLES IN SCHEMA openworkflow TO mute`)
	f.exec(`REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC`)
	u, err := url.Parse(f.url)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("role", "mute")
	u.RawQuery = query.Encode()
	mute := open(t, store.Options{URL: u.String()})
	if err := mute.Notify(t.Context()); err == nil {
		t.Fatal("it can notify")
	}

	created, err := mute.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}})
	if err != nil || created[0].Err != nil || !created[0].Inserted {
		t.Fatalf("CreateRuns: %+v, %v", created, err)
	}
	run := f.claim(1)[0]
	complete := store.RunWrite{
		Lease: openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}, Op: store.RunComplete, Output: json.RawMessage(`1`),
	}
	result, err := mute.ApplyAndClaim(t.Context(), store.Batch{Runs: []store.RunWrite{complete}, Hints: store.Hints{Due: true, Ends: true}})
	if err != nil || result.Runs[0] != nil {
		t.Fatalf("ApplyAndClaim: %v, %v", result.Runs, err)
	}
	f.expect(run.ID, "status", "completed")
}
