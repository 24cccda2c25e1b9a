package workflowtest

import (
	"context"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Approver says who decides, and with which comment.
type Approver struct {
	// User is the name of the user, and Groups are those of the user.
	User   string
	Groups []string
	// Comment is what the workflow is told.
	Comment string
}

// queuedDecision is a decision that the test will make.
type queuedDecision struct {
	Approver
	step, decision string
}

// Approve queues an approval. It is made as soon as a run asks for an approval in a step of this
// durable name and no run can continue without it. Decisions about the same name are made in the
// order of the calls. One by somebody who is no approver, or has decided already, fails the test.
func (env *Env) Approve(step string, by Approver) {
	env.queueDecision(&queuedDecision{by, step, store.DecisionApprove})
}

// Deny is [Env.Approve] for a denial.
func (env *Env) Deny(step string, by Approver) {
	env.queueDecision(&queuedDecision{by, step, store.DecisionDeny})
}

func (env *Env) queueDecision(d *queuedDecision) {
	env.mu.Lock()
	defer env.mu.Unlock()
	env.decisions = append(env.decisions, d)
}

// decideAwaited makes the first queued decision for which a run waits.
func (env *Env) decideAwaited() bool {
	env.t.Helper()
	env.mu.Lock()
	decisions := append([]*queuedDecision(nil), env.decisions...)
	env.mu.Unlock()
	for i, d := range decisions {
		runID := env.store.Asking(d.step)
		if runID == "" {
			continue
		}
		env.mu.Lock()
		env.decisions = append(env.decisions[:i:i], env.decisions[i+1:]...)
		env.mu.Unlock()
		if _, err := env.store.Decide(context.Background(), store.DecideInput{
			RunID: runID, Step: d.step, Decision: d.decision, DeciderUser: d.User, DeciderGroups: d.Groups, Comment: d.Comment,
			IdempotencyKey: openworkflow.NewID(),
		}); err != nil {
			env.t.Fatalf("workflowtest: %s of %q: %v", d.decision, d.User, err)
		}
		env.notify()
		return true
	}
	return false
}
