package controller

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// forkOf makes a new run a fork.
func forkOf(from v1alpha1.ForkSource) func(*run) {
	return func(r *run) { r.Spec.From = &from }
}

func retryOf(name string) func(*run) {
	return forkOf(v1alpha1.ForkSource{RunName: name, LastFailed: new(true)})
}

// attempt claims the run that is due, as a worker does, completes these steps one after the other,
// and ends it: with the failure of a step, if one is named.
func (w *world) attempt(s *store.Store, failing string, steps ...string) openworkflow.Run {
	w.t.Helper()
	claimed := claim(w.t, s, "pod")
	lease := openworkflow.Lease{RunID: claimed.ID, WorkerID: *claimed.WorkerID}
	write := func(name string, status openworkflow.StepStatus, output, failure string) {
		w.t.Helper()
		result, err := s.ApplyAndClaim(w.t.Context(), store.Batch{Steps: []store.StepWrite{{Lease: lease, Attempt: openworkflow.StepAttempt{
			ID: openworkflow.NewID(), StepName: name, Kind: openworkflow.KindFunction, Status: status,
			Output: json.RawMessage(output), Error: json.RawMessage(failure),
		}}}})
		if err != nil || result.Steps[0] != nil {
			w.t.Fatalf("write step %s: %v, %v", name, err, result.Steps)
		}
	}
	for _, name := range steps {
		write(name, openworkflow.StepCompleted, fmt.Sprintf("%q", name+" done"), "")
	}
	if failing == "" {
		end(w.t, s, claimed, store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`"all done"`)})
		return claimed
	}
	const declined = `{"name":"Error","message":"declined"}`
	write(failing, openworkflow.StepFailed, "", declined)
	end(w.t, s, claimed, store.RunWrite{Op: store.RunFail, Error: json.RawMessage(declined)})
	return claimed
}

// history returns the attempts of a run, as text.
func (w *world) history(s *store.Store, id string) string {
	w.t.Helper()
	steps, err := s.LoadSteps(w.t.Context(), []string{id})
	if err != nil {
		w.t.Fatal(err)
	}
	var texts []string
	for _, a := range steps[id] {
		texts = append(texts, fmt.Sprintf("%s %s %s", a.StepName, a.Status, a.Output))
	}
	return strings.Join(texts, ", ")
}

// kstatus is what Flux says of an object, by its own package.
func kstatus(r *run) string {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		return err.Error()
	}
	result, err := status.Compute(&unstructured.Unstructured{Object: content})
	if err != nil {
		return err.Error()
	}
	return result.Status.String()
}

// awaitSuperseded waits until a failed run is superseded, and its object green.
func (w *world) awaitSuperseded(r, by *run) {
	w.t.Helper()
	w.awaitState(r, v1alpha1.RunFailed, v1alpha1.ReasonSuperseded)
	if kstatus(r) != "Current" || !meta.IsStatusConditionTrue(r.Status.Conditions, v1alpha1.ConditionFailed) || r.Status.SupersededBy != string(by.UID) ||
		r.Status.Error == nil || r.Status.Error.Message != "declined" || r.Status.Corrections != nil {
		w.t.Errorf("%s is %s: %+v", r.Name, kstatus(r), r.Status)
	}
}

func (w *world) awaitSupersededBy(r *run, id string) {
	w.t.Helper()
	w.awaitRun(r, func(r *run) error {
		if r.Status.SupersededBy != id {
			return fmt.Errorf("%s is superseded by %q, want %s", r.Name, r.Status.SupersededBy, id)
		}
		return nil
	})
}

// A retry is applied before the run that it retries exists, as GitOps tools do. It waits until that
// has failed, keeps what it had completed, and turns it green.
func TestFork_P1_ARetryContinuesAFailedRun(t *testing.T) {
	w := newManagedWorld(t)
	retry := newTestRun("order-retry", retryOf("order"))
	w.create(retry)
	w.awaitState(retry, v1alpha1.RunPending, v1alpha1.ReasonSourceNotFound)
	if want := `WorkflowRun "order" does not exist in this namespace; this run starts once it does and has ended`; !strings.HasPrefix(retry.Status.Message, want) {
		t.Errorf("message is %q", retry.Status.Message)
	}
	order := w.pendingRun("order", func(r *run) { r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`{"total":42}`)} })
	w.awaitState(retry, v1alpha1.RunPending, v1alpha1.ReasonSourceNotEnded)
	if want := `WorkflowRun "order" has not ended; this run starts once it has: to start now, cancel WorkflowRun "order"`; retry.Status.Message != want || kstatus(retry) != "InProgress" {
		t.Errorf("it is %s, message %q", kstatus(retry), retry.Status.Message)
	}
	s := w.store()
	w.attempt(s, "ship", "reserve", "charge")
	w.awaitState(retry, v1alpha1.RunPending, v1alpha1.ReasonPending)
	if retry.Status.ForkedFrom != string(order.UID) || retry.Status.ForkStep != "ship" || retry.Status.RunID != string(retry.UID) {
		t.Errorf("the retry shows %+v", retry.Status)
	}
	if got := w.history(s, string(retry.UID)); got != `reserve completed "reserve done", charge completed "charge done"` {
		t.Errorf("it begins with %s", got)
	}
	if got := string(w.row(s, retry.UID).Input); got != `{"total": 42}` {
		t.Errorf("its input is %s", got)
	}
	w.awaitSupersededBy(order, string(retry.UID))
	if kstatus(order) != "Failed" || conditionReason(order.Status.Conditions) != v1alpha1.ReasonWorkflowFailed {
		t.Errorf("while the retry is open, order is %s: %+v", kstatus(order), order.Status)
	}
	w.attempt(s, "", "ship")
	w.awaitState(retry, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	w.awaitSuperseded(order, retry)
	w.awaitEvent(order.Name, v1alpha1.ReasonSuperseded)
}

// The input of a run may be longer than what the manager reads of a database at once.
func TestFork_P9_LongInput(t *testing.T) {
	w := newManagedWorld(t)
	order := w.pendingRun("order")
	s := w.store()
	w.attempt(s, "ship", "charge")
	execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET input = to_jsonb(repeat('x', 5 * 1024 * 1024))`)
	w.awaitState(order, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	for name, from := range map[string]v1alpha1.ForkSource{
		"by-name": {RunName: "order", LastFailed: new(true)}, "by-id": {RunID: string(order.UID)},
	} {
		fork := w.pendingRun(name, forkOf(from))
		if row := w.row(s, fork.UID); row == nil || len(row.Input) != 5<<20+2 || row.ForkedFrom == nil {
			t.Errorf("%s has no such input", name)
		}
	}
}

// A retry that fails is retried in turn. Each failed run of the chain is green once one has
// completed, and stays so: a manager that starts later compares all of them with their rows.
func TestFork_P4_AChainOfForksTurnsGreen(t *testing.T) {
	w := newWorld(t)
	first := w.start()
	w.backend()
	a := w.pendingRun("a")
	s := w.store()
	w.attempt(s, "ship", "charge")
	w.awaitState(a, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	b := w.pendingRun("b", retryOf("a"))
	w.attempt(s, "ship")
	w.awaitState(b, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	w.awaitSupersededBy(a, string(b.UID))
	if kstatus(a) != "Failed" {
		t.Errorf("a is %s while no fork has completed", kstatus(a))
	}
	c := w.pendingRun("c", retryOf("b"))
	w.attempt(s, "", "ship")
	w.awaitState(c, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	w.awaitSuperseded(a, b)
	w.awaitSuperseded(b, c)
	eventually(t, func() error {
		if noted, err := s.Forks(t.Context(), "", 10); err != nil || len(noted) > 0 {
			return fmt.Errorf("noted are %v, %w", noted, err)
		}
		return nil
	})
	first.halt()
	// The row of one is removed, so nobody knows any more what has become of it.
	execute(t, w.URL, `DELETE FROM openworkflow.workflow_runs WHERE id = '`+string(c.UID)+`'`)

	versions := []string{fetch(w, a).ResourceVersion, fetch(w, b).ResourceVersion}
	w.start()
	d := w.pendingRun("d")
	w.attempt(s, "ship", "charge")
	w.awaitState(d, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	e := w.pendingRun("e", retryOf("d"))
	w.attempt(s, "", "ship")
	w.awaitSuperseded(d, e) // by the sweep that has compared the others
	if diff := cmp.Diff(versions, []string{fetch(w, a).ResourceVersion, fetch(w, b).ResourceVersion}); diff != "" {
		t.Errorf("another manager has written them again (-before +after):\n%s\n%+v\n%+v", diff, a.Status, b.Status)
	}
}

// A run with an object may be forked by a client, so that no object of the fork tells the manager.
func TestFork_P4_AForkWithoutAnObjectIsShown(t *testing.T) {
	w := newManagedWorld(t)
	order := w.pendingRun("order")
	s := w.store()
	w.attempt(s, "ship", "charge")
	w.awaitState(order, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	fork, err := s.Fork(t.Context(), store.ForkRequest{Source: string(order.UID), From: store.ForkPoint{LastFailed: true}})
	if err != nil {
		t.Fatal(err)
	}
	w.awaitSupersededBy(order, fork.RunID)
	w.attempt(s, "", "ship")
	w.awaitState(order, v1alpha1.RunFailed, v1alpha1.ReasonSuperseded)
	if want := "run " + fork.RunID + ", which was forked from this one, has completed"; order.Status.Message != want {
		t.Errorf("message is %q, want %q", order.Status.Message, want)
	}
}

// A status says that a run is superseded only if it is.
func TestFork_P4_AForgedSuccessionIsCorrected(t *testing.T) {
	w := newManagedWorld(t)
	order := w.pendingRun("order")
	s := w.store()
	w.attempt(s, "ship", "charge")
	w.awaitState(order, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	now := metav1.Now().UTC().Format("2006-01-02T15:04:05Z")
	green := []map[string]any{
		{"type": "Ready", "status": "True", "reason": "Superseded", "message": "", "lastTransitionTime": now},
		{"type": "Failed", "status": "True", "reason": "WorkflowFailed", "message": "", "lastTransitionTime": now},
	}
	if err := patchStatus(w, order, map[string]any{"conditions": green}); err != nil {
		t.Fatal(err)
	}
	w.awaitCorrected(order, v1alpha1.RunFailed, 1)
	if err := patchStatus(w, order, map[string]any{"supersededBy": "nobody"}); err != nil {
		t.Fatal(err)
	}
	w.awaitCorrected(order, v1alpha1.RunFailed, 2)
	if kstatus(order) != "Failed" || order.Status.SupersededBy != "" {
		t.Errorf("it is %s: %+v", kstatus(order), order.Status)
	}
}

// A completed run is forked from a step, with a corrected result of an earlier one and another
// input. The source stays as it is.
func TestFork_P1_AForkOfACompletedRunCorrectsResults(t *testing.T) {
	w := newManagedWorld(t)
	order := w.pendingRun("order")
	s := w.store()
	w.attempt(s, "", "reserve", "charge", "ship", "mail")
	w.awaitState(order, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	large := strings.Repeat("x", 2*maxCachedInput)
	fork := w.pendingRun("fork", forkOf(v1alpha1.ForkSource{
		RunID: order.Status.RunID, Step: new("ship"), Children: v1alpha1.ForkRestartChildren,
		Outputs: []v1alpha1.StepOutput{{Step: new("charge"), Value: &apiextensionsv1.JSON{Raw: []byte(`"` + large + `"`)}}, {Step: new("reserve")}},
	}), func(r *run) { r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`{"total":7}`)} })
	if got, want := w.history(s, string(fork.UID)), `reserve completed , charge completed "`+large+`"`; got != want {
		t.Errorf("it begins with %.200s, want %.200s", got, want)
	}
	if got := string(w.row(s, fork.UID).Input); got != `{"total": 7}` {
		t.Errorf("its input is %s", got)
	}
	rerun := w.pendingRun("rerun", forkOf(v1alpha1.ForkSource{RunName: "order"}))
	if got := w.history(s, string(rerun.UID)); got != "" || rerun.Status.ForkedFrom != string(order.UID) || rerun.Status.ForkStep != "" {
		t.Errorf("a rerun begins with %s: %+v", got, rerun.Status)
	}
	w.awaitSupersededBy(order, string(rerun.UID))
	if order.Status.State != v1alpha1.RunCompleted || kstatus(order) != "Current" || order.Status.Output == nil {
		t.Errorf("the source is %+v", order.Status)
	}
}

// What can never be forked says so, and what to do. Such a run stays as it is.
func TestFork_P7_RefusalsSayWhatToDo(t *testing.T) {
	w := newManagedWorld(t)
	w.pendingRun("order", func(r *run) { r.Spec.Version = "" })
	s := w.store()
	w.attempt(s, "ship", "charge")
	w.create(newTestRun("refused", func(r *run) { r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`"\u0000"`)} }))
	w.awaitState(&run{ObjectMeta: metav1.ObjectMeta{Name: "refused", Namespace: w.Namespace}}, v1alpha1.RunFailed, v1alpha1.ReasonInvalidInput)
	w.create(newTestRun("elsewhere", func(r *run) { r.Spec.BackendRef.Name = "other" }))
	other, err := s.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "checkout", Context: openworkflow.RunContext{
		Kubernetes: &openworkflow.ObjectRef{Cluster: "test-cluster", Namespace: "another", Name: "secret", UID: "u"},
	}.Encode()}})
	if err != nil {
		t.Fatal(err)
	}
	failed := func(change func(*v1alpha1.ForkSource)) func(*run) {
		from := v1alpha1.ForkSource{RunName: "order", LastFailed: new(true)}
		change(&from)
		return forkOf(from)
	}
	output := func(step, value string) func(*run) {
		return failed(func(f *v1alpha1.ForkSource) {
			f.Outputs = []v1alpha1.StepOutput{{Step: &step, Value: &apiextensionsv1.JSON{Raw: []byte(value)}}}
		})
	}
	for name, c := range map[string]struct {
		change       func(*run)
		reason, want string
	}{
		"itself":      {forkOf(v1alpha1.ForkSource{RunName: "itself"}), v1alpha1.ReasonInvalidFork, `spec.from.runName is the name of this WorkflowRun "itself" itself`},
		"no-step":     {failed(func(f *v1alpha1.ForkSource) { f.LastFailed, f.Step = nil, new("chrage") }), v1alpha1.ReasonInvalidFork, `has no step "chrage"; the nearest of its 2 steps: "charge", "ship"`},
		"no-output":   {output("chrage", "1"), v1alpha1.ReasonInvalidFork, `output of a step: invalid fork: run`},
		"unstarted":   {failed(func(f *v1alpha1.ForkSource) { f.RunName = "refused" }), v1alpha1.ReasonInvalidFork, `WorkflowRun "refused" was never started, so it has no results`},
		"backend":     {failed(func(f *v1alpha1.ForkSource) { f.RunName = "elsewhere" }), v1alpha1.ReasonInvalidFork, `WorkflowRun "elsewhere" is of Backend "other", and this run of "default": a fork has the Backend of its source`},
		"workflow":    {func(r *run) { retryOf("order")(r); r.Spec.WorkflowName = "refund" }, v1alpha1.ReasonInvalidFork, `WorkflowRun "order" is of workflow "checkout", and spec.workflowName is "refund": a fork has the workflow of its source`},
		"version":     {func(r *run) { retryOf("order")(r); r.Spec.Version = "2" }, v1alpha1.ReasonInvalidFork, `has version "", and spec.version is "2": a fork has the version of its source, so leave spec.version empty`},
		"another":     {forkOf(v1alpha1.ForkSource{RunID: other[0].RunID}), v1alpha1.ReasonInvalidFork, "is that of another namespace, which shares the database"},
		"no-json":     {output("charge", `"\u0000"`), v1alpha1.ReasonInvalidInput, "the run cannot be stored"},
		"too-large":   {output("charge", `"`+strings.Repeat("x", maxInput)+`"`), v1alpha1.ReasonInvalidInput, "spec.input and the outputs of spec.from have 1048578 bytes, the limit is 1048576"},
		"never-there": {forkOf(v1alpha1.ForkSource{RunID: "nope"}), v1alpha1.ReasonSourceNotFound, `run nope is not in the database of Backend "default"; this run starts once that one is there and has ended`},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			fork := newTestRun(name, c.change)
			w.create(fork)
			state := v1alpha1.RunFailed
			if c.reason == v1alpha1.ReasonSourceNotFound {
				state = v1alpha1.RunPending
			}
			w.awaitState(fork, state, c.reason)
			if !strings.Contains(fork.Status.Message, c.want) {
				t.Errorf("message is %q, want it to contain %q", fork.Status.Message, c.want)
			}
			if c.reason == v1alpha1.ReasonInvalidFork && !strings.HasSuffix(fork.Status.Message, forkRemedy) {
				t.Errorf("message is %q, want it to say what to do", fork.Status.Message)
			}
			if w.row(s, fork.UID) != nil {
				t.Error("it has a row")
			}
		})
	}
}

// The API server refuses what contradicts itself.
func TestFork_P7_TheAPIServerRefuses(t *testing.T) {
	w := newWorld(t)
	values := []v1alpha1.StepOutput{{Step: new("charge"), Value: &apiextensionsv1.JSON{Raw: []byte(`1`)}}}
	for name, c := range map[string]struct {
		change func(*run)
		want   string
	}{
		"no source":       {forkOf(v1alpha1.ForkSource{Step: new("ship")}), "give runName, for a WorkflowRun of this namespace, or runID, for any run of the Backend: one of the two"},
		"two sources":     {forkOf(v1alpha1.ForkSource{RunName: "a", RunID: "b"}), "give runName, for a WorkflowRun of this namespace, or runID, for any run of the Backend: one of the two"},
		"two steps":       {forkOf(v1alpha1.ForkSource{RunName: "a", Step: new("ship"), LastFailed: new(true)}), "give step or lastFailed, not both: step names the first step to execute again"},
		"outputs alone":   {forkOf(v1alpha1.ForkSource{RunName: "a", Outputs: values}), "outputs need step or lastFailed: without them the run starts from nothing and takes over no results"},
		"a key":           {func(r *run) { retryOf("a")(r); r.Spec.IdempotencyKey = "k" }, "give from or idempotencyKey, not both"},
		"output twice":    {forkOf(v1alpha1.ForkSource{RunName: "a", LastFailed: new(true), Outputs: append(values, values...)}), "Duplicate value"},
		"unknown word":    {forkOf(v1alpha1.ForkSource{RunName: "a", Children: "Kill"}), `Unsupported value: "Kill": supported values: "Keep", "Restart"`},
		"a long step":     {forkOf(v1alpha1.ForkSource{RunName: "a", Step: new(strings.Repeat("s", 1025))}), "Too long: may not be more than 1024"},
		"many outputs":    {forkOf(v1alpha1.ForkSource{RunName: "a", LastFailed: new(true), Outputs: manyOutputs(65)}), "must have at most 64 items"},
		"an empty source": {func(r *run) { r.Spec.From = &v1alpha1.ForkSource{} }, "spec.from"},
	} {
		t.Run(name, func(t *testing.T) {
			fork := newTestRun("fork", c.change)
			fork.Namespace = w.Namespace
			if err := w.Create(t.Context(), fork); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the answer is %v, want a refusal with %q", err, c.want)
			}
		})
	}
	fork := newTestRun("fork", forkOf(v1alpha1.ForkSource{RunName: "a", LastFailed: new(true), Outputs: manyOutputs(64)}))
	w.create(fork)
	for name, change := range map[string]func(*v1alpha1.WorkflowRunSpec){
		"removed": func(s *v1alpha1.WorkflowRunSpec) { s.From = nil },
		"name":    func(s *v1alpha1.WorkflowRunSpec) { s.From.RunName = "b" },
		"point":   func(s *v1alpha1.WorkflowRunSpec) { s.From.LastFailed, s.From.Step = nil, new("ship") },
		"value":   func(s *v1alpha1.WorkflowRunSpec) { s.From.Outputs[7].Value = &apiextensionsv1.JSON{Raw: []byte(`2`)} },
		"outputs": func(s *v1alpha1.WorkflowRunSpec) { s.From.Outputs = s.From.Outputs[1:] },
	} {
		changed := fetch(w, fork).DeepCopy()
		change(&changed.Spec)
		if err := w.Update(t.Context(), changed); err == nil || !strings.Contains(err.Error(), "immutable: delete the WorkflowRun and create another") {
			t.Errorf("%s: the answer is %v", name, err)
		}
	}
}

func manyOutputs(n int) (outputs []v1alpha1.StepOutput) {
	for i := range n {
		outputs = append(outputs, v1alpha1.StepOutput{Step: new(fmt.Sprintf("step-%d", i)), Value: &apiextensionsv1.JSON{Raw: []byte(`1`)}})
	}
	return outputs
}

// A fork that waits can be canceled, and one that was made is not made again.
func TestFork_P5_IsMadeOnceOrNever(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.backend()
	waiting := newTestRun("waiting", retryOf("nobody"))
	w.create(waiting)
	w.awaitState(waiting, v1alpha1.RunPending, v1alpha1.ReasonSourceNotFound)
	modify(w, waiting, func(r *run) { r.Spec.Cancel = new(true) })
	w.awaitState(waiting, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)

	order := w.pendingRun("order")
	s := w.store()
	w.attempt(s, "ship", "charge")
	w.awaitState(order, v1alpha1.RunFailed, v1alpha1.ReasonWorkflowFailed)
	m.halt()
	// The manager has died after it has made the fork, and the source is gone since.
	fork := newTestRun("fork", retryOf("order"))
	w.create(fork)
	made, err := s.Fork(t.Context(), store.ForkRequest{
		Source: string(order.UID), Run: store.NewRun{ID: string(fork.UID)}, From: store.ForkPoint{LastFailed: true},
	})
	if err != nil || made.Kept != 1 {
		t.Fatalf("%+v, %v", made, err)
	}
	if err := w.Delete(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.awaitState(fork, v1alpha1.RunPending, v1alpha1.ReasonPending)
	if got := w.history(s, string(fork.UID)); got != `charge completed "charge done"` {
		t.Errorf("it begins with %s", got)
	}
}

// A run that an object is about to fork stays, however old. Once the fork is made, it has all that it
// needs, and the run goes.
func TestFork_P1_RetentionWaitsForForks(t *testing.T) {
	w := newWorld(t)
	w.start(startRetaining)
	b := w.backend()
	w.awaitBackend(b, v1alpha1.ReasonConnected)
	s := w.store()
	created, err := s.CreateRuns(t.Context(), []store.NewRun{{WorkflowName: "checkout"}})
	if err != nil {
		t.Fatal(err)
	}
	source := w.attempt(s, "ship", "charge").ID
	if source != created[0].RunID {
		t.Fatalf("executed %s, want %s", source, created[0].RunID)
	}
	fork := newTestRun("fork", forkOf(v1alpha1.ForkSource{RunID: source, LastFailed: new(true)}), func(r *run) { r.Spec.BackendRef.Name = "later" })
	w.create(fork)
	w.awaitState(fork, v1alpha1.RunPending, v1alpha1.ReasonBackendNotFound)
	last := w.ended(s, store.NewRun{})
	w.retain(b, v1alpha1.RunRetention{TTLSecondsAfterFinished: day})
	w.awaitRemoved(s, last[0])
	if rows, err := s.GetRuns(t.Context(), []string{source}); err != nil || rows[source] == nil {
		t.Fatalf("the source was removed: %v, %v", rows, err)
	}

	later := newBackend()
	later.Name, later.Spec.NamespaceID = "later", w.Namespace
	w.create(later)
	w.awaitState(fork, v1alpha1.RunPending, v1alpha1.ReasonPending)
	w.awaitRemoved(s, source)
	if got := w.history(s, string(fork.UID)); got != `charge completed "charge done"` {
		t.Errorf("it begins with %s", got)
	}
	w.attempt(s, "", "ship")
	w.awaitState(fork, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
}
