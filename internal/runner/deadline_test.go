package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// TestDeadlines_P6_RunsGoOnWhenAllConnectionsHang: the worker's connections stay open, and nothing
// answers on them.
func TestDeadlines_P6_RunsGoOnWhenAllConnectionsHang(t *testing.T) {
	b := newBench(t)
	const runs = 4
	started, goOn := make(chan int, runs), make(chan struct{})
	w := workflow.Define("hang", func(ctx context.Context, n int) (int, error) {
		_, err := step.Run(ctx, "held", func(context.Context) (int, error) {
			started <- n
			<-goOn
			return n, nil
		})
		if err != nil {
			return 0, err
		}
		if _, err := step.SendSignal(ctx, "nobody", n); err != nil {
			return 0, err
		}
		if err := step.Sleep(ctx, "rest", 10*time.Millisecond); err != nil {
			return 0, err
		}
		return step.Run(ctx, "last", func(context.Context) (int, error) { return n, nil })
	})
	link := testpg.NewLink(t, b.url)
	s, err := store.Open(t.Context(), store.Options{URL: link.URL, ApplicationName: "hangs", MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	b.workOn(s, runner.Options{Concurrency: runs, Lease: 20 * time.Second, PollInterval: 2 * time.Second}, w)
	ids := make([]string, runs)
	for i := range ids {
		ids[i] = b.start(w, fmt.Sprint(i))
	}
	for range runs {
		receive(t, started, "all runs to be executed")
	}

	link.Hang()
	stopped := time.Now()
	close(goOn)
	for i, id := range ids {
		if got := b.completed(id); got != fmt.Sprint(i) {
			t.Errorf("run %d returned %s", i, got)
		}
	}
	t.Logf("all runs ended %s later", time.Since(stopped))

	// The worker has announced itself since, so nobody reports that there is none.
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := stopped.Add(time.Minute); ; <-ticker.C {
		workers, err := b.store.Workers(t.Context(), time.Hour)
		if err == nil && len(workers) == 1 && workers[0].SeenAt.After(stopped) {
			return
		}
		if time.Now().After(end) {
			seen, _ := json.Marshal(workers)
			t.Fatalf("the worker has not announced itself since its connections hang: %s, %v", seen, err)
		}
	}
}

// hangingStore hangs in the first call of each method that a worker depends on, until the
// context of the call ends, as on a connection whose other end has gone.
type hangingStore struct {
	runner.Store
	hung calls
}

func (s *hangingStore) hang(ctx context.Context, method string) error {
	if s.hung.add(method) > 1 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *hangingStore) ReleaseLeases(ctx context.Context, r store.ReleaseRequest) ([]store.ReleasedRun, error) {
	if err := s.hang(ctx, "ReleaseLeases"); err != nil {
		return nil, err
	}
	return s.Store.ReleaseLeases(ctx, r)
}

func (s *hangingStore) SaveWorker(ctx context.Context, w store.Worker, within time.Duration) (int, error) {
	if err := s.hang(ctx, "SaveWorker"); err != nil {
		return 0, err
	}
	return s.Store.SaveWorker(ctx, w, within)
}

func (s *hangingStore) LoadSteps(ctx context.Context, runIDs []string) (map[string][]openworkflow.StepAttempt, error) {
	if err := s.hang(ctx, "LoadSteps"); err != nil {
		return nil, err
	}
	return s.Store.LoadSteps(ctx, runIDs)
}

func (s *hangingStore) SendSignal(ctx context.Context, w store.StepWrite, signal store.Signal) ([]string, error) {
	if err := s.hang(ctx, "SendSignal"); err != nil {
		return nil, err
	}
	return s.Store.SendSignal(ctx, w, signal)
}

func TestDeadlines_P6_ACallThatHangsIsGivenUp(t *testing.T) {
	b := newBench(t)
	w := workflow.Define("given-up", func(ctx context.Context, n int) (int, error) {
		if err := step.Sleep(ctx, "rest", 10*time.Millisecond); err != nil {
			return 0, err
		}
		_, err := step.SendSignal(ctx, "nobody", n)
		return n, err
	})
	id := b.start(w, `7`)
	// A worker that has gone has begun the run, so the next one reads its history.
	runs, err := b.store.Claim(t.Context(), store.ClaimRequest{
		Served: []openworkflow.Definition{{Name: w.Name()}}, Max: 1, WorkerIDPrefix: "gone.", First: 1, Lease: time.Millisecond,
	})
	if err != nil || len(runs) != 1 {
		t.Fatalf("claimed %d runs: %v", len(runs), err)
	}
	hanging := &hangingStore{Store: b.store}
	b.workOn(hanging, runner.Options{PollInterval: 100 * time.Millisecond}, w)
	if got := b.completed(id); got != `7` {
		t.Errorf("output is %s", got)
	}
	for _, method := range []string{"ReleaseLeases", "SaveWorker", "LoadSteps", "SendSignal"} {
		if n := hanging.hung.of(method); n < 2 {
			t.Errorf("%s was called %d times, want once more after it hung", method, n)
		}
	}
}

// severedStore makes the connections of a worker hang right before the first call of one method,
// which is then made on one of these connections.
type severedStore struct {
	*store.Store
	method string
	sever  func()
	called calls
	// answered gets the time of the first answer after that.
	answered chan time.Time
}

func observe[T any](s *severedStore, method string, call func() (T, error)) (T, error) {
	if method != s.method {
		return call()
	}
	if s.called.add(method) == 1 {
		s.sever()
	}
	result, err := call()
	if err == nil {
		select {
		case s.answered <- time.Now():
		default:
		}
	}
	return result, err
}

func (s *severedStore) ReleaseLeases(ctx context.Context, r store.ReleaseRequest) ([]store.ReleasedRun, error) {
	return observe(s, "ReleaseLeases", func() ([]store.ReleasedRun, error) { return s.Store.ReleaseLeases(ctx, r) })
}

func (s *severedStore) SaveWorker(ctx context.Context, w store.Worker, within time.Duration) (int, error) {
	return observe(s, "SaveWorker", func() (int, error) { return s.Store.SaveWorker(ctx, w, within) })
}

func (s *severedStore) LoadSteps(ctx context.Context, runIDs []string) (map[string][]openworkflow.StepAttempt, error) {
	return observe(s, "LoadSteps", func() (map[string][]openworkflow.StepAttempt, error) { return s.Store.LoadSteps(ctx, runIDs) })
}

func (s *severedStore) WaitResults(ctx context.Context, attemptIDs []string) (map[string]store.WaitResult, error) {
	return observe(s, "WaitResults", func() (map[string]store.WaitResult, error) { return s.Store.WaitResults(ctx, attemptIDs) })
}

func (s *severedStore) SendSignal(ctx context.Context, w store.StepWrite, signal store.Signal) ([]string, error) {
	return observe(s, "SendSignal", func() ([]string, error) { return s.Store.SendSignal(ctx, w, signal) })
}

// TestDeadlines_P6_EachCallIsMadeAgainOnANewConnection: a call is made on a connection whose other
// end does not answer any more. It is given up and made again, on a new connection, and the run
// goes on. Each call meets the fault right when it is made, so none is spared by chance.
func TestDeadlines_P6_EachCallIsMadeAgainOnANewConnection(t *testing.T) {
	for _, method := range []string{"ReleaseLeases", "SaveWorker", "LoadSteps", "WaitResults", "SendSignal"} {
		t.Run(method, func(t *testing.T) {
			b := newBench(t)
			goOn := make(chan struct{})
			release := sync.OnceFunc(func() { close(goOn) })
			w := workflow.Define("calls", func(ctx context.Context, n int) (int, error) {
				if err := step.Sleep(ctx, "rest", 10*time.Millisecond); err != nil { // LoadSteps
					return 0, err
				}
				held := step.Go(ctx, "held", func(context.Context) (int, error) { <-goOn; return n, nil })
				if _, err := step.RunWorkflow(ctx, quick, n); err != nil { // WaitResults
					return 0, err
				}
				release()
				if _, err := held.Await(); err != nil {
					return 0, err
				}
				if _, err := step.SendSignal(ctx, "nobody", n); err != nil {
					return 0, err
				}
				return step.Run(ctx, "last", func(context.Context) (int, error) { return n, nil })
			})
			id := b.start(w, `7`)
			// A worker that has gone has begun the run, so the next one reads its history.
			runs, err := b.store.Claim(t.Context(), store.ClaimRequest{
				Served: []openworkflow.Definition{{Name: w.Name()}}, Max: 1, WorkerIDPrefix: "gone.", First: 1, Lease: time.Millisecond,
			})
			if err != nil || len(runs) != 1 {
				t.Fatalf("claimed %d runs: %v", len(runs), err)
			}
			link := testpg.NewLink(t, b.url)
			s, err := store.Open(t.Context(), store.Options{URL: link.URL, ApplicationName: "calls", MaxConns: 4})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			var stopped time.Time
			severed := &severedStore{Store: s, method: method, answered: make(chan time.Time, 1)}
			severed.sever = func() {
				// A connection is idle after this, for the call that comes.
				if _, err := s.Workers(t.Context(), time.Hour); err != nil {
					t.Error(err)
				}
				stopped = time.Now()
				link.Hang()
			}
			b.workOn(severed, runner.Options{PollInterval: 200 * time.Millisecond}, w, quick)
			answered := receive(t, severed.answered, method+" to be answered")
			if took := answered.Sub(stopped); took > 45*time.Second {
				t.Errorf("%s was answered after %s", method, took)
			}
			if got := b.completed(id); got != `7` {
				t.Errorf("output is %s", got)
			}
		})
	}
}
