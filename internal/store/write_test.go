package store_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	running   = openworkflow.StepRunning
	completed = openworkflow.StepCompleted
	failed    = openworkflow.StepFailed
)

func TestApply_R46_StepThatFinishedBeforeItsRunningRow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	ok, bad := step(l, "a", completed, `{"n":1}`), step(l, "b", failed, `{"message":"no"}`)
	ok.Elapsed = 5 * time.Second

	f.must([]store.StepWrite{ok, bad}, nil)

	f.expectStep(ok.Attempt.ID, "status", "completed")
	f.expectStep(ok.Attempt.ID, "output", `{"n": 1}`)
	f.expectStep(ok.Attempt.ID, "error", "NULL")
	f.expectStep(ok.Attempt.ID, "config", "{}")
	f.expectStep(ok.Attempt.ID, "context", "NULL")
	f.expectStep(ok.Attempt.ID, "finished_at - started_at", "00:00:05")
	f.expectStep(ok.Attempt.ID, "created_at = date_trunc('milliseconds', created_at)", "true")
	f.expectStep(ok.Attempt.ID, "updated_at = finished_at", "true")
	f.expectStep(bad.Attempt.ID, "status", "failed")
	f.expectStep(bad.Attempt.ID, "output", "NULL")
	f.expectStep(bad.Attempt.ID, "error", `{"message": "no"}`)
}

func TestApply_R46_RunningThenEnded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status openworkflow.StepStatus
		value  string
		column string
	}{{completed, `"out"`, "output"}, {failed, `{"message": "no"}`, "error"}} {
		t.Run(string(c.status), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			begin := step(l, "a", running, "")
			f.must([]store.StepWrite{begin}, nil)
			f.expectStep(begin.Attempt.ID, "status", "running")
			f.expectStep(begin.Attempt.ID, "finished_at", "NULL")
			created := f.value(`SELECT created_at FROM openworkflow.step_attempts WHERE id = $1`, begin.Attempt.ID)
			started := f.value(`SELECT started_at FROM openworkflow.step_attempts WHERE id = $1`, begin.Attempt.ID)

			end := step(l, "a", c.status, c.value)
			end.Attempt.ID, end.Elapsed = begin.Attempt.ID, time.Hour
			f.must([]store.StepWrite{end}, nil)

			f.expectStep(begin.Attempt.ID, "status", string(c.status))
			f.expectStep(begin.Attempt.ID, c.column, c.value)
			f.expectStep(begin.Attempt.ID, "created_at", created)
			f.expectStep(begin.Attempt.ID, "started_at", started)
			f.expectStep(begin.Attempt.ID, "finished_at = updated_at", "true")
		})
	}
}

func TestApply_P1_FirstEndOfAnAttemptWins(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	first := step(l, "a", completed, `"first"`)
	f.must([]store.StepWrite{first}, nil)
	finished := f.value(`SELECT finished_at FROM openworkflow.step_attempts WHERE id = $1`, first.Attempt.ID)

	again := step(l, "a", completed, `"second"`)
	again.Attempt.ID = first.Attempt.ID
	f.must([]store.StepWrite{again}, nil)
	fail := step(l, "a", failed, `{"message":"no"}`)
	fail.Attempt.ID = first.Attempt.ID
	errs, _ := f.apply([]store.StepWrite{fail}, nil)
	late := step(l, "a", running, ``)
	late.Attempt.ID = first.Attempt.ID
	f.must([]store.StepWrite{late}, nil)

	if errs[0] == nil {
		t.Error("a completed attempt could be failed")
	}
	f.expectStep(first.Attempt.ID, "status", "completed")
	f.expectStep(first.Attempt.ID, "output", `"first"`)
	f.expectStep(first.Attempt.ID, "error", "NULL")
	f.expectStep(first.Attempt.ID, "finished_at", finished)
}

func TestApply_OneAttemptTwiceInABatch(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	begin, end := step(l, "a", running, ""), step(l, "a", completed, `1`)
	end.Attempt.ID = begin.Attempt.ID
	other := step(l, "b", completed, `2`)

	f.must([]store.StepWrite{begin, other, end}, nil)

	f.expectStep(end.Attempt.ID, "status", "completed")
	f.expectStep(other.Attempt.ID, "status", "completed")
}

func TestApply_R71_StepsOfABatchKeepTheirOrder(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	var steps []store.StepWrite
	for _, name := range []string{"c", "a", "b"} {
		steps = append(steps, step(l, name, completed, `1`))
	}
	f.must(steps, nil)

	loaded, err := f.LoadSteps(t.Context(), []string{l.RunID, "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	names := ""
	for _, a := range loaded[l.RunID] {
		names += a.StepName
	}
	if names != "cab" || len(loaded) != 1 {
		t.Errorf("loaded %q of %d runs, want cab of 1", names, len(loaded))
	}
}

func TestApply_R42_RunOps(t *testing.T) {
	t.Parallel()
	at := time.Date(2100, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	finished := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)
	const cut = "2100-01-02 03:04:05.678+00"
	for _, c := range []struct {
		name string
		op   store.RunOp
		want map[string]string
	}{
		{"park", store.RunPark, map[string]string{
			"status": "running", "worker_id": "NULL", "available_at": cut, "started_at IS NULL": "false", "finished_at": "NULL",
			"output": "NULL", "error": `{"message": "earlier"}`,
		}},
		{"complete", store.RunComplete, map[string]string{
			"status": "completed", "worker_id LIKE 'pod.proc.%'": "true", "available_at": "NULL", "started_at IS NULL": "false",
			"finished_at = updated_at": "true", "output": `{"done": true}`, "error": "NULL",
		}},
		{"fail", store.RunFail, map[string]string{
			"status": "failed", "worker_id": "NULL", "available_at": "NULL", "started_at": "NULL",
			"finished_at": "2026-01-02 03:04:05.678+00", "output": "NULL", "error": `{"message": "no"}`,
		}},
		{"retry", store.RunRetry, map[string]string{
			"status": "pending", "worker_id": "NULL", "available_at": cut, "started_at": "NULL", "finished_at": "NULL",
			"output": "NULL", "error": `{"message": "no"}`,
		}},
		{"release", store.RunRelease, map[string]string{
			"status": "running", "worker_id": "NULL", "available_at = updated_at": "true", "started_at IS NULL": "false",
			"finished_at": "NULL", "output": "NULL", "error": `{"message": "earlier"}`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(`SET TIME ZONE 'UTC'`)
			l := f.start()
			f.exec(`UPDATE openworkflow.workflow_runs SET error = '{"message":"earlier"}', updated_at = '2020-01-01'`)
			w := ending(l, c.op)
			w.At, w.FinishedAt = at, finished

			f.must(nil, []store.RunWrite{w})

			for expression, want := range c.want {
				f.expect(l.RunID, expression, want)
			}
			f.expect(l.RunID, "attempts", "1")
			f.expect(l.RunID, "updated_at > '2026-01-01'", "true")
		})
	}
}

func TestApply_ZeroInstantsMeanNow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for op, expression := range map[store.RunOp]string{
		store.RunPark:  "available_at = updated_at",
		store.RunRetry: "available_at = updated_at",
		store.RunFail:  "finished_at = date_trunc('milliseconds', updated_at)",
	} {
		l := f.start()
		f.must(nil, []store.RunWrite{{Lease: l, Op: op}})
		f.expect(l.RunID, expression, "true")
		f.exec(`UPDATE openworkflow.workflow_runs SET available_at = NULL`)
	}
}

func TestApply_R97_CountsFailuresOfTheWorkflowOnly(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	for i, c := range []struct {
		op      store.RunOp
		failure bool
		want    int
	}{
		{store.RunPark, true, 0},
		{store.RunRetry, false, 0},
		{store.RunRetry, true, 1},
		{store.RunRelease, true, 1},
		{store.RunRetry, true, 2},
		{store.RunFail, true, 3},
	} {
		f.must(nil, []store.RunWrite{{Lease: l, Op: c.op, Failure: c.failure}})
		runs, err := f.GetRuns(t.Context(), []string{l.RunID})
		if err != nil {
			t.Fatal(err)
		}
		if got := runs[l.RunID].Failures; got != c.want {
			t.Errorf("write %d: %d failures, want %d", i, got, c.want)
		}
		if c.op != store.RunFail {
			l = f.steal(l.RunID)
		}
	}
}

func TestApply_R20_NullIsSQLNull(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start(func(r *store.NewRun) { r.Input = json.RawMessage(" null ") })
	s := step(l, "a", completed, "null")
	f.must([]store.StepWrite{s}, []store.RunWrite{{Lease: l, Op: store.RunComplete, Output: json.RawMessage("null")}})
	f.expectStep(s.Attempt.ID, "output", "NULL")
	f.expect(l.RunID, "coalesce(input, output)", "NULL")
}

func TestApply_APoisonedWriteNeverFailsItsNeighbours(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(9)
	runs := f.claim(9)
	var steps []store.StepWrite
	var ends []store.RunWrite
	for _, run := range runs {
		steps = append(steps, step(leaseOf(run), "a", completed, `1`))
		ends = append(ends, ending(leaseOf(run), store.RunComplete))
	}
	want := make([]error, 9)
	poison := func(i int, value string, err error) {
		steps[i].Attempt.Output, want[i] = json.RawMessage(value), err
	}
	poison(0, `"\u0000"`, store.ErrInvalidJSON)
	poison(2, `{`, store.ErrInvalidJSON)
	poison(3, `1e999999`, store.ErrInvalidJSON)
	poison(4, "\"\xff\"", store.ErrInvalidJSON)
	poison(8, `"\ud800"`, store.ErrInvalidJSON)
	steps[5].Attempt.StepName, want[5] = "nul\x00", store.ErrInvalidJSON
	steps[6].Attempt.StepName, want[6] = random(100_000), store.ErrTooLarge
	ends[7].Output = json.RawMessage(`"\u0000"`)

	stepErrs, runErrs := f.apply(steps, ends)

	for i := range steps {
		if !errors.Is(stepErrs[i], want[i]) {
			t.Errorf("step %d: %v, want %v", i, stepErrs[i], want[i])
		}
		status := "running"
		switch wantRun := want[i]; {
		case i == 7:
			if !errors.Is(runErrs[i], store.ErrInvalidJSON) {
				t.Errorf("run %d: %v, want %v", i, runErrs[i], store.ErrInvalidJSON)
			}
		case !errors.Is(runErrs[i], wantRun):
			t.Errorf("run %d: %v, want its step's %v", i, runErrs[i], wantRun)
		case wantRun == nil:
			status = "completed"
		}
		f.expect(runs[i].ID, "status", status)
	}
}

// random returns text that does not compress below an index entry's limit.
func random(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(openworkflow.NewID())
	}
	return b.String()
}

func TestApply_RepeatedAfterALostAcknowledgement(t *testing.T) {
	t.Parallel()
	for name, op := range ops {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			steps := []store.StepWrite{step(l, "a", completed, `1`), step(l, "b", failed, `{"message":"x"}`)}
			runs := []store.RunWrite{ending(l, op)}
			f.must(steps, runs)
			before := f.snapshot(l.RunID)

			stepErrs, runErrs := f.apply(steps, runs)

			for i, err := range stepErrs {
				if err != nil {
					t.Errorf("step %d: %v", i, err)
				}
			}
			if op == store.RunComplete && runErrs[0] != nil {
				t.Errorf("repeated completion: %v", runErrs[0])
			}
			if op != store.RunComplete && !errors.Is(runErrs[0], store.ErrLeaseLost) {
				t.Errorf("repeated %s: %v, want %v", name, runErrs[0], store.ErrLeaseLost)
			}
			if after := f.snapshot(l.RunID); after != before {
				t.Errorf("repeating changed\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestApply_TwoEndsUnderOneLease(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	_, errs := f.apply(nil, []store.RunWrite{ending(l, store.RunComplete), ending(l, store.RunFail)})
	if errs[0] != nil || !errors.Is(errs[1], store.ErrLeaseLost) {
		t.Errorf("results %v", errs)
	}
	f.expect(l.RunID, "status", "completed")
}

func TestApply_NothingIsNothing(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t) // not even a schema
	if _, _, err := f.Apply(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
}
