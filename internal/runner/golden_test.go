package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/workflow"
)

// golden is a scenario that OpenWorkflow's TypeScript package has executed: its rows at named
// stages.
type golden struct {
	Scenario, NamespaceID string
	Stages                []stage
}

type stage struct {
	Stage string
	// DBNow is when the rows were captured, by the server's clock.
	DBNow   time.Time `json:"dbNow"`
	Runs    []row     `json:"workflow_runs"`
	Steps   []row     `json:"step_attempts"`
	Signals []row     `json:"workflow_signals"`
}

// row is a row as row_to_json prints it, by column.
type row map[string]json.RawMessage

// text returns a text column, "" for NULL.
func (r row) text(column string) string {
	var s *string
	_ = json.Unmarshal(r[column], &s)
	if s == nil {
		return ""
	}
	return *s
}

func (r row) optional(column string) *string {
	if s := r.text(column); s != "" {
		return &s
	}
	return nil
}

// time returns a time column, zero for NULL.
func (r row) time(column string) time.Time {
	at, _ := time.Parse(time.RFC3339Nano, r.text(column))
	return at
}

func (r row) number(column string) (n int) {
	_ = json.Unmarshal(r[column], &n)
	return n
}

func (r row) ended() bool { return openworkflow.RunStatus(r.text("status")).Terminal() }

// shift returns the row with all times d later, including those in the context column (R30).
func (r row) shift(d time.Duration) row {
	shifted := row{}
	for column, value := range r {
		if at := r.time(column); strings.HasSuffix(column, "_at") && !at.IsZero() {
			value = quoted(at.Add(d).Format(time.RFC3339Nano))
		}
		shifted[column] = value
	}
	var wait map[string]any
	if json.Unmarshal(r["context"], &wait) != nil || wait == nil {
		return shifted
	}
	for _, member := range []string{"resumeAt", "timeoutAt"} {
		text, _ := wait[member].(string)
		if at, err := openworkflow.ParseTime(text); err == nil {
			wait[member] = openworkflow.FormatTime(at.Add(d))
		}
	}
	shifted["context"], _ = json.Marshal(wait)
	return shifted
}

func quoted(s string) json.RawMessage {
	b, _ := json.Marshal(s)
	return b
}

func readGolden(t *testing.T, name string) golden {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../openworkflow/testdata/golden", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for i, s := range g.Stages {
		if s.DBNow.IsZero() { // not captured
			g.Stages[i].DBNow = s.Runs[len(s.Runs)-1].time("updated_at")
		}
	}
	return g
}

// TestGolden_P1_P8_TheGoRunnerGoesOnFromEveryStage loads the rows of each stage of each
// scenario, as if the TypeScript worker that wrote them had died there. Our runner continues
// with Go forms of the same workflows, and must reach the end that TypeScript has reached: runs,
// outputs, errors, and the attempts of all steps. Each scenario is also executed from its start.
//
// No function of a step that is completed in the rows is called again, and each call has an
// attempt of its own.
func TestGolden_P1_P8_TheGoRunnerGoesOnFromEveryStage(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../openworkflow/testdata/golden/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ok := scenarios[name]
			if !ok {
				t.Fatal("the scenario has no Go form")
			}
			g := readGolden(t, name)
			if s.before != nil {
				g.Stages = append([]stage{s.before(g)}, g.Stages...)
			}
			first := -1
			if s.handmade {
				first = 0
			}
			for from := first; from < len(g.Stages); from++ {
				if from == len(g.Stages)-1 && !slices.ContainsFunc(g.Stages[from].Runs, func(run row) bool { return !run.ended() }) {
					continue // there is nothing left to do
				}
				t.Run(stageName(g, from), func(t *testing.T) {
					t.Parallel()
					newTrial(t, g, from).run(s)
				})
			}
		})
	}
}

func stageName(g golden, from int) string {
	if from < 0 {
		return "from the beginning"
	}
	what, _, _ := strings.Cut(g.Stages[from].Stage, ";")
	return fmt.Sprintf("from stage %d, %s", from, what)
}

// scenario is the Go form of a golden scenario.
type scenario struct {
	workflows func(x *trial) []workflow.Definition
	// script[k] does what the capturing script did to reach stage k. Without one, the runs that
	// are new in that stage are started.
	script []func(x *trial)
	// before returns the rows that the capturing script made by hand before the first stage.
	before func(g golden) stage
	// handmade says that the rows of the first stage were written by hand: no worker writes
	// such rows.
	handmade bool
	// depart changes the end that TypeScript's rows show to what is expected of ours. The
	// reason is named beside each change.
	depart func(x *trial, want map[string]*runEnd)
	// runsOnly says that the attempts of the end were not captured.
	runsOnly bool
	// check tests what the comparison does not.
	check func(x *trial)
}

// trial is a scenario that continues from the rows of one of its stages, or from its start.
type trial struct {
	*bench
	db     *pgx.Conn
	golden golden
	from   int
	calls  calls
	// later is the time from the capture to the trial.
	later time.Duration
	// loaded are the rows that the trial started with, by id.
	loaded map[string]row
	steps0 []row
	runner *runner.Runner
	stop   func()
	// open blocks functions until the script closes it.
	open chan struct{}
}

func newTrial(t *testing.T, g golden, from int) *trial {
	t.Helper()
	url := testpg.New(t)
	s, err := store.Open(t.Context(), store.Options{URL: url, NamespaceID: g.NamespaceID})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close(context.WithoutCancel(t.Context())) })
	x := &trial{
		bench: &bench{T: t, url: url, store: s}, db: db, golden: g, from: from,
		loaded: map[string]row{}, open: make(chan struct{}),
	}
	var now time.Time
	if err := db.QueryRow(t.Context(), `SELECT now()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	x.later = now.Sub(g.Stages[max(from, 0)].DBNow).Truncate(time.Millisecond)
	if from < 0 {
		return x
	}
	for _, run := range g.Stages[from].Runs {
		x.loaded[run.text("id")] = run
	}
	x.steps0 = g.Stages[from].Steps
	x.load("workflow_runs", g.Stages[from].Runs)
	x.load("step_attempts", g.Stages[from].Steps)
	x.load("workflow_signals", g.Stages[from].Signals)
	// The TypeScript worker has died, and its leases have ended.
	x.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() WHERE status = 'running' AND worker_id IS NOT NULL`)
	return x
}

func (x *trial) exec(sql string, args ...any) {
	x.Helper()
	if _, err := x.db.Exec(x.Context(), sql, args...); err != nil {
		x.Fatalf("%s: %v", sql, err)
	}
}

// load inserts rows, without checks of their references, with times as of today.
func (x *trial) load(table string, rows []row) {
	x.Helper()
	shifted := make([]row, len(rows))
	for i, r := range rows {
		shifted[i] = r.shift(x.later)
	}
	raw, err := json.Marshal(shifted)
	if err != nil {
		x.Fatal(err)
	}
	x.exec(`SET session_replication_role = replica`)
	x.exec(`INSERT INTO openworkflow.`+table+` SELECT * FROM json_populate_recordset(NULL::openworkflow.`+table+`, $1)`, string(raw))
	x.exec(`RESET session_replication_role`)
}

// read returns the rows of a table, in the order of their creation.
func (x *trial) read(table string) []row {
	x.Helper()
	rows, err := x.db.Query(x.Context(), `SELECT row_to_json(r)::text FROM openworkflow.`+table+` r ORDER BY created_at, id`)
	if err != nil {
		x.Fatal(err)
	}
	raw, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		x.Fatal(err)
	}
	read := make([]row, len(raw))
	for i := range raw {
		if err := json.Unmarshal([]byte(raw[i]), &read[i]); err != nil {
			x.Fatal(err)
		}
	}
	return read
}

// run starts the runner, does what the capturing script did after the stage, and compares the
// end.
func (x *trial) run(s scenario) {
	x.Helper()
	want := x.wanted(s)
	x.runner, x.stop = x.work(runner.Options{PollInterval: 100 * time.Millisecond}, s.workflows(x)...)
	for k := x.from + 1; k < len(x.golden.Stages); k++ {
		if k < len(s.script) && s.script[k] != nil {
			s.script[k](x)
		} else {
			x.startRuns(k)
		}
	}
	x.settle(want)
	compare := func(when string) {
		x.Helper()
		got := x.ends(x.read("workflow_runs"), x.read("step_attempts"), x.read("workflow_signals"))
		if s.runsOnly {
			for _, run := range got {
				run.Steps = nil
			}
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(alike), cmpopts.EquateEmpty()); diff != "" {
			x.Errorf("the end differs %s (-want +got):\n%s", when, diff)
		}
	}
	compare("when all has ended or waits")
	x.prod()
	compare("after what waits was executed once more")
	if s.check != nil {
		s.check(x)
	}
	x.stop()
	x.checkCalls()
}

// startRuns creates the runs that are new in a stage and that no run has started: all,
// or those of these workflows. It returns their ids.
func (x *trial) startRuns(k int, workflows ...string) (ids []string) {
	x.Helper()
	for _, run := range x.golden.Stages[k].Runs {
		before := k > 0 && slices.ContainsFunc(x.golden.Stages[k-1].Runs, func(r row) bool { return r.text("id") == run.text("id") })
		if before || run.text("parent_step_attempt_id") != "" {
			continue
		}
		if len(workflows) == 0 || slices.Contains(workflows, run.text("workflow_name")) {
			ids = append(ids, x.create(run))
		}
	}
	return ids
}

// create creates a golden run again, under its own id, with a deadline that is as far away as it
// was then.
func (x *trial) create(golden row, change ...func(*store.NewRun)) (id string) {
	x.Helper()
	run := store.NewRun{
		ID: golden.text("id"), WorkflowName: golden.text("workflow_name"), Version: golden.optional("version"),
		Input: golden["input"], Context: golden["context"], IdempotencyKey: golden.optional("idempotency_key"),
	}
	if at := golden.time("available_at"); golden.number("attempts") == 0 && !at.IsZero() {
		run.AvailableAt = new(at.Add(x.later))
	}
	if at := golden.time("deadline_at"); !at.IsZero() {
		run.DeadlineAt = new(at.Add(x.later))
	}
	for _, c := range change {
		c(&run)
	}
	created, err := x.store.CreateRuns(x.Context(), []store.NewRun{run})
	if err != nil || created[0].Err != nil || !created[0].Inserted {
		x.Fatalf("create run: %v %+v", err, created)
	}
	return run.ID
}

func (x *trial) notify() {
	x.Helper()
	if err := x.store.Notify(x.Context()); err != nil {
		x.Fatal(err)
	}
}

// send sends a signal, and returns how many runs it was delivered to.
func (x *trial) send(signal, data, key string) int {
	x.Helper()
	s := store.Signal{Name: signal, Data: json.RawMessage(data)}
	if key != "" {
		s.IdempotencyKey = &key
	}
	sent, err := x.store.SendSignals(x.Context(), []store.Signal{s})
	if err != nil {
		x.Fatal(err)
	}
	x.notify()
	return len(sent[0])
}

// parked waits until the run waits.
func (x *trial) parked(id string) {
	x.Helper()
	x.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts > 0 && r.Parked() })
}

// sweep waits until a sweep has failed the run at its deadline.
func (x *trial) sweep(id string) {
	x.Helper()
	x.await(id, "swept", func(r *openworkflow.Run) bool {
		if _, err := x.store.FailExpired(x.Context(), 100); err != nil {
			x.Fatal(err)
		}
		return r.Status.Terminal()
	})
}

// runOf returns the id of the n-th run of a workflow in the golden end.
func (x *trial) runOf(workflow string, n int) row {
	x.Helper()
	last := x.golden.Stages[len(x.golden.Stages)-1]
	for _, run := range last.Runs {
		if run.text("workflow_name") == workflow && run.text("parent_step_attempt_id") == "" {
			if n == 0 {
				return run
			}
			n--
		}
	}
	x.Fatalf("there is no such run of %s", workflow)
	return nil
}

// began returns the attempts of a run that were loaded.
func (x *trial) began(runID string) []row {
	return slices.DeleteFunc(slices.Clone(x.steps0), func(step row) bool { return step.text("workflow_run_id") != runID })
}

// isOpen reports whether the trial has executed a golden run: it was not loaded, or had not
// ended when it was.
func (x *trial) isOpen(run row) bool {
	loaded, ok := x.loaded[run.text("id")]
	return !ok || !loaded.ended()
}

// settle waits until each run has ended, or waits if it ends like that.
func (x *trial) settle(want map[string]*runEnd) {
	x.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(time.Minute)
	for {
		runs := x.read("workflow_runs")
		names := x.names(runs, x.read("step_attempts"))
		settled := 0
		for _, run := range runs {
			end := want[names[run.text("id")]]
			waits := end != nil && end.Status == run.text("status") && run.text("worker_id") == ""
			if run.ended() || waits {
				settled++
			}
		}
		if settled >= len(want) {
			return
		}
		select {
		case <-ticker.C:
		case <-timeout:
			return // the comparison shows what is missing
		}
	}
}

// prod makes all waiting runs due, and waits until they wait again, until the same time as before:
// the time is in their rows.
func (x *trial) prod() {
	x.Helper()
	var waiting []row
	for _, run := range x.read("workflow_runs") {
		if run.text("status") == "running" && run.text("worker_id") == "" {
			waiting = append(waiting, run)
		}
	}
	x.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() WHERE status = 'running' AND worker_id IS NULL`)
	x.notify()
	for _, before := range waiting {
		after := x.await(before.text("id"), "executed once more", func(r *openworkflow.Run) bool {
			return r.Attempts > before.number("attempts") && (r.Parked() || r.Status.Terminal())
		})
		if after.AvailableAt == nil || !after.AvailableAt.Equal(before.time("available_at")) {
			x.Errorf("the run of %s now waits until %v, and did until %v", after.WorkflowName, after.AvailableAt, before.time("available_at"))
		}
	}
}

// counted counts the calls of a step's function, by run and step.
func counted[T any](x *trial, fn func(ctx context.Context) (T, error)) func(ctx context.Context) (T, error) {
	return func(ctx context.Context) (T, error) {
		x.calls.add(callOf(ctx))
		return fn(ctx)
	}
}

// callOf names the step to whose function a context was passed.
func callOf(ctx context.Context) string {
	name, _ := durable.StepFrom(ctx)
	return durable.ExecutionFrom(ctx).Info().ID + " " + name
}

// gives returns a step function that only returns a value.
func (x *trial) gives(value any) func(ctx context.Context) (any, error) {
	return counted(x, func(context.Context) (any, error) { return value, nil })
}

// nth returns how often the step has been tried, this time included.
func (x *trial) nth(ctx context.Context) int {
	call := callOf(ctx)
	n := x.calls.of(call)
	for _, step := range x.steps0 {
		if step.text("workflow_run_id")+" "+step.text("step_name") == call && step.text("status") != "running" {
			n++
		}
	}
	return n
}

// checkCalls compares the calls of functions with the attempts: one call for each new attempt.
func (x *trial) checkCalls() {
	x.Helper()
	want, got := map[string]int{}, map[string]int{}
	count := func(steps []row, n int) {
		for _, step := range steps {
			if step.text("kind") == "function" {
				want[step.text("workflow_run_id")+" "+step.text("step_name")] += n
			}
		}
	}
	count(x.read("step_attempts"), 1)
	count(x.steps0, -1)
	for call := range want {
		got[call] = x.calls.of(call)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		x.Errorf("calls of functions (-attempts that are new, +calls):\n%s", diff)
	}
}
