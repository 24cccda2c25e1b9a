package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// send sends signals and returns the recipients of each.
func (f *fixture) send(signals ...store.Signal) [][]string {
	f.t.Helper()
	runIDs, err := f.SendSignals(f.t.Context(), signals)
	if err != nil {
		f.t.Fatalf("SendSignals: %v", err)
	}
	return runIDs
}

func expectRecipients(t *testing.T, got [][]string, want ...[]string) {
	t.Helper()
	for _, ids := range slices.Concat(got, want) {
		slices.Sort(ids)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("recipients (-want +got):\n%s", diff)
	}
}

// waiter starts a run that is parked until a signal is delivered.
func (f *fixture) waiter(signal string) (runID, attemptID string) {
	f.t.Helper()
	l := f.start()
	w := waitStep(l, signal)
	f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
	return l.RunID, w.Attempt.ID
}

func TestSignals_R104_GoToAllWhoWaitNow(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, attempt := f.waiter("go")
	b, _ := f.waiter("go")
	c, _ := f.waiter("other")

	got := f.send(store.Signal{Name: "go", Data: json.RawMessage(`{"n":1}`), IdempotencyKey: new("k")}, store.Signal{Name: "nobody"})

	expectRecipients(t, got, []string{a, b}, nil)
	for expression, want := range map[string]string{
		"signal": "go", "data": `{"n": 1}`, "sender_idempotency_key": "k", "workflow_run_id": a, "namespace_id": "default",
		"length(id)": "36", "created_at IS NULL": "false",
	} {
		if got := f.value(`SELECT `+expression+` FROM openworkflow.workflow_signals WHERE step_attempt_id = $1`, attempt); got != want {
			t.Errorf("delivery: %s is %s, want %s", expression, got, want)
		}
	}
	if n := f.count("workflow_signals"); n != "2" {
		t.Errorf("%s deliveries, want 2", n)
	}
	f.expect(a, "available_at <= now()", "true")
	f.expect(b, "available_at <= now()", "true")
	f.expect(c, "available_at <= now()", "false")
	f.expectStep(attempt, "status", "running")
}

func TestSignals_R104_AreNotKept(t *testing.T) {
	t.Parallel()
	f := setup(t)
	keyed := store.Signal{Name: "go", IdempotencyKey: new("k")}
	expectRecipients(t, f.send(keyed), nil)
	if n := f.count("workflow_signals"); n != "0" {
		t.Errorf("%s deliveries, want none", n)
	}
	a, _ := f.waiter("go")
	expectRecipients(t, f.send(keyed), []string{a}) // the key was not used up
}

func TestSignals_R104_AKeyIsSentOnce(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, _ := f.waiter("go")
	b, _ := f.waiter("go")
	keyed := store.Signal{Name: "go", IdempotencyKey: new("k")}
	first := f.send(keyed, keyed)
	c, _ := f.waiter("go")
	again := f.send(keyed)
	other := f.send(store.Signal{Name: "go", IdempotencyKey: new("k2")}, store.Signal{Name: "else", IdempotencyKey: new("k")})

	expectRecipients(t, first, []string{a, b}, []string{a, b})
	expectRecipients(t, again, []string{a, b})
	expectRecipients(t, other, []string{c}, nil)
	if n := f.count("workflow_signals"); n != "3" {
		t.Errorf("%s deliveries, want 3", n)
	}
}

func TestSignals_R105_AnAttemptGetsTheFirst(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, attempt := f.waiter("go")

	got := f.send(
		store.Signal{Name: "go", Data: json.RawMessage(`1`)},
		store.Signal{Name: "go", Data: json.RawMessage(`2`), IdempotencyKey: new("k")},
	)
	later := f.send(store.Signal{Name: "go", Data: json.RawMessage(`3`)})

	expectRecipients(t, got, []string{a}, nil)
	expectRecipients(t, later, nil)
	if data := string(f.results(attempt)[attempt].Data); data != "1" {
		t.Errorf("delivered %s, want 1", data)
	}
}

func TestSignals_R20_NullIsSQLNull(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.waiter("go")
	f.send(store.Signal{Name: "go", Data: json.RawMessage(" null ")})
	if got := f.value(`SELECT data IS NULL FROM openworkflow.workflow_signals`); got != "true" {
		t.Error("data is not SQL NULL")
	}
}

func TestSignals_R42_WhomTheyWake(t *testing.T) {
	t.Parallel()
	const later = "2100-01-01 00:00:00+00"
	for name, c := range map[string]struct {
		state     string
		available string
		resume    string
	}{
		"parked":           {`available_at = '` + later + `'`, "now", "NULL"},
		"legacy":           {`status = 'sleeping', available_at = '` + later + `'`, "now", "NULL"},
		"R107 in retry":    {`status = 'pending', available_at = '` + later + `'`, "now", "NULL"},
		"never due":        {`available_at = NULL`, "now", "NULL"},
		"due already":      {`available_at = '2020-01-01 00:00:00+00'`, "2020-01-01 00:00:00+00", "NULL"},
		"active":           {`worker_id = 'w', available_at = '` + later + `'`, later, "NULL"},
		"suspended":        {`config = '{"openworkflow.dev/suspendedAt": 1, "openworkflow.dev/resumeAt": 4102444800}', available_at = NULL`, "NULL", "now"},
		"R106 canceled":    {`status = 'canceled', available_at = NULL`, "NULL", "NULL"},
		"R106 failed":      {`status = 'failed', available_at = NULL`, "NULL", "NULL"},
		"R106 completed":   {`status = 'completed', worker_id = 'w', available_at = NULL`, "NULL", "NULL"},
		"suspended active": {`config = '{"openworkflow.dev/suspendedAt": 1}', worker_id = 'w', available_at = '` + later + `'`, later, "NULL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.exec(`SET TIME ZONE 'UTC'`)
			run, _ := f.waiter("go")
			f.exec(`UPDATE openworkflow.workflow_runs SET ` + c.state)

			got := f.send(store.Signal{Name: "go"})

			expectRecipients(t, got, []string{run})
			f.expect(run, `CASE WHEN available_at = updated_at THEN 'now' ELSE available_at::text END`, c.available)
			f.expect(run, `CASE WHEN config ->> 'openworkflow.dev/resumeAt' = extract(epoch FROM updated_at)::text
				THEN 'now' ELSE config ->> 'openworkflow.dev/resumeAt' END`, c.resume)
		})
	}
}

func TestSignals_OfOtherNamespacesAreOthers(t *testing.T) {
	t.Parallel()
	f := setup(t)
	other := open(t, store.Options{URL: f.url, NamespaceID: "other"})
	f.waiter("go")
	got, err := other.SendSignals(t.Context(), []store.Signal{{Name: "go"}})
	if err != nil || len(got[0]) != 0 {
		t.Errorf("SendSignals: %v, %v, want nobody", got, err)
	}
}

func TestSignals_P7_ABadPayloadDeliversNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.waiter("go")
	for _, bad := range []store.Signal{
		{Name: "go", Data: json.RawMessage(`"\u0000"`)},
		{Name: "nobody", Data: json.RawMessage(`{`)},
		{Name: "nul\x00"},
	} {
		if _, err := f.SendSignals(t.Context(), []store.Signal{{Name: "go"}, bad}); !errors.Is(err, store.ErrInvalidJSON) {
			t.Errorf("%q: %v, want %v", bad.Name, err, store.ErrInvalidJSON)
		}
	}
	if n := f.count("workflow_signals"); n != "0" {
		t.Errorf("%s deliveries, want none", n)
	}
}

func TestSignals_NothingIsNothing(t *testing.T) {
	t.Parallel()
	f := setupEmpty(t) // not even a schema
	if got := f.send(); len(got) != 0 {
		t.Errorf("recipients %v", got)
	}
}

func sendStep(l openworkflow.Lease, name string) store.StepWrite {
	w := step(l, name, completed, "")
	w.Attempt.Kind = openworkflow.KindSignalSend
	return w
}

func TestSendSignal_R99a_DeliversAndCompletesTheStep(t *testing.T) {
	t.Parallel()
	for _, begun := range []bool{false, true} {
		t.Run(fmt.Sprint("begun=", begun), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			a, _ := f.waiter("go")
			b, attempt := f.waiter("go")
			l := f.start()
			own := waitStep(l, "go") // a sender may wait itself
			w := sendStep(l, "tell")
			f.must([]store.StepWrite{own}, nil)
			if begun { // as OpenWorkflow's worker leaves it (R177)
				row := w
				row.Attempt.Status = running
				f.must([]store.StepWrite{row}, nil)
			}
			want := []string{a, b, l.RunID}
			slices.Sort(want)

			got, err := f.SendSignal(t.Context(), w, store.Signal{Name: "go", Data: json.RawMessage(`1`)})

			if err != nil {
				t.Fatal(err)
			}
			expectRecipients(t, [][]string{got}, want)
			output, _ := json.Marshal(map[string]any{"workflowRunIds": want})
			for expression, want := range map[string]string{
				"status": "completed", "kind": "signal-send", "step_name": "tell", "workflow_run_id": l.RunID,
				"output = '" + string(output) + "'": "true", "context": "NULL", "error": "NULL", "config": "{}",
				"finished_at = updated_at": "true", "created_at = date_trunc('milliseconds', created_at)": "true",
			} {
				f.expectStep(w.Attempt.ID, expression, want)
			}
			key := f.value(`SELECT sender_idempotency_key FROM openworkflow.workflow_signals WHERE step_attempt_id = $1`, attempt)
			if want := "__signal:" + l.RunID + ":tell"; key != want {
				t.Errorf("key %s, want %s", key, want)
			}
			f.expect(a, "available_at <= now()", "true")
			f.expect(l.RunID, "worker_id", l.WorkerID)
		})
	}
}

// TestSendSignal_RepeatedAfterALostAcknowledgement also covers a run that started to wait
// since, and a lease that was lost.
func TestSendSignal_RepeatedAfterALostAcknowledgement(t *testing.T) {
	t.Parallel()
	for _, somebody := range []bool{false, true} {
		t.Run(fmt.Sprint("somebody waits=", somebody), func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			if somebody {
				f.waiter("go")
			}
			w := sendStep(f.start(), "tell")
			first, err := f.SendSignal(t.Context(), w, store.Signal{Name: "go"})
			if err != nil || len(first) != map[bool]int{true: 1}[somebody] {
				t.Fatalf("SendSignal: %v, %v", first, err)
			}
			f.waiter("go")
			before := f.snapshot(w.RunID)

			for _, then := range []func(){func() {}, func() { f.steal(w.RunID); before = f.snapshot(w.RunID) }} {
				then()
				again, err := f.SendSignal(t.Context(), w, store.Signal{Name: "go"})
				if err != nil {
					t.Fatal(err)
				}
				expectRecipients(t, [][]string{again}, first)
				if after := f.snapshot(w.RunID); after != before {
					t.Errorf("repeating changed\n%s\nto\n%s", before, after)
				}
			}
			if n := f.count("workflow_signals"); n != fmt.Sprint(len(first)) {
				t.Errorf("%s deliveries, want %d", n, len(first))
			}
		})
	}
}

// TestSendSignal_R177_ResentByTheNextWorker: OpenWorkflow's worker delivers and completes
// in two transactions. Its successor uses the same key.
func TestSendSignal_R177_ResentByTheNextWorker(t *testing.T) {
	t.Parallel()
	f := setup(t)
	a, _ := f.waiter("go")
	l := f.start()
	f.send(store.Signal{Name: "go", IdempotencyKey: new("__signal:" + l.RunID + ":tell")})
	f.waiter("go")

	got, err := f.SendSignal(t.Context(), sendStep(l, "tell"), store.Signal{Name: "go"})

	if err != nil {
		t.Fatal(err)
	}
	expectRecipients(t, [][]string{got}, []string{a})
}

func TestSendSignal_P2_NothingAfterTheLeaseIsLost(t *testing.T) {
	t.Parallel()
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			f.waiter("go")
			f.exec(`UPDATE openworkflow.workflow_runs SET available_at = '2100-01-01'`)
			l := f.start()
			begun := sendStep(l, "begun")
			begun.Attempt.Status = running
			f.must([]store.StepWrite{begun}, nil)
			lose(f, l)
			before := f.snapshot(l.RunID)

			for _, w := range []store.StepWrite{begun, sendStep(l, "new")} {
				if got, err := f.SendSignal(t.Context(), w, store.Signal{Name: "go"}); !errors.Is(err, store.ErrLeaseLost) {
					t.Errorf("%s: %v, %v, want %v", w.Attempt.StepName, got, err, store.ErrLeaseLost)
				}
			}
			if after := f.snapshot(l.RunID); after != before {
				t.Errorf("a lost lease changed\n%s\nto\n%s", before, after)
			}
			if n := f.count("workflow_signals"); n != "0" {
				t.Errorf("%s deliveries, want none", n)
			}
		})
	}
}

func TestSendSignal_P7_ABadPayloadLeavesTheStepUnwritten(t *testing.T) {
	t.Parallel()
	f := setup(t)
	f.waiter("go")
	w := sendStep(f.start(), "tell")
	_, err := f.SendSignal(t.Context(), w, store.Signal{Name: "go", Data: json.RawMessage(`"\u0000"`)})
	if !errors.Is(err, store.ErrInvalidJSON) {
		t.Errorf("SendSignal: %v, want %v", err, store.ErrInvalidJSON)
	}
	if n := f.value(`SELECT count(*) FROM openworkflow.step_attempts WHERE id = $1`, w.Attempt.ID); n != "0" {
		t.Error("the step was written")
	}
}

// TestSignals_NoDeadlocks lets senders, steps that send, and passes that end work on the same
// runs. Every attempt has one delivery, which was returned to one sender.
func TestSignals_NoDeadlocks(t *testing.T) {
	t.Parallel()
	f := setup(t)
	const runs = 24
	f.create(runs)
	leases := make([]openworkflow.Lease, runs)
	var waits []store.StepWrite
	for i, run := range f.claim(runs) {
		leases[i] = leaseOf(run)
		for s := range 6 {
			waits = append(waits, waitStep(leases[i], fmt.Sprint("s", s)))
		}
	}
	f.must(waits, nil)

	var mu sync.Mutex
	told := 0
	heard := func(ids [][]string) {
		mu.Lock()
		defer mu.Unlock()
		for _, recipients := range ids {
			told += len(recipients)
		}
	}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for s := range 6 {
				name := fmt.Sprint("s", (s*5+w)%6)
				if w < 2 {
					ids, err := f.SendSignal(t.Context(), sendStep(leases[w], name), store.Signal{Name: name})
					if err != nil {
						t.Errorf("SendSignal: %v", err)
					}
					heard([][]string{ids})
					continue
				}
				ids, err := f.SendSignals(t.Context(), []store.Signal{{Name: name}, {Name: fmt.Sprint("s", s)}})
				if err != nil {
					t.Errorf("SendSignals: %v", err)
				}
				heard(ids)
			}
		})
	}
	wg.Go(func() {
		for i := range runs - 2 {
			l := leases[runs-1-i]
			end := step(l, "s0", completed, `1`)
			end.Attempt = waits[(runs-1-i)*6].Attempt
			end.Attempt.Status = completed
			if _, _, err := f.Apply(t.Context(), []store.StepWrite{end}, []store.RunWrite{ending(l, store.RunPark)}); err != nil {
				t.Errorf("Apply: %v", err)
			}
		}
	})
	wg.Wait()

	if n := f.count("workflow_signals"); n != fmt.Sprint(told) {
		t.Errorf("%s deliveries, %d recipients", n, told)
	}
	for _, l := range leases[2:] { // parked, and something has come for each
		f.expect(l.RunID, "available_at <= now()", "true")
	}
}

// TestSignals_R83_ArrivesWhileTheReceiverParks: the run is due in either order of the two.
func TestSignals_R83_ArrivesWhileTheReceiverParks(t *testing.T) {
	t.Parallel()
	for name, parksFirst := range map[string]bool{"parks first": true, "is sent first": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := setup(t)
			l := f.start()
			f.must([]store.StepWrite{waitStep(l, "go")}, nil)
			tx, err := f.db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `SELECT FROM openworkflow.workflow_runs WHERE id = $1 FOR NO KEY UPDATE`, l.RunID); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 2)
			send := func(ctx context.Context) {
				_, err := f.SendSignals(ctx, []store.Signal{{Name: "go"}})
				done <- err
			}
			park := func(ctx context.Context) {
				_, errs, err := f.Apply(ctx, nil, []store.RunWrite{ending(l, store.RunPark)})
				done <- errors.Join(append(errs, err)...)
			}
			first, second := send, park
			if parksFirst {
				first, second = park, send
			}
			go first(t.Context())
			f.awaitBlocked(1) // locks are given in the order in which they were asked for
			go second(t.Context())
			f.awaitBlocked(2)
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			f.expect(l.RunID, "worker_id", "NULL")
			f.expect(l.RunID, "available_at <= now()", "true")
		})
	}
}

// TestSignals_R104_AWaitThatEndsMeanwhileReceivesNothing: the run has timed out its wait, and
// is about to commit that.
func TestSignals_R104_AWaitThatEndsMeanwhileReceivesNothing(t *testing.T) {
	t.Parallel()
	f := setup(t)
	run, attempt := f.waiter("go")
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`SELECT FROM openworkflow.workflow_runs WHERE id = '` + run + `' FOR NO KEY UPDATE`,
		`UPDATE openworkflow.step_attempts SET status = 'completed' WHERE id = '` + attempt + `'`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan [][]string, 1)
	go func() { done <- f.send(store.Signal{Name: "go"}) }()
	f.awaitBlocked(1)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectRecipients(t, <-done, nil)
}

// TestSignals_ConcurrentSendsOfOneKeyTellTheSameRecipients: OpenWorkflow may return no
// recipients to the second sender.
func TestSignals_ConcurrentSendsOfOneKeyTellTheSameRecipients(t *testing.T) {
	t.Parallel()
	f := setup(t)
	var want []string
	for range 5 {
		id, _ := f.waiter("go")
		want = append(want, id)
	}
	var wg sync.WaitGroup
	results := make([][][]string, 8)
	for i := range results {
		wg.Go(func() {
			results[i], _ = f.SendSignals(t.Context(), []store.Signal{{Name: "go", IdempotencyKey: new("k")}})
		})
	}
	wg.Wait()
	for _, got := range results {
		expectRecipients(t, got, want)
	}
	if n := f.count("workflow_signals"); n != "5" {
		t.Errorf("%s deliveries, want 5", n)
	}
}

// TestSignals_P8_OpenWorkflowsSenderIsNotWaitedFor: it locks attempts, delivers, and then
// updates their runs. Waiting for it with the runs locked would be a deadlock.
func TestSignals_P8_OpenWorkflowsSenderIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	f := setup(t)
	taken, attempt := f.waiter("go")
	free, _ := f.waiter("go")
	tx, err := f.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{
		`SELECT FROM openworkflow.step_attempts WHERE id = '` + attempt + `' FOR UPDATE`,
		`INSERT INTO openworkflow.workflow_signals (namespace_id, id, signal, workflow_run_id, step_attempt_id)
			VALUES ('default', 'theirs', 'go', '` + taken + `', '` + attempt + `')`,
	} {
		if _, err := tx.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}

	got := f.send(store.Signal{Name: "go"})

	if _, err := tx.Exec(t.Context(), `UPDATE openworkflow.workflow_runs SET available_at = now() WHERE id = $1`, taken); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectRecipients(t, got, []string{free})
	if n := f.count("workflow_signals"); n != "2" {
		t.Errorf("%s deliveries, want 2", n)
	}
}
