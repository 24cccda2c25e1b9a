package controller

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

var (
	manyDecisions = flag.Int("decisions", 4, "about how many approvals two decide at once while managers are killed")
	manySignals   = flag.Int("signals", 5, "how many signals, of five kinds in turn, are sent while managers are killed")
)

// rowsOf reads the rows of a query.
func rowsOf[T any](w *world, sql string, args ...any) []T {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	rows, err := conn.Query(w.t.Context(), sql, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		w.t.Fatal(err)
	}
	return values
}

// startRow starts a run without an object.
func (w *world) startRow(s *store.Store, id, workflowName, input string) {
	created, err := s.CreateRuns(context.Background(), []store.NewRun{{ID: id, WorkflowName: workflowName, Input: json.RawMessage(input)}})
	if err = errors.Join(err, created[0].Err); err != nil {
		w.t.Errorf("start run %s: %v", id, err)
	}
}

// createAtOnce creates objects at the same time. It may be called concurrently.
func (w *world) createAtOnce(objects ...*sig) {
	var all sync.WaitGroup
	for _, o := range objects {
		o.Namespace = w.Namespace
		all.Go(func() {
			if err := w.Create(context.Background(), o); err != nil {
				w.t.Errorf("create %s: %v", o.Name, err)
			}
		})
	}
	all.Wait()
}

// each calls f for 0 to n-1, 16 at a time.
func each(n int, f func(i int)) *sync.WaitGroup {
	var all sync.WaitGroup
	next := make(chan int)
	go func() {
		defer close(next)
		for i := range n {
			next <- i
		}
	}()
	for range min(n, 16) {
		all.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	return &all
}

// release asks for an approval, and returns how that has ended.
var release = durable.DefinitionOf(workflow.Define("release", func(ctx context.Context, _ any) (string, error) {
	approval, err := step.WaitForApproval(ctx, "approve", step.ApprovalOptions{Prompt: "Ship?"})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s %d %s", approval.Outcome, len(approval.Decisions), approval.Decisions[0].Comment), nil
}))

// TestSignal_P6_OfTwoDecisionsOneWinsWhileManagersDie: two managers, each of which takes itself for the
// leader, are killed in turn. Two decide about each approval at the same time, about every second one
// before the run has asked.
func TestSignal_P6_OfTwoDecisionsOneWinsWhileManagersDie(t *testing.T) {
	w, managers, s, watched := newMortalWorld(t, release)
	n := *manyDecisions
	pairs, ids := make([][]*sig, n), make([]string, n)
	var asked []store.ApprovalStep
	for i := range ids {
		if ids[i] = openworkflow.NewID(); i%2 == 0 {
			w.startRow(s, ids[i], "release", "null")
			asked = append(asked, store.ApprovalStep{RunID: ids[i], Step: "approve"})
		}
	}
	eventually(t, func() error {
		due, err := s.DueDecisions(t.Context(), asked)
		if err == nil && len(due) < len(asked) {
			err = fmt.Errorf("%d of %d runs have asked", len(due), len(asked))
		}
		return err
	})
	deciding := each(n, func(i int) {
		digest := asking(t, ids[i], openworkflow.Approvers{}).Digest
		about := func(s *sig) {
			s.Spec.Approval.RunName, s.Spec.Approval.RunID, s.Spec.Approval.Comment = "", ids[i], s.Name
		}
		pairs[i] = []*sig{
			newDecision(fmt.Sprintf("approve-%d", i), v1alpha1.DecisionApprove, digest, about),
			newDecision(fmt.Sprintf("deny-%d", i), v1alpha1.DecisionDeny, digest, about),
		}
		if w.createAtOnce(pairs[i]...); i%2 == 1 {
			w.startRow(s, ids[i], "release", "null")
		}
		pairs[i], _ = watched.awaitFinished(pairs[i]...)
	})
	kills, midway := managers.killUntil(watched, 2*n)
	if deciding.Wait(); t.Failed() {
		return
	}

	won := map[string]int{}
	results := w.decided(ids)
	for i, pair := range pairs {
		winner, loser := pair[0], pair[1]
		if deliveredReason(winner) != v1alpha1.ReasonDelivered {
			winner, loser = loser, winner
		}
		won[string(winner.Spec.Approval.Decision)]++
		if d := winner.Status.Deliveries; deliveredReason(winner) != v1alpha1.ReasonDelivered || len(d) != 1 || d[0].RunID != ids[i] {
			t.Errorf("%s has won with %+v", winner.Name, winner.Status)
		}
		if deliveredReason(loser) != v1alpha1.ReasonAlreadyDecided || !strings.Contains(readyMessage(loser.Status.Conditions), "already decided") {
			t.Errorf("%s has lost with %+v", loser.Name, loser.Status)
		}
		state := map[v1alpha1.DecisionKind]string{v1alpha1.DecisionApprove: "Approved", v1alpha1.DecisionDeny: "Denied"}[winner.Spec.Approval.Decision]
		want := decidedRow{ID: ids[i], State: state, Decisions: 1, By: winner.Name, Received: 1, Output: fmt.Sprintf("%s 1 %s", state, winner.Name)}
		if results[ids[i]] != want {
			t.Errorf("the database has %+v, want %+v", results[ids[i]], want)
		}
	}
	for _, change := range watched.backwards {
		t.Errorf("a status went backwards: %s", change)
	}
	t.Logf("of %d approvals, %v have won; %d managers were killed, %d of them while decisions waited", n, won, kills, midway)
	if midway == 0 && n >= 100 { // few may all be decided before the first kill
		t.Error("no manager was killed while decisions waited")
	}
}

// TestSignal_P4_AnOlderAnswerDoesNotReplaceADelivery: a manager stops before it writes that a decision is
// kept. Meanwhile another one delivers it.
func TestSignal_P4_AnOlderAnswerDoesNotReplaceADelivery(t *testing.T) {
	w := newWorld(t)
	h := newHeld()
	w.start(func(o *managerOptions) {
		o.newClient = func(config *rest.Config, options client.Options) (client.Client, error) {
			inner, err := client.NewWithWatch(config, options)
			if err != nil {
				return nil, err
			}
			return interceptor.NewClient(inner, interceptor.Funcs{
				SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
					patch := func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) }
					if _, ok := o.(*sig); ok {
						return h.call(patch)
					}
					return patch()
				},
			}), nil
		}
	})
	w.backend()
	run := w.pendingRun("order-1")
	watched := w.watchSignals()
	s := w.store()
	approval := asking(t, string(run.UID), openworkflow.Approvers{})
	early := newDecision("early", v1alpha1.DecisionApprove, approval.Digest)
	w.create(early)
	receive(t, h.reached)
	w.start()
	w.awaitSignal(early, v1alpha1.ReasonWaiting)
	w.ask(s, approval)
	w.awaitSignal(early, v1alpha1.ReasonDelivered)
	close(h.release)
	receive(t, h.passed)
	last := newSignal("last", sendNow)
	w.create(last)
	watched.awaitFinished(last) // and so all that was before
	for _, change := range watched.backwards {
		t.Errorf("a status went backwards: %s", change)
	}
}

func deliveredReason(s *sig) string {
	for _, c := range s.Status.Conditions {
		if c.Type == v1alpha1.ConditionDelivered {
			return c.Reason
		}
	}
	return ""
}

// decidedRow is what the database has of a run that has asked, and of how that has ended.
type decidedRow struct {
	ID, State string
	Decisions int
	By        string
	Received  int
	Output    string
}

// decided waits until the runs have ended, and reads how.
func (w *world) decided(ids []string) map[string]decidedRow {
	w.t.Helper()
	results := map[string]decidedRow{}
	eventually(w.t, func() error {
		clear(results)
		for _, row := range rowsOf[decidedRow](w, `
			SELECT p.run_id, p.state, jsonb_array_length(p.decisions), p.decisions -> 0 ->> 'comment', (
					SELECT count(*) FROM openworkflow.workflow_signals d WHERE d.workflow_run_id = p.run_id
				), r.output #>> '{}'
			FROM openworkflow.operator_approvals p
			JOIN openworkflow.workflow_runs r ON r.namespace_id = p.namespace_id AND r.id = p.run_id
			WHERE p.run_id = ANY ($1) AND r.status = 'completed'`, ids) {
			results[row.ID] = row
		}
		if len(results) < len(ids) {
			return fmt.Errorf("%d of %d runs have completed", len(results), len(ids))
		}
		return nil
	})
	return results
}

// twice waits for a signal, and then for another one of the name.
var twice = durable.DefinitionOf(workflow.Define("twice", func(ctx context.Context, name string) (string, error) {
	first, _, err := step.WaitForSignal[string](ctx, name)
	if err != nil {
		return "", err
	}
	second, _, err := step.WaitForSignal[string](ctx, name, step.Name("second"))
	return first + ", " + second, err
}))

// sentSignal is a signal, the objects that send it, and the runs that it has to reach.
type sentSignal struct {
	name    string
	objects []*sig
	runIDs  []string
	// isEarly says that the runs are started after the objects.
	isEarly bool
}

// newSentSignal returns one of five kinds.
func newSentSignal(i int) *sentSignal {
	sent := &sentSignal{name: fmt.Sprintf("signal-%d", i)}
	add := func(suffix string, changes ...func(*sig)) {
		named := func(s *sig) {
			s.Spec.Signal, s.Spec.Data = sent.name, &apiextensionsv1.JSON{Raw: fmt.Appendf(nil, "%q", sent.name)}
		}
		sent.objects = append(sent.objects, newSignal(sent.name+suffix, append([]func(*sig){named}, changes...)...))
	}
	keyed := func(s *sig) { s.Spec.IdempotencyKey = "order" }
	runs := 1
	switch i % 5 {
	case 0: // kept until a run waits
		sent.isEarly = true
		add("-kept")
	case 1: // for those who wait, of whom there are three
		runs = 3
		add("-now", sendNow)
	case 2: // for those who wait, of whom there is none
		runs = 0
		add("-nobody", sendNow)
	case 3: // one signal by three objects, to a run that waits
		add("-now", sendNow, keyed)
		add("-kept", keyed)
		add("-again", keyed)
	case 4: // the same, before the run waits
		sent.isEarly = true
		add("-kept", keyed)
		add("-again", keyed)
	}
	for range runs {
		sent.runIDs = append(sent.runIDs, openworkflow.NewID())
	}
	slices.Sort(sent.runIDs)
	return sent
}

// TestSignal_P6_EachIsDeliveredOnceWhileManagersDie: two managers, each of which takes itself for the
// leader, are killed in turn. A run that gets a signal waits for another one of the name, so that a
// second delivery would reach it.
func TestSignal_P6_EachIsDeliveredOnceWhileManagersDie(t *testing.T) {
	w, managers, s, watched := newMortalWorld(t, twice)
	sent := make([]*sentSignal, *manySignals)
	objects, runs, early := 0, 0, 0
	start := func(one *sentSignal) {
		for _, id := range one.runIDs {
			w.startRow(s, id, "twice", fmt.Sprintf("%q", one.name))
		}
	}
	for i := range sent {
		sent[i] = newSentSignal(i)
		objects, runs = objects+len(sent[i].objects), runs+len(sent[i].runIDs)
		if sent[i].isEarly {
			early += len(sent[i].runIDs)
		} else {
			start(sent[i])
		}
	}
	w.awaitWaits("step_name <> 'second'", runs-early)
	sending := each(len(sent), func(i int) {
		if w.createAtOnce(sent[i].objects...); sent[i].isEarly {
			start(sent[i])
		}
		sent[i].objects, _ = watched.awaitFinished(sent[i].objects...)
	})
	kills, midway := managers.killUntil(watched, objects)
	if sending.Wait(); t.Failed() {
		return
	}

	w.awaitWaits("step_name = 'second'", runs)
	for _, one := range sent {
		for _, o := range one.objects {
			checkSent(t, one, o)
		}
		if len(one.runIDs) == 0 {
			continue
		}
		if got, err := s.SendSignals(t.Context(), []store.Signal{{Name: one.name, Data: json.RawMessage(`"end"`)}}); err != nil {
			t.Errorf("end the runs that wait for %s: %v, %v", one.name, got, err)
		}
	}
	w.checkReceived(sent, runs)
	for _, change := range watched.backwards {
		t.Errorf("a status went backwards: %s", change)
	}
	t.Logf("%d signals of %d objects have reached %d runs; %d managers were killed, %d of them while signals waited", len(sent), objects, runs, kills, midway)
	if midway == 0 && len(sent) >= 100 { // few may all be delivered before the first kill
		t.Error("no manager was killed while signals waited")
	}
}

// awaitWaits waits until n steps of a kind wait for signals.
func (w *world) awaitWaits(which string, n int) {
	w.t.Helper()
	eventually(w.t, func() error {
		type count struct{ N int }
		got := rowsOf[count](w, `SELECT count(*) FROM openworkflow.step_attempts WHERE kind = 'signal-wait' AND status = 'running' AND `+which)
		if got[0].N != n {
			return fmt.Errorf("%d steps wait (%s), want %d", got[0].N, which, n)
		}
		return nil
	})
}

// checkSent compares the status of an object with the runs that its signal has to reach.
func checkSent(t *testing.T, one *sentSignal, o *sig) {
	t.Helper()
	want := v1alpha1.ReasonDelivered
	if len(one.runIDs) == 0 {
		want = v1alpha1.ReasonNoReceiver
	}
	var reached []string
	for _, d := range o.Status.Deliveries {
		reached = append(reached, d.RunID)
	}
	slices.Sort(reached)
	if got := deliveredReason(o); got != want || !slices.Equal(reached, one.runIDs) {
		t.Errorf("%s is %s, reached %v, want %s and %v: %+v", o.Name, got, reached, want, one.runIDs, o.Status)
	}
}

// checkReceived waits until the runs have ended. Each must have received its signal once.
func (w *world) checkReceived(sent []*sentSignal, runs int) {
	w.t.Helper()
	type received struct {
		ID, Output string
		Signals    int
	}
	got := map[string]received{}
	eventually(w.t, func() error {
		clear(got)
		for _, row := range rowsOf[received](w, `
			SELECT r.id, r.output #>> '{}', (SELECT count(*) FROM openworkflow.workflow_signals d WHERE d.workflow_run_id = r.id)
			FROM openworkflow.workflow_runs r
			WHERE r.status = 'completed'`) {
			got[row.ID] = row
		}
		if len(got) != runs {
			return fmt.Errorf("%d of %d runs have completed", len(got), runs)
		}
		return nil
	})
	for _, one := range sent {
		for _, id := range one.runIDs {
			if want := (received{id, one.name + ", end", 2}); got[id] != want {
				w.t.Errorf("a run has received %+v, want %+v", got[id], want)
			}
		}
	}
}
