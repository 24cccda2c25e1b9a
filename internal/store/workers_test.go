package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestWorkers(t *testing.T) {
	t.Parallel()
	f := setup(t)
	save := func(w store.Worker) {
		t.Helper()
		if _, err := f.SaveWorker(t.Context(), w, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	list := func(within time.Duration) []store.Worker {
		t.Helper()
		workers, err := f.Workers(t.Context(), within)
		if err != nil {
			t.Fatal(err)
		}
		for i := range workers {
			if age := time.Since(workers[i].SeenAt); age > time.Minute || age < -time.Minute {
				t.Errorf("seen %v ago", age)
			}
			workers[i].SeenAt = time.Time{}
		}
		return workers
	}
	one := store.Worker{PodUID: "u1", Process: "p1", PodName: "pod-1", Pool: "pool", Workflows: []openworkflow.Definition{
		{Name: "wf"}, {Name: "wf", Version: new("2")}, {Name: "empty", Version: new("")},
	}}
	two := store.Worker{PodUID: "u2", Process: "p1", PodName: "pod-2", Pool: "pool"}
	save(two)
	save(one)
	if diff := cmp.Diff([]store.Worker{one, two}, list(time.Minute)); diff != "" {
		t.Errorf("workers differ (-want +got):\n%s", diff)
	}

	stuck := one
	stuck.StuckSteps, stuck.Blocked = 3, true
	save(stuck)
	if diff := cmp.Diff([]store.Worker{stuck, two}, list(time.Minute)); diff != "" {
		t.Errorf("workers with functions that do not return differ (-want +got):\n%s", diff)
	}

	restarted := one
	restarted.Process = "p2"
	save(restarted)
	save(restarted)
	if diff := cmp.Diff([]store.Worker{restarted, two}, list(time.Minute)); diff != "" {
		t.Errorf("workers after a restart differ (-want +got):\n%s", diff)
	}

	f.exec(`UPDATE openworkflow.operator_workers SET seen_at = now() - interval '2 minutes' WHERE pod_uid = 'u2'`)
	if diff := cmp.Diff([]store.Worker{restarted}, list(time.Minute)); diff != "" {
		t.Errorf("workers seen lately differ (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := f.RemoveWorker(t.Context(), "u1", "p2"); err != nil {
			t.Fatal(err)
		}
	}
	if workers := list(time.Minute); len(workers) != 0 {
		t.Errorf("workers after removal: %v", workers)
	}
	f.exec(`UPDATE openworkflow.operator_workers SET seen_at = now() - interval '2 days'`)
	save(one)
	if n := f.value(`SELECT count(*) FROM openworkflow.operator_workers`); n != "1" {
		t.Errorf("%s rows, want the forgotten one gone", n)
	}
}

// TestWorkers_P9_AMalformedOneHidesNoOther: anybody who may write rows may announce a worker.
func TestWorkers_P9_AMalformedOneHidesNoOther(t *testing.T) {
	t.Parallel()
	for _, workflows := range []string{`null`, `{}`, `"wf"`, `[1]`, `[{"name": {}}]`, `[{"name": "wf", "version": 1}]`} {
		t.Run(workflows, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			good := store.Worker{PodUID: "u1", Process: "p1", Workflows: []openworkflow.Definition{{Name: "wf"}}}
			if _, err := f.SaveWorker(t.Context(), good, time.Minute); err != nil {
				t.Fatal(err)
			}
			f.exec(`
INSERT INTO openworkflow.operator_workers (namespace_id, pod_uid, process, pod_name, pool, workflows, seen_at)
VALUES ('default', 'u2', 'p1', '', '', $1::text::jsonb, now())`, workflows)

			workers, err := f.Workers(t.Context(), time.Minute)

			if err != nil || len(workers) != 2 || len(workers[0].Workflows) != 1 || len(workers[1].Workflows) != 0 {
				t.Errorf("workers are %+v, %v", workers, err)
			}
		})
	}
}
