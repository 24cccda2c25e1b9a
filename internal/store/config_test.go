package store_test

import (
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// TestMigrate_P8_ChangesNoColumnOfOpenWorkflow: OpenWorkflow's processes have prepared
// statements that return all columns of a table. See TestMigrate_P8_WhileTypeScriptWrites
// in test/interop for what a changed column does to them.
func TestMigrate_P8_ChangesNoColumnOfOpenWorkflow(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t)
	f.exec(upstreamSchema(t))
	other := connect(t, f.url)
	const all = `SELECT r, a, s FROM openworkflow.workflow_runs r, openworkflow.step_attempts a, openworkflow.workflow_signals s`
	if _, err := other.Prepare(t.Context(), "all", all); err != nil {
		t.Fatal(err)
	}
	for name, statement := range map[string]string{
		"runs":     `SELECT * FROM openworkflow.workflow_runs`,
		"attempts": `SELECT * FROM openworkflow.step_attempts`,
		"signals":  `SELECT * FROM openworkflow.workflow_signals`,
	} {
		if _, err := other.Prepare(t.Context(), name, statement); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := f.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"all", "runs", "attempts", "signals"} {
			if _, err := other.Exec(t.Context(), name); err != nil {
				t.Errorf("the statement %q, prepared before the migration: %v", name, err)
			}
		}
		f.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 3`) // an earlier release's
	}
}

// TestMigrate_KeepsWhatEarlierReleasesHadInColumns: the values move, the columns stay.
func TestMigrate_KeepsWhatEarlierReleasesHadInColumns(t *testing.T) {
	t.Parallel()
	f := setup(t)
	ids := f.create(3)
	f.exec(`ALTER TABLE openworkflow.workflow_runs
	ADD COLUMN suspended_at timestamptz, ADD COLUMN resume_at timestamptz, ADD COLUMN failures integer`)
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = NULL, suspended_at = '2026-01-07', resume_at = '2020-01-01' WHERE id = $1`, ids[0])
	f.exec(`UPDATE openworkflow.workflow_runs SET failures = 3, resume_at = 'infinity' WHERE id = $1`, ids[1])
	f.exec(`DELETE FROM openworkflow.operator_migrations WHERE version > 11`)

	if err := f.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}

	runs, err := f.GetRuns(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	want := time.Date(2026, 1, 7, 0, 0, 0, 0, time.UTC)
	if at := runs[ids[0]].SuspendedAt; at == nil || !at.Equal(want) {
		t.Errorf("the first run is suspended since %v, want %v", at, want)
	}
	if n := runs[ids[1]].Failures; n != 3 {
		t.Errorf("the second run has failed %d times, want 3", n)
	}
	f.expect(ids[2], "config", "{}")
	f.expect(ids[0], "suspended_at IS NULL", "false")
	if n := f.resume(ids[0]); n != 1 {
		t.Errorf("resumed %d, want 1", n)
	}
	f.expect(ids[0], "available_at = '2020-01-01'", "true")
}

// TestConfig_P9_WhateverItHoldsNoStatementFails: anybody who may write rows may write
// anything there, and one statement reads the rows of many runs.
func TestConfig_P9_WhateverItHoldsNoStatementFails(t *testing.T) {
	t.Parallel()
	const since, resume, failures = `"openworkflow.dev/suspendedAt"`, `"openworkflow.dev/resumeAt"`, `"openworkflow.dev/failures"`
	const deaths, died = `"openworkflow.dev/deaths"`, `"openworkflow.dev/diedAt"`
	for name, config := range map[string]string{
		"a text":              `"x"`,
		"null":                `null`,
		"a list":              `[` + since + `]`,
		"a number":            `1e400`,
		"members are texts":   `{` + since + `: "now", ` + resume + `: "later", ` + failures + `: "some", ` + deaths + `: "2", ` + died + `: "2"}`,
		"members are objects": `{` + since + `: {}, ` + resume + `: [], ` + failures + `: {}, ` + deaths + `: {}, ` + died + `: {}}`,
		"members are null":    `{` + since + `: null, ` + resume + `: null, ` + failures + `: null, ` + deaths + `: null, ` + died + `: null}`,
		"huge numbers":        `{` + since + `: 1e300, ` + resume + `: 1e300, ` + failures + `: 1e300, ` + deaths + `: 1e300, ` + died + `: 1e300}`,
		"negative numbers":    `{` + since + `: -1e300, ` + resume + `: -1e300, ` + failures + `: -1e300, ` + deaths + `: -1e300, ` + died + `: -1e300}`,
		"fractions":           `{` + since + `: 1e-300, ` + resume + `: 0.5, ` + failures + `: 1.5, ` + deaths + `: 1.5, ` + died + `: 1.5}`,
		"members of others":   `{"a": 1}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			good := f.create(1)[0]
			change := func() {
				f.exec(`UPDATE openworkflow.workflow_runs SET config = $1::text::jsonb WHERE id = $2`, config, l.RunID)
			}
			change()

			f.must([]store.StepWrite{step(l, "a", completed, `1`)}, []store.RunWrite{ending(l, store.RunRetry)})
			change()
			f.suspend(l.RunID)
			change()
			f.resume(l.RunID)
			change()
			f.send(store.Signal{Name: "go"})
			f.sweep(10)
			for range 2 { // the second one finds what the first has written
				f.exec(`UPDATE openworkflow.workflow_runs SET status = 'running', worker_id = 'dead.p.1', available_at = now() WHERE id = $1`, l.RunID)
				if released, err := f.ReleaseLeases(t.Context(), store.ReleaseRequest{PodUID: "dead", Died: true}); err != nil || len(released) != 1 {
					t.Errorf("ReleaseLeases: %v, %v", released, err)
				}
			}
			if runs := f.claim(10); len(runs) == 0 || len(runs) > 2 {
				t.Errorf("claimed %d runs, want the good one at least", len(runs))
			}
			runs, err := f.GetRuns(t.Context(), []string{l.RunID, good})
			if err != nil || len(runs) != 2 {
				t.Errorf("GetRuns: %v, %v", runs, err)
			}
			if _, err := f.CancelRuns(t.Context(), []string{l.RunID}); err != nil {
				t.Errorf("CancelRuns: %v", err)
			}
			f.expect(l.RunID, "status", "canceled")
		})
	}
}
