package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// fixture is a client on a database of its own, and a connection beside it.
type fixture struct {
	*client.Client
	t   testing.TB
	url string
	db  *pgx.Conn
}

func setup(t testing.TB) *fixture {
	t.Helper()
	url := testpg.New(t)
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	return &fixture{Client: open(t, client.Config{PostgresURL: url, Migrate: true}), t: t, url: url, db: db}
}

func open(t testing.TB, config client.Config) *client.Client {
	t.Helper()
	c, err := client.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// work executes runs for as long as the test lasts.
func (f *fixture) work(workflows ...workflow.Definition) {
	f.t.Helper()
	f.t.Cleanup(startWorker(f.url, workflows...))
}

func (f *fixture) exec(sql string, args ...any) {
	f.t.Helper()
	if _, err := f.db.Exec(f.t.Context(), sql, args...); err != nil {
		f.t.Fatalf("%s: %v", sql, err)
	}
}

// expect compares one value of a run's row, as text.
func (f *fixture) expect(runID, expression, want string) {
	f.t.Helper()
	var got string
	err := f.db.QueryRow(f.t.Context(),
		`SELECT coalesce((`+expression+`)::text, 'NULL') FROM openworkflow.workflow_runs WHERE id = $1`, runID).Scan(&got)
	if err != nil {
		f.t.Fatalf("%s: %v", expression, err)
	}
	if got != want {
		f.t.Errorf("%s is %s, want %s", expression, got, want)
	}
}

func must[T any](t testing.TB) func(value T, err error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

type order struct {
	ID    string `json:"id"`
	Items int    `json:"items"`
}

var (
	plain     = workflow.Declare[order, string]("wf")
	versioned = workflow.Declare[*order, string]("wf", workflow.Version("2"))
	started   = must[*client.Handle[string]]
)

func TestStart_R50_StoresWhatOpenWorkflowsClientWould(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`SET TIME ZONE 'UTC'`)
	at := time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	simple := started(t)(client.Start(t.Context(), f.Client, plain, order{ID: "a", Items: 1}))
	full := started(t)(client.Start(t.Context(), f.Client, versioned, nil,
		client.ID("mine"), client.IdempotencyKey("k"), client.At(at), client.Deadline(at.Add(time.Hour))))

	if simple.Existed() || full.Existed() || full.ID() != "mine" {
		t.Errorf("handles %+v, %+v", simple, full)
	}
	for expression, want := range map[string]string{
		"namespace_id": "default", "workflow_name": "wf", "version": "NULL", "status": "pending", "attempts": "0", "config": "{}",
		"input": `{"id": "a", "items": 1}`, "context": "NULL", "idempotency_key": "NULL", "available_at = updated_at": "true",
		"deadline_at": "NULL", "created_at = date_trunc('milliseconds', updated_at)": "true",
	} {
		f.expect(simple.ID(), expression, want)
	}
	for expression, want := range map[string]string{
		"version": "2", "idempotency_key": "k", "input": "NULL",
		"available_at": "2030-01-02 03:04:05.678+00", "deadline_at": "2030-01-02 04:04:05.678+00",
	} {
		f.expect(full.ID(), expression, want)
	}
}

func TestStart_Delay(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run := started(t)(client.Start(t.Context(), f.Client, plain, order{}, client.Delay(time.Hour)))
	// An instant by the client's clock would be earlier by the round trip, at least.
	f.expect(run.ID(), "available_at - created_at = '1 hour'", "true")
}

func TestStart_R51_AKeyHoldsForADay_WhateverTheVersion(t *testing.T) {
	t.Parallel()
	f := setup(t)
	first := started(t)(client.Start(t.Context(), f.Client, plain, order{}, client.IdempotencyKey("k")))
	again := started(t)(client.Start(t.Context(), f.Client, versioned, nil, client.IdempotencyKey("k")))
	other := started(t)(client.Start(t.Context(), f.Client, workflow.Declare[int, string]("other"), 1, client.IdempotencyKey("k")))
	if again.ID() != first.ID() || !again.Existed() || other.Existed() {
		t.Errorf("%s, then %s (existed: %v); another workflow's existed: %v", first.ID(), again.ID(), again.Existed(), other.Existed())
	}
	f.exec(`UPDATE openworkflow.workflow_runs SET created_at = now() - interval '24 hours 1 second'`)
	if later := started(t)(client.Start(t.Context(), f.Client, plain, order{}, client.IdempotencyKey("k"))); later.Existed() {
		t.Error("the key is still held after 24 hours")
	}
}

func TestStart_P7_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	f := setup(t)
	strange := workflow.Declare[any, any]("strange")
	for name, c := range map[string]struct {
		in      any
		options []client.StartOption
		want    string
	}{
		"an input that JSON has no words for": {in: make(chan int), want: `start workflow "strange": encode the input: `},
		"an input that Postgres cannot hold":  {in: "\x00", want: `start workflow "strange": value cannot be stored: `},
		"an empty key":                        {options: []client.StartOption{client.IdempotencyKey("")}, want: `start workflow "strange": the idempotency key is empty`},
		"an empty id":                         {options: []client.StartOption{client.ID("")}, want: `start workflow "strange": the id is empty`},
		"a start for ever away":               {options: []client.StartOption{client.At(time.Unix(math.MaxInt64, 0))}, want: `start workflow "strange": At: the time `},
		"a deadline beyond the year 9999":     {options: []client.StartOption{client.Deadline(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))}, want: `start workflow "strange": Deadline: the time 10000-01-01 `},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client.Start(t.Context(), f.Client, strange, c.in, c.options...); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, want %s…", err, c.want)
			}
		})
	}
	batch, err := client.StartBatch(t.Context(), f.Client, strange, []client.Item[any]{
		{Input: make(chan int)}, {Input: 1}, {Input: "\x00"}, {Input: 2}, {Options: []client.StartOption{client.ID("")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range batch {
		if ok := i == 1 || i == 3; ok != (s.Err == nil) || ok != (s.Handle != nil) {
			t.Errorf("item %d: %+v", i, s)
		}
	}
	f.expect(batch[1].ID(), "input", "1")
	f.expect(batch[3].ID(), "input", "2")
}

func TestStartTx_P3_TheRunExistsIfAndOnlyIfTheTransactionCommits(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.work(workflow.Define("wf", func(_ context.Context, in order) (string, error) { return "shipped " + in.ID, nil }))
	f.exec(`CREATE TABLE orders (id text PRIMARY KEY)`)
	place := func(id string, fail error) (*client.Handle[string], error) {
		var run *client.Handle[string]
		err := pgx.BeginFunc(t.Context(), f.db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `INSERT INTO orders VALUES ($1)`, id); err != nil {
				return err
			}
			var err error
			if run, err = client.StartTx(t.Context(), f.Client, tx, plain, order{ID: id}, client.IdempotencyKey(id)); err != nil {
				return err
			}
			if _, err := run.Result(t.Context()); !errors.Is(err, client.ErrNotFound) {
				t.Errorf("before the end of the transaction: %v, want ErrNotFound", err)
			}
			return fail
		})
		return run, err
	}

	changedMind := errors.New("changed my mind")
	canceled, err := place("1", changedMind)
	if !errors.Is(err, changedMind) {
		t.Fatal(err)
	}
	if _, err := canceled.Result(t.Context()); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("after a rollback: %v, want ErrNotFound", err)
	}
	placed, err := place("2", nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Wake(t.Context())
	if got := must[string](t)(placed.Result(t.Context())); got != "shipped 2" {
		t.Errorf("after a commit: %q", got)
	}
	var orders, runs int
	if err := f.db.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM openworkflow.workflow_runs)`).Scan(&orders, &runs); err != nil {
		t.Fatal(err)
	}
	if orders != 1 || runs != 1 {
		t.Errorf("%d orders, %d runs, want 1 of each", orders, runs)
	}
}

func TestResult_TellsEndsApart(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at, output, error)
SELECT 'default', id, 'wf', status, '{}', 1, now(), now(), output, error FROM (VALUES
	('done', 'completed', '"ok"'::jsonb, NULL::jsonb), ('legacy', 'succeeded', '"ok"', NULL), ('nothing', 'completed', NULL, NULL),
	('number', 'completed', '7', NULL), ('failed', 'failed', NULL, '{"name":"TypeError","message":"no","stack":"at x"}'), ('canceled', 'canceled', NULL, NULL)
) r (id, status, output, error)`)
	for id, want := range map[string]string{
		"done": "ok", "legacy": "ok", "nothing": "",
	} {
		t.Run(id, func(t *testing.T) {
			if got := must[string](t)(client.Attach[string](f.Client, id).Result(t.Context())); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
	for id, want := range map[string]error{"canceled": workflow.ErrCanceled, "missing": client.ErrNotFound} {
		t.Run(id, func(t *testing.T) {
			if _, err := client.Attach[string](f.Client, id).Result(t.Context()); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	_, err := client.Attach[string](f.Client, "failed").Result(t.Context())
	failed, ok := errors.AsType[*client.FailedError](err)
	want := client.FailedError{RunID: "failed", WorkflowName: "wf", Name: "TypeError", Message: "no", Stack: "at x"}
	if !ok || *failed != want || err.Error() != `workflow "wf" failed: no` {
		t.Errorf("failed: %+v", err)
	}
	if _, err := client.Attach[string](f.Client, "number").Result(t.Context()); err == nil ||
		!strings.HasPrefix(err.Error(), "decode the output of run number into string: ") {
		t.Errorf("an output of another type: %v", err)
	}
}

// TestResult_ManyAtOnce: many goroutines start a run and await it.
func TestResult_ManyAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.work(workflow.Define("double", func(_ context.Context, in int) (int, error) { return 2 * in, nil }))
	double := workflow.Declare[int, int]("double")
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			run, err := client.Start(t.Context(), f.Client, double, i)
			if err != nil {
				t.Errorf("Start: %v", err)
				return
			}
			if got, err := run.Result(t.Context()); err != nil || got != 2*i {
				t.Errorf("%d: %d, %v", i, got, err)
			}
		})
	}
	wg.Wait()
}

func TestResult_P6_ADatabaseThatRestartsIsWaitedFor(t *testing.T) {
	t.Parallel()
	server := testpg.Start(t)
	c := open(t, client.Config{PostgresURL: server.URL(), Migrate: true})
	run := started(t)(client.Start(t.Context(), c, plain, order{}))
	done := make(chan error, 1)
	go func() {
		_, err := run.Result(t.Context())
		done <- err
	}()
	server.Crash()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for { // until the client has connections that work
		if err := run.Cancel(t.Context()); err == nil {
			break
		} else if !errors.Is(err, client.ErrUnreachable) {
			t.Fatal(err)
		}
	}
	if err := <-done; !errors.Is(err, client.ErrCanceled) {
		t.Errorf("%v, want ErrCanceled", err)
	}
}

// TestResult_P7_ABadIDFailsOnlyItsOwnCaller: the runs of all callers are asked for together.
func TestResult_P7_ABadIDFailsOnlyItsOwnCaller(t *testing.T) {
	t.Parallel()
	f := setup(t)
	finish := make(chan struct{})
	w := workflow.Define("held", func(ctx context.Context, _ any) (string, error) {
		return step.Run(ctx, "held", func(context.Context) (string, error) { <-finish; return "done", nil })
	})
	f.work(w)
	run := must[*client.Handle[string]](t)(client.Start(t.Context(), f.Client, w, nil))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- second(run.Result(ctx)) }()
	for _, id := range []string{"a\x00b", "\xff", strings.Repeat("long", 1<<18), ""} {
		if _, err := client.Attach[string](f.Client, id).Result(ctx); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("result of a bad id: %.200v, want %v", err, client.ErrNotFound)
		}
		if _, err := f.Get(ctx, id); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("get of a bad id: %.200v, want %v", err, client.ErrNotFound)
		}
		if err := f.Cancel(ctx, id); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("cancel of a bad id: %.200v, want %v", err, client.ErrNotFound)
		}
	}
	close(finish)
	if err := <-result; err != nil {
		t.Errorf("the result of the other caller: %v", err)
	}
}

func TestResult_OfAClosedClient(t *testing.T) {
	t.Parallel()
	f := setup(t)
	c, err := client.Open(t.Context(), client.Config{PostgresURL: f.url})
	if err != nil {
		t.Fatal(err)
	}
	run := started(t)(client.Start(t.Context(), c, plain, order{}))
	done := make(chan error, 1)
	go func() {
		_, err := run.Result(t.Context())
		done <- err
	}()
	c.Close()
	c.Close()
	if err := <-done; !errors.Is(err, client.ErrClosed) {
		t.Errorf("%v, want ErrClosed", err)
	}
}

func TestCancel_R125(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, created_at, updated_at)
SELECT 'default', status, 'wf', status, '{}', 1, now(), now()
FROM unnest('{pending,running,sleeping,completed,succeeded,failed,canceled,unknown}'::text[]) status`)
	for how, options := range map[string][]client.CancelOption{"alone": nil, "cascade": {client.Cascade()}} {
		for id, want := range map[string]struct {
			text string
			is   error
		}{
			"pending": {}, "running": {}, "sleeping": {}, "canceled": {},
			"completed": {"Cannot cancel workflow run completed with status completed", client.ErrEnded},
			"succeeded": {"Cannot cancel workflow run succeeded with status succeeded", client.ErrEnded},
			"failed":    {"Cannot cancel workflow run failed with status failed", client.ErrEnded},
			"missing":   {"Workflow run missing does not exist", client.ErrNotFound},
			"unknown":   {"Failed to cancel workflow run", nil},
		} {
			t.Run(how+"/"+id, func(t *testing.T) {
				err := f.Cancel(t.Context(), id, options...)
				if (want.text == "") != (err == nil) || err != nil && err.Error() != want.text || want.is != nil && !errors.Is(err, want.is) {
					t.Errorf("%v, want %q", err, want.text)
				}
			})
		}
	}
}

func TestCancel_Cascade(t *testing.T) {
	t.Parallel()
	f := setup(t)
	child := workflow.Declare[int, int]("child") // nobody executes it
	f.work(workflow.Define("parent", func(ctx context.Context, n int) (int, error) { return step.RunWorkflow(ctx, child, n) }))
	parent := workflow.Declare[int, int]("parent")
	for _, cascade := range []bool{false, true} {
		run := must[*client.Handle[int]](t)(client.Start(t.Context(), f.Client, parent, 1))
		var childID string
		for childID == "" {
			for _, s := range must[client.StepPage](t)(f.Steps(t.Context(), run.ID(), client.Page{})).Steps {
				childID = s.ChildRunID
			}
		}
		want := client.Pending
		var options []client.CancelOption
		if cascade {
			want, options = client.Canceled, []client.CancelOption{client.Cascade()}
		}
		if err := run.Cancel(t.Context(), options...); err != nil {
			t.Fatal(err)
		}
		if got := must[client.Run](t)(f.Get(t.Context(), childID)); got.Status != want {
			t.Errorf("cascade=%v: the child is %s, want %s", cascade, got.Status, want)
		}
	}
}

func TestSignal_ReachesThoseWhoWait(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.work(workflow.Define("wait", func(ctx context.Context, signal string) (order, error) {
		o, _, err := step.WaitForSignal[order](ctx, signal)
		return o, err
	}))
	wait := workflow.Declare[string, order]("wait")
	want := order{ID: "x", Items: 3}
	var runs []*client.Handle[order]
	for _, signal := range []string{"a", "a", "b"} {
		runs = append(runs, must[*client.Handle[order]](t)(client.Start(t.Context(), f.Client, wait, signal)))
	}
	for _, run := range runs {
		for { // until it waits
			steps := must[client.StepPage](t)(f.Steps(t.Context(), run.ID(), client.Page{})).Steps
			if len(steps) == 1 {
				if s := steps[0]; s.Kind != client.KindSignalWait || s.Signal == "" || time.Until(s.Until) < 300*24*time.Hour {
					t.Errorf("the step is %+v", s)
				}
				break
			}
		}
	}
	got := must[[][]string](t)(f.SignalBatch(t.Context(), []client.Signal{
		{Name: "a", Data: want, IdempotencyKey: "k"}, {Name: "b", Data: want}, {Name: "c", Data: want},
	}))
	if len(got) != 3 || len(got[0]) != 2 || len(got[1]) != 1 || got[1][0] != runs[2].ID() || len(got[2]) != 0 {
		t.Errorf("recipients %v", got)
	}
	for _, run := range runs {
		if o := must[order](t)(run.Result(t.Context())); o != want {
			t.Errorf("received %+v", o)
		}
	}
	again := must[[]string](t)(f.Signal(t.Context(), "a", nil, client.IdempotencyKey("k")))
	if len(again) != 2 {
		t.Errorf("a repeated signal has recipients %v", again)
	}
	for _, err := range []error{
		second(f.Signal(t.Context(), "a", nil, client.IdempotencyKey(""))),
		second(f.Signal(t.Context(), "a", make(chan int))),
		second(f.SignalBatch(t.Context(), []client.Signal{{Name: "a", Data: make(chan int)}})),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), `send signal "a": `) {
			t.Errorf("bad input: %v", err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestGet_ShowsTheRow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, version, status, idempotency_key, config, input, output, error,
	attempts, worker_id, available_at, deadline_at, started_at, finished_at, created_at, updated_at)
VALUES ('default', 'x', 'wf', '2', 'sleeping', 'k', jsonb_build_object('openworkflow.dev/suspendedAt', extract(epoch FROM timestamptz '2026-01-07')), '1', '2', '{"message":"no"}',
	3, 'w', '2026-01-01', '2026-01-02', '2026-01-03', '2026-01-04', '2026-01-05', '2026-01-06'),
	('default', 'y', 'wf', NULL, 'pending', NULL, '{}', NULL, NULL, NULL, 0, NULL, NULL, NULL, NULL, NULL, '2026-01-05', '2026-01-06');
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error, started_at, finished_at, created_at, updated_at)
VALUES ('default', 's', 'x', 'nap', 'sleep', 'succeeded', '{}', '{"kind":"sleep","resumeAt":"2026-02-01T00:00:00.000Z"}', NULL, NULL, '2026-01-03', '2026-01-04', '2026-01-05', '2026-01-06'),
	('default', 't', 'x', 'wait', 'signal-wait', 'failed', '{}', '{"kind":"signal-wait","signal":"go","timeoutAt":"never"}', '{"data":1}', '{"name":"E","message":"no"}', '2026-01-03', NULL, '2026-01-06', '2026-01-06')`)
	day := func(d int) time.Time { return time.Date(2026, 1, d, 0, 0, 0, 0, time.UTC) }
	equalTimes := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
	for id, want := range map[string]client.Run{
		"x": {
			ID: "x", WorkflowName: "wf", Version: "2", Status: client.Running, IdempotencyKey: "k",
			Input: json.RawMessage(`1`), Output: json.RawMessage(`2`), Error: &client.Error{Message: "no"},
			Attempts: 3, WorkerID: "w", AvailableAt: day(1), DeadlineAt: day(2), StartedAt: day(3), FinishedAt: day(4),
			CreatedAt: day(5), UpdatedAt: day(6), SuspendedAt: day(7),
		},
		"y": {ID: "y", WorkflowName: "wf", Status: client.Pending, CreatedAt: day(5), UpdatedAt: day(6)},
	} {
		t.Run(id, func(t *testing.T) {
			got := must[client.Run](t)(f.Get(t.Context(), id))
			if diff := cmp.Diff(want, got, equalTimes); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got.Status.Ended() {
				t.Errorf("%s counts as ended", got.Status)
			}
		})
	}
	steps := must[client.StepPage](t)(f.Steps(t.Context(), "x", client.Page{})).Steps
	want := []client.Step{
		{
			ID: "s", RunID: "x", Name: "nap", Kind: client.KindSleep, Status: client.Completed, Until: time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC),
			StartedAt: day(3), FinishedAt: day(4), CreatedAt: day(5), UpdatedAt: day(6),
		},
		{
			ID: "t", RunID: "x", Name: "wait", Kind: client.KindSignalWait, Status: client.Failed, Signal: "go",
			Output: json.RawMessage(`{"data": 1}`), Error: &client.Error{Name: "E", Message: "no"},
			StartedAt: day(3), CreatedAt: day(6), UpdatedAt: day(6),
		},
	}
	if diff := cmp.Diff(want, steps, equalTimes); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestList_R131_Cursors(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.exec(`INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, config, attempts, input, output, created_at, updated_at)
SELECT 'default', 'run-' || i, 'wf', 'completed', '{}', 1, '1', '2', timestamptz '2026-01-01' + i * interval '1 ms', now() FROM generate_series(1, 5) i`)
	ids := func(page client.RunPage) (ids []string) {
		for _, r := range page.Runs {
			ids = append(ids, r.ID)
		}
		return ids
	}
	list := func(filter client.Filter, page client.Page) client.RunPage {
		t.Helper()
		return must[client.RunPage](t)(f.List(t.Context(), filter, page))
	}
	first := list(client.Filter{}, client.Page{Limit: 2})
	second := list(client.Filter{}, client.Page{Limit: 2, After: first.Next})
	back := list(client.Filter{}, client.Page{Limit: 2, Before: second.Prev})
	if diff := cmp.Diff([][]string{{"run-5", "run-4"}, {"run-3", "run-2"}, {"run-5", "run-4"}}, [][]string{ids(first), ids(second), ids(back)}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if brief := list(client.Filter{Brief: true, Status: client.Completed}, client.Page{}); len(brief.Runs) != 5 || brief.Runs[0].Input != nil {
		t.Errorf("brief: %+v", brief)
	}
	if _, err := f.List(t.Context(), client.Filter{}, client.Page{After: "x"}); !errors.Is(err, client.ErrInvalidCursor) {
		t.Errorf("%v, want ErrInvalidCursor", err)
	}
	_, err := f.Steps(t.Context(), "run-1", client.Page{After: first.Next, Before: second.Prev})
	if err == nil || !strings.HasSuffix(err.Error(), "Cannot specify both 'after' and 'before' cursors") {
		t.Errorf("both cursors: %v", err)
	}
}

func TestOpen_P7_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	url := testpg.New(t)
	for name, c := range map[string]struct {
		config client.Config
		want   string
	}{
		"no URL":       {client.Config{}, "invalid database URL: it is empty"},
		"no tables":    {client.Config{PostgresURL: url}, "database schema is missing or outdated"},
		"not a schema": {client.Config{PostgresURL: url, Schema: "1"}, `schema name "1"`},
		"no server":    {client.Config{PostgresURL: "postgres://127.0.0.1:1/x"}, "database unreachable"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := client.Open(t.Context(), c.config); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

func TestOpen_R150_ANamespaceSeesItsOwnRuns(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other := open(t, client.Config{PostgresURL: f.url, NamespaceID: "other"})
	run := started(t)(client.Start(t.Context(), f.Client, plain, order{}, client.ID("x")))
	if _, err := other.Get(t.Context(), run.ID()); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	if twin := started(t)(client.Start(t.Context(), other, plain, order{}, client.ID("x"))); twin.Existed() {
		t.Error("the id is taken by a run of another namespace")
	}
	counts := must[map[client.Status]int64](t)(f.Counts(t.Context()))
	if diff := cmp.Diff(map[client.Status]int64{"pending": 1, "running": 0, "completed": 0, "failed": 0, "canceled": 0}, counts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestConfigFromEnv(t *testing.T) {
	t.Setenv("OPENWORKFLOW_POSTGRES_URL", "postgres://localhost/db")
	t.Setenv("OPENWORKFLOW_SCHEMA", "s")
	t.Setenv("OPENWORKFLOW_NAMESPACE_ID", "n")
	got, err := client.ConfigFromEnv()
	if want := (client.Config{PostgresURL: "postgres://localhost/db", Schema: "s", NamespaceID: "n"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	t.Setenv("OPENWORKFLOW_POSTGRES_URL", "")
	if _, err := client.ConfigFromEnv(); err == nil || !strings.HasPrefix(err.Error(), "OPENWORKFLOW_POSTGRES_URL is not set") {
		t.Errorf("without a URL: %v", err)
	}
}
