package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// columns are the values of a run, of its only step attempt and of a worker. Whoever may write
// rows may write any of them.
type columns struct {
	// nulls has a bit for each column that may be NULL, in the order of the statements.
	nulls                                                            uint32
	status, kind, stepStatus, stepName                               uint8
	attempts                                                         int32
	config, context, input, output, failure                          string
	stepContext, stepOutput, stepFailure, workflows, text            string
	available, deadline, started, finished, created, stepAt, updated float64
}

// The usual values of columns with few of them. The last stands for the text of columns.
var (
	fuzzStatuses  = []string{"pending", "running", "completed", "failed", "canceled", "sleeping", "succeeded", ""}
	fuzzKinds     = []string{"function", "sleep", "workflow", "signal-wait", "signal-send", ""}
	fuzzStepNames = []string{"sleep", "echo", "signal", "child", "send", ""}
)

// FuzzRows looks for rows that make a reader panic or fail a statement that also reads other
// rows, or that keep a worker from executing another run.
func FuzzRows(f *testing.F) {
	type c = columns
	const (
		since, failures      = `"openworkflow.dev/suspendedAt"`, `"openworkflow.dev/failures"`
		noWorker, noDeadline = 1 << 5, 1 << 7
		due                  = noWorker | noDeadline
	)
	now := float64(1_790_000_000)
	wait := func(name, kind uint8, stepContext string) columns {
		return c{nulls: due, config: `{}`, status: 1, attempts: 1, stepName: name, kind: kind, stepContext: stepContext, available: 1, created: now, stepAt: now}
	}
	for _, v := range []c{
		{nulls: due, config: `{}`, input: `1`, available: now, created: now, updated: now},
		{nulls: due, config: `{}`, attempts: math.MaxInt32, available: 1, created: now, updated: now},
		{nulls: due, config: `{}`, attempts: math.MinInt32, status: 1, available: 1, created: now, updated: now},
		{nulls: due, config: `{` + since + `: 1e300, ` + failures + `: -1e300}`, available: 1, created: math.Inf(1), updated: math.Inf(-1)},
		{nulls: due, config: `{"openworkflow.dev/deaths": 1e300, "openworkflow.dev/diedAt": 1e300}`, attempts: 9, status: 1, available: 1, created: now, stepAt: now},
		{nulls: due, config: `{` + failures + `: 1e300}`, available: math.Inf(-1), created: math.Inf(-1), updated: math.Inf(1)},
		{config: `[]`, context: `{"kubernetes": {"uid": 1}, "traceContext": []}`, available: math.Inf(-1), deadline: math.Inf(1), created: now},
		{nulls: due, config: `{}`, context: `{"kubernetes": {"cluster": "cluster", "uid": "poison", "name": {}}}`, created: now, available: 9e12},
		wait(0, 1, `{"kind": "sleep", "resumeAt": "+275760-09-13T00:00:00.001Z"}`),
		wait(2, 3, `{"kind": "signal-wait", "signal": {}, "timeoutAt": "soon"}`),
		wait(2, 3, `{"kind": "signal-wait", "signal": "signal", "timeoutAt": "9999-12-31T23:59:59Z"}`),
		wait(3, 2, `{}`), wait(1, 2, `null`), wait(4, 4, `[]`), wait(5, 5, `{"kind": 1}`),
		{nulls: due, config: `{}`, status: 1, attempts: 1, stepName: 1, stepStatus: 3, stepFailure: `{"message": {}, "name": 1}`,
			available: 1, created: now, stepAt: now, finished: math.Inf(1)},
		{nulls: due, config: `{}`, status: 1, attempts: 1, stepName: 1, stepStatus: 2, stepOutput: `"\ud83d\ude00"`, available: 1, created: now},
		{config: `{}`, status: 3, failure: `{"message": "x", "stack": []}`, finished: -6e10, created: now, updated: now},
		{config: `{}`, status: 2, output: `1e400`, created: now, finished: now, started: math.Inf(-1)},
		{nulls: due, config: `{}`, failure: `{"message": "Workflow \"neighbour\" is not registered"}`, available: 9e12, created: now},
		{config: `{}`, workflows: `{}`, created: now}, {config: `{}`, workflows: `[1, {"name": {}}]`, created: now, updated: now},
		{config: `{}`, workflows: `[{"name": "neighbour", "version": 1}]`, text: "_%\\'\"\u2028", status: 7, kind: 5, stepStatus: 7, stepName: 5, created: now, updated: 9e12},
	} {
		f.Add(v.nulls, v.status, v.kind, v.stepStatus, v.stepName, v.attempts, v.config, v.context, v.input, v.output, v.failure,
			v.stepContext, v.stepOutput, v.stepFailure, v.workflows, v.text,
			v.available, v.deadline, v.started, v.finished, v.created, v.stepAt, v.updated)
	}
	p := newPoisoned(f, neighbour)
	f.Fuzz(func(t *testing.T, nulls uint32, status, kind, stepStatus, stepName uint8, attempts int32,
		config, context, input, output, failure, stepContext, stepOutput, stepFailure, workflows, text string,
		available, deadline, started, finished, created, stepAt, updated float64) {
		p.clear(t)
		if !p.write(t, columns{nulls, status, kind, stepStatus, stepName, attempts, config, context, input, output, failure,
			stepContext, stepOutput, stepFailure, workflows, text, available, deadline, started, finished, created, stepAt, updated}) {
			return // Postgres itself refuses a value
		}
		p.startNeighbour(t)
		p.read(t)
		p.awaitNeighbour(t)
		p.manage(t)
	})
}

const poisonID, neighbourID, cluster = "poison", "neighbour", "cluster"

// goodInput is the neighbour's input and output, as Postgres prints it.
const goodInput = `{"good": true}`

// poisoned is a database with a worker.
type poisoned struct {
	store *store.Store
	db    *pgx.Conn
}

// neighbour has a step of each kind. None of them takes time.
var neighbour = workflow.Define("neighbour", func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
	if err := step.Sleep(ctx, "sleep", 0); err != nil {
		return nil, err
	}
	out, err := step.Run(ctx, "echo", func(context.Context) (json.RawMessage, error) { return in, nil })
	if err != nil {
		return nil, err
	}
	if _, _, err := step.WaitForSignal[json.RawMessage](ctx, "signal", step.Timeout(0)); err != nil {
		return nil, err
	}
	if _, err := step.SendSignal(ctx, "signal", in, step.Name("send")); err != nil {
		return nil, err
	}
	return out, nil
})

func newPoisoned(f *testing.F, workflows ...workflow.Definition) *poisoned {
	f.Helper()
	url := testpg.New(f)
	p := &poisoned{}
	var err error
	if p.store, err = store.Open(f.Context(), store.Options{URL: url}); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(p.store.Close)
	if err := p.store.Migrate(f.Context()); err != nil {
		f.Fatal(err)
	}
	if p.db, err = pgx.Connect(f.Context(), url); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = p.db.Close(context.WithoutCancel(f.Context())) })
	r, err := runner.New(p.store, definitions(workflows...), runner.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, time.Second) }()
	f.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
	return p
}

// clear removes what the last input has left.
func (p *poisoned) clear(t *testing.T) {
	t.Helper()
	for _, sql := range []string{
		`DELETE FROM openworkflow.workflow_signals`, `DELETE FROM openworkflow.step_attempts`, `DELETE FROM openworkflow.workflow_runs`,
		`DELETE FROM openworkflow.operator_workers WHERE pod_uid = 'poison'`,
	} {
		if _, err := p.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// write writes the rows in one transaction. It returns false if Postgres refuses a value.
func (p *poisoned) write(t *testing.T, v columns) bool {
	t.Helper()
	bit := 0
	null := func(value any) any {
		bit++
		if v.nulls&(1<<(bit-1)) != 0 {
			return nil
		}
		return value
	}
	document := func(text string) any { return null(jsonDocument(text)) }
	pick := func(values []string, i uint8) string {
		if value := values[int(i)%len(values)]; value != "" {
			return value
		}
		return v.text
	}
	tx, err := p.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	for _, statement := range []struct {
		sql  string
		args []any
	}{
		{`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, attempts, config, context, input, output, error,
	idempotency_key, worker_id, available_at, deadline_at, started_at, finished_at, created_at, updated_at)
VALUES ('default', $1, 'neighbour', $2, $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text::jsonb,
	$9, $10, to_timestamp($11::float8), to_timestamp($12::float8), to_timestamp($13::float8), to_timestamp($14::float8),
	to_timestamp($15::float8), to_timestamp($16::float8))`, []any{
			poisonID, pick(fuzzStatuses, v.status), v.attempts, jsonDocument(v.config),
			document(v.context), document(v.input), document(v.output), document(v.failure), null(v.text), null("gone." + v.text),
			null(v.available), null(v.deadline), null(v.started), null(v.finished), v.created, v.updated,
		}},
		{`
INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, context, output, error,
	started_at, finished_at, created_at, updated_at)
VALUES ('default', 'attempt', $1, $2, $3, $4, $5::text::jsonb, $6::text::jsonb, $7::text::jsonb, $8::text::jsonb,
	to_timestamp($9::float8), to_timestamp($10::float8), to_timestamp($11::float8), to_timestamp($12::float8))`, []any{
			poisonID, pick(fuzzStepNames, v.stepName), pick(fuzzKinds, v.kind), pick(fuzzStatuses, v.stepStatus), jsonDocument(v.config),
			document(v.stepContext), document(v.stepOutput), document(v.stepFailure),
			null(v.stepAt), null(v.finished), v.stepAt, v.updated,
		}},
		{`
INSERT INTO openworkflow.operator_workers (namespace_id, pod_uid, process, pod_name, pool, workflows, seen_at)
VALUES ('default', 'poison', $1, $1, $1, $2::text::jsonb, to_timestamp($3::float8))`,
			[]any{v.text, jsonDocument(v.workflows), v.updated}},
	} {
		if _, err := tx.Exec(t.Context(), statement.sql, statement.args...); err != nil {
			pg, ok := errors.AsType[*pgconn.PgError](err)
			if !ok || !strings.HasPrefix(pg.Code, "22") && !strings.HasPrefix(pg.Code, "54") {
				t.Fatal(err)
			}
			return false
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return true
}

// jsonDocument returns a text that is JSON as it is, and any other as a JSON string. Otherwise most
// inputs would end at Postgres' parser.
func jsonDocument(text string) string {
	if json.Valid([]byte(text)) {
		return text
	}
	encoded, err := json.Marshal(strings.ReplaceAll(text, "\x00", ""))
	if err != nil { // a string always marshals
		panic(err)
	}
	return string(encoded)
}

func (p *poisoned) startNeighbour(t *testing.T) {
	t.Helper()
	created, err := p.store.CreateRuns(t.Context(), []store.NewRun{{
		ID: neighbourID, WorkflowName: neighbour.Name(), Input: json.RawMessage(goodInput),
		Context: openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{Cluster: cluster, UID: neighbourID}}.Encode(),
	}})
	if err != nil || created[0].Err != nil {
		t.Fatalf("create the neighbour: %v, %v", err, created)
	}
	if err := p.store.Notify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// read reads the rows with every statement that reads the rows of several runs.
func (p *poisoned) read(t *testing.T) {
	t.Helper()
	ctx, ids := t.Context(), []string{poisonID, neighbourID}
	check := func(what string, n int, err error) {
		t.Helper()
		if err != nil || n == 0 {
			t.Errorf("%s returned %d rows, error %v", what, n, err)
		}
	}
	runs, err := p.store.RunStates(ctx, ids)
	check("RunStates", len(runs)/2, err)
	summaries, err := p.store.StepSummaries(ctx, ids, projection.NewestSteps)
	check("StepSummaries", len(summaries), err)
	steps, err := p.store.LoadSteps(ctx, ids)
	check("LoadSteps", len(steps), err)
	workers, err := p.store.Workers(ctx, 24*time.Hour)
	check("Workers", 1+len(workers), err)
	page, err := p.store.ListRuns(ctx, store.RunFilter{}, store.Page{})
	check("ListRuns", len(page.Runs), err)
	attempts, err := p.store.ListSteps(ctx, poisonID, store.Page{})
	check("ListSteps", len(attempts.Steps), err)
	counts, err := p.store.CountRuns(ctx)
	check("CountRuns", len(counts), err)
	objects, err := p.store.OpenObjectRuns(ctx, cluster, "", 10)
	check("OpenObjectRuns", 1+len(objects), err)
	outcomes, err := p.store.Outcomes(ctx, ids)
	check("Outcomes", 1+len(outcomes), err)
	results, err := p.store.WaitResults(ctx, []string{"attempt"})
	check("WaitResults", 1+len(results), err)
	for id, run := range runs {
		run.Object()
		status := projection.Status(run, summaries[id], "")
		if encoded, err := json.Marshal(status); err != nil || len(encoded) > 8<<10 {
			t.Errorf("the status has %d bytes, error %v", len(encoded), err)
		}
	}
}

// awaitNeighbour waits until the other run has completed with its output.
func (p *poisoned) awaitNeighbour(t *testing.T) {
	t.Helper()
	if o := p.outcome(t, neighbourID); o.Status != openworkflow.RunCompleted || string(o.Output) != goodInput {
		t.Errorf("the neighbour is %s with output %s and error %s", o.Status, o.Output, o.Error)
	}
}

// outcome waits until a run has ended.
func (p *poisoned) outcome(t *testing.T, id string) store.Outcome {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	for {
		outcomes, err := p.store.Outcomes(t.Context(), []string{id})
		if err != nil {
			t.Fatal(err)
		}
		if o, ended := outcomes[id]; ended {
			return o
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("run %s does not end", id)
		}
	}
}

// manage calls what the manager calls for a run and for all of them.
func (p *poisoned) manage(t *testing.T) {
	t.Helper()
	ctx, ids := t.Context(), []string{poisonID, neighbourID}
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := p.store.SuspendRuns(ctx, ids)
	check("SuspendRuns", err)
	_, err = p.store.ResumeRuns(ctx, ids)
	check("ResumeRuns", err)
	_, err = p.store.Sweep(ctx, 0, 10)
	check("Sweep", err)
	_, err = p.store.SendSignals(ctx, []store.Signal{{Name: "signal", Data: json.RawMessage(`1`)}})
	check("SendSignals", err)
	_, err = p.store.CancelTree(ctx, ids)
	check("CancelTree", err)
	retention := store.Retention{After: time.Nanosecond, KeyedAfter: time.Nanosecond}
	_, _, err = p.store.EndedRuns(ctx, retention, openworkflow.Cursor{}, 10)
	check("EndedRuns", err)
	_, _, err = p.store.RemoveRuns(ctx, retention, ids)
	check("RemoveRuns", err)
}
