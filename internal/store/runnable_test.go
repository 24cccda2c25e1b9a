package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// All combinations of the columns that matter: what HoldOf calls runnable is what claims take.
func TestHoldOf_R43_AgreesWithClaim(t *testing.T) {
	t.Parallel()
	f := setup(t)
	// Versions differ in whether they are served; an error may say that the run was given back.
	f.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, version, status, worker_id, available_at, deadline_at, config, error, attempts, created_at, updated_at)
SELECT 'default', 'r-' || row_number() OVER (), 'wf', version, status, worker,
	now() + due::interval, now() + deadline::interval, config::jsonb, error::jsonb, 1, now(), now()
FROM unnest(ARRAY['pending', 'running', 'sleeping', 'completed', 'succeeded', 'failed', 'canceled', 'unknown']) status,
	unnest(ARRAY[NULL, '', '1', '2']) version,
	unnest(ARRAY[NULL, 'pod.process.1']) worker,
	unnest(ARRAY[NULL, '-1 hour', '1 hour']) due,
	unnest(ARRAY[NULL, '-1 hour', '1 hour']) deadline,
	unnest(ARRAY['{}', '[]', '{"openworkflow.dev/suspendedAt": 1}', '{"openworkflow.dev/suspendedAt": "yes"}']) config,
	unnest(ARRAY[NULL, '{"message": "no luck"}', '{"message": "Workflow \"wf\" is not registered"}',
		'{"message": "Workflow \"wf\" (version: 1) is not registered"}', '"Workflow \"wf\" is not registered"']) error`)
	served := []openworkflow.Definition{{Name: "wf"}, {Name: "wf", Version: new("1")}, {Name: "other"}}
	keys := map[openworkflow.DefinitionKey]bool{}
	for _, d := range served {
		keys[d.Key()] = true
	}
	want := map[string]store.Hold{}
	counts := map[store.Hold]int{}
	runs, err := f.ListRuns(t.Context(), store.RunFilter{}, store.Page{Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	for i := range runs.Runs {
		hold := store.HoldOf(&runs.Runs[i], time.Now(), keys)
		counts[hold]++
		if hold == store.NotHeld {
			want[runs.Runs[i].ID] = hold
		}
	}
	got := map[string]store.Hold{}
	for _, givenBack := range []bool{false, true} {
		r := request(10_000, served...)
		r.GivenBack = givenBack
		runs, err := f.Claim(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for i := range runs {
			got[runs[i].ID] = store.NotHeld
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("of %d runs, claims took others than are runnable (-want +got):\n%s", len(runs.Runs), diff)
	}
	for _, hold := range []store.Hold{
		store.NotHeld, store.HoldEnded, store.HoldSuspended, store.HoldDeadline, store.HoldNeverDue, store.HoldLeased, store.HoldNotDue, store.HoldUnserved,
	} {
		if counts[hold] == 0 {
			t.Errorf("no run has the hold %q: %v", hold, counts)
		}
	}
}
