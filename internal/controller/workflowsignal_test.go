package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

type sig = v1alpha1.WorkflowSignal

// newSignal returns a WorkflowSignal "approved" with data, not created yet.
func newSignal(name string, changes ...func(*sig)) *sig {
	s := &sig{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.WorkflowSignalSpec{Signal: "approved", Data: &apiextensionsv1.JSON{Raw: []byte(`"by ann"`)}},
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

func sendNow(s *sig) { s.Spec.Delivery = v1alpha1.SignalNow }

// awaitSignal waits for the reason of a signal's conditions, and returns the message.
func (w *world) awaitSignal(s *sig, reason string) string {
	w.t.Helper()
	message := ""
	eventually(w.t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionDelivered)
		if c == nil || c.Reason != reason {
			return fmt.Errorf("signal %s is %+v, want %s", s.Name, s.Status, reason)
		}
		if s.Status.ObservedGeneration != s.Generation {
			return fmt.Errorf("signal %s shows generation %d, want %d", s.Name, s.Status.ObservedGeneration, s.Generation)
		}
		message = c.Message
		return nil
	})
	return message
}

// truthsOf returns which of Ready, Delivered, Reconciling and Stalled are true.
func truthsOf(s *sig) (truths []string) {
	for _, kind := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionDelivered, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled} {
		if meta.IsStatusConditionTrue(s.Status.Conditions, kind) {
			truths = append(truths, kind)
		}
	}
	return truths
}

func (w *world) wantTruths(s *sig, want ...string) {
	w.t.Helper()
	if got := truthsOf(s); !slices.Equal(got, want) {
		w.t.Errorf("signal %s has %v, want %v: %+v", s.Name, got, want, s.Status.Conditions)
	}
	isFinished := slices.Contains(want, v1alpha1.ConditionDelivered) || slices.Contains(want, v1alpha1.ConditionStalled)
	if got := s.Status.FinishedAt != nil; got != isFinished {
		w.t.Errorf("signal %s has finishedAt: %v, want %v", s.Name, got, isFinished)
	}
}

// receiver is a workflow that returns the data of the signal "approved". It tells ended when its step
// after the wait is executed.
func receiver(ended func()) durable.Definition {
	return durable.DefinitionOf(workflow.Define("checkout", func(ctx context.Context, _ any) (string, error) {
		data, _, err := step.WaitForSignal[string](ctx, "approved")
		if err != nil {
			return "", err
		}
		return step.Run(ctx, "after", func(context.Context) (string, error) {
			ended()
			return data, nil
		})
	}))
}

// waiting claims the run and makes it wait for a signal, as OpenWorkflow's own worker does: it tells
// nobody.
func (w *world) waiting(s *store.Store, signal, stepName string) (runID, attemptID string) {
	w.t.Helper()
	run := claim(w.t, s, "pod")
	lease := openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}
	attempt := openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: stepName, Kind: openworkflow.KindSignalWait, Status: openworkflow.StepRunning,
		Context: openworkflow.WaitContext{Kind: openworkflow.KindSignalWait, Signal: &signal, TimeoutAt: "2100-01-01T00:00:00.000Z"}.Encode(),
	}
	result, err := s.ApplyAndClaim(context.Background(), store.Batch{
		Steps: []store.StepWrite{{Lease: lease, Attempt: attempt}},
		Runs:  []store.RunWrite{{Lease: lease, Op: store.RunPark, At: time.Now().Add(time.Hour)}},
	})
	if err != nil || errors.Join(append(result.Steps, result.Runs...)...) != nil {
		w.t.Fatalf("wait: %+v, %v", result, err)
	}
	return run.ID, attempt.ID
}

// received reports what a wait was sent.
func (w *world) received(s *store.Store, attemptID string) (data string, ok bool) {
	w.t.Helper()
	results, err := s.WaitResults(context.Background(), []string{attemptID})
	if err != nil {
		w.t.Fatal(err)
	}
	result, ok := results[attemptID]
	return string(result.Data), ok
}

// TestSignal_ReachesTheNextStep logs how long it takes from the creation of the object to the step
// after the wait.
func TestSignal_ReachesTheNextStep(t *testing.T) {
	w := newManagedWorld(t)
	w.pendingRun("order-0")
	s := w.store()
	ended := make(chan time.Time, 1)
	w.workOn(s, receiver(func() { ended <- time.Now() }))
	var took []time.Duration
	for i := range 20 {
		name := fmt.Sprintf("order-%d", i)
		if i > 0 {
			w.create(newTestRun(name))
		}
		w.awaitState(newTestRunIn(w, name), v1alpha1.RunWaiting, v1alpha1.ReasonWaiting)
		signal := newSignal(name, sendNow, func(s *sig) { s.Spec.Target = &v1alpha1.SignalTarget{RunName: name} })
		begin := time.Now()
		w.create(signal)
		w.awaitSignal(signal, v1alpha1.ReasonDelivered)
		w.wantTruths(signal, v1alpha1.ConditionReady, v1alpha1.ConditionDelivered)
		select {
		case end := <-ended:
			took = append(took, end.Sub(begin))
		case <-time.After(time.Minute):
			var run v1alpha1.WorkflowRun
			err := w.Get(t.Context(), client.ObjectKeyFromObject(newTestRunIn(w, name)), &run)
			t.Fatalf("the step after the wait of %s did not come: %+v, %v", name, run.Status, err)
		}
	}
	slices.Sort(took)
	t.Logf("from the creation of a signal to the next step: median %s, longest %s", took[len(took)/2], took[len(took)-1])
}

func newTestRunIn(w *world, name string) *v1alpha1.WorkflowRun {
	run := newTestRun(name)
	run.Namespace = w.Namespace
	return run
}

// TestSignal_IsKeptUntilARunWaits: the signal is there before the run, and its run is not told.
func TestSignal_IsKeptUntilARunWaits(t *testing.T) {
	w := newManagedWorld(t)
	signal := newSignal("approve", func(s *sig) { s.Spec.IdempotencyKey = "order-1" })
	w.create(signal)
	message := w.awaitSignal(signal, v1alpha1.ReasonWaiting)
	w.wantTruths(signal, v1alpha1.ConditionReady)
	if want := `signal "approved" is kept until a run waits for it, at most until ` + signal.CreationTimestamp.Add(7*24*time.Hour).UTC().Format(time.RFC3339); message != want {
		t.Errorf("message is %q, want %q", message, want)
	}
	s := w.store()
	var waited atomic.Int64
	w.workOn(s, receiver(func() { waited.Store(time.Now().UnixNano()) }))
	run := newTestRun("order-1")
	w.create(run)
	w.awaitState(run, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
	if got := string(run.Status.Output.Raw); got != `"by ann"` {
		t.Errorf("the run has received %s", got)
	}
	if message := w.awaitSignal(signal, v1alpha1.ReasonDelivered); message != `a run has received signal "approved"` {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(signal, v1alpha1.ConditionReady, v1alpha1.ConditionDelivered)
	d := signal.Status.Deliveries
	if *signal.Status.DeliveryCount != 1 || len(d) != 1 || d[0].RunID != string(run.UID) || d[0].RunName != "order-1" || d[0].Step != "approved" || d[0].Time == nil {
		t.Errorf("deliveries are %+v", d)
	}
	again := newSignal("again", func(s *sig) { s.Spec.IdempotencyKey = "order-1" })
	w.create(again)
	w.awaitSignal(again, v1alpha1.ReasonDelivered)
	if got := again.Status.Deliveries; len(got) != 1 || got[0].RunID != string(run.UID) {
		t.Errorf("another signal of the key has the deliveries %+v", got)
	}
}

// TestSignal_AppliedAnHourBeforeTheWait: by the clock of the manager, which is another one then.
func TestSignal_AppliedAnHourBeforeTheWait(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.backend()
	signal := newSignal("approve")
	w.create(signal)
	w.awaitSignal(signal, v1alpha1.ReasonWaiting)
	m.halt()
	execute(t, w.URL, `UPDATE openworkflow.operator_signals SET created_at = created_at - interval '1 hour', expires_at = expires_at - interval '1 hour'`)
	w.start(func(o *managerOptions) { o.Clock = clocktesting.NewFakePassiveClock(time.Now().Add(time.Hour)) })
	run := newTestRun("order-1")
	w.create(run)
	s := w.store()
	id, attempt := w.waiting(s, "approved", "approved")
	w.awaitSignal(signal, v1alpha1.ReasonDelivered)
	if data, ok := w.received(s, attempt); !ok || data != `"by ann"` {
		t.Errorf("the run has received %q, %v", data, ok)
	}
	if row := w.row(s, run.UID); row.ID != id || row.AvailableAt == nil || row.AvailableAt.After(time.Now().Add(time.Minute)) {
		t.Errorf("the run is not due: %+v", row)
	}
}

func TestSignal_Now_IsForThoseWhoWait(t *testing.T) {
	w := newManagedWorld(t)
	signal := newSignal("early", sendNow)
	w.create(signal)
	message := w.awaitSignal(signal, v1alpha1.ReasonNoReceiver)
	w.wantTruths(signal, v1alpha1.ConditionStalled)
	if want := `no run waited for signal "approved", and with delivery Now it is not kept`; message != want {
		t.Errorf("message is %q, want %q", message, want)
	}
	noRun := newSignal("no-run", sendNow, func(s *sig) { s.Spec.Target = &v1alpha1.SignalTarget{RunName: "order-1"} })
	w.create(noRun)
	message = w.awaitSignal(noRun, v1alpha1.ReasonNoReceiver)
	w.wantTruths(noRun, v1alpha1.ConditionStalled)
	if want := `WorkflowRun "order-1" does not exist in this namespace, and a signal with delivery Now is not kept`; message != want {
		t.Errorf("message is %q, want %q", message, want)
	}

	s := w.store()
	for i := range 2 {
		w.create(newTestRun(fmt.Sprintf("order-%d", i)))
		w.waiting(s, "approved", "approved")
	}
	all := newSignal("all", sendNow)
	w.create(all)
	if message := w.awaitSignal(all, v1alpha1.ReasonDelivered); message != `2 runs have received signal "approved"` {
		t.Errorf("message is %q", message)
	}
}

// TestSignal_Now_KnowsWhatItsSenderHasSeen: the API server shows that the run was started, and the
// manager's cache is behind it.
func TestSignal_Now_KnowsWhatItsSenderHasSeen(t *testing.T) {
	w := newWorld(t)
	var isBehind atomic.Bool
	w.start(func(o *managerOptions) {
		o.newClient = interceptGets(func(o client.Object) {
			if r, ok := o.(*run); ok && isBehind.Load() {
				r.Status.RunID = ""
			}
		})
	})
	w.backend()
	order := w.pendingRun("order-1")
	s := w.store()
	_, attempt := w.waiting(s, "approved", "approved")
	isBehind.Store(true)
	signal := newSignal("now", sendNow, func(s *sig) { s.Spec.Target = &v1alpha1.SignalTarget{RunName: "order-1"} })
	w.create(signal)
	w.awaitSignal(signal, v1alpha1.ReasonDelivered)
	isBehind.Store(false)
	if data, ok := w.received(s, attempt); !ok || data != `"by ann"` || signal.Status.Deliveries[0].RunID != string(order.UID) {
		t.Errorf("the run has received %q, %v: %+v", data, ok, signal.Status)
	}
}

// interceptGets makes a manager's client that passes what it has read to got.
func interceptGets(got func(client.Object)) client.NewClientFunc {
	return func(config *rest.Config, options client.Options) (client.Client, error) {
		c, err := client.NewWithWatch(config, options)
		if err != nil {
			return nil, err
		}
		return interceptor.NewClient(c, interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				err := c.Get(ctx, key, o, opts...)
				if err == nil {
					got(o)
				}
				return err
			},
		}), nil
	}
}

func TestSignal_ReachesOnlyItsTarget(t *testing.T) {
	w := newManagedWorld(t)
	target := func(name, stepName string) func(*sig) {
		return func(s *sig) { s.Spec.Target = &v1alpha1.SignalTarget{RunName: name, Step: &stepName} }
	}
	second := newSignal("second", target("order-2", "approved:1"))
	w.create(second)
	message := w.awaitSignal(second, v1alpha1.ReasonRunNotFound)
	w.wantTruths(second, v1alpha1.ConditionReconciling)
	if want := `WorkflowRun "order-2" does not exist in this namespace: signal "approved" is sent once it was started`; message != want {
		t.Errorf("message is %q, want %q", message, want)
	}
	s := w.store()
	w.create(newTestRun("order-1"))
	_, other := w.waiting(s, "approved", "approved:1")
	w.create(newTestRun("order-2"))
	w.awaitSignal(second, v1alpha1.ReasonWaiting)
	wrong := newSignal("wrong", target("order-2", "approved"))
	w.create(wrong)
	w.awaitSignal(wrong, v1alpha1.ReasonWaiting)
	id, attempt := w.waiting(s, "approved", "approved:1")
	w.awaitSignal(second, v1alpha1.ReasonDelivered)
	if d := second.Status.Deliveries; len(d) != 1 || d[0].RunID != id || d[0].Step != "approved:1" {
		t.Errorf("deliveries are %+v", d)
	}
	if _, ok := w.received(s, attempt); !ok {
		t.Error("the target has received nothing")
	}
	if _, ok := w.received(s, other); ok {
		t.Error("another run has received the signal")
	}
	if _, err := s.CancelRuns(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if message := w.awaitSignal(wrong, v1alpha1.ReasonRunEnded); message != `the run has ended and does not wait for signal "approved"` {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(wrong, v1alpha1.ConditionStalled)

	invalid := newTestRun("order-3", func(r *v1alpha1.WorkflowRun) { r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`"\u0000"`)} })
	never := newSignal("never", sendNow, target("order-3", "approved"))
	w.create(invalid)
	w.awaitState(invalid, v1alpha1.RunFailed, v1alpha1.ReasonInvalidInput)
	w.create(never)
	if message := w.awaitSignal(never, v1alpha1.ReasonNoReceiver); !strings.Contains(message, `WorkflowRun "order-3" was not started yet`) {
		t.Errorf("message is %q", message)
	}

	elsewhere := newSignal("elsewhere", target("order-1", "approved"), func(s *sig) { s.Spec.BackendRef.Name = "other" })
	other2 := newBackend()
	other2.Name = "other"
	w.create(other2, elsewhere)
	w.awaitBackend(other2, v1alpha1.ReasonConnected)
	if message := w.awaitSignal(elsewhere, v1alpha1.ReasonRunNotFound); !strings.Contains(message, `WorkflowRun "order-1" is of Backend "default", not of "other"`) {
		t.Errorf("message is %q", message)
	}
}

func TestSignal_Expires(t *testing.T) {
	w := newManagedWorld(t)
	soon := func(s *sig) { s.Spec.ExpirationSeconds = new(int64(1)) }
	kept := newSignal("kept", soon)
	noRun := newSignal("no-run", soon, func(s *sig) { s.Spec.Target = &v1alpha1.SignalTarget{RunName: "order-1"} })
	w.create(kept, noRun)
	for signal, want := range map[*sig]string{
		kept:  `no run has waited for signal "approved" in time`,
		noRun: `the signal has expired: WorkflowRun "order-1" does not exist in this namespace`,
	} {
		if message := w.awaitSignal(signal, v1alpha1.ReasonExpired); message != want {
			t.Errorf("message is %q, want %q", message, want)
		}
		w.wantTruths(signal, v1alpha1.ConditionStalled)
	}
	w.create(newTestRun("order-1"))
	s := w.store()
	_, attempt := w.waiting(s, "approved", "approved")
	fresh := newSignal("fresh", func(s *sig) { s.Spec.Data = nil })
	w.create(fresh)
	w.awaitSignal(fresh, v1alpha1.ReasonDelivered)
	if data, ok := w.received(s, attempt); !ok || data != "" {
		t.Errorf("received %q, %v, want null", data, ok)
	}
}

// TestSignal_IsDeliveredOnceWhereAManagerDies: in the database it was delivered, and the status does
// not show that.
func TestSignal_IsDeliveredOnceWhereAManagerDies(t *testing.T) {
	w := newWorld(t)
	var isDead atomic.Bool
	m := w.start(func(o *managerOptions) {
		o.newClient = func(config *rest.Config, options client.Options) (client.Client, error) {
			c, err := client.NewWithWatch(config, options)
			if err != nil {
				return nil, err
			}
			return interceptor.NewClient(c, interceptor.Funcs{
				SubResourcePatch: func(ctx context.Context, c client.Client, name string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
					if _, ok := o.(*sig); ok {
						isDead.Store(true)
						return errors.New("the manager dies here")
					}
					return c.SubResource(name).Patch(ctx, o, p, opts...)
				},
			}), nil
		}
	})
	w.backend()
	w.create(newTestRun("order-1"))
	w.awaitBackend(newBackendIn(w), v1alpha1.ReasonConnected)
	s := w.store()
	id, _ := w.waiting(s, "approved", "approved")
	signal := newSignal("approve", sendNow)
	w.create(signal)
	eventually(t, func() error {
		if !isDead.Load() {
			return errors.New("the status was not written")
		}
		return nil
	})
	m.halt()
	w.create(newTestRun("order-2"))
	w.start()
	_, second := w.waiting(s, "approved", "approved")
	w.awaitSignal(signal, v1alpha1.ReasonDelivered)
	if d := signal.Status.Deliveries; len(d) != 1 || d[0].RunID != id {
		t.Errorf("deliveries are %+v, want run %s", d, id)
	}
	if _, ok := w.received(s, second); ok {
		t.Error("the signal was delivered twice")
	}
}

func TestSignal_TTLDeletesWhatHasFinished(t *testing.T) {
	w := newManagedWorld(t)
	own := newSignal("own", sendNow, func(s *sig) { s.Spec.TTLSecondsAfterFinished = new(int32(0)) })
	kept := newSignal("kept", func(s *sig) { s.Spec.TTLSecondsAfterFinished = new(int32(0)); s.Spec.Signal = "other" })
	stays := newSignal("stays", sendNow)
	w.create(own, kept, stays)
	w.awaitGone(own)
	w.awaitSignal(kept, v1alpha1.ReasonWaiting)
	w.awaitSignal(stays, v1alpha1.ReasonNoReceiver)
	modify(w, newBackendIn(w), func(b *v1alpha1.Backend) { b.Spec.Retention.ObjectTTLSecondsAfterFinished = new(int32(0)) })
	w.awaitGone(stays)
	fetch(w, kept)
}

func (w *world) awaitGone(o client.Object) {
	w.t.Helper()
	eventually(w.t, func() error {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s is not gone: %v", o.GetName(), err) //nolint:errorlint // err may be nil
		}
		return nil
	})
}

func TestSignal_IsWithdrawnWithItsObject(t *testing.T) {
	w := newManagedWorld(t)
	signal := newSignal("approve")
	w.create(signal)
	w.awaitSignal(signal, v1alpha1.ReasonWaiting)
	if err := w.Delete(t.Context(), signal); err != nil {
		t.Fatal(err)
	}
	s := w.store()
	eventually(t, func() error {
		if _, err := s.DeliverKept(t.Context(), string(signal.UID)); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("the signal is kept: %v", err) //nolint:errorlint // err may be nil
		}
		return nil
	})
}

// TestSignal_IsWithdrawnWhereItsObjectGoesWhileItIsSent: the event of the deletion is handled before what
// the reconcile keeps, which has read the object earlier.
func TestSignal_IsWithdrawnWhereItsObjectGoesWhileItIsSent(t *testing.T) {
	w := newWorld(t)
	wasRead, mayGoOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.start(func(o *managerOptions) {
		o.newClient = interceptGets(func(o client.Object) {
			if s, ok := o.(*sig); ok && s.Name == "late" {
				once.Do(func() { close(wasRead); <-mayGoOn })
			}
		})
	})
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	s := w.store()
	first := newSignal("late")
	w.create(first)
	<-wasRead
	// An earlier try has kept it, so that its withdrawal is seen.
	if _, err := s.KeepSignal(t.Context(), store.KeptSignal{ID: string(first.UID), Name: "approved", ExpiresAt: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	isKept := func() error {
		if _, err := s.DeliverKept(t.Context(), string(first.UID)); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("the signal is kept: %v", err) //nolint:errorlint // err may be nil
		}
		return nil
	}
	eventually(t, isKept)
	close(mayGoOn)
	second := newSignal("late", func(s *sig) { s.Spec.Signal = "other" }) // of the same name, so it comes after
	w.create(second)
	w.awaitSignal(second, v1alpha1.ReasonWaiting)
	if err := isKept(); err != nil {
		t.Error(err)
	}
}
