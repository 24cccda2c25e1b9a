package store_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// TestGolden_P8_SameRowsForTheSameTransitions replays the runs of each golden stage with our
// statements, up to the state in which OpenWorkflow left them. It compares the rows of all
// tables: columns, statuses, links, JSON values and types, NULLs, and precision.
func TestGolden_P8_SameRowsForTheSameTransitions(t *testing.T) {
	t.Parallel()
	for _, g := range goldens(t) {
		if g.Scenario == "22-legacy-rows" {
			continue // it has statuses that nobody writes any more (R40, R41)
		}
		for i, s := range g.Stages {
			t.Run(fmt.Sprintf("%s/%d", g.Scenario, i), func(t *testing.T) {
				t.Parallel()
				url := testpg.New(t)
				f := &fixture{Store: open(t, store.Options{URL: url, NamespaceID: g.NamespaceID}), t: t, url: url, db: connect(t, url)}
				if err := f.Migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
				f.exec(`SET TIME ZONE 'UTC'`)
				f.replay(&s)
				f.compareAll(&s)
			})
		}
	}
}

// replay makes the rows of a stage, under the same ids. It first starts every run, then
// delivers the signals from outside, then continues and ends the runs: children before their
// parents, which are older.
func (f *fixture) replay(s *stage) {
	f.t.Helper()
	leases := make([]openworkflow.Lease, len(s.Runs))
	for i, run := range s.Runs {
		leases[i] = f.beginRun(s, run)
	}
	for _, d := range s.Signals {
		if key := d.optional("sender_idempotency_key"); key != nil && strings.HasPrefix(*key, "__signal:") {
			continue // a step has sent it
		}
		receivers, err := f.SendSignals(f.t.Context(), []store.Signal{{
			Name: d.text("signal"), Data: d.json("data"), IdempotencyKey: d.optional("sender_idempotency_key"),
		}})
		if want := [][]string{{d.text("workflow_run_id")}}; err != nil || !cmp.Equal(receivers, want) {
			f.t.Fatalf("signal %s went to %v, want %v: %v", d["signal"], receivers, want, err)
		}
	}
	for i, run := range slices.Backward(s.Runs) {
		f.finishRun(s, run, leases[i])
	}
}

// beginRun creates a run, unless its parent has created it, claims it and writes its attempts.
// Attempts that wait for something in the stage are still running then. A run that is claimed
// again later, or that was left waiting, is parked.
func (f *fixture) beginRun(s *stage, run row) openworkflow.Lease {
	f.t.Helper()
	if run.isNull("parent_step_attempt_id") {
		n := newRun(run)
		if !run.isNull("deadline_at") {
			n.DeadlineAt = new(time.Now().Add(time.Hour))
		}
		if run.claims() == 0 && precision(run["available_at"]) == "ms" {
			at, err := openworkflow.ParseTime(run.text("available_at"))
			if err != nil {
				f.t.Fatal(err)
			}
			n.AvailableAt = &at
		}
		if created, err := f.CreateRuns(f.t.Context(), []store.NewRun{n}); err != nil || !created[0].Inserted {
			f.t.Fatalf("CreateRuns: %+v, %v", created, err)
		}
	}
	if run.claims() == 0 {
		return openworkflow.Lease{}
	}
	l := f.claimOne(run.text("id"), run.definition())
	for _, a := range s.attemptsOf(run) {
		f.writeAttempt(s, l, a, true)
	}
	if run.claims() > 1 || run.setAside() {
		f.setAside(l, run)
	}
	return l
}

// finishRun claims a run as often as it was claimed, ends its waits, and leaves it in the
// status of the golden row.
func (f *fixture) finishRun(s *stage, run row, l openworkflow.Lease) {
	f.t.Helper()
	for i := 1; i < run.claims(); i++ {
		l = f.claimOne(run.text("id"), run.definition())
		if i < run.claims()-1 {
			f.setAside(l, run)
		}
	}
	if run.setAside() {
		if run.claims() > 1 {
			f.setAside(l, run)
		}
		return
	}
	for _, a := range s.attemptsOf(run) {
		if s.waits(a) && a.text("status") != "running" {
			f.writeAttempt(s, l, a, false)
		}
	}
	end := store.RunWrite{Lease: l, Output: run.json("output"), Error: run.json("error"), FinishedAt: time.Now()}
	switch status := run.text("status"); {
	case status == "completed":
		end.Op = store.RunComplete
	case status == "failed" && run.claims() > 0 && run.isNull("started_at"):
		end.Op = store.RunFail
	case status == "failed":
		f.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = date_trunc('milliseconds', now()) WHERE id = $1`, run.text("id"))
		if failed, err := f.FailExpired(f.t.Context(), 10); err != nil || len(failed) != 1 {
			f.t.Fatalf("FailExpired: %v, %v", failed, err)
		}
		return
	case status == "canceled":
		if _, err := f.CancelRuns(f.t.Context(), []string{run.text("id")}); err != nil {
			f.t.Fatal(err)
		}
		return
	default:
		return
	}
	f.must(nil, []store.RunWrite{end})
}

// setAside ends a lease of a run that continues later. Failures leave their error in the row,
// parks do not.
func (f *fixture) setAside(l openworkflow.Lease, run row) {
	f.t.Helper()
	w := store.RunWrite{Lease: l, Op: store.RunPark, At: time.Now().Add(time.Hour)}
	if !run.isNull("error") && run.text("status") != "failed" {
		w.Op, w.Error = store.RunRetry, run["error"]
	}
	f.must(nil, []store.RunWrite{w})
}

// writeAttempt writes an attempt. The first write is running if the attempt waits for
// something in the stage.
func (f *fixture) writeAttempt(s *stage, l openworkflow.Lease, a row, first bool) {
	f.t.Helper()
	w := store.StepWrite{Lease: l, Attempt: openworkflow.StepAttempt{
		ID: a.text("id"), StepName: a.text("step_name"), Kind: openworkflow.StepKind(a.text("kind")),
		Status:  openworkflow.StepStatus(a.text("status")),
		Context: a.json("context"), Output: a.json("output"), Error: a.json("error"),
	}}
	switch {
	case w.Attempt.Kind == openworkflow.KindSignalSend && w.Attempt.Status == completed:
		signal := store.Signal{Name: w.Attempt.StepName} // it is stored only if somebody has received it (R104)
		for _, d := range s.Signals {
			if d.text("sender_idempotency_key") == "__signal:"+l.RunID+":"+w.Attempt.StepName {
				signal.Name, signal.Data = d.text("signal"), d.json("data")
			}
		}
		if _, err := f.SendSignal(f.t.Context(), w, signal); err != nil {
			f.t.Fatal(err)
		}
		return
	case first && s.waits(a):
		w.Attempt.Status = running
		if child := s.childOf(a); child != nil {
			w.Child = new(newRun(child))
		}
	}
	f.must([]store.StepWrite{w}, nil)
}

// newRun returns the NewRun that the golden row was created from.
func newRun(run row) store.NewRun {
	return store.NewRun{
		ID: run.text("id"), WorkflowName: run.text("workflow_name"), Version: run.optional("version"),
		IdempotencyKey: run.optional("idempotency_key"), Input: run.json("input"), Context: run.json("context"),
	}
}

// json returns a JSON column, nil for NULL.
func (r row) json(column string) json.RawMessage {
	if r.isNull(column) {
		return nil
	}
	return r[column]
}

func (r row) definition() openworkflow.Definition {
	return openworkflow.Definition{Name: r.text("workflow_name"), Version: r.optional("version")}
}

// claims returns how often a run was claimed.
func (r row) claims() int {
	var n int
	_ = json.Unmarshal(r["attempts"], &n)
	return n
}

// setAside reports whether a run waits, and nobody executes it.
func (r row) setAside() bool {
	return r.claims() > 0 && (r.text("status") == "pending" || r.text("status") == "running" && r.isNull("worker_id"))
}

func (s *stage) attemptsOf(run row) []row {
	var attempts []row
	for _, a := range s.Steps {
		if a.text("workflow_run_id") == run.text("id") {
			attempts = append(attempts, a)
		}
	}
	return attempts
}

// childOf returns the run that is linked to an attempt, nil when none is.
func (s *stage) childOf(a row) row {
	for _, run := range s.Runs {
		if run.text("parent_step_attempt_id") == a.text("id") {
			return run
		}
	}
	return nil
}

// waits reports whether an attempt waits, or has waited, for a child or a signal that is
// in the stage.
func (s *stage) waits(a row) bool {
	return s.childOf(a) != nil || slices.ContainsFunc(s.Signals, func(d row) bool {
		return d.text("step_attempt_id") == a.text("id")
	})
}

// childEnded reports whether a run is set aside although a child that it waits for has
// ended.
func (s *stage) childEnded(run row) bool {
	return run.setAside() && slices.ContainsFunc(s.attemptsOf(run), func(a row) bool {
		child := s.childOf(a)
		return a.text("status") == "running" && child != nil && openworkflow.RunStatus(child.text("status")).Terminal()
	})
}

// compareAll compares all tables with the stage.
func (f *fixture) compareAll(s *stage) {
	f.t.Helper()
	for _, table := range []struct {
		name, key string
		want      []row
		types     []types
	}{
		{"workflow_runs", "id", s.Runs, s.RunTypes},
		{"step_attempts", "id", s.Steps, s.StepTypes},
		{"workflow_signals", "step_attempt_id", s.Signals, s.SignalTypes}, // their ids are the server's
	} {
		if n := f.value(`SELECT count(*) FROM openworkflow.` + table.name); n != fmt.Sprint(len(table.want)) {
			f.t.Errorf("%s has %s rows, want %d", table.name, n, len(table.want))
		}
		for i, want := range table.want {
			if s.childEnded(want) { // an end and the wake are one write of ours (R82, R171)
				want = maps.Clone(want)
				want["available_at"] = want["updated_at"]
			}
			name := want.text("workflow_name") + want.text("step_name") + want.text("signal")
			label := fmt.Sprintf("%s, %s of %s (%s)", s.Stage, name, table.name, want.text("status"))
			var wantTypes types
			if i < len(table.types) { // a scenario that was captured apart has none
				wantTypes = table.types[i]
			}
			f.compare(label, want, wantTypes, table.name, table.key)
		}
	}
}

// compare compares a row of ours with the golden row of the same key. Worker ids and the ids
// of signals differ, so it compares only whether they are NULL.
func (f *fixture) compare(label string, want row, wantTypes types, table, key string) {
	f.t.Helper()
	var got row
	raw := f.value(`SELECT row_to_json(r) FROM openworkflow.`+table+` r WHERE `+key+` = $1`, want.text(key))
	if err := json.Unmarshal([]byte(raw), &got); err != nil {
		f.t.Fatal(err)
	}
	gotTypes := types{}
	for column := range wantTypes {
		gotTypes[column] = f.value(`SELECT coalesce(jsonb_typeof(`+column+`), 'SQL NULL') FROM openworkflow.`+table+` WHERE `+key+` = $1`, want.text(key))
		if wantTypes[column] == "null" {
			wantTypes[column] = "SQL NULL" // R21: either will do, and ours is the canonical one
		}
	}
	if diff := cmp.Diff(wantTypes, gotTypes, cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("%s: JSON types differ (-golden +ours):\n%s", label, diff)
	}
	for column := range got {
		if _, ok := want[column]; !ok {
			f.t.Errorf("%s: column %s is not OpenWorkflow's", label, column)
		}
	}
	for column, value := range want {
		switch {
		case column == "worker_id" || column == "id" && key != "id":
			if want.isNull(column) != got.isNull(column) {
				f.t.Errorf("%s: %s is %s, golden is %s", label, column, got[column], value)
			}
		case strings.HasSuffix(column, "_at"):
			wantPrecision, gotPrecision := precision(value), precision(got[column])
			// A value of microseconds may end in zeros by chance.
			if gotPrecision != wantPrecision && (wantPrecision != "µs" || gotPrecision == "NULL") {
				f.t.Errorf("%s: %s is %s (%s), golden is %s (%s)", label, column, got[column], gotPrecision, value, wantPrecision)
			}
		case column == "output" && want.text("kind") == string(openworkflow.KindSignalSend):
			if diff := cmp.Diff(recipients(value), recipients(got[column])); diff != "" {
				f.t.Errorf("%s: recipients differ (-golden +ours):\n%s", label, diff)
			}
		case !bytes.Equal(value, got[column]):
			f.t.Errorf("%s: %s is %s, golden is %s", label, column, got[column], value)
		}
	}
}

// recipients returns the runs in the output of a step that sends a signal. They have no order
// (R104).
func recipients(output json.RawMessage) []string {
	var sent struct {
		WorkflowRunIDs []string `json:"workflowRunIds"`
	}
	_ = json.Unmarshal(output, &sent)
	slices.Sort(sent.WorkflowRunIDs)
	return sent.WorkflowRunIDs
}

// precision returns the precision of a timestamp: NULL, milliseconds or finer.
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
