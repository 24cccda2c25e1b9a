package store_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/store"
)

// begin begins a transaction that is not the store's. It ends with the test.
func (f *fixture) begin(o pgx.TxOptions) pgx.Tx {
	f.t.Helper()
	tx, err := connect(f.t, f.url).BeginTx(f.t.Context(), o)
	if err != nil {
		f.t.Fatal(err)
	}
	return tx
}

func TestCreateRunsIn_P3_ARunExistsIfAndOnlyIfTheTransactionCommits(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, commit := range []bool{false, true} {
		tx := f.begin(pgx.TxOptions{})
		created, err := f.CreateRunsIn(t.Context(), tx, []store.NewRun{
			{WorkflowName: "wf", Input: json.RawMessage(`1`)},
			{WorkflowName: "wf", IdempotencyKey: new("k")},
			{WorkflowName: "wf", IdempotencyKey: new("k")},
		})
		if err != nil || !created[0].Inserted || !created[1].Inserted || created[2].Inserted || created[2].RunID != created[1].RunID {
			t.Fatalf("CreateRunsIn: %+v, %v", created, err)
		}
		if claimed := f.claim(10); len(claimed) != 0 {
			t.Errorf("%d runs claimed before the commit", len(claimed))
		}
		end, want := tx.Rollback, 0
		if commit {
			end, want = tx.Commit, 2
		}
		if err := end(t.Context()); err != nil {
			t.Fatal(err)
		}
		if claimed := f.claim(10); len(claimed) != want {
			t.Errorf("commit=%v: %d runs claimed, want %d", commit, len(claimed), want)
		}
	}
}

func TestCreateRunsIn_R52_HoldsTheKeyUntilTheTransactionEnds(t *testing.T) {
	t.Parallel()
	f := setup(t)
	keyed := []store.NewRun{{WorkflowName: "wf", IdempotencyKey: new("k")}}
	tx := f.begin(pgx.TxOptions{})
	inside, err := f.CreateRunsIn(t.Context(), tx, keyed)
	if err != nil {
		t.Fatal(err)
	}
	outside := make(chan []store.Created, 1)
	go func() {
		created, err := f.CreateRuns(t.Context(), keyed)
		if err != nil {
			t.Errorf("CreateRuns: %v", err)
		}
		outside <- created
	}()
	f.awaitBlocked(1)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if created := <-outside; len(created) != 1 || created[0] != (store.Created{RunID: inside[0].RunID}) {
		t.Errorf("created %+v beside a transaction that created %+v", created, inside)
	}
}

func TestCreateRunsIn_RefusesAKeyWhereItsHolderCouldNotBeSeen(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		tx := f.begin(pgx.TxOptions{IsoLevel: level})
		if _, err := f.CreateRunsIn(t.Context(), tx, []store.NewRun{{WorkflowName: "wf", IdempotencyKey: new("k")}}); err == nil {
			t.Errorf("%s: a run with a key was created", level)
		}
		if _, err := f.CreateRunsIn(t.Context(), tx, []store.NewRun{{WorkflowName: "wf"}}); err != nil {
			t.Errorf("%s: a run without a key: %v", level, err)
		}
	}
}

func TestCreateRunsIn_P7_ABadRunIsTheErrorOfTheCall(t *testing.T) {
	t.Parallel()
	f := setup(t)
	_, err := f.CreateRunsIn(t.Context(), f.begin(pgx.TxOptions{}), []store.NewRun{{WorkflowName: "wf", Input: json.RawMessage(`"\u0000"`)}})
	if !errors.Is(err, store.ErrInvalidJSON) {
		t.Errorf("error is %v, want ErrInvalidJSON", err)
	}
}

func TestCreateRuns_R51_AKeyMayHaveAWindow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	create := func(id string, window time.Duration) store.Created {
		t.Helper()
		created, err := f.CreateRuns(t.Context(), []store.NewRun{{ID: id, WorkflowName: "wf", IdempotencyKey: new("k"), KeyWindow: window}})
		if err != nil {
			t.Fatal(err)
		}
		return created[0]
	}
	const day = 24 * time.Hour
	create("old", day)
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = created_at - interval '23 hours 59 minutes'`)
	if got := create("young", day); got != (store.Created{RunID: "old"}) {
		t.Errorf("within the window: %+v", got)
	}
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = created_at - interval '2 minutes'`)
	if got := create("new", day); got != (store.Created{RunID: "new", Inserted: true}) {
		t.Errorf("after the window: %+v", got)
	}
	if got := create("newer", day); got != (store.Created{RunID: "new"}) {
		t.Errorf("the second run within the window: %+v", got)
	}
	if got := create("object", 0); got != (store.Created{RunID: "old"}) {
		t.Errorf("without a window: %+v", got)
	}
}

// TestCreateRunsIn_WorksBehindAPooler: the connection is the caller's, and may not prepare
// statements.
func TestCreateRunsIn_WorksBehindAPooler(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	} {
		config, err := pgx.ParseConfig(f.url)
		if err != nil {
			t.Fatal(err)
		}
		config.DefaultQueryExecMode = mode
		conn, err := pgx.ConnectConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			created, err := f.CreateRunsIn(t.Context(), tx, []store.NewRun{
				{
					WorkflowName: "wf", Version: new("it's \\ {2}"), Input: json.RawMessage(`{"a": "it's \"b\", c"}`), Context: json.RawMessage(`{}`),
					AvailableAt: new(time.Now()), DeadlineAt: new(time.Now()),
				},
				{WorkflowName: "wf", IdempotencyKey: new(mode.String()), KeyWindow: time.Hour},
			})
			if err == nil && (!created[0].Inserted || !created[1].Inserted) {
				t.Errorf("%s: created %+v", mode, created)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", mode, err)
		}
		_ = conn.Close(t.Context())
	}
	if n := f.value(`SELECT count(*) FROM openworkflow.workflow_runs WHERE version = $1 AND input = '{"a": "it''s \"b\", c"}'`, `it's \ {2}`); n != "4" {
		t.Errorf("%s runs are as they were given, want 4", n)
	}
}
