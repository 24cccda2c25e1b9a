package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// childStep returns the write of a step that starts a child.
func childStep(l openworkflow.Lease, name string) store.StepWrite {
	w := step(l, name, running, "")
	w.Attempt.Kind = openworkflow.KindWorkflow
	w.Attempt.Context = json.RawMessage(`{"kind":"workflow","timeoutAt":"2100-01-01T00:00:00.000Z"}`)
	w.Child = &store.NewRun{ID: openworkflow.NewID(), WorkflowName: "child", Input: json.RawMessage(`{"n":1}`)}
	return w
}

// count counts the rows of a table.
func (f *fixture) count(table string) string {
	f.t.Helper()
	return f.value(`SELECT count(*) FROM openworkflow.` + table)
}

func TestChild_R98c_IsCreatedAndLinkedWithItsAttempt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := childStep(l, "a")
	w.Child.Version, w.Child.Context = new("2"), json.RawMessage(`{"traceContext":{"traceparent":"t"}}`)

	f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})

	f.expectStep(w.Attempt.ID, "status", "running")
	f.expectStep(w.Attempt.ID, "child_workflow_run_namespace_id", "default")
	f.expectStep(w.Attempt.ID, "child_workflow_run_id", w.Child.ID)
	for expression, want := range map[string]string{
		"workflow_name": "child", "version": "2", "status": "pending", "attempts": "0", "config": "{}",
		"input": `{"n": 1}`, "context": `{"traceContext": {"traceparent": "t"}}`,
		"idempotency_key":                  "__workflow:default:" + w.Attempt.ID,
		"parent_step_attempt_namespace_id": "default", "parent_step_attempt_id": w.Attempt.ID,
		"available_at = updated_at": "true", "deadline_at": "NULL", "worker_id": "NULL", "started_at": "NULL",
		"created_at = date_trunc('milliseconds', updated_at)": "true",
	} {
		f.expect(w.Child.ID, expression, want)
	}
}

func TestChild_R82_ItsEndWakesTheParent(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := childStep(l, "a")
	f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})

	child := f.claimOne(w.Child.ID, openworkflow.Definition{Name: "child"})
	f.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() + interval '1 hour' WHERE id = $1`, l.RunID)
	f.must(nil, []store.RunWrite{ending(child, store.RunComplete)})

	f.expect(l.RunID, "available_at <= now()", "true")
}

// TestChild_RepeatedAfterALostAcknowledgement also repeats the write with another child id, as
// a worker that restarted does.
func TestChild_RepeatedAfterALostAcknowledgement(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := childStep(l, "a")
	f.must([]store.StepWrite{w}, nil)
	before, child := f.snapshot(l.RunID), f.snapshot(w.Child.ID)

	f.must([]store.StepWrite{w, w}, nil)
	again := w
	again.Child = &store.NewRun{ID: openworkflow.NewID(), WorkflowName: "child"}
	f.must([]store.StepWrite{again}, nil)

	if after := f.snapshot(l.RunID); after != before {
		t.Errorf("repeating changed\n%s\nto\n%s", before, after)
	}
	if after := f.snapshot(w.Child.ID); after != child {
		t.Errorf("repeating changed\n%s\nto\n%s", child, after)
	}
	if n := f.count("workflow_runs"); n != "2" {
		t.Errorf("%s runs, want parent and child", n)
	}
}

// TestChild_P1_AnUnlinkedAttemptFindsItsChild: OpenWorkflow's worker creates the
// attempt, the child and the link in three statements, and may die in between.
func TestChild_P1_AnUnlinkedAttemptFindsItsChild(t *testing.T) {
	t.Parallel()
	for _, created := range []bool{false, true} {
		t.Run(fmt.Sprint("child created=", created), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			w := childStep(l, "a")
			child := w.Child
			w.Child = nil
			f.must([]store.StepWrite{w}, nil)
			want := child.ID
			if created {
				want = "theirs"
				f.exec(`
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, idempotency_key, config, attempts,
	parent_step_attempt_namespace_id, parent_step_attempt_id, created_at, updated_at)
VALUES ('default', 'theirs', 'child', 'completed', '__workflow:default:' || $1::text, '{}', 1, 'default', $1, now() - interval '3 days', now())`,
					w.Attempt.ID)
			}
			w.Child = child

			f.must([]store.StepWrite{w}, nil)
			f.must([]store.StepWrite{w}, nil)

			f.expectStep(w.Attempt.ID, "child_workflow_run_id", want)
			if n := f.count("workflow_runs"); n != "2" {
				t.Errorf("%s runs, want parent and child", n)
			}
		})
	}
}

// TestChild_R52_WaitsForAnOpenWorkflowWorkerThatCreatesIt: that worker has lost its lease and
// does not know it.
func TestChild_R52_WaitsForAnOpenWorkflowWorkerThatCreatesIt(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := childStep(l, "a")
	child := w.Child
	w.Child = nil
	f.must([]store.StepWrite{w}, nil)
	w.Child = child
	key := "__workflow:default:" + w.Attempt.ID
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`,
		`{"namespaceId":"default","workflowName":"child","idempotencyKey":"`+key+`"}`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		errs, _, err := f.Apply(t.Context(), []store.StepWrite{w}, nil)
		done <- errors.Join(append(errs, err)...)
	}()
	f.awaitBlocked(1)
	if _, err := tx.Exec(t.Context(), `
INSERT INTO openworkflow.workflow_runs (namespace_id, id, workflow_name, status, idempotency_key, config, attempts,
	parent_step_attempt_namespace_id, parent_step_attempt_id, available_at, created_at, updated_at)
VALUES ('default', 'theirs', 'child', 'pending', $2, '{}', 0, 'default', $1, now(), now(), now())`, w.Attempt.ID, key); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	if err := <-done; err != nil {
		t.Fatal(err)
	}
	f.expectStep(w.Attempt.ID, "child_workflow_run_id", "theirs")
	if n := f.count("workflow_runs"); n != "2" {
		t.Errorf("%s runs, want parent and child", n)
	}
}

func TestChild_ABadOneFailsOnlyItsOwnWrite(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(6)
	var steps []store.StepWrite
	for _, run := range f.claim(6) {
		steps = append(steps, childStep(leaseOf(run), "a"))
	}
	want := make([]error, 6)
	steps[1].Child.Input, want[1] = json.RawMessage(`"\u0000"`), store.ErrInvalidJSON
	steps[2].Child.Context, want[2] = json.RawMessage(`{`), store.ErrInvalidJSON
	steps[4].Child.WorkflowName, want[4] = random(100_000), store.ErrTooLarge

	stepErrs, _ := f.apply(steps, nil)

	for i, w := range steps {
		if !errors.Is(stepErrs[i], want[i]) {
			t.Errorf("write %d: %v, want %v", i, stepErrs[i], want[i])
		}
		n := map[bool]string{true: "1", false: "0"}[want[i] == nil]
		if got := f.value(`SELECT count(*) FROM openworkflow.step_attempts WHERE id = $1`, w.Attempt.ID); got != n {
			t.Errorf("write %d: %s attempts, want %s", i, got, n)
		}
		if got := f.value(`SELECT count(*) FROM openworkflow.workflow_runs WHERE id = $1`, w.Child.ID); got != n {
			t.Errorf("write %d: %s children, want %s", i, got, n)
		}
	}
}

func TestChild_P2_NoneAfterTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			begun := childStep(l, "begun")
			child := begun.Child
			begun.Child = nil
			f.must([]store.StepWrite{begun}, nil)
			begun.Child = child
			lose(f, l)
			before, runs := f.snapshot(l.RunID), f.count("workflow_runs")

			stepErrs, _ := f.apply([]store.StepWrite{begun, childStep(l, "new")}, nil)

			for i, err := range stepErrs {
				if !errors.Is(err, store.ErrLeaseLost) {
					t.Errorf("write %d: %v, want %v", i, err, store.ErrLeaseLost)
				}
			}
			if after := f.snapshot(l.RunID); after != before {
				t.Errorf("a lost lease changed\n%s\nto\n%s", before, after)
			}
			if n := f.count("workflow_runs"); n != runs {
				t.Errorf("%s runs, were %s", n, runs)
			}
		})
	}
}

// TestChild_EndedInTheSameWrite: a step that times out at once still creates its child, as in
// OpenWorkflow (R98d).
func TestChild_EndedInTheSameWrite(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	begin := childStep(l, "a")
	end := step(l, "a", failed, `{"message":"Timed out"}`)
	end.Attempt.ID, end.Attempt.Kind = begin.Attempt.ID, openworkflow.KindWorkflow

	f.must([]store.StepWrite{begin, end}, nil)

	f.expectStep(begin.Attempt.ID, "status", "failed")
	f.expectStep(begin.Attempt.ID, "child_workflow_run_id", begin.Child.ID)
	f.expect(begin.Child.ID, "status", "pending")
}

func TestChild_ManyOfManyParentsAtOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.create(10)
	runs := f.claim(10)
	var wg sync.WaitGroup
	for w := range 5 { // five flushes over all of the runs
		wg.Go(func() {
			var steps []store.StepWrite
			for i := range 100 {
				steps = append(steps, childStep(leaseOf(runs[(i*(2*w+1))%10]), fmt.Sprint(w, i)))
			}
			stepErrs, _, err := f.Apply(t.Context(), steps, nil)
			if err := errors.Join(append(stepErrs, err)...); err != nil {
				t.Errorf("Apply: %v", err)
			}
		})
	}
	wg.Wait()

	linked := f.value(`
SELECT count(*)
FROM openworkflow.step_attempts a
JOIN openworkflow.workflow_runs c ON c.id = a.child_workflow_run_id AND c.parent_step_attempt_id = a.id`)
	if linked != "500" {
		t.Errorf("%s children linked both ways, want 500", linked)
	}
}
