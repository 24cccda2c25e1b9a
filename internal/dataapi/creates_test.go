package dataapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// createMany creates n runs by so many callers at a time, and returns how long it took.
func (w *world) createMany(c *rest.RESTClient, n, callers int) time.Duration {
	w.t.Helper()
	body, err := json.Marshal(&datav1alpha1.Run{
		TypeMeta: metav1.TypeMeta{APIVersion: datav1alpha1.GroupVersion.String(), Kind: "Run"},
		Spec:     datav1alpha1.RunSpec{WorkflowName: "checkout", Input: &apiextensionsv1.JSON{Raw: []byte(`{"order": 7}`)}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	next := make(chan int)
	var running sync.WaitGroup
	start := time.Now()
	for range callers {
		running.Go(func() {
			for range next {
				err := c.Post().Namespace(w.namespace).Resource("runs").SetHeader("Content-Type", "application/json").Body(body).Do(w.t.Context()).Error()
				if err != nil {
					w.t.Errorf("create: %v", err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	running.Wait()
	return time.Since(start)
}

// Two namespaces share tables. The key of one shows the other nothing, as with objects; nor does that of a
// fork.
func TestRuns_P9_AKeyStaysInItsNamespace(t *testing.T) {
	w := setup(t)
	w.history(6)
	w.exec(`UPDATE openworkflow.workflow_runs SET idempotency_key = 'k-' || id, context = jsonb_build_object('kubernetes', jsonb_build_object(
		'cluster', $1::text, 'namespace', CASE WHEN id = 'r-01' THEN $2::text ELSE 'another' END, 'name', 'order', 'uid', id)) WHERE id < 'r-03'`, clusterUID, w.namespace)
	c := w.user()
	create := func(workflow, key string) (*datav1alpha1.Run, error) {
		run := &datav1alpha1.Run{Spec: datav1alpha1.RunSpec{WorkflowName: workflow, IdempotencyKey: key}}
		err := c.Post().Namespace(w.namespace).Resource("runs").Body(run).Do(t.Context()).Into(run)
		return run, err
	}
	fork := func(workflow, key string) (*datav1alpha1.Run, error) {
		source := map[string]string{"even": "r-04", "odd": "r-05"}[workflow]
		return w.postFork(c, source, &datav1alpha1.RunFork{IdempotencyKey: key})
	}
	for name, start := range map[string]func(workflow, key string) (*datav1alpha1.Run, error){"create": create, "fork": fork} {
		_, err := start("even", "k-r-02")
		if !apierrors.IsConflict(err) || strings.Contains(err.Error(), "r-02 ") ||
			!strings.Contains(err.Error(), `a run of another namespace holds idempotencyKey "k-r-02" in the database that both namespaces share: choose another key`) {
			t.Errorf("%s with the key of another namespace: %v", name, err)
		}
		if run, err := start("odd", "k-r-01"); err != nil || run.Name != "r-01" || run.Status.Object != "order" {
			t.Errorf("%s with a key of this namespace: %+v, %v", name, run, err)
		}
		first, err := start("odd", "own-"+name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if again, err := start("odd", "own-"+name); err != nil || again.Name != first.Name {
			t.Errorf("%s again: %+v, %v", name, again, err)
		}
	}
	holder := &store.RunView{Run: openworkflow.Run{ID: "r-02", Context: json.RawMessage(`{"kubernetes": {"namespace": "another"}}`)}}
	if err := (&reader{attachAcross: true}).keyConflict(holder, "", "k", w.namespace); err != nil {
		t.Errorf("with --attach-across-namespaces: %v", err)
	}
}

// Concurrent creates share transactions: a create on its own costs one, of many callers a fraction
// of it. The rates are logged only.
func TestRuns_CreatesShareTransactions(t *testing.T) {
	w := setup(t)
	c := w.user()
	const n, callers = 1000, 64
	w.createMany(c, 1, 1) // opens the database
	alone := w.createMany(c, 50, 1)
	t.Logf("one caller: %.0f creates/s", 50/alone.Seconds())
	many := w.createMany(c, n, callers)
	t.Logf("%d callers: %.0f creates/s", callers, n/many.Seconds())
	var rows, transactions int
	w.query(`SELECT count(*), count(DISTINCT xmin::text) FROM openworkflow.workflow_runs WHERE namespace_id = $1`, []any{w.namespace}, &rows, &transactions)
	if rows != n+51 {
		t.Errorf("there are %d runs, want %d", rows, n+51)
	}
	t.Logf("%d runs in %d transactions", rows, transactions)
	if most := 51 + n*3/4; transactions > most { // how many wait at the same time depends on the machine
		t.Errorf("%d creates took %d transactions, want at most %d", rows, transactions, most)
	}
}

// In one transaction with others, each create has its own outcome.
func TestRuns_CreatesThatShareATransactionFailAlone(t *testing.T) {
	w := setup(t)
	c := w.user()
	errs := make([]error, 40)
	var running sync.WaitGroup
	for i := range errs {
		running.Go(func() {
			input := fmt.Sprint(i)
			switch i % 4 {
			case 1:
				input = `"\u0000"`
			case 2: // it does not share one
				input = `"` + strings.Repeat("x", maxShared) + `"`
			}
			run := &datav1alpha1.Run{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("run-%d", i)},
				Spec:       datav1alpha1.RunSpec{WorkflowName: "w", Input: &apiextensionsv1.JSON{Raw: []byte(input)}},
			}
			if i%4 == 3 {
				run.Name, run.Spec.IdempotencyKey = "", "k"
			}
			errs[i] = c.Post().Namespace(w.namespace).Resource("runs").Body(run).Do(w.t.Context()).Error()
		})
	}
	running.Wait()
	for i, err := range errs {
		if bad := i%4 == 1; bad != (err != nil) || bad && !strings.Contains(err.Error(), "a value cannot be stored") {
			t.Errorf("create %d: %v", i, err)
		}
	}
	if ids, _ := w.list(c, nil); len(ids) != 21 {
		t.Errorf("there are %d runs, want 21", len(ids))
	}
}
