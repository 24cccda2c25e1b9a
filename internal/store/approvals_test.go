package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// ask is a write that starts to wait for an approval by anybody.
func ask(t testing.TB, l openworkflow.Lease, name string) store.StepWrite {
	t.Helper()
	text, digest, err := openworkflow.ApprovalRequest{RunID: l.RunID, Step: name, Prompt: "Pay?", Required: 1}.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	w := step(l, name, running, "")
	w.New = true
	w.Attempt.Kind = openworkflow.KindSignalWait
	w.Attempt.Context = openworkflow.WaitContext{
		Kind: openworkflow.KindSignalWait, Signal: new(openworkflow.ApprovalSignal(l.RunID, name)), TimeoutAt: "2100-01-01T00:00:00.000Z",
	}.Encode()
	w.Approval = &store.NewApproval{Request: text, Digest: digest, ExpiresAt: time.Now().Add(time.Hour), OnExpiry: "Deny"}
	return w
}

var manyDecisions = flag.Int("decisions", 100, "how many approvals two decide about at the same moment")

// Two decide at the same moment, while their connections are cut at random. Each repeats its decision
// until it has an answer. One of them has decided, the other is told so, and the step got what the
// first one says.
func TestDecide_P6_OneOfTwoConcurrentDecisionsWins(t *testing.T) {
	t.Parallel()
	tries := *manyDecisions
	f := setup(t)
	var killer sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	kills := 0
	killer.Go(func() { kills = cutConnections(ctx, t, f.url) })
	cut := open(t, store.Options{URL: f.url, ApplicationName: deciders})

	won := map[string]int{}
	for range tries {
		l := f.start()
		w := ask(t, l, "ask")
		f.must([]store.StepWrite{w}, []store.RunWrite{ending(l, store.RunPark)})
		winner := decideBoth(t, cut, l.RunID)
		won[winner]++
		if got := f.value(`SELECT string_agg(d.data ->> 'outcome' || ' ' || (d.data -> 'decisions' -> 0 ->> 'user') || ' '
			|| jsonb_array_length(d.data -> 'decisions'), ', ') FROM openworkflow.workflow_signals d WHERE d.step_attempt_id = $1`,
			w.Attempt.ID); got != winner+" 1" {
			t.Fatalf("%s won, and the step got %s", winner, got)
		}
		f.expect(l.RunID, `available_at <= now()`, "true")
	}
	stop()
	killer.Wait()
	t.Logf("of %d, %v; %d connections were cut", tries, won, kills)
	if kills == 0 {
		t.Error("no connection was cut")
	}
}

// decideBoth returns the outcome and the user of the decision that won.
func decideBoth(t *testing.T, s *store.Store, runID string) (winner string) {
	t.Helper()
	answers := map[string]error{}
	var mu sync.Mutex
	var both sync.WaitGroup
	for user, decision := range map[string]string{"ann": store.DecisionApprove, "bob": store.DecisionDeny} {
		in := store.DecideInput{RunID: runID, Step: "ask", DeciderUser: user, Decision: decision, IdempotencyKey: user}
		both.Go(func() {
			var err error
			for {
				_, err = s.Decide(t.Context(), in)
				if err == nil || errors.Is(err, store.ErrAlreadyDecided) || t.Context().Err() != nil {
					break
				}
			}
			mu.Lock()
			defer mu.Unlock()
			answers[user] = err
		})
	}
	both.Wait()
	switch {
	case answers["ann"] == nil && errors.Is(answers["bob"], store.ErrAlreadyDecided):
		return "Approved ann"
	case answers["bob"] == nil && errors.Is(answers["ann"], store.ErrAlreadyDecided):
		return "Denied bob"
	}
	t.Fatalf("answers are %v", answers)
	return ""
}

// deciders is the name of the sessions whose connections are cut.
const deciders = "deciders"

// cutConnections ends a random connection of the deciders that is in a transaction, again and again,
// and returns how many it has ended.
func cutConnections(ctx context.Context, t *testing.T, url string) (cut int) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Errorf("connect: %v", err)
		return 0
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for ctx.Err() == nil {
		tag, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM (
			SELECT pid FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = $1 AND state IN ('active', 'idle in transaction')
			ORDER BY random() LIMIT 1) s`, deciders)
		if err != nil && ctx.Err() == nil {
			t.Errorf("cut a connection: %v", err)
			return cut
		}
		cut += int(tag.RowsAffected())
		pause := time.NewTimer(time.Duration(rand.IntN(40_000)) * time.Microsecond) // spreads the cuts over the transactions
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
	return cut
}

func TestRemoveRuns_RemovesApprovals(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l, kept := f.start(), f.start()
	f.must([]store.StepWrite{ask(t, l, "ask"), ask(t, kept, "ask")}, []store.RunWrite{ending(l, store.RunComplete)})
	f.exec(`UPDATE openworkflow.workflow_runs SET updated_at = now() - interval '2 days' WHERE id = $1`, l.RunID)
	if removed, _, err := f.RemoveRuns(t.Context(), store.Retention{After: 24 * time.Hour}, []string{l.RunID}); err != nil || removed.Runs != 1 {
		t.Fatalf("RemoveRuns: %+v, %v", removed, err)
	}
	if got := f.value(`SELECT string_agg(run_id, ',') FROM openworkflow.operator_approvals`); got != kept.RunID {
		t.Errorf("approvals are those of %s, want %s", got, kept.RunID)
	}
}

// What anybody may write into the rows must not fail a decision of others, or be taken for more than
// it is.
func TestDecide_P9_HostileRows(t *testing.T) {
	t.Parallel()
	f := setup(t)
	for name, test := range map[string]struct{ change, want string }{
		"a request that is too long": {`request = repeat('x', 70000)`, "invalid decision"},
		"a request that is no JSON":  {`request = '{'`, "invalid decision"},
		"decisions of another shape": {`decisions = '{"a": 1}'`, "Approved"},
		"an unknown state":           {`state = 'Perhaps'`, "already decided"},
		"no requirement":             {`request = '{"required": -1}'`, "Approved"},
	} {
		t.Run(name, func(t *testing.T) {
			f := f.in(t)
			l := f.start()
			f.must([]store.StepWrite{ask(t, l, "ask")}, nil)
			f.exec(`UPDATE openworkflow.operator_approvals SET `+test.change+` WHERE run_id = $1`, l.RunID)
			d, err := f.Decide(t.Context(), store.DecideInput{
				RunID: l.RunID, Step: "ask", DeciderUser: "ann", Decision: store.DecisionApprove, IdempotencyKey: "k",
			})
			got := string(d.State)
			switch {
			case errors.Is(err, store.ErrInvalidDecision):
				got = "invalid decision"
			case errors.Is(err, store.ErrAlreadyDecided):
				got = "already decided"
			case err != nil:
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("Decide: %s, want %s", got, test.want)
			}
		})
	}
}

// The outcome is what an attempt of OpenWorkflow's own may have as its result, so that its dashboard
// shows it (R26).
func TestDecide_R26_TheOutcomeIsTheDataOfADelivery(t *testing.T) {
	t.Parallel()
	f := setup(t)
	l := f.start()
	w := ask(t, l, "ask")
	f.must([]store.StepWrite{w}, nil)
	if _, err := f.Decide(t.Context(), store.DecideInput{
		RunID: l.RunID, Step: "ask", DeciderUser: "ann", Decision: store.DecisionApprove, Comment: "fine", IdempotencyKey: "k",
	}); err != nil {
		t.Fatal(err)
	}
	var data struct {
		Outcome   string
		Decisions []map[string]string
	}
	if err := json.Unmarshal([]byte(f.value(`SELECT data FROM openworkflow.workflow_signals WHERE step_attempt_id = $1`, w.Attempt.ID)), &data); err != nil {
		t.Fatal(err)
	}
	if len(data.Decisions) != 1 || data.Decisions[0]["at"] == "" {
		t.Fatalf("data is %+v", data)
	}
	delete(data.Decisions[0], "at")
	if got := fmt.Sprint(data); got != "{Approved [map[comment:fine decision:Approve user:ann]]}" {
		t.Errorf("data is %s", got)
	}
	if got := f.value(`SELECT signal FROM openworkflow.workflow_signals WHERE step_attempt_id = $1`, w.Attempt.ID); got != "openworkflow.dev/approval:"+l.RunID+":ask" {
		t.Errorf("signal is %s", got)
	}
}
