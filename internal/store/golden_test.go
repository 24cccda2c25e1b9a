package store_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// golden is a scenario that OpenWorkflow's TypeScript package ran: the rows that it left at
// named moments.
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
	// SignalTypes belong to Signals.
	SignalTypes []types `json:"workflow_signals_json_types"`
}

// row is a row as row_to_json prints it, by column.
type row map[string]json.RawMessage

// types are the JSON types of a row's JSON columns. They distinguish SQL NULL from null.
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

// TestGolden_P8_ContinuesFromEveryStage loads the rows of each golden stage, claims the open
// runs, reads their history and completes them.
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

// continues checks the history of a claimed golden run, adds an attempt, and ends the run.
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

// claimOne claims the run, though others of its name may precede it.
func (f *fixture) claimOne(id string, d openworkflow.Definition) openworkflow.Lease {
	f.t.Helper()
	const others = `status IN ('pending', 'running', 'sleeping') AND id <> $1`
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = available_at + interval '999 days' WHERE `+others, id)
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() WHERE id = $1`, id)
	runs := f.claim(1, d)
	if len(runs) != 1 || runs[0].ID != id {
		f.t.Fatalf("claimed %+v, want %s", runs, id)
	}
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = available_at - interval '999 days' WHERE `+others, id)
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

// insert inserts rows as they are, without checking their links.
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
