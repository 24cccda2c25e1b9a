package reporter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
)

// server is a fake API server. The controllers' tests and the end-to-end tests use a real one.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	answer  func(n int) int // to the n-th request, from 1
	body    string          // of each answer
	paths   []string
	states  []string
	tests   []string // what each patch tests, or of which object each status is
	arrived chan struct{}
}

func newServer(t *testing.T, answer func(n int) int) *server {
	t.Helper()
	s := &server{answer: answer, arrived: make(chan struct{}, 100)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		var state, tests string
		switch kind := r.Method + " " + r.Header.Get("Content-Type"); kind {
		case "PATCH " + projection.PatchContentType:
			state, tests = readPatch(t, body)
		case "PUT " + projection.ContentType:
			state, tests = readObject(t, body)
		default:
			t.Errorf("got %s, want a status or a patch of one", kind)
		}
		s.mu.Lock()
		s.paths = append(s.paths, r.URL.Path)
		s.states = append(s.states, state)
		s.tests = append(s.tests, tests)
		n := len(s.paths)
		s.mu.Unlock()
		w.WriteHeader(s.answer(n))
		_, _ = io.WriteString(w, s.body)
		s.arrived <- struct{}{}
	}))
	t.Cleanup(s.Close)
	return s
}

// readPatch returns the state in a patch, and what it tests.
func readPatch(t *testing.T, body []byte) (state, tests string) {
	t.Helper()
	var patch []struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	if err := json.Unmarshal(body, &patch); err != nil {
		t.Error(err)
	}
	for _, operation := range patch {
		if operation.Op == "test" {
			tests += fmt.Sprintf("%s=%v ", operation.Path, operation.Value)
		}
		if operation.Path == "/status/state" {
			state, _ = operation.Value.(string)
		}
		if status, ok := operation.Value.(map[string]any); ok && operation.Path == "/status" {
			state, _ = status["state"].(string)
		}
	}
	return state, tests
}

// readObject returns the state in an object, and which one it is.
func readObject(t *testing.T, body []byte) (state, object string) {
	t.Helper()
	var run v1alpha1.WorkflowRun
	if err := json.Unmarshal(body, &run); err != nil {
		t.Error(err)
	}
	return string(run.Status.State), fmt.Sprintf("%s %s %s/%s uid=%s resourceVersion=%s observedGeneration=%d",
		run.APIVersion, run.Kind, run.Namespace, run.Name, run.UID, run.ResourceVersion, run.Status.ObservedGeneration)
}

// await waits for n more requests.
func (s *server) await(t *testing.T, n int) {
	t.Helper()
	for range n {
		select {
		case <-s.arrived:
		case <-time.After(time.Minute):
			t.Fatalf("gave up waiting for a report; got %v", s.states)
		}
	}
}

// start returns a running reporter, and a function that stops it and waits.
func start(t *testing.T, s *server) (r *Reporter, stop func()) {
	t.Helper()
	return startHolding(t, s, ongoingDelay)
}

// startHolding is start with the time for which the reports of runs that go on are held back.
func startHolding(t *testing.T, s *server, holdBack time.Duration) (r *Reporter, stop func()) {
	t.Helper()
	r, err := New(&rest.Config{Host: s.URL}, "shop", "pod-1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.holdBack = holdBack
	ctx, cancel := context.WithCancel(t.Context())
	var task sync.WaitGroup
	task.Go(func() { r.Run(ctx, time.Minute) })
	stop = sync.OnceFunc(func() {
		cancel()
		task.Wait()
	})
	t.Cleanup(stop)
	return r, stop
}

func run(name string, status openworkflow.RunStatus) *openworkflow.Run {
	now, id := time.Now(), "worker"
	object, err := json.Marshal(openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
		Cluster: "c", Namespace: "shop", Name: name, UID: "uid-of-" + name,
	}})
	if err != nil {
		panic(err)
	}
	r := &openworkflow.Run{ID: "uid-of-" + name, Status: status, Context: object, Attempts: 1, CreatedAt: now, UpdatedAt: now}
	if status == openworkflow.RunRunning {
		r.WorkerID = &id
	}
	return r
}

func ok(int) int { return http.StatusOK }

func TestReportNamesTheObjectsStatus(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, _ := start(t, s)
	r.Report(run("order-1", openworkflow.RunCompleted), openworkflow.StepSummary{})
	s.await(t, 1)
	if want := "/apis/openworkflow.dev/v1alpha1/namespaces/shop/workflowruns/order-1/status"; s.paths[0] != want {
		t.Errorf("patched %s, want %s", s.paths[0], want)
	}
}

func TestRunsWithoutAnObjectHereArePassedOver(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, stop := start(t, s)
	elsewhere := run("order-1", openworkflow.RunCompleted)
	elsewhere.Context = json.RawMessage(`{"kubernetes":{"cluster":"c","namespace":"other","name":"order-1","uid":"u"}}`)
	fromTypeScript := run("order-2", openworkflow.RunCompleted)
	fromTypeScript.Context = json.RawMessage(`{"traceContext":{}}`)
	r.Report(elsewhere, openworkflow.StepSummary{})
	r.Report(fromTypeScript, openworkflow.StepSummary{})
	stop()
	if len(s.paths) != 0 {
		t.Errorf("patched %v", s.paths)
	}
}

func TestP4RefusedReportsAreDropped(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, func(int) int { return status })
			r, stop := start(t, s)
			r.Report(run("order-1", openworkflow.RunRunning), openworkflow.StepSummary{})
			s.await(t, 1)
			stop()
			if len(s.paths) != 1 {
				t.Errorf("the report was sent %d times, want once", len(s.paths))
			}
		})
	}
}

// A status that the API server cannot take must not hold a sender for long.
func TestReporter_P9_ARefusedStatusDelaysNoOther(t *testing.T) {
	t.Parallel()
	for code, tries := range map[int]int{http.StatusBadRequest: 1, http.StatusRequestEntityTooLarge: 1, http.StatusInternalServerError: serverErrors} {
		s := newServer(t, func(n int) int {
			if n > tries*senders {
				return http.StatusOK
			}
			return code
		})
		r, stop := start(t, s)
		for i := range senders {
			r.Report(run(fmt.Sprintf("refused-%d", i), openworkflow.RunCompleted), openworkflow.StepSummary{})
		}
		s.await(t, tries*senders)
		r.Report(run("order", openworkflow.RunCompleted), openworkflow.StepSummary{})
		s.await(t, 1)
		stop()
		if got := len(s.paths); got != tries*senders+1 {
			t.Errorf("after answers of %d, %d requests were sent, want %d", code, got, tries*senders+1)
		}
	}
}

func TestReportIsRetriedAndTheNewestWins(t *testing.T) {
	t.Parallel()
	reported := make(chan struct{})
	s := newServer(t, func(n int) int {
		if n == 1 {
			<-reported
			return http.StatusServiceUnavailable
		}
		return http.StatusOK
	})
	r, stop := start(t, s)
	r.Report(run("order-1", openworkflow.RunRunning), openworkflow.StepSummary{})
	for { // until the first report is in flight
		s.mu.Lock()
		n := len(s.paths)
		s.mu.Unlock()
		if n == 1 {
			break
		}
		<-time.After(time.Millisecond)
	}
	r.Report(run("order-1", openworkflow.RunCompleted), openworkflow.StepSummary{})
	close(reported)
	s.await(t, 2)
	stop()
	if last := s.states[len(s.states)-1]; last != "Completed" || len(s.states) != 2 {
		t.Errorf("reports were %v, want the newest after the one that failed, and no other", s.states)
	}
}

func TestRunThatEndsEarlyIsReportedOnce(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, stop := startHolding(t, s, time.Hour) // however slowly the two come
	for range 20 {
		name := openworkflow.NewID()
		r.Report(run(name, openworkflow.RunRunning), openworkflow.StepSummary{})
		r.Report(run(name, openworkflow.RunCompleted), openworkflow.StepSummary{})
	}
	s.await(t, 20)
	stop()
	if want := slices.Repeat([]string{"Completed"}, 20); !slices.Equal(s.states, want) {
		t.Errorf("reports of 20 runs: %v, want the end of each", s.states)
	}
}

func TestRunThatLastsIsReportedWithinHalfASecond(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, _ := start(t, s)
	began := time.Now()
	r.Report(run("order-1", openworkflow.RunRunning), openworkflow.StepSummary{})
	s.await(t, 1)
	if took := time.Since(began); took < ongoingDelay {
		t.Errorf("the start was reported after %s: an end cannot replace it", took)
	}
	if ongoingDelay > 500*time.Millisecond {
		t.Errorf("the start is held back for %s", ongoingDelay)
	}
}

func TestEndsDoNotWaitForRunsThatGoOn(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, _ := startHolding(t, s, time.Hour)
	r.Report(run("order-1", openworkflow.RunRunning), openworkflow.StepSummary{})
	r.Report(run("order-2", openworkflow.RunCompleted), openworkflow.StepSummary{})
	s.await(t, 1)
	if want := []string{"Completed"}; !slices.Equal(s.states, want) {
		t.Errorf("reports were %v, want %v", s.states, want)
	}
}

// ofVersion5 is a run that was created from the object's version 5, of generation 7, and
// that took this long.
func ofVersion5(name string, took time.Duration) *openworkflow.Run {
	created := ofGeneration7(name)
	object := created.Object()
	object.ResourceVersion = "5"
	created.Context = openworkflow.RunContext{Kubernetes: object}.Encode()
	started := created.CreatedAt
	created.StartedAt, created.FinishedAt = &started, new(started.Add(took))
	return created
}

// The ways in which a report of ofVersion5 may be sent.
const (
	replaced = "openworkflow.dev/v1alpha1 WorkflowRun shop/order-1 uid=uid-of-order-1 resourceVersion=5 observedGeneration=7"
	patched  = "/metadata/uid=uid-of-order-1 /metadata/generation=7 "
)

func TestRunThatEndsEarlyReplacesTheFirstStatusOfItsObject(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, stop := start(t, s)
	r.Report(ofVersion5("order-1", ongoingDelay/2), openworkflow.StepSummary{})
	s.await(t, 1)
	r.Report(ofVersion5("order-1", 2*ongoingDelay), openworkflow.StepSummary{}) // its start was reported
	s.await(t, 1)
	again := ofVersion5("order-1", ongoingDelay/2)
	again.Attempts = 2
	r.Report(again, openworkflow.StepSummary{})
	s.await(t, 1)
	stop()
	if want := []string{replaced, patched, patched}; !slices.Equal(s.tests, want) {
		t.Errorf("reports are of %q, want %q", s.tests, want)
	}
}

func TestStatusOfAnObjectThatHasChangedIsPatched(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(n int) int { return []int{http.StatusConflict, http.StatusOK}[n-1] })
	r, stop := start(t, s)
	r.Report(ofVersion5("order-1", 0), openworkflow.StepSummary{})
	s.await(t, 2)
	stop()
	if want := []string{replaced, patched}; !slices.Equal(s.tests, want) {
		t.Errorf("reports are of %q, want %q", s.tests, want)
	}
}

func TestWorkerThatMayOnlyPatchDoes(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(n int) int { return []int{http.StatusForbidden, http.StatusOK, http.StatusOK}[n-1] })
	r, stop := start(t, s)
	r.Report(ofVersion5("order-1", 0), openworkflow.StepSummary{})
	s.await(t, 2)
	r.Report(ofVersion5("order-1", 0), openworkflow.StepSummary{})
	s.await(t, 1)
	stop()
	if want := []string{replaced, patched, patched}; !slices.Equal(s.tests, want) {
		t.Errorf("reports are of %q, want %q", s.tests, want)
	}
}

// ofGeneration7 is a run that was created for the object's generation 7.
func ofGeneration7(name string) *openworkflow.Run {
	created := run(name, openworkflow.RunCompleted)
	created.Context = openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
		Cluster: "c", Namespace: "shop", Name: name, UID: "uid-of-" + name, Generation: 7,
	}}.Encode()
	return created
}

// A user may have changed the spec since the run was created from it. Only the manager knows
// what that means.
func TestReportObservesTheGenerationOfItsRunOnly(t *testing.T) {
	t.Parallel()
	const uid, generation = "/metadata/uid=uid-of-order-1 ", "/metadata/generation=7 "
	s := newServer(t, func(n int) int {
		if n == 1 {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	r, stop := start(t, s)
	r.Report(ofGeneration7("order-1"), openworkflow.StepSummary{})
	s.await(t, 2)
	stop()
	if want := []string{uid + generation, uid}; !slices.Equal(s.tests, want) {
		t.Errorf("patches test %q, want %q", s.tests, want)
	}
}

func TestP4OutdatedReportIsNotTriedWithoutItsGeneration(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(int) int { return http.StatusUnprocessableEntity })
	s.body = "status: Invalid value: \"object\": status of an older revision: the run has moved on"
	r, stop := start(t, s)
	r.Report(ofGeneration7("order-1"), openworkflow.StepSummary{})
	s.await(t, 1)
	stop()
	if len(s.paths) != 1 {
		t.Errorf("an outdated report was sent %d times", len(s.paths))
	}
}

func TestRunSendsWhatIsQueuedBeforeItReturns(t *testing.T) {
	t.Parallel()
	s := newServer(t, ok)
	r, stop := start(t, s)
	for range 50 {
		r.Report(run(openworkflow.NewID(), openworkflow.RunCompleted), openworkflow.StepSummary{})
	}
	stop()
	if len(s.paths) != 50 {
		t.Errorf("%d of 50 reports were sent before the reporter had ended", len(s.paths))
	}
}
