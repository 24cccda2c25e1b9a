package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// golden is a scenario that OpenWorkflow's TypeScript package ran: the rows that
// it left at named moments.
type golden struct {
	Scenario, NamespaceID string
	Stages                []stage
}

type stage struct {
	Stage     string
	Runs      []row   `json:"workflow_runs"`
	RunTypes  []types `json:"workflow_runs_json_types"`
	Steps     []row   `json:"step_attempts"`
	StepTypes []types `json:"step_attempts_json_types"`
	Signals   []row   `json:"workflow_signals"`
}

// row is a row as row_to_json prints it, by column.
type row map[string]json.RawMessage

// types are the JSON types of a row's JSON columns, which tell SQL NULL from null.
type types map[string]string

func (r row) isNull(column string) bool { return len(r[column]) == 0 || string(r[column]) == "null" }

// text returns a text column, "" for NULL.
func (r row) text(column string) string {
	var s string
	_ = json.Unmarshal(r[column], &s)
	return s
}

func (r row) optional(column string) *string {
	if r.isNull(column) {
		return nil
	}
	return new(r.text(column))
}

func goldens(t *testing.T) []golden {
	t.Helper()
	files, err := filepath.Glob("../openworkflow/testdata/golden/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	var all []golden
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(raw, &g); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, g)
	}
	return all
}

// TestGolden_P8_SameRowsForTheSameTransitions carries each golden run through
// our statements to the state in which OpenWorkflow left it, and compares the
// rows: the same columns, statuses, JSON values and types, NULLs, and precision.
func TestGolden_P8_SameRowsForTheSameTransitions(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		if g.Scenario == "22-legacy-rows" || g.Scenario == "21-trace-context" {
			continue // the one has statuses that nobody writes any more (R40, R41), both have no types
		}
		t.Run(g.Scenario, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(`SET TIME ZONE 'UTC'`)
			for _, s := range g.Stages {
				for i, run := range s.Runs {
					var steps []row
					var stepTypes []types
					for j, step := range s.Steps {
						if step.text("workflow_run_id") == run.text("id") {
							steps, stepTypes = append(steps, step), append(stepTypes, s.StepTypes[j])
						}
					}
					label := fmt.Sprintf("%s, %s (%s)", s.Stage, run.text("workflow_name"), run.text("status"))
					id := f.replay(run, steps)
					f.compare(label, run, s.RunTypes[i], "workflow_runs", "id", id)
					var ids []string
					for _, a := range f.load(id) {
						ids = append(ids, a.ID)
					}
					if len(ids) != len(steps) {
						t.Fatalf("%s: %d attempts, want %d", label, len(ids), len(steps))
					}
					for j := range steps {
						f.compare(label+", step "+steps[j].text("step_name"), steps[j], stepTypes[j], "step_attempts", "id", ids[j])
					}
				}
			}
		})
	}
}

// replay creates a run and takes it to the golden row's state.
func (f *fixture) replay(run row, steps []row) (id string) {
	f.t.Helper()
	id = openworkflow.NewID()
	n := store.NewRun{
		ID: id, WorkflowName: run.text("workflow_name"), Version: run.optional("version"),
		Input: run["input"], Context: run["context"],
	}
	if key := run.optional("idempotency_key"); key != nil {
		n.IdempotencyKey = new(*key + id) // the stages of a file share a database
	}
	if !run.isNull("deadline_at") {
		n.DeadlineAt = new(time.Now().Add(time.Hour))
	}
	var claims int
	_ = json.Unmarshal(run["attempts"], &claims)
	if claims == 0 && precision(run["available_at"]) == "ms" {
		at, err := openworkflow.ParseTime(run.text("available_at"))
		if err != nil {
			f.t.Fatal(err)
		}
		n.AvailableAt = &at
	}
	if created, err := f.CreateRuns(f.t.Context(), []store.NewRun{n}); err != nil || !created[0].Inserted {
		f.t.Fatalf("CreateRuns: %+v, %v", created, err)
	}

	var l openworkflow.Lease
	for i := range claims {
		if i > 0 { // failures leave their error in the row, parks do not
			op := store.RunPark
			if !run.isNull("error") && run.text("status") != "failed" {
				op = store.RunRetry
			}
			f.must(nil, []store.RunWrite{{Lease: l, Op: op, Error: run["error"]}})
		}
		l = f.claimOne(id, openworkflow.Definition{Name: n.WorkflowName, Version: n.Version})
	}
	var writes []store.StepWrite
	for _, s := range steps {
		w := store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
			ID: openworkflow.NewID(), StepName: s.text("step_name"), Kind: openworkflow.StepKind(s.text("kind")),
			Status:  openworkflow.StepStatus(s.text("status")),
			Context: s["context"], Output: s["output"], Error: s["error"],
		}}
		writes = append(writes, w)
	}
	f.must(writes, nil)

	end := store.RunWrite{Lease: l, Output: run["output"], Error: run["error"], At: time.Now(), FinishedAt: time.Now()}
	switch status := run.text("status"); {
	case status == "pending" && claims > 0:
		end.Op = store.RunRetry
	case status == "running" && run.isNull("worker_id"):
		end.Op = store.RunPark
	case status == "completed":
		end.Op = store.RunComplete
	case status == "failed" && claims > 0 && run.isNull("started_at"):
		end.Op = store.RunFail
	case status == "failed":
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = date_trunc('milliseconds', now()) WHERE id = $1`, id)
		if failed, err := f.FailExpired(f.t.Context(), 10); err != nil || len(failed) != 1 {
			f.t.Fatalf("FailExpired: %v, %v", failed, err)
		}
		return id
	case status == "canceled":
		if _, err := f.CancelRuns(f.t.Context(), []string{id}); err != nil {
			f.t.Fatal(err)
		}
		return id
	default:
		return id
	}
	f.must(nil, []store.RunWrite{end})
	return id
}

// claimOne claims the run, which others of its name may precede.
func (f *fixture) claimOne(id string, d openworkflow.Definition) openworkflow.Lease {
	f.t.Helper()
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = CASE WHEN id = $1 THEN now() END
WHERE status IN ('pending', 'running', 'sleeping')`, id)
	runs := f.claim(1, d)
	if len(runs) != 1 || runs[0].ID != id {
		f.t.Fatalf("claimed %+v, want %s", runs, id)
	}
	return leaseOf(runs[0])
}

func (f *fixture) load(runID string) []openworkflow.StepAttempt {
	f.t.Helper()
	steps, err := f.LoadSteps(f.t.Context(), []string{runID})
	if err != nil {
		f.t.Fatal(err)
	}
	return steps[runID]
}

// identity are columns whose values differ from capture to capture; only whether
// they are NULL is compared. Of the linkage of children not even that: these
// rows were not linked.
var identity = map[string]bool{"id": true, "namespace_id": true, "workflow_run_id": true, "worker_id": true, "idempotency_key": true}

// compare compares a row of ours with a golden one.
func (f *fixture) compare(label string, want row, wantTypes types, table, key, id string) {
	f.t.Helper()
	var got row
	raw := f.value(`SELECT row_to_json(r) FROM openworkflow.`+table+` r WHERE `+key+` = $1`, id)
	if err := json.Unmarshal([]byte(raw), &got); err != nil {
		f.t.Fatal(err)
	}
	gotTypes := types{}
	for column := range wantTypes {
		gotTypes[column] = f.value(`SELECT coalesce(jsonb_typeof(`+column+`), 'SQL NULL') FROM openworkflow.`+table+` WHERE `+key+` = $1`, id)
		if wantTypes[column] == "null" {
			wantTypes[column] = "SQL NULL" // R21: either will do, and ours is the canonical one
		}
	}
	if diff := cmp.Diff(wantTypes, gotTypes); diff != "" {
		f.t.Errorf("%s: JSON types differ (-golden +ours):\n%s", label, diff)
	}
	ours := map[string]bool{"suspended_at": true, "resume_at": true, "failures": true}
	for column := range got {
		if _, ok := want[column]; !ok && !ours[column] {
			f.t.Errorf("%s: column %s is not OpenWorkflow's", label, column)
		}
	}
	for column, value := range want {
		switch {
		case strings.HasPrefix(column, "parent_step_attempt") || strings.HasPrefix(column, "child_workflow_run"):
		case identity[column]:
			if want.isNull(column) != got.isNull(column) {
				f.t.Errorf("%s: %s is %s, golden is %s", label, column, got[column], value)
			}
		case strings.HasSuffix(column, "_at"):
			wantPrecision, gotPrecision := precision(value), precision(got[column])
			// A value of microseconds may end in zeros by chance.
			if gotPrecision != wantPrecision && (wantPrecision != "µs" || gotPrecision == "NULL") {
				f.t.Errorf("%s: %s is %s (%s), golden is %s (%s)", label, column, got[column], gotPrecision, value, wantPrecision)
			}
		case !bytes.Equal(value, got[column]):
			f.t.Errorf("%s: %s is %s, golden is %s", label, column, got[column], value)
		}
	}
}

// precision tells how a timestamp was written: NULL, in milliseconds or finer.
func precision(timestamp json.RawMessage) string {
	var s string
	if json.Unmarshal(timestamp, &s) != nil || s == "" {
		return "NULL"
	}
	_, fraction, _ := strings.Cut(s, ".")
	fraction, _, _ = strings.Cut(fraction, "+")
	if len(fraction) <= 3 {
		return "ms"
	}
	return "µs"
}

// TestGolden_P8_ContinuesFromEveryStage loads the rows of each golden stage,
// claims what is open, reads its history and completes it.
func TestGolden_P8_ContinuesFromEveryStage(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		for i, s := range g.Stages {
			t.Run(fmt.Sprintf("%s/%d", g.Scenario, i), func(t *testing.T) {
				t.Parallel()
				url := testpg.New(t)
				f := &fixture{Store: open(t, store.Options{URL: url, NamespaceID: g.NamespaceID}), t: t, url: url, db: connect(t, url)}
				f.exec(upstreamSchema(t))
				f.insert("workflow_runs", s.Runs)
				f.insert("step_attempts", s.Steps)
				f.insert("workflow_signals", s.Signals)
				if err := f.Migrate(t.Context()); err != nil { // over rows that exist
					t.Fatal(err)
				}
				if g.Scenario == "22-legacy-rows" {
					f.exec(`UPDATE openworkflow.workflow_runs SET status = 'sleeping', worker_id = NULL, finished_at = NULL`)
					s.Runs[0]["status"] = json.RawMessage(`"sleeping"`)
				}
				f.exec(`UPDATE openworkflow.workflow_runs SET available_at = now(), deadline_at = NULL
WHERE status IN ('pending', 'running', 'sleeping')`)

				for _, run := range s.Runs {
					d := openworkflow.Definition{Name: run.text("workflow_name"), Version: run.optional("version")}
					if openworkflow.RunStatus(run.text("status")).Terminal() {
						continue
					}
					l := f.claimOne(run.text("id"), d)
					f.continues(l, run, s.Steps)
				}
				for _, run := range s.Runs {
					d := openworkflow.Definition{Name: run.text("workflow_name"), Version: run.optional("version")}
					if runs := f.claim(10, d); len(runs) != 0 {
						t.Errorf("claimed an ended run: %+v", runs)
					}
				}
			})
		}
	}
}

// continues checks the history of a claimed golden run, adds to it, and ends it.
func (f *fixture) continues(l openworkflow.Lease, run row, golden []row) {
	f.t.Helper()
	history := f.load(l.RunID)
	var want, got []string
	for _, s := range golden {
		if s.text("workflow_run_id") == l.RunID {
			want = append(want, fmt.Sprint(s.text("id"), s.text("step_name"), s.text("kind"), s.text("status"),
				s.isNull("output"), s.isNull("error"), s.isNull("context")))
		}
	}
	for _, a := range history {
		got = append(got, fmt.Sprint(a.ID, a.StepName, a.Kind, a.Status, a.Output == nil, a.Error == nil, a.Context == nil))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("history of %s differs (-golden +loaded):\n%s", run.text("workflow_name"), diff)
	}
	steps := []store.StepWrite{step(l, "ours", completed, `{"by":"go"}`)}
	for _, a := range history { // what the other language left running
		if a.Status == running && a.Kind == openworkflow.KindFunction {
			end := step(l, a.StepName, completed, `1`)
			end.Attempt.ID = a.ID
			steps = append(steps, end)
		}
	}
	f.must(steps, []store.RunWrite{ending(l, store.RunComplete)})
	f.expect(l.RunID, "status", "completed")
	f.expect(l.RunID, "error", "NULL")
}

// insert loads rows as they are, whatever they refer to.
func (f *fixture) insert(table string, rows []row) {
	f.t.Helper()
	raw, err := json.Marshal(rows)
	if err != nil {
		f.t.Fatal(err)
	}
	if len(rows) == 0 {
		return
	}
	f.exec(`SET session_replication_role = replica`)
	f.exec(`INSERT INTO openworkflow.`+table+` SELECT * FROM json_populate_recordset(NULL::openworkflow.`+table+`, $1)`, string(raw))
	f.exec(`RESET session_replication_role`)
}
