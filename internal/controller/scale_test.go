package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/reporter"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// ledger counts what a manager reads and writes.
type ledger struct {
	mu      sync.Mutex
	reads   map[string]int // of objects, by name
	queries map[string]int // of the database, by run
	patches map[string]int // of status, by object's name
}

func newLedger() *ledger {
	return &ledger{reads: map[string]int{}, queries: map[string]int{}, patches: map[string]int{}}
}

func (l *ledger) count(notes map[string]int, keys ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range keys {
		notes[key]++
	}
}

func (l *ledger) of(notes map[string]int, key string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return notes[key]
}

func (l *ledger) newClient(config *rest.Config, o client.Options) (client.Client, error) {
	inner, err := client.NewWithWatch(config, o)
	if err != nil {
		return nil, err
	}
	return interceptor.NewClient(inner, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if _, ok := o.(*v1alpha1.WorkflowRun); ok {
				l.count(l.reads, key.Name)
			}
			return c.Get(ctx, key, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			l.count(l.patches, o.GetName())
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	}), nil
}

func (l *ledger) open(ctx context.Context, o store.Options) (backend.Store, error) {
	s, err := backend.OpenStore(ctx, o)
	if err != nil {
		return nil, err
	}
	return &countedStore{Store: s, ledger: l}, nil
}

// countedStore counts the runs in the queries of a database.
type countedStore struct {
	backend.Store
	*ledger
}

func (s *countedStore) CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error) {
	for _, run := range runs {
		s.count(s.queries, run.ID)
	}
	return s.Store.CreateRuns(ctx, runs)
}

func (s *countedStore) RunStates(ctx context.Context, ids []string) (map[string]*openworkflow.Run, error) {
	s.count(s.queries, ids...)
	return s.Store.RunStates(ctx, ids)
}

func (s *countedStore) StepSummaries(ctx context.Context, ids []string, newest int) (map[string]openworkflow.StepSummary, error) {
	s.count(s.queries, ids...)
	return s.Store.StepSummaries(ctx, ids, newest)
}

func (s *countedStore) CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	s.count(s.queries, ids...)
	return s.Store.CancelRuns(ctx, ids)
}

// finished creates a WorkflowRun that has completed, as a worker's report leaves it.
func (w *world) finished(name string, changes ...func(*v1alpha1.WorkflowRun)) *v1alpha1.WorkflowRun {
	w.t.Helper()
	run := newTestRun(name, changes...)
	w.create(run)
	now := time.Now().UTC()
	row := &openworkflow.Run{
		ID: string(run.UID), Status: openworkflow.RunCompleted, Attempts: 1,
		StartedAt: &now, FinishedAt: &now, CreatedAt: now, UpdatedAt: now,
	}
	patch, err := projection.PatchAt("default", string(run.UID), run.Generation, projection.Status(row, openworkflow.StepSummary{}, "pod"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.Status().Patch(w.t.Context(), run, client.RawPatch(projection.PatchContentType, patch)); err != nil {
		w.t.Fatal(err)
	}
	return run
}

// Finished objects remain until they are deleted: neither the start of a manager, nor a
// sweep, nor their deletion reads one or queries its row.
func TestFinishedRunsCostNothing(t *testing.T) {
	w := newWorld(t)
	var old []*v1alpha1.WorkflowRun
	for i := range 30 {
		old = append(old, w.finished(fmt.Sprintf("old-%d", i)))
	}
	l := newLedger()
	m := w.start(func(o *managerOptions) { o.Open, o.newClient = l.open, l.newClient })
	w.backend()
	run := newTestRun("new")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	asked := l.of(l.queries, string(run.UID))
	eventually(t, func() error { // after three more sweeps
		if l.of(l.queries, string(run.UID)) < asked+3 {
			return fmt.Errorf("too few sweeps")
		}
		return nil
	})
	if err := w.Delete(t.Context(), old[0]); err != nil {
		t.Fatal(err)
	}
	if err := w.Delete(t.Context(), run); err != nil { // it is handled after the other deletion
		t.Fatal(err)
	}
	s := w.store()
	eventually(t, func() error {
		if row := w.row(s, run.UID); row.Status != openworkflow.RunCanceled {
			return fmt.Errorf("the row is %s", row.Status)
		}
		return nil
	})
	m.halt()
	for _, o := range old {
		if reads, queries := l.reads[o.Name], l.queries[string(o.UID)]; reads > 0 || queries > 1 {
			t.Errorf("%s was read %d times, and its row %d times, want none and one, to compare the end", o.Name, reads, queries)
		}
	}
}

// slowStore delays an insert until the deletion of its object was handled.
type slowStore struct {
	backend.Store
	deleted func()
	handled chan struct{}
	once    sync.Once
}

func (s *slowStore) CreateRuns(ctx context.Context, runs []store.NewRun) ([]store.Created, error) {
	s.deleted()
	select {
	case <-s.handled:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.Store.CreateRuns(ctx, runs)
}

func (s *slowStore) CancelRuns(ctx context.Context, ids []string) (map[string]openworkflow.RunStatus, error) {
	states, err := s.Store.CancelRuns(ctx, ids)
	s.once.Do(func() { close(s.handled) })
	return states, err
}

func TestRun_DeletedWhileItIsMirroredIsCanceled(t *testing.T) {
	w := newWorld(t)
	w.start(func(o *managerOptions) {
		o.Intervals.Orphan = time.Hour // only the watch cancels
		o.Open = func(ctx context.Context, so store.Options) (backend.Store, error) {
			s, err := backend.OpenStore(ctx, so)
			if err != nil {
				return nil, err
			}
			deleted := sync.OnceFunc(func() {
				order := newTestRun("order", func(r *v1alpha1.WorkflowRun) { r.Namespace = w.Namespace })
				if err := w.Delete(context.Background(), order); err != nil {
					t.Error(err)
				}
			})
			return &slowStore{Store: s, deleted: deleted, handled: make(chan struct{})}, nil
		}
	})
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	run := newTestRun("order")
	w.create(run)
	s := w.store()
	eventually(t, func() error {
		row := w.row(s, run.UID)
		if row == nil || row.Status != openworkflow.RunCanceled {
			return fmt.Errorf("the row is %+v", row)
		}
		return nil
	})
}

// countedTransport counts all requests, and the successful ones that replace an object.
type countedTransport struct {
	http.RoundTripper
	all, replaced *atomic.Int64
}

func (c countedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	c.all.Add(1)
	response, err := c.RoundTripper.RoundTrip(r)
	if err == nil && r.Method == http.MethodPut && response.StatusCode == http.StatusOK {
		c.replaced.Add(1)
	}
	return response, err
}

// A run that is executed at once is written twice: when it is created, and by its worker
// once it has ended. One more write is allowed for a slow machine.
func TestRunThatIsExecutedAtOnceIsReportedOnce(t *testing.T) {
	const n = 20
	w := newWorld(t)
	l := newLedger()
	w.start(func(o *managerOptions) {
		o.Open, o.newClient = l.open, l.newClient
		o.Intervals.FirstReport = time.Minute // a slow worker's first report does not count as late
	})
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)

	var reports, replaced atomic.Int64
	config := rest.CopyConfig(cluster.admin)
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper { return countedTransport{inner, &reports, &replaced} })
	r, err := reporter.New(config, w.Namespace, "pod-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	pod := podOf("shop", "pod-1")
	w.create(pod)
	checkout := workflow.Define("checkout", func(ctx context.Context, _ any) (map[string]any, error) {
		return step.Run(ctx, "charge", func(context.Context) (map[string]any, error) { return map[string]any{"refund": nil}, nil })
	})
	worker, err := runner.New(w.store(), []durable.Definition{durable.DefinitionOf(checkout)},
		runner.Options{PodUID: string(pod.UID), PodName: pod.Name, Reporter: r, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var tasks sync.WaitGroup
	tasks.Go(func() { r.Run(ctx, time.Second) })
	tasks.Go(func() { _ = worker.Run(ctx, time.Second) })
	t.Cleanup(func() {
		cancel()
		tasks.Wait()
	})

	runs := make([]*v1alpha1.WorkflowRun, n)
	for i := range runs {
		runs[i] = newTestRun(fmt.Sprintf("order-%d", i), func(r *v1alpha1.WorkflowRun) {
			r.Labels = map[string]string{"shop": "1"}
			r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`{"amount":42}`)}
		})
		w.create(runs[i])
	}
	patches := 0
	for _, run := range runs {
		w.awaitState(run, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
		if run.Status.RunID != string(run.UID) || run.Status.ObservedGeneration != run.Generation || run.Status.Worker != "pod-1" {
			t.Errorf("%s has run %q of worker %q, generation %d of %d observed",
				run.Name, run.Status.RunID, run.Status.Worker, run.Status.ObservedGeneration, run.Generation)
		}
		if run.Spec.WorkflowName != "checkout" || string(run.Spec.Input.Raw) != `{"amount":42}` || run.Labels["shop"] != "1" ||
			string(run.Status.Output.Raw) != `{"refund":null}` {
			t.Errorf("%s has become %+v with %s", run.Name, run.Spec, run.Status.Output.Raw)
		}
		patches += l.of(l.patches, run.Name)
	}
	if replaced.Load() == 0 {
		t.Error("no status was replaced")
	}
	if total := patches + int(reports.Load()); total > 2*n {
		t.Errorf("%d reports of %d runs, %d of them by the manager", total, n, patches)
	} else {
		t.Logf("%d reports of %d runs, %d of them by the manager; %d in place of a status", total, n, patches, replaced.Load())
	}
}

// The manager waits for a live worker whose reports do not arrive only for a limited time,
// and only once.
func TestP4EndThatItsWorkerDoesNotReportIsShown(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	s := w.store()
	mute := w.announce(s, "pod-1")
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	claimed := claimAs(t, s, mute.PodUID, mute.Process)
	end(t, s, claimed, store.RunWrite{Op: store.RunComplete})
	execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET finished_at = now() - interval '1 minute'`)
	w.awaitState(run, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted)
}

// announce creates a pod in this namespace, and announces a worker in it that reports nothing.
func (w *world) announce(s *store.Store, pod string) store.Worker {
	w.t.Helper()
	object := podOf("shop", pod)
	w.create(object)
	worker := store.Worker{PodUID: string(object.UID), Process: "process", PodName: pod, Pool: "shop"}
	if _, err := s.SaveWorker(w.t.Context(), worker, time.Minute); err != nil {
		w.t.Fatal(err)
	}
	return worker
}

// Two namespaces may share the tables, and then either's workers execute the runs of both. A worker
// reports only the objects of its own namespace.
func TestRun_P4_WhatAnotherNamespacesWorkerEndedIsShownByTheNextSweep(t *testing.T) {
	w := newWorld(t)
	other := newWorldAt(t, w.URL)
	for _, w := range []*world{w, other} {
		w.start()
		w.secret("db", w.URL)
		shared := newBackend()
		shared.Spec.NamespaceID = "shared"
		w.create(shared)
		w.awaitBackend(shared, v1alpha1.ReasonConnected)
	}
	s, err := store.Open(t.Context(), store.Options{URL: w.URL, NamespaceID: "shared"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	worker := other.announce(s, "pod-1")
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	claimed := claimAs(t, s, worker.PodUID, worker.Process)
	w.awaitState(run, v1alpha1.RunRunning, v1alpha1.ReasonRunning) // by now, the manager knows the worker
	end(t, s, claimed, store.RunWrite{Op: store.RunComplete})
	w.awaitState(run, v1alpha1.RunCompleted, v1alpha1.ReasonCompleted) // within 20 s; a report is waited for for 35 s
}

func TestRunEvents_NewObjectsComeBeforeThoseOfTheStart(t *testing.T) {
	t.Parallel()
	queue := priorityqueue.New[runRequest]("test-" + t.Name())
	defer queue.ShutDown()
	object := func(name string, changes ...func(*run)) *v1alpha1.WorkflowRun {
		return newTestRun(name, append(changes, func(r *run) { r.Generation = 1 })...)
	}
	var progress []string
	events := (&WorkflowRunReconciler{}).runEvents(func(run *v1alpha1.WorkflowRun) { progress = append(progress, run.Name) }, func(*v1alpha1.WorkflowRun) {})
	create := func(o *v1alpha1.WorkflowRun, initial bool) {
		events.Create(t.Context(), event.TypedCreateEvent[*v1alpha1.WorkflowRun]{Object: o, IsInInitialList: initial}, queue)
	}
	done := object("finished", func(r *run) { r.Status.State, r.Status.ObservedGeneration = v1alpha1.RunCompleted, 1 })
	kept := object("reported", func(r *run) {
		r.Status.State, r.Status.ObservedGeneration, r.Status.RunID = v1alpha1.RunRunning, 1, "u"
	})
	create(done, true)
	create(kept, true)
	events.Update(t.Context(), event.TypedUpdateEvent[*v1alpha1.WorkflowRun]{ObjectOld: kept, ObjectNew: kept}, queue)
	events.Update(t.Context(), event.TypedUpdateEvent[*v1alpha1.WorkflowRun]{ObjectOld: kept, ObjectNew: done}, queue)
	create(object("old"), true)
	create(object("new"), false)
	var got []string
	var priorities []int
	for range 2 {
		request, priority, _ := queue.GetWithPriority()
		got, priorities = append(got, request.Name), append(priorities, priority)
	}
	if want := []string{"new", "old"}; !slices.Equal(got, want) || !slices.Equal(priorities, []int{0, handler.LowPriority}) {
		t.Errorf("the queue has %v with priorities %v, want %v", got, priorities, want)
	}
	if n := queue.Len(); n > 0 {
		t.Errorf("%d more in the queue", n)
	}
	if want := []string{"finished"}; !slices.Equal(progress, want) {
		t.Errorf("progress of %v, want %v", progress, want)
	}
}

func TestPassMark_ReadsStepsAtGrowingIntervals(t *testing.T) {
	t.Parallel()
	pending := &v1alpha1.WorkflowRunStatus{State: v1alpha1.RunPending, Revision: new(int64(1))}
	var mark passMark
	var checked []time.Duration
	for at := time.Duration(0); at < 4*time.Minute; at += time.Second {
		var check bool
		if mark, check = mark.check(pending, 1, 3*time.Second, noon.Add(at)); check {
			checked = append(checked, at)
		}
	}
	want := []time.Duration{0, 3 * time.Second, 9 * time.Second, 21 * time.Second, 45 * time.Second, 93 * time.Second, 153 * time.Second, 213 * time.Second}
	if !slices.Equal(checked, want) {
		t.Errorf("a run whose worker does not report was read after %v, want %v", checked, want)
	}
	reported := &v1alpha1.WorkflowRunStatus{State: v1alpha1.RunRunning, Attempts: new(int32(2)), Revision: new(int64(8))}
	if mark, check := mark.check(reported, 2, 3*time.Second, noon); check {
		t.Error("a claim that its worker has reported was read")
	} else if _, check := mark.check(&v1alpha1.WorkflowRunStatus{Revision: new(int64(9))}, 2, 3*time.Second, noon.Add(3*time.Second)); check {
		t.Error("a run whose worker reports was read")
	}
}
