package controller

import (
	"encoding/json"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/retry"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

func withKey(key, input string) func(*v1alpha1.WorkflowRun) {
	return func(r *v1alpha1.WorkflowRun) {
		r.Spec.IdempotencyKey = key
		if input != "" {
			r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(input)}
		}
	}
}

// TestRun_P9_AKnownKeyDoesNotCancel: whoever may create WorkflowRuns and knows a key sees the
// run, but neither cancels nor suspends it.
func TestRun_P9_AKnownKeyDoesNotCancel(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	first := newTestRun("first", withKey("order-77", ""))
	w.create(first)
	w.awaitState(first, v1alpha1.RunPending, v1alpha1.ReasonPending)
	for name, change := range map[string]func(*run){
		"cancel":  func(r *run) { r.Spec.Cancel = new(true) },
		"suspend": func(r *run) { r.Spec.Suspend = new(true) },
	} {
		created := newTestRun(name, withKey("order-77", ""), change)
		w.create(created)
		w.awaitState(created, v1alpha1.RunPending, v1alpha1.ReasonPending)
		later := newTestRun(name+"-later", withKey("order-77", ""))
		w.create(later)
		w.awaitState(later, v1alpha1.RunPending, v1alpha1.ReasonPending)
		modify(w, later, change)
		w.awaitState(later, v1alpha1.RunPending, v1alpha1.ReasonPending) // it has observed the change
		if created.Status.RunID != string(first.UID) || later.Status.RunID != string(first.UID) {
			t.Errorf("%s: the objects show %s and %s, want %s", name, created.Status.RunID, later.Status.RunID, first.UID)
		}
	}
	row := w.row(w.store(), first.UID)
	if row.Status != openworkflow.RunPending || row.SuspendedAt != nil {
		t.Errorf("the run is %s, suspended at %v", row.Status, row.SuspendedAt)
	}
	modify(w, first, func(r *run) { r.Spec.Cancel = new(true) })
	w.awaitState(first, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
}

// TestRun_P9_OtherWorkUnderAKeyIsAConflict: an object shows only the run that it asks for.
func TestRun_P9_OtherWorkUnderAKeyIsAConflict(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	first := newTestRun("first", withKey("k", `{"amount": 100, "to": ["a", null]}`))
	w.create(first)
	w.awaitState(first, v1alpha1.RunPending, v1alpha1.ReasonPending)
	for name, c := range map[string]struct {
		change   func(*run)
		conflict bool
	}{
		"same input, other text": {withKey("k", `{"to":["a",null],"amount":1e2}`), false},
		"other input":            {withKey("k", `{"to":["a",null],"amount":101}`), true},
		"no input":               {withKey("k", ""), true},
		"other version":          {func(r *run) { withKey("k", `{"amount": 100, "to": ["a", null]}`)(r); r.Spec.Version = "2" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			object := newTestRun(strings.NewReplacer(" ", "-", ",", "").Replace(name), c.change)
			w.create(object)
			if !c.conflict {
				w.awaitState(object, v1alpha1.RunPending, v1alpha1.ReasonPending)
				return
			}
			w.awaitState(object, v1alpha1.RunFailed, v1alpha1.ReasonKeyConflict)
			if !meta.IsStatusConditionTrue(object.Status.Conditions, v1alpha1.ConditionStalled) || object.Status.RunID != "" ||
				!strings.Contains(object.Status.Message, `holds idempotencyKey "k" with another input or version`) {
				t.Errorf("status is %+v", object.Status)
			}
			if w.row(w.store(), object.UID) != nil {
				t.Error("it has a row")
			}
		})
	}
}

// TestRun_P9_AKeyStaysInItsNamespace: two namespaces share one schema and namespaceID. The key
// of one shows the other nothing, unless the manager is told to allow it.
func TestRun_P9_AKeyStaysInItsNamespace(t *testing.T) {
	t.Parallel()
	url := testpg.New(t)
	one, two := newWorldAt(t, url), newWorldAt(t, url)
	for _, w := range []*world{one, two} {
		w.secret("db", url)
		b := newBackend()
		b.Spec.NamespaceID = "shared"
		w.create(b)
	}
	one.start()
	first := newTestRun("first", withKey("k", `"secret"`))
	one.create(first)
	one.awaitState(first, v1alpha1.RunPending, v1alpha1.ReasonPending)
	s, err := store.Open(t.Context(), store.Options{URL: url, NamespaceID: "shared"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	end(t, s, claim(t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`"secret"`)})

	strict := two.start()
	second := newTestRun("second", withKey("k", `"secret"`))
	two.create(second)
	two.awaitState(second, v1alpha1.RunFailed, v1alpha1.ReasonKeyConflict)
	if second.Status.Output != nil || strings.Contains(second.Status.Message, string(first.UID)) {
		t.Errorf("status is %+v", second.Status)
	}
	strict.halt()

	two.start(func(o *managerOptions) { o.AttachAcrossNamespaces = true })
	third := newTestRun("third", withKey("k", `"secret"`))
	two.create(third)
	two.awaitState(third, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
}

// TestRun_P9_TheShownRunIDDecidesNothing: a status.runID that somebody else wrote does not make
// an object show the run that it names.
func TestRun_P9_TheShownRunIDDecidesNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	other := newTestRun("other")
	w.create(other)
	w.awaitState(other, v1alpha1.RunPending, v1alpha1.ReasonPending)
	victims := map[string]*run{"plain": newTestRun("plain"), "keyed": newTestRun("keyed", withKey("k", ""))}
	for _, victim := range victims {
		w.create(victim)
		w.awaitState(victim, v1alpha1.RunPending, v1alpha1.ReasonPending)
		if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			fetch(w, victim).Status.RunID = string(other.UID)
			return w.Status().Update(t.Context(), victim)
		}); err != nil {
			t.Fatal(err)
		}
	}
	modify(w, other, func(r *run) { r.Spec.Cancel = new(true) })
	w.awaitState(other, v1alpha1.RunCanceled, v1alpha1.ReasonCanceled)
	s := w.store()
	for name, victim := range victims {
		modify(w, victim, func(r *run) { r.Spec.Suspend = new(true) })
		w.awaitState(victim, v1alpha1.RunPending, v1alpha1.ReasonSuspended)
		if victim.Status.RunID != string(victim.UID) || w.row(s, victim.UID).SuspendedAt == nil {
			t.Errorf("%s shows run %s, want its own, %s, suspended", name, victim.Status.RunID, victim.UID)
		}
	}
}
