package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestCreateRuns_R50(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`SET TIME ZONE 'UTC'`)
	at := time.Date(2020, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	plain := f.create(1)[0]
	full := f.create(1, func(r *store.NewRun) {
		r.Version, r.IdempotencyKey = new("2"), new("key")
		r.Input, r.Context = json.RawMessage(`[1e21, "☃"]`), json.RawMessage(`{"kubernetes":{"uid":"u"}}`)
		r.AvailableAt, r.DeadlineAt = &at, new(at.Add(time.Hour))
	})[0]

	for expression, want := range map[string]string{
		"status": "pending", "attempts": "0", "config": "{}", "version": "NULL", "input": "NULL", "context": "NULL",
		"idempotency_key": "NULL", "available_at = updated_at": "true", "deadline_at": "NULL", "worker_id": "NULL",
		"created_at = date_trunc('milliseconds', updated_at)": "true", "started_at": "NULL",
	} {
		f.expect(plain, expression, want)
	}
	for expression, want := range map[string]string{
		"version": "2", "idempotency_key": "key", "input": `[1000000000000000000000, "☃"]`, "context": `{"kubernetes": {"uid": "u"}}`,
		"available_at": "2020-01-02 03:04:05.678+00", "deadline_at": "2020-01-02 04:04:05.678+00",
	} {
		f.expect(full, expression, want)
	}
}

func TestCreateRuns_P5_TheSameIDTwiceIsOneRun(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run := store.NewRun{ID: "uid", WorkflowName: "wf", Input: json.RawMessage(`1`)}
	changed := run
	changed.Input = json.RawMessage(`2`)

	created, err := f.CreateRuns(t.Context(), []store.NewRun{run, changed})
	if err != nil {
		t.Fatal(err)
	}
	again, err := f.CreateRuns(t.Context(), []store.NewRun{changed})
	if err != nil {
		t.Fatal(err)
	}

	got := append(created, again...)
	if !got[0].Inserted || got[1].Inserted || got[2].Inserted {
		t.Errorf("created %+v, want only the first inserted", got)
	}
	f.expect("uid", "input", "1")
}

func TestCreateRuns_R51_AKeyAttachesToTheRunThatHoldsIt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	keyed := func(id, workflow, key string) store.NewRun {
		return store.NewRun{ID: id, WorkflowName: workflow, IdempotencyKey: &key, Version: new(id)}
	}
	first, err := f.CreateRuns(t.Context(), []store.NewRun{
		keyed("a", "wf", "k"), keyed("b", "wf", "k"), keyed("c", "other", "k"), keyed("d", "wf", `k"`), {ID: "e", WorkflowName: "wf"},
	})
	if err != nil {
		t.Fatal(err)
	}
	// No window: the holder is a month old, and failed.
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = created_at - interval '30 days', status = 'failed' WHERE id = 'a'`)
	second, err := f.CreateRuns(t.Context(), []store.NewRun{keyed("f", "wf", "k"), keyed("a", "wf", "k"), keyed("c", "wf", "k")})
	if err != nil {
		t.Fatal(err)
	}

	for i, want := range []store.Created{
		{RunID: "a", Inserted: true}, {RunID: "a"}, {RunID: "c", Inserted: true}, {RunID: "d", Inserted: true}, {RunID: "e", Inserted: true},
		{RunID: "a"}, {RunID: "a"}, {RunID: "c"},
	} {
		if got := append(first, second...)[i]; got != want {
			t.Errorf("run %d: %+v, want %+v", i, got, want)
		}
	}
	if n := f.value(`SELECT count(*) FROM openworkflow.workflow_runs`); n != "4" {
		t.Errorf("%s rows, want 4", n)
	}
}

func TestCreateRuns_P5_OneRunForAKeyUnderConcurrency(t *testing.T) {
	t.Parallel()
	f := setup(t)
	results := make(chan store.Created, 200)
	var wg sync.WaitGroup
	for w := range 10 {
		wg.Go(func() {
			var runs []store.NewRun
			for k := range 20 { // in another order each, so that locks could cross
				key := fmt.Sprint((k*(2*w+1) + w) % 20)
				runs = append(runs, store.NewRun{WorkflowName: "wf", IdempotencyKey: &key})
			}
			created, err := f.CreateRuns(t.Context(), runs)
			if err != nil {
				t.Errorf("CreateRuns: %v", err)
			}
			for _, c := range created {
				results <- c
			}
		})
	}
	wg.Wait()
	close(results)

	inserted, ids := 0, map[string]bool{}
	for c := range results {
		ids[c.RunID] = true
		if c.Inserted {
			inserted++
		}
	}
	if inserted != 20 || len(ids) != 20 {
		t.Errorf("%d inserted, %d different runs, want 20 of each", inserted, len(ids))
	}
}

func TestCreateRuns_R52_WaitsForAnOpenWorkflowClientWithTheKey(t *testing.T) {
	t.Parallel()
	f := setup(t)
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`,
		`{"namespaceId":"default","workflowName":"wf","idempotencyKey":"<é>"}`); err != nil {
		t.Fatal(err)
	}
	done := make(chan []store.Created, 1)
	go func() {
		created, err := f.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf", IdempotencyKey: new("<é>")}})
		if err != nil {
			t.Errorf("CreateRuns: %v", err)
		}
		done <- created
	}()
	f.awaitBlocked(1)
	if _, err := tx.Exec(t.Context(), `
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, idempotency_key, config, attempts, available_at, created_at, updated_at)
VALUES ('default', 'theirs', 'wf', 'pending', '<é>', '{}', 0, now(), now(), now())`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if created := <-done; len(created) != 1 || created[0] != (store.Created{RunID: "theirs"}) {
		t.Errorf("created %+v, want their run", created)
	}
}

func TestCreateRuns_P7_ABadRunHasItsOwnError(t *testing.T) {
	t.Parallel()
	f := setup(t)
	runs := []store.NewRun{
		{ID: "a", WorkflowName: "wf", Input: json.RawMessage(`"\u0000"`)},
		{ID: "b", WorkflowName: "wf"},
		{ID: "c", WorkflowName: random(100_000)},
		{ID: "d", WorkflowName: "wf", IdempotencyKey: new("\x00")},
		{ID: "e", WorkflowName: "wf", IdempotencyKey: new("k")},
	}
	created, err := f.CreateRuns(t.Context(), runs)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{store.ErrInvalidJSON, nil, store.ErrTooLarge, store.ErrInvalidJSON, nil} {
		c := created[i]
		if !errors.Is(c.Err, want) || c.Inserted != (want == nil) || c.RunID != runs[i].ID {
			t.Errorf("run %s: %+v, want %v", runs[i].ID, c, want)
		}
	}
}

func TestCreateRuns_MakesIDs(t *testing.T) {
	t.Parallel()
	f := setup(t)
	created, err := f.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "wf"}, {WorkflowName: "wf"}})
	if err != nil || created[0].RunID == "" || created[0].RunID == created[1].RunID {
		t.Errorf("created %+v, %v", created, err)
	}
	runs, err := f.GetRuns(t.Context(), []string{created[0].RunID, "missing"})
	if err != nil || len(runs) != 1 || runs[created[0].RunID].Status != openworkflow.RunPending {
		t.Errorf("GetRuns: %v, %v", runs, err)
	}
}
