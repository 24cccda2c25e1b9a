package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// asking is a workflow that asks ann, and returns what came of it. The input is the time to decide.
func asking(details any) *workflow.Workflow[int, string] {
	return workflow.Define("asking", func(ctx context.Context, ms int) (string, error) {
		approval, err := step.WaitForApproval(ctx, "ask", step.ApprovalOptions{
			Prompt: "Pay?", Details: details, Users: []string{"ann"}, ExpiresAfter: time.Duration(ms) * time.Millisecond,
		})
		if err != nil {
			return "", err
		}
		result := fmt.Sprintf("%s %v", approval.Outcome, approval.Approved)
		for _, d := range approval.Decisions {
			result += fmt.Sprintf(" %s %v %s", d.User, d.Approved, d.Comment)
			if time.Since(d.At).Abs() > time.Hour {
				return "", fmt.Errorf("decided at %v", d.At)
			}
		}
		return step.Run(ctx, "after", func(context.Context) (string, error) { return result, nil })
	})
}

func (b *bench) asked(id string) store.ApprovalView {
	b.Helper()
	b.await(id, "parked", func(r *openworkflow.Run) bool { return r.Attempts > 0 && r.Parked() })
	page, err := b.store.View(time.Minute).Approvals(b.Context(), store.ApprovalFilter{RunID: id}, nil, 10)
	if err != nil || len(page.Items) != 1 {
		b.Fatalf("approvals of run %s: %+v, %v", id, page, err)
	}
	return page.Items[0]
}

func (b *bench) decide(id, user, decision, digest string) (store.Decision, error) {
	return b.store.Decide(b.Context(), store.DecideInput{
		RunID: id, Step: "ask", Digest: digest, Decision: decision, DeciderUser: user, Comment: "fine", IdempotencyKey: openworkflow.NewID(),
	})
}

func TestWaitForApproval_R99b_IsAWaitForASignal(t *testing.T) {
	b := newBench(t)
	w := asking(map[string]int{"amount": 42})
	_, stop := b.work(runner.Options{}, w)
	id := b.start(w, "3600000")
	asked := b.asked(id)
	if asked.Request.Prompt != "Pay?" || string(asked.Request.Details) != `{"amount":42}` || asked.Step != "ask" || asked.State != store.ApprovalOpen {
		t.Errorf("asked %+v", asked)
	}
	attempt := b.steps(id)[0]
	context := openworkflow.DecodeWaitContext(attempt.Context)
	until, err := context.Until()
	if attempt.Kind != openworkflow.KindSignalWait || context.Kind != openworkflow.KindSignalWait || err != nil || !until.Equal(asked.ExpiresAt) ||
		*context.Signal != "openworkflow.dev/approval:"+id+":ask" {
		t.Errorf("attempt is %+v with context %s (R25), and expires at %v", attempt, attempt.Context, asked.ExpiresAt)
	}

	stop() // another worker executes the rest, from the history alone
	if d, err := b.decide(id, "ann", store.DecisionApprove, asked.Digest); err != nil || d.State != store.ApprovalApproved {
		t.Errorf("Decide: %+v, %v", d, err)
	}
	b.work(runner.Options{}, w)
	if got := b.completed(id); got != `"Approved true ann true fine"` {
		t.Errorf("output is %s", got)
	}
	var output struct{ Data store.ApprovalOutcome }
	if err := json.Unmarshal(b.steps(id)[0].Output, &output); err != nil || output.Data.Outcome != store.ApprovalApproved {
		t.Errorf("stored is %s (R26)", b.steps(id)[0].Output)
	}
	page, err := b.store.View(time.Minute).Approvals(t.Context(), store.ApprovalFilter{RunID: id}, nil, 10)
	if err != nil || len(page.Items) != 1 || page.Items[0].Digest != asked.Digest {
		t.Errorf("then the approvals are %+v, %v", page, err)
	}
}

func TestWaitForApproval_ExpiresByTheDatabasesClock(t *testing.T) {
	b := newBench(t)
	w := asking(nil)
	b.work(runner.Options{}, w)
	for _, ms := range []int{-1000, 1, 30} {
		id := b.start(w, fmt.Sprint(ms))
		if got := b.completed(id); got != `"Expired false"` {
			t.Errorf("after %d ms the output is %s", ms, got)
		}
		if _, err := b.decide(id, "ann", store.DecisionApprove, ""); !errors.Is(err, store.ErrAlreadyDecided) {
			t.Errorf("a decision after that: %v", err)
		}
	}
}

// Decisions race with the expiry. Whoever decides is told what the run gets.
func TestWaitForApproval_ADecisionRacesWithTheExpiry(t *testing.T) {
	b := newBench(t)
	w := asking(nil)
	b.work(runner.Options{Concurrency: 20}, w)
	tries := 100
	if testing.Short() {
		tries = 20
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	outcomes := map[string]int{}
	for n := range tries {
		all.Go(func() {
			id := b.start(w, fmt.Sprint(20+n%60))
			var err error
			for {
				_, err = b.decide(id, "ann", store.DecisionApprove, "")
				if !errors.Is(err, store.ErrNoSuchApproval) || b.Context().Err() != nil {
					break
				}
			}
			run := b.result(id)
			want := `"Approved true ann true fine"`
			if err != nil {
				want = `"Expired false"`
			}
			if string(run.Output) != want {
				t.Errorf("the decision got %v, and the run %s", err, run.Output)
			}
			mu.Lock()
			defer mu.Unlock()
			outcomes[string(run.Output)]++
		})
	}
	all.Wait()
	t.Logf("%v", outcomes)
}

func TestWaitForApproval_AForkFromBeforeAsksAnew(t *testing.T) {
	b := newBench(t)
	w := asking(map[string]int{"amount": 42})
	b.work(runner.Options{}, w)
	id := b.start(w, "3600000")
	first := b.asked(id)
	if _, err := b.decide(id, "ann", store.DecisionApprove, first.Digest); err != nil {
		t.Fatal(err)
	}
	b.completed(id)

	again, err := b.store.Fork(t.Context(), store.ForkRequest{Source: id, From: store.ForkPoint{Step: new("ask")}})
	if err != nil {
		t.Fatal(err)
	}
	second := b.asked(again.RunID)
	if second.Digest == first.Digest {
		t.Errorf("the fork asks with the same digest %s", second.Digest)
	}
	if _, err := b.decide(again.RunID, "ann", store.DecisionApprove, first.Digest); !errors.Is(err, store.ErrStaleDigest) {
		t.Errorf("the decision about the source: %v", err)
	}
	if _, err := b.decide(again.RunID, "ann", store.DecisionDeny, second.Digest); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(again.RunID); got != `"Denied false ann false fine"` {
		t.Errorf("output of the fork is %s", got)
	}

	after, err := b.store.Fork(t.Context(), store.ForkRequest{Source: id, From: store.ForkPoint{Step: new("after")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := b.completed(after.RunID); !strings.HasPrefix(got, `"Approved true ann`) {
		t.Errorf("output of the fork from after the approval is %s", got)
	}
}

// An approval whose question is gone, as in a database to which the run was imported, ends as any wait.
func TestWaitForApproval_WithoutItsQuestionExpires(t *testing.T) {
	b := newBench(t)
	w := asking(nil)
	b.work(runner.Options{}, w)
	id := b.start(w, "5000")
	b.asked(id)
	conn, err := pgx.Connect(t.Context(), b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), `DELETE FROM openworkflow.operator_approvals`); err != nil {
		t.Fatal(err)
	}
	if got := b.completed(id); got != `"Expired false"` {
		t.Errorf("output is %s", got)
	}
}

// While a function of the run is executing, a decision reaches it too.
func TestGoWaitForApproval_BesideAStep(t *testing.T) {
	b := newBench(t)
	goOn := make(chan struct{})
	w := workflow.Define("beside", func(ctx context.Context, _ any) (string, error) {
		asked := step.GoWaitForApproval(ctx, "ask", step.ApprovalOptions{Prompt: "Pay?"})
		work := step.Go(ctx, "work", func(ctx context.Context) (string, error) {
			select {
			case <-goOn:
			case <-ctx.Done():
			}
			return "done", ctx.Err()
		})
		approval, err := asked.Await()
		if err != nil {
			return "", err
		}
		close(goOn)
		_, err = work.Await()
		return string(approval.Outcome), err
	})
	b.work(runner.Options{PollInterval: 20 * time.Millisecond}, w)
	id := b.start(w, "null")
	for {
		_, err := b.decide(id, "", store.DecisionApprove, "")
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrNoSuchApproval) {
			t.Fatal(err)
		}
	}
	if got := b.completed(id); got != `"Approved"` {
		t.Errorf("output is %s", got)
	}
}
